"""diffusers' Wan with MoGA over ranks, against the same Wan in one process."""

from dataclasses import replace

import diffusers
import tiny_wan
import torch
from diffusers import ContextParallelConfig
from place import DEVICE
from refusal import refused
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from moga.config import MoGAConfig
from moga.hosts.diffusers import (
    ShotCall,
    ShotMismatchError,
    disable_moga,
    enable_moga,
    record_routing,
    share_sequence,
    watch_attention,
)
from moga.hosts.diffusers.enable import is_enabled
from moga.routing import balance_loss

CONFIG = MoGAConfig(groups=3, windows=(2, 2), window_frames=2)
HEADS = {"num_attention_heads": 6, "attention_head_dim": 48}  # a rank of 4 has one or two
SHOTS = ShotCall((0, 2, 3), 5, ((0, 8), (8, 16), (16, 24)))
DENSE = replace(SHOTS, dense=True)
LONG = ShotCall((0, 2), 5, ((0, 512), (512, 1024)))
TEXT = {"i2v": 1024}  # that model takes 512 a shot


def make_wan(kind="t2v", **settings):
    return tiny_wan.make_wan(kind, **settings).to(DEVICE)


def make_call(*kind, **settings):
    return {name: t.to(DEVICE) for name, t in tiny_wan.make_call(*kind, **settings).items()}


def wan(kind="t2v", **settings):
    image = {"added_kv_proj_dim": 288} if kind == "i2v" else {}
    return make_wan(kind, **{**HEADS, **image, **settings})


def shared(dit, ranks, **settings):
    settings = {"ulysses_anything": True, **settings}
    dit.enable_parallelism(config=ContextParallelConfig(ulysses_degree=ranks, **settings))
    return dit


def velocity(dit, call, shots=SHOTS):
    return dit(**call, attention_kwargs={"moga": shots}, return_dict=False)[0]


@torch.no_grad()
def check_the_velocity_of_every_model(rank, ranks):
    for kind in ("t2v", "i2v", "i2v_2.2", "ti2v"):
        shots = LONG if kind == "i2v" else SHOTS
        call = make_call(kind, TEXT.get(kind, 24), batch=2)
        one, before, after = wan(kind), wan(kind), shared(wan(kind), ranks)
        enable_moga(one, CONFIG, "random")
        enable_moga(before, CONFIG, "random")
        shared(before, ranks)
        enable_moga(after, CONFIG, "random")
        alone = velocity(one, call, shots)
        for dit in (before, after):
            made = velocity(dit, call, shots)
            assert (made - alone).abs().max() < 1e-5, kind
            if kind != "i2v":  # its text alone, and nothing at all
                assert (velocity(dit, call, None) - velocity(one, call, None)).abs().max() < 1e-5


@torch.no_grad()
def check_plain_attention_with_a_text_for_each_shot(rank, ranks):
    call = make_call()
    one, many = wan(), wan()
    enable_moga(one, None)
    enable_moga(many, None)
    shared(many, ranks)
    alone, made = velocity(one, call), velocity(many, call)
    assert (made - alone).abs().max() < 1e-5
    assert (velocity(one, call, None) - alone).abs().max() > 1e-3
    enable_moga(many, CONFIG, "random")
    assert (velocity(many, call, DENSE) - alone).abs().max() < 1e-5


@torch.no_grad()
def check_taking_moga_off_leaves_the_parallelism(rank, ranks):
    call, heads = make_call(), {"num_attention_heads": 4}  # diffusers can't share 6 among 4
    dit = shared(wan(**heads), ranks)
    plain = dit(**call, return_dict=False)[0]
    enable_moga(dit, CONFIG, "random")
    assert (velocity(dit, call) - plain).abs().max() > 1e-3
    disable_moga(dit)
    assert not is_enabled(dit)
    assert torch.equal(dit(**call, return_dict=False)[0], plain)
    assert (wan(**heads)(**call, return_dict=False)[0] - plain).abs().max() < 1e-5


@torch.no_grad()
def check_tokens_that_come_out_even(rank, ranks):
    """As diffusers does by itself: no `ulysses_anything`."""
    call = make_call()
    call["hidden_states"] = call["hidden_states"][:, :, :4, :4, :8].contiguous()  # 32 tokens
    shots = ShotCall((0, 3), 4, ((0, 12), (12, 24)))
    one = wan(num_attention_heads=4)
    many = shared(wan(num_attention_heads=4), ranks, ulysses_anything=False)
    for dit in (one, many):
        enable_moga(dit, CONFIG, "random")
    assert (velocity(one, call, shots) - velocity(many, call, shots)).abs().max() < 1e-5


@torch.no_grad()
def check_half_precision(rank, ranks):
    call = {name: t.bfloat16() for name, t in make_call().items()}
    one, many = wan().bfloat16(), shared(wan().bfloat16(), ranks)
    for dit in (one, many):
        enable_moga(dit, CONFIG, "random")
    alone = velocity(one, call)
    assert (velocity(many, call) - alone).abs().mean() < 1e-2 * alone.abs().mean()


def loss_of(dit, call, target, shots):
    with record_routing(dit) as routings:
        made = velocity(dit, call, shots)
        recorded = tuple(routings)
    assert len(recorded) == (0 if shots.dense else 2)
    balances = [balance_loss(routing) for routing in recorded]
    return (made - target).square().mean() + sum(0.05 * balance for balance in balances)


def check_every_gradient(rank, ranks):
    """The sum over the ranks: routed, with and without checkpointing, and dense."""
    call = make_call(batch=2)
    target = torch.randn(call["hidden_states"].shape, generator=torch.Generator().manual_seed(9))
    target = target.to(DEVICE)
    for shots, checkpointing in ((SHOTS, False), (SHOTS, True), (DENSE, False)):
        one = wan().train()
        enable_moga(one, CONFIG, "random")
        alone = loss_of(one, call, target, shots)
        alone.backward()
        many = shared(wan().train(), ranks)
        enable_moga(many, CONFIG, "random")
        if checkpointing:
            many.enable_gradient_checkpointing()
        made = loss_of(many, call, target, shots)
        torch.testing.assert_close(made, alone, rtol=1e-5, atol=1e-6)
        made.backward()
        whole = dict(one.named_parameters())
        for name, parameter in many.named_parameters():
            grad = parameter.grad
            grad = torch.zeros_like(parameter) if grad is None else grad
            dist.all_reduce(grad)
            wanted = whole[name].grad
            wanted = torch.zeros_like(parameter) if wanted is None else wanted
            torch.testing.assert_close(
                *(grad, wanted), rtol=1e-3, atol=1e-6, msg=lambda told, name=name: f"{name}: {told}"
            )


def check_what_cannot_be_shared_is_refused(rank, ranks):
    call = make_call()
    cases = [
        ({"num_attention_heads": 4}, {"ulysses_degree": ranks}, "the video has 75 tokens"),
        ({}, {"ulysses_degree": ranks, "ulysses_anything": True}, "there are 2 attention heads"),
        (HEADS, {"ring_degree": ranks}, "there is no ring for MoGA"),
        ({"num_attention_heads": 7, "attention_head_dim": 48}, {"ulysses_degree": ranks}, "7 att"),
    ]
    for model, config, words in cases:
        if ranks == 2 and ("2 attention" in words):
            continue  # which two processes can share
        after, before = make_wan(**model), make_wan(**model)
        after.enable_parallelism(config=ContextParallelConfig(**config))
        enable_moga(before, CONFIG, "random")
        before.enable_parallelism(config=ContextParallelConfig(**config))
        if "tokens" in words:
            enable_moga(after, CONFIG, "random")
            assert words in refused(velocity, after, call)
        else:
            assert words in refused(enable_moga, after, CONFIG, "random")
            assert not is_enabled(after)
        assert words in refused(velocity, before, call)
    dit = shared(wan(), ranks)
    enable_moga(dit, CONFIG, "random")
    with watch_attention(dit, print):
        assert "can't show the whole layer" in refused(velocity, dit, call)
    try:
        velocity(dit, call, ShotCall((0,), 4))
    except ShotMismatchError as error:
        assert "5 latent frames" in str(error)
    else:
        raise AssertionError("it was not refused")


def check_a_diffusers_that_cannot_share(rank, ranks):
    mesh = init_device_mesh(DEVICE.type, (1, ranks), mesh_dim_names=("ring", "ulysses"))
    newer, dit = diffusers.ContextParallelConfig, wan()
    try:
        diffusers.ContextParallelConfig = lambda ring_degree, ulysses_degree: None  # as in 0.36
        assert "install 0.42 or later" in refused(share_sequence, dit, mesh)
    finally:
        diffusers.ContextParallelConfig = newer
    assert dit._parallel_config is None
