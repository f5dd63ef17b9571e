"""The exchange and the layer over ranks, against one process that has everything."""

import random

import torch
from place import DEVICE
from refusal import refused
from torch import distributed as dist

from moga.attention import moga_attention
from moga.attention.ulysses import ulysses_attention
from moga.config import MoGAConfig
from moga.layout import VideoLayout
from moga.parallel import SequenceShards
from moga.parallel.exchange import start_gather, start_to_heads, start_to_tokens
from moga.parallel.shards import shares
from moga.routing import Routing, balance_loss

BRANCHES = [
    ("routed", "windows", "frames"),
    ("routed",),
    ("windows", "frames"),
    ("routed", "frames"),
]


def some(seed, *shape, dtype=torch.float64):
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return drawn.to(DEVICE)


def own(t, shards, dim=1):
    return t.narrow(dim, shards.span[0], shards.span[1] - shards.span[0])


def heads_of(t, shards):
    return t.split(shares(t.shape[2], shards.ranks), dim=2)[shards.rank]


def check_tokens_and_heads_change_places(rank, ranks):
    for seed in range(12):
        draw = random.Random(seed)
        batch, heads, width = draw.choice((1, 2)), ranks + draw.randrange(5), draw.randrange(1, 4)
        whole = some(seed, batch, ranks + draw.randrange(20), heads, width)
        shards = SequenceShards.of(whole.shape[1], dist.group.WORLD)
        assert sum(shards.lengths) == whole.shape[1] and shards.tokens == whole.shape[1]
        mine = own(whole, shards).clone().requires_grad_()
        by_head = start_to_heads(mine, shards)()
        assert type(by_head) is torch.Tensor and torch.equal(by_head, heads_of(whole, shards))
        back = start_to_tokens(by_head, heads, shards)()
        assert type(back) is torch.Tensor and torch.equal(back, mine)
        towards = some(seed + 100, *whole.shape)
        back.backward(own(towards, shards))
        assert torch.equal(mine.grad, own(towards, shards))
        flat = own(whole[:, :, 0, 0], shards)
        assert torch.equal(start_gather(flat, shards)(), whole[:, :, 0, 0])
        bytes_ = own((whole[:, :, 0, 0] * 50).to(torch.uint8), shards)
        assert torch.equal(start_gather(bytes_, shards)(), (whole[:, :, 0, 0] * 50).to(torch.uint8))


def check_several_are_on_their_way_at_once(rank, ranks):
    shards = SequenceShards.of(3 * ranks + 1, dist.group.WORLD)
    whole = [some(seed, 2, shards.tokens, ranks, 2) for seed in range(3)]
    waits = [start_to_heads(own(t, shards), shards) for t in whole]
    for t, wait in zip(reversed(whole), reversed(waits), strict=True):
        assert torch.equal(wait(), heads_of(t, shards))


def drawn(seed, ranks):
    """A layer and its inputs: everything that may differ between two calls."""
    draw = random.Random(seed)
    frames, shots = draw.randrange(2, 6), draw.choice((1, 2))
    layout = VideoLayout(frames, 2, draw.randrange(2, 5), (0, 1)[:shots])
    config = MoGAConfig(
        groups=draw.choice((1, 3, 5)),
        windows=(draw.choice((1, 2)), 2),
        window_frames=draw.randrange(1, 4),
        gate=draw.random() < 0.8,
        branches=draw.choice(BRANCHES),
        combine=draw.choice(("union", "mean")),
    )
    shape = draw.choice((1, 2)), layout.tokens, ranks + draw.randrange(4), 8
    qkv = [some(seed * 10 + n, *shape) for n in range(3)]
    scores = some(seed * 10 + 3, *shape[:2], config.groups)
    return layout, config, qkv, scores


def check_the_layer_and_its_gradients(rank, ranks):
    for seed in range(25):
        layout, config, qkv, scores = drawn(seed, ranks)
        shards = SequenceShards.of(layout.tokens, dist.group.WORLD)
        towards = some(seed + 1000, *qkv[0].shape)
        routed = "routed" in config.branches

        one = [t.clone().requires_grad_() for t in (*qkv, scores)]
        alone = moga_attention(
            *one[:3], Routing.from_scores(one[3]) if routed else None, layout, config
        )
        alone.backward(towards)

        many = [own(t, shards).clone().requires_grad_() for t in (*qkv, scores)]
        routing = Routing.from_scores(many[3]) if routed else None
        made = ulysses_attention(many[:3], routing, layout, config, shards)
        made.backward(own(towards, shards))
        said = f"{seed}: {config} {layout}"
        torch.testing.assert_close(made, own(alone, shards), rtol=0, atol=1e-10, msg=said)
        for mine, whole in zip(many, one, strict=True):
            assert (mine.grad is None) == (whole.grad is None)
            if mine.grad is not None:
                torch.testing.assert_close(
                    mine.grad, own(whole.grad, shards), rtol=0, atol=1e-9, msg=said
                )


def check_types_of_the_layer(rank, ranks):
    """Nothing is rounded on its way: as one process, whatever the type."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        layout, config, qkv, scores = drawn(7, ranks)
        qkv = [t.to(dtype) for t in qkv]
        shards = SequenceShards.of(layout.tokens, dist.group.WORLD)
        routing = Routing.from_scores(scores.float())
        mine = Routing.from_scores(own(scores.float(), shards))
        with torch.no_grad():
            alone = moga_attention(*qkv, routing, layout, config)
            made = ulysses_attention([own(t, shards) for t in qkv], mine, layout, config, shards)
        assert made.dtype == dtype
        bar = {torch.float32: 1e-6}.get(dtype, 1e-2)
        torch.testing.assert_close(made, own(alone, shards), rtol=0, atol=bar)


def check_the_balance_loss(rank, ranks):
    for seed in range(6):
        scores = some(seed, 2, 3 * ranks + seed, 4)
        shards = SequenceShards.of(scores.shape[1], dist.group.WORLD)
        one, mine = scores.clone().requires_grad_(), own(scores, shards).clone().requires_grad_()
        alone = balance_loss(Routing.from_scores(one))
        routing = Routing.from_scores(mine)
        routing = Routing(routing.probabilities, routing.group, routing.gate, across=shards)
        assert torch.equal(routing.sizes(), Routing.from_scores(scores).sizes())
        loss = balance_loss(routing)
        torch.testing.assert_close(loss, alone)
        alone.backward()
        loss.backward()
        torch.testing.assert_close(mine.grad, own(one.grad, shards))


def check_what_cannot_be_shared_is_refused(rank, ranks):
    layout, config, qkv, _ = drawn(3, ranks)
    shards = SequenceShards.of(layout.tokens, dist.group.WORLD)
    few = [own(t, shards)[:, :, : ranks - 1] for t in qkv]
    told = refused(ulysses_attention, few, None, layout, config, shards)
    assert f"{ranks} processes share a sequence, but there are {ranks - 1} attention heads" in told
    told = refused(SequenceShards.of, ranks - 1, dist.group.WORLD)
    assert f"the video has {ranks - 1} tokens, fewer than the {ranks} processes" in told
