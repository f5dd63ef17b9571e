"""MoGA where a transformer is trained, wrapped, compiled, offloaded or shared between calls."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import LoraConfig
from torch import autocast

from moga.config import MoGAConfig
from moga.hosts.diffusers import (
    ShotCall,
    disable_moga,
    enable_moga,
    moga_routers,
    record_routing,
)
from moga.routing import balance_loss
from moga.train.recompute import CHECKPOINTING

SHOTS = ShotCall((0, 2, 3), 5, ((0, 8), (8, 16), (16, 24)))
OTHER = ShotCall((0, 4), 5, ((0, 12), (12, 24)))


@pytest.fixture
def dit(tiny):
    dit = tiny.wan()
    enable_moga(dit, MoGAConfig(), "random")
    return dit


@pytest.fixture
def call(tiny):
    return tiny.call()


def velocity(dit, call, shots=SHOTS):
    return dit(**call, attention_kwargs={"moga": shots}).sample


def gradients(dit, call):
    """Of a loss with the balance loss in it; other calls lie between forward and backward."""
    dit.zero_grad()
    with record_routing(dit) as routings:
        first = velocity(dit, call)
        balance = sum(map(balance_loss, routings)) / len(routings)
    second = velocity(dit, call, OTHER)
    third = velocity(dit, call, ShotCall(dense=True))
    loss = first.square().mean() + 2 * second.square().mean() + third.square().mean() + balance
    recorded = list(routings)
    loss.backward()
    assert len(routings) == len(recorded) == 2
    return {name: p.grad.clone() for name, p in dit.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("how", CHECKPOINTING)
def test_gradient_checkpointing_changes_no_gradient(dit, call, how):
    dit.train()
    plain = gradients(dit, call)
    dit.enable_gradient_checkpointing(CHECKPOINTING[how])
    again = gradients(dit, call)
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert all(
        plain[f"blocks.{i}.attn1.router.{n}"].any() for i in (0, 1) for n in ("weight", "bias")
    )


def test_only_the_last_forward_is_recorded(dit, call):
    with record_routing(dit) as routings:
        velocity(dit, call, SHOTS)
        first = list(routings)
        velocity(dit, {**call, "hidden_states": -call["hidden_states"]}, OTHER)
    assert len(first) == len(routings) == 2
    assert not torch.equal(first[0].group, routings[0].group)
    assert [tuple(r.probabilities.shape) for r in routings] == [(1, 75, 5)] * 2
    kept = list(routings)
    velocity(dit, call, SHOTS)
    assert routings == kept


def test_recording_in_a_recording(dit, call):
    with record_routing(dit) as outer:
        with record_routing(dit) as inner:
            velocity(dit, call)
        assert (len(outer), len(inner)) == (0, 2)
        velocity(dit, call)
    assert len(outer) == 2


def test_reentrant_checkpointing_would_lose_the_balance_loss(dit, call):
    from torch.utils.checkpoint import checkpoint

    dit.train().enable_gradient_checkpointing(
        lambda module, *args: checkpoint(module, *args, use_reentrant=True)
    )
    with pytest.raises(RuntimeError, match="use_reentrant=False"), record_routing(dit):
        velocity(dit, {**call, "hidden_states": call["hidden_states"].requires_grad_()})


def test_recording_needs_moga(tiny):
    with pytest.raises(ValueError, match="call enable_moga first"), record_routing(tiny.wan()):
        pass


@torch.no_grad()
def test_threads_and_transformers_do_not_see_each_others_calls(tiny, dit):
    other = tiny.wan(seed=1)
    enable_moga(other, MoGAConfig(groups=2), "random")
    jobs = [
        (model, tiny.call(seed=seed), shots)
        for seed in range(3)
        for model in (dit, other)
        for shots in (SHOTS, OTHER, ShotCall(), ShotCall(dense=True))
    ]
    expected = [velocity(*job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda job: velocity_without_grad(*job), jobs * 2))
    assert all(torch.equal(a, b) for a, b in zip(found, expected * 2, strict=True))


@torch.no_grad()
def velocity_without_grad(*job):
    return velocity(*job)


@torch.no_grad()
def test_a_failed_call_leaves_nothing_behind(dit, call):
    expected = velocity(dit, call)
    with pytest.raises(RuntimeError):
        velocity(dit, {**call, "encoder_hidden_states": call["encoder_hidden_states"][..., :5]})
    assert torch.equal(velocity(dit, call), expected)


@torch.no_grad()
@pytest.mark.parametrize("blocks_only", [False, True])
def test_torch_compile_sees_new_shots(dit, call, blocks_only):
    torch.compiler.reset()
    expected = [velocity(dit, call, shots) for shots in (SHOTS, OTHER, SHOTS)]
    if blocks_only:
        dit.compile_repeated_blocks(backend="eager")
        compiled = dit
    else:
        compiled = torch.compile(dit, backend="eager")
    found = [velocity(compiled, call, shots) for shots in (SHOTS, OTHER, SHOTS)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_compiled_transformer_can_be_recorded_and_disabled(dit, call):
    torch.compiler.reset()
    compiled = torch.compile(dit, backend="eager")
    with record_routing(compiled) as routings:
        velocity(compiled, call)
    assert len(routings) == len(moga_routers(compiled)) == 2
    disable_moga(compiled)
    assert moga_routers(dit) == {}


@torch.no_grad()
@pytest.mark.parametrize("targets", ["all-linear", ["to_q", "to_k", "to_v", "to_out.0"]])
def test_lora_leaves_the_routers_alone(dit, call, targets):
    expected = velocity(dit, call)
    dit.add_adapter(LoraConfig(r=4, target_modules=targets))
    assert torch.equal(velocity(dit, call), expected)  # a fresh LoRA adds nothing
    for name, parameter in dit.named_parameters():
        if "lora_B" in name:
            parameter.normal_()
    assert not torch.equal(velocity(dit, call), expected)
    assert not any("router" in name for name, _ in dit.named_parameters() if "lora" in name)
    dit.unload_lora()
    assert torch.equal(velocity(dit, call), expected)


def test_peft_can_train_the_routers_beside_a_lora(dit, call):
    before = moga_routers(dit)
    dit.add_adapter(LoraConfig(r=4, target_modules=["to_q"], modules_to_save=["router"]))
    trained = [p for p in dit.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    velocity(dit, call).square().mean().backward()
    optimizer.step()
    after = moga_routers(dit)
    assert after.keys() == before.keys()
    assert all(not torch.equal(after[i]["weight"], before[i]["weight"]) for i in before)


@torch.no_grad()
def test_routers_stay_in_float32(dit):
    before = moga_routers(dit)
    dit.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    dit.to(torch.bfloat16)
    dit.half()
    after = moga_routers(dit)
    assert all(torch.equal(after[i][n], before[i][n]) for i in before for n in before[i])
    assert next(dit.blocks[0].attn1.to_q.parameters()).dtype == torch.float16


@torch.no_grad()
@pytest.mark.parametrize("kind", ["sequential", "block_level", "leaf_level"])
def test_offloading_hooks(tiny, dit, call, kind):
    from accelerate import cpu_offload

    expected = velocity(dit, call)
    if kind == "sequential":
        cpu_offload(dit, torch.device("cpu"))
        assert dit.blocks[0].attn1.router.weight.device.type == "meta"
    else:
        cpu = torch.device("cpu")
        dit.enable_group_offload(cpu, cpu, offload_type=kind, num_blocks_per_group=1)
    assert torch.equal(velocity(dit, call), expected)
    with pytest.raises(ValueError, match="is offloaded already"):
        enable_moga(dit, MoGAConfig(), "random")


@torch.no_grad()
def test_a_copy_has_moga_of_its_own(tiny, dit, call):
    expected, plain = velocity(dit, call), velocity(tiny.wan(), {**call}, ShotCall())
    twin = copy.deepcopy(dit)
    disable_moga(dit)
    assert torch.equal(velocity(twin, call), expected)
    disable_moga(twin)
    assert torch.equal(twin(**call).sample, plain)


@torch.no_grad()
def test_what_diffusers_does_to_attention_goes_on_working(dit, call):
    expected = velocity(dit, call)
    dit.set_attention_backend("_native_math")
    assert (velocity(dit, call) - expected).abs().max() < 1e-5
    dense = velocity(dit, call, ShotCall(dense=True))
    dit.fuse_qkv_projections()
    assert (velocity(dit, call) - expected).abs().max() < 1e-5
    assert (velocity(dit, call, ShotCall(dense=True)) - dense).abs().max() < 1e-5


@torch.no_grad()
def test_first_block_cache(dit, call):
    from diffusers import FirstBlockCacheConfig

    expected = velocity(dit, call)
    dit.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    with dit.cache_context("cond"):
        assert torch.equal(velocity(dit, call), expected)


def test_autocast_trains(dit, call):
    dit.train()
    with autocast("cpu", torch.bfloat16):
        loss = velocity(dit, call).float().square().mean()
    loss.backward()
    assert dit.blocks[0].attn1.router.weight.grad.dtype == torch.float32
