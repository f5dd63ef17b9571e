"""A whole Wan forward pass, dense against MoGA, and a training step: random weights, real shapes.

    python benchmarks/forward.py --json benchmarks/results/forward.json

The blocks compute what ComfyUI's Wan computes: qk-norm, RoPE, self- and cross-attention over 512
text tokens, a feed-forward, and float32 modulation; bfloat16 weights. Nothing else of the pipeline.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import torch
from attention import NO_PACKAGE, dense, hidden, layout_of
from grids import GRIDS
from measuring import machine, queued
from torch import Tensor, nn
from torch.nn import LayerNorm, Linear
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from moga.attention import moga_attention
from moga.config import MoGAConfig
from moga.flops import WAN_1_3B, WAN_14B, ModelShape, expected_speedup
from moga.kernels import BACKENDS
from moga.layout import VideoLayout
from moga.routing import TokenRouter

SHAPES = {"1.3B": (WAN_1_3B, 12), "14B": (WAN_14B, 40)}
CONFIGS = {5: MoGAConfig(5, (2, 2)), 20: MoGAConfig(20, (4, 4))}


class Block(nn.Module):
    """One Wan block; `attend` maps q, k, v (B, L, N, D) and the normed input to (B, L, N, D)."""

    def __init__(self, shape: ModelShape, heads: int, groups: int) -> None:
        super().__init__()
        width = shape.width
        self.heads = heads
        self.modulation = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.qkv = nn.ModuleList(Linear(width, width) for _ in range(3))
        self.out = Linear(width, width)
        self.norm_q, self.norm_k = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.cross = nn.ModuleList(Linear(width, width) for _ in range(4))
        self.norm_cross = LayerNorm(width, eps=1e-6)
        self.up, self.down = (
            Linear(width, shape.feed_forward),
            Linear(shape.feed_forward, width),
        )
        self.router = TokenRouter(width, groups)
        self.portions = 1  # of the feed-forward: fewer tokens at once, the same result
        self.seconds: dict[str, list] | None = None  # start and end events, where wanted

    def forward(self, x: Tensor, text: Tensor, rope: Tensor, attend) -> Tensor:
        shift, scale, gate, ff_shift, ff_scale, ff_gate = self.modulation.float()
        with self.timing("norm and modulation"):
            normed = modulated(x, scale, shift)
        with self.timing("projections"):
            q, k, v = (linear(normed) for linear in self.qkv)
        with self.timing("qk-norm and RoPE"):
            q, k = (
                rotated(self.norm_q(q), rope, self.heads),
                rotated(self.norm_k(k), rope, self.heads),
            )
            v = v.unflatten(-1, (self.heads, -1))
        with self.timing("self-attention"):
            y = attend(self, q, k, v, normed).flatten(2)
        del q, k, v, normed
        with self.timing("projections"):
            y = self.out(y)
        with self.timing("norm and modulation"):
            x = x + (y * gate.to(y.dtype))
        with self.timing("cross-attention"):
            split = partial(torch.unflatten, dim=-1, sizes=(self.heads, -1))
            q, k, v = self.cross[0](self.norm_cross(x)), self.cross[1](text), self.cross[2](text)
            y = F.scaled_dot_product_attention(*(split(t).transpose(1, 2) for t in (q, k, v)))
            x = x + self.cross[3](y.transpose(1, 2).flatten(2))
            del q, k, v, y
        with self.timing("norm and modulation"):
            normed = modulated(x, ff_scale, ff_shift)
        with self.timing("feed-forward"):
            parts = [
                self.down(F.gelu(self.up(part), approximate="tanh"))
                for part in normed.chunk(self.portions, dim=1)
            ]
            y = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        with self.timing("norm and modulation"):
            return x + (y * ff_gate.to(y.dtype))

    def timing(self, what: str):
        return Timing(self.seconds, what)


class Timing:
    def __init__(self, into: dict[str, list] | None, what: str) -> None:
        self.into, self.what = into, what

    def __enter__(self) -> None:
        if self.into is not None:
            self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self.events[0].record()

    def __exit__(self, *_) -> None:
        if self.into is not None:
            self.events[1].record()
            self.into.setdefault(self.what, []).append(self.events)


def modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    normed = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    return torch.addcmul(shift.to(x.dtype), normed, 1 + scale.to(x.dtype))


def rotated(x: Tensor, rope: Tensor, heads: int) -> Tensor:
    """x (B, L, C) by rope (L, 1, D / 2) complex, in float32 as ComfyUI does; (B, L, N, D)."""
    pairs = torch.view_as_complex(x.unflatten(-1, (heads, -1, 2)).float())
    return torch.view_as_real(pairs * rope).flatten(-2).to(x.dtype)


def dense_attention(name: str):
    return lambda block, q, k, v, x: dense(name, q, k, v)


def moga(layout: VideoLayout, config: MoGAConfig):
    def attend(block: Block, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return moga_attention(q, k, v, block.router(x), layout, config)

    return attend


def blocks_of(size: str, groups: int, layers: int, device: torch.device) -> nn.ModuleList:
    shape, heads = SHAPES[size]
    with torch.device(device):
        blocks = nn.ModuleList(Block(shape, heads, groups) for _ in range(layers))
    return blocks.to(torch.bfloat16 if device.type == "cuda" else torch.float32)


def measure(
    size: str, tokens: int, groups: list[int], layers: int, device: torch.device, given
) -> list[dict]:
    """One forward pass of `layers` blocks for each way of attending."""
    shape, _ = SHAPES[size]
    layout = layout_of(given.grids[tokens], 1)
    blocks = blocks_of(size, max(groups), layers, device)
    x, text, rope = inputs_of(size, tokens, blocks)
    cuda = device.type == "cuda"
    ways = [(f"dense {name}", None) for name in ("sdpa", "flash3") if runnable(name, device)]
    moga_ways = ["auto", NO_PACKAGE] if len(ways) > 1 else ["auto"]
    ways += [(way, count) for count in groups for way in moga_ways]
    rows = []
    for way, count in ways:
        if count is None:
            attend, best = dense_attention(way[6:]), 1.0
        else:
            config = CONFIGS[count]
            attend, best = moga(layout, config), expected_speedup(layout, config, shape)
            for block in blocks:
                block.router = TokenRouter(shape.width, count, device=device, dtype=x.dtype)

        @torch.inference_mode()
        def forward(attend=attend) -> Tensor:
            y = x
            for block in blocks:
                y = block(y, text, rope, attend)
            return y

        with hidden(*(("flash3", "flash2") if way == NO_PACKAGE else ())):
            row = {"model": size, "tokens": tokens, "layers": layers, "way": way, "groups": count}
            for portions in given.portions:
                for block in blocks:
                    block.portions = portions
                forward()  # kernels are compiled and planned here
                if cuda:
                    torch.cuda.reset_peak_memory_stats()
                ms = queued(forward, device, 1)
                new = {**row, "feed_forward_portions": portions, "ms": ms, "most_possible": best}
                if cuda:
                    new["peak_GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
                    new["split_ms"] = split(blocks, forward) if ms < 10_000 else None
                new["times_stock"] = rows[0]["ms"] / ms if rows else 1.0
                rows.append(new)
                print(json.dumps(new), flush=True)
    return rows


def inputs_of(size: str, tokens: int, blocks: nn.ModuleList) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (1, L, C), text (1, X, C) and rotations (L, 1, D / 2)."""
    shape, heads = SHAPES[size]
    like = blocks[0].out.weight
    x, text = (
        torch.randn(1, count, shape.width, device=like.device, dtype=like.dtype)
        for count in (tokens, shape.text_tokens)
    )
    angles = torch.rand(tokens, 1, shape.width // heads // 2, device=like.device) * 6.28
    return x, text, torch.polar(torch.ones_like(angles), angles)


def runnable(name: str, device: torch.device) -> bool:
    q = torch.empty(1, 1, 1, 128, device=device, dtype=torch.bfloat16)
    return not (BACKENDS[name].missing() or BACKENDS[name].unfit(q))


def split(blocks: nn.ModuleList, forward) -> dict[str, float]:
    for block in blocks:
        block.seconds = {}
    forward()
    torch.cuda.synchronize()
    totals: dict[str, float] = {}
    for block in blocks:
        for what, events in block.seconds.items():
            spent = sum(first.elapsed_time(last) for first, last in events)
            totals[what] = totals.get(what, 0.0) + spent
        block.seconds = None
    return {what: round(ms, 1) for what, ms in totals.items()}


def training_step(tokens: int, layers: int, device: torch.device, grids: dict) -> list[dict]:
    """Forward and backward of 1.3B-shaped blocks with recomputation, dense against MoGA, M=5."""
    layout = layout_of(grids[tokens], 1)
    blocks = blocks_of("1.3B", 5, layers, device)
    x, text, rope = inputs_of("1.3B", tokens, blocks)
    rows = []
    for way in ("dense sdpa", "moga auto"):
        attend = dense_attention("sdpa") if way == "dense sdpa" else moga(layout, CONFIGS[5])

        def step(attend=attend) -> None:
            y = x
            for block in blocks:
                y = checkpoint(block, y, text, rope, attend, use_reentrant=False)
            y.float().square().mean().backward()

        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        row = {"model": "1.3B", "tokens": tokens, "layers": layers, "way": way}
        step()
        row["ms"] = queued(step, device, 1)
        if device.type == "cuda":
            row["peak_GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        rows.append(row)
        print(json.dumps(row), flush=True)
    rows[1]["times"] = rows[0]["ms"] / rows[1]["ms"]
    print(f"training step {tokens}: {rows[1]['times']:.2f}x", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--model", choices=SHAPES, nargs="+", default=["1.3B"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[62_400, 187_200])
    parser.add_argument("--groups", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--layers", type=int, help="blocks that run; all of the model by default")
    parser.add_argument("--portions", type=int, nargs="+", default=[1])
    parser.add_argument("--train", action="store_true", help="a training step instead")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    device = torch.device(given.device)
    given.grids = GRIDS
    if given.quick:
        given.grids, given.tokens, given.layers = {480: (8, 6, 10)}, [480], 1
    result: dict = {"machine": machine(device), "forward": [], "training": []}
    for size in given.model:
        for tokens in given.tokens:
            layers = given.layers or SHAPES[size][0].layers
            if given.train:
                result["training"] += training_step(tokens, layers, device, given.grids)
            else:
                result["forward"] += measure(size, tokens, given.groups, layers, device, given)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
