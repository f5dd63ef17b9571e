"""One MoGA attention layer against dense attention: time, efficiency, memory, and where it goes.

    python benchmarks/attention.py --json benchmarks/results/attention.json
    python benchmarks/attention.py --device cpu --quick

efficiency = (dense time of the same kernel x density) / MoGA time, permutation included.
Random q, k, v in bfloat16, head width 128; groups drawn evenly, unless a row says otherwise.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise, product
from pathlib import Path

import torch
from grids import GRIDS
from measuring import machine, peak, timed, wait
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from moga import kernels
from moga.attention import layer_backends, moga_attention
from moga.attention.far import far_of
from moga.attention.layer import _chosen
from moga.attention.packing import CELLS, packed, packings
from moga.config import COMBINES, MoGAConfig
from moga.flops import density
from moga.kernels import BACKENDS, Segments
from moga.kernels.branch import BranchOutput
from moga.kernels.far import far_attention
from moga.kernels.merge import mean_of, softmax_of
from moga.layout import VideoLayout
from moga.routing import Routing

QUICK = {2_080: (20, 8, 13), 8_320: (40, 13, 16)}
CONFIGS = {
    5: MoGAConfig(5, (2, 2)),
    10: MoGAConfig(10, (2, 2)),
    20: MoGAConfig(20, (4, 4)),
}
NO_PACKAGE = "auto, no extra package"
EXTRAS = ("shots", "skew", "split", "backward", "flex")


def layout_of(grid: tuple[int, int, int], shots: int) -> VideoLayout:
    return VideoLayout(*grid, tuple(round(i * grid[0] / shots) for i in range(shots)))


def inputs(
    layout: VideoLayout, heads: int, device: torch.device, width: int = 128
) -> tuple[Tensor, ...]:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return tuple(
        torch.randn(1, layout.tokens, heads, width, device=device, dtype=dtype) for _ in range(3)
    )


def routing_of(layout: VideoLayout, groups: int, device: torch.device, spread: str) -> Routing:
    """Groups drawn evenly, "skewed" (shares like 1, 1/2, 1/3, ...) or the upper "half empty"."""
    shares = torch.ones(groups, device=device)
    if spread == "skewed":
        shares /= torch.arange(1, groups + 1, device=device)
    elif spread == "half empty":
        shares[groups // 2 :] = 0
    group = torch.multinomial(shares, layout.tokens, replacement=True)[None]
    gate = torch.rand(group.shape, device=device)
    return Routing(None, group, gate, groups)


def dense(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Dense attention as stock runs it ("sdpa") or with another backend of the table."""
    if name == "sdpa":
        return F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v))).transpose(
            1, 2
        )
    tokens = q.shape[1]
    segments = Segments.from_lengths(((tokens, tokens),) * q.shape[0], q.device)
    out, _ = BACKENDS[name].run(*(t.flatten(0, 1) for t in (q, k, v)), segments, False)
    return out.view_as(q)


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """As if these backends were not there for `auto`."""
    saved = dict(BACKENDS)
    BACKENDS.update({name: dataclasses.replace(BACKENDS[name], auto=False) for name in names})
    _chosen.cache_clear()
    try:
        yield
    finally:
        BACKENDS.update(saved)
        _chosen.cache_clear()


def runnable(q: Tensor, **needs: bool) -> list[str]:
    return [n for n, b in BACKENDS.items() if not (b.missing() or b.unfit(q[0], **needs))]


def compare(
    layout: VideoLayout,
    heads: int,
    config: MoGAConfig,
    names: list[str],
    device: torch.device,
    dense_ms: dict[str, float],
    repeats: int,
    spread: str = "even",
) -> list[dict]:
    """MoGA with every backend of `names`, as rows of the table."""
    q, k, v = inputs(layout, heads, device)
    routing = routing_of(layout, config.groups, device, spread)
    share = density(layout, config, routing.sizes()[0].tolist())
    rows = []
    for name in names:
        hide = ("flash3", "flash2") if name == NO_PACKAGE else ()
        with hidden(*hide):
            asked = "auto" if name == NO_PACKAGE else name

            def run(asked: str = asked) -> Tensor:
                return moga_attention(q, k, v, routing, layout, config, backend=asked)

            used = layer_backends(q, layout, config, asked).backends
            start = time.perf_counter()
            run()
            wait(device)
            first = (time.perf_counter() - start) * 1e3
            ms = timed(run, device, repeats)
            memory = peak(run, q)
        base = used["frames"].name  # the layer's own choice: `auto` may read in place elsewhere
        like = base if base in dense_ms else "sdpa"
        rows.append(
            {
                "tokens": layout.tokens,
                "shots": len(layout.shots),
                "heads": heads,
                "groups": config.groups,
                "combine": config.combine,
                "spread": spread,
                "backend": name,
                "branches": {branch: backend.name for branch, backend in used.items()},
                "density": round(share, 5),
                "ms": ms,
                "first_call_ms": first,
                "efficiency": dense_ms[like] * share / ms,
                "efficiency_against": like,
                "times_dense_same_kernel": dense_ms[like] / ms,
                "times_stock": dense_ms["sdpa"] / ms,
                "peak_tensors": memory,
            }
        )
        print(line(rows[-1]), flush=True)
    return rows


def dense_times(
    layout: VideoLayout, heads: int, device: torch.device, repeats: int
) -> dict[str, float]:
    """Dense attention with every backend; the slow ones at the smaller sizes only."""
    q, k, v = inputs(layout, heads, device)
    times = {}
    for name in runnable(q):
        slow = name in ("torch", "triton") and (layout.tokens > 200_000 or heads > 12)
        if name != "sage" and not slow:
            times[name] = timed(partial(dense, name, q, k, v), device, repeats)
            print(f"{layout.tokens:>7} heads {heads:>2} dense {name:8} {times[name]:9.2f} ms")
    return times


def line(row: dict) -> str:
    memory = "" if row["peak_tensors"] is None else f"  peak {row['peak_tensors']:.2f}"
    return (
        f"{row['tokens']:>7} shots {row['shots']} heads {row['heads']:>2} M={row['groups']:<2} "
        f"{row['combine']:5} {row['spread']:9} {row['backend']:22} {row['ms']:9.2f} ms  efficiency "
        f"{row['efficiency']:.2f} of {row['efficiency_against']:6} {row['times_stock']:6.2f}x stock"
        f"{memory}  first {row['first_call_ms']:.0f} ms"
    )


def split(
    layout: VideoLayout, heads: int, config: MoGAConfig, name: str, device: torch.device
) -> dict[str, float]:
    """Milliseconds of each step of a layer that runs all heads at once."""
    q, k, v = inputs(layout, heads, device)
    routing = routing_of(layout, config.groups, device, "even")
    tokens = [t.flatten(0, 1) for t in (q, k, v)]
    union = config.combine == "union"

    def order() -> dict:
        return packings(routing, layout, config, 1, device)

    orders = order()
    used = layer_backends(q, layout, config, name).backends
    times = {} if union else {"routing order": timed(order, device, 7)}
    parts = []
    for branch, plan in orders.items():
        backend = used[branch]
        indices = (plan.queries, plan.keys, plan.keys)
        if backend.indexed is not None:
            arguments = (*tokens, plan.queries, plan.keys, plan.segments, union)
            times[branch] = timed(lambda a=arguments, b=backend: b.indexed(*a), device, 7)
            parts.append(BranchOutput(*backend.indexed(*arguments)))
            continue

        def pack(indices: tuple = indices) -> list[Tensor]:
            return [packed(t, i) for t, i in zip(tokens, indices, strict=True)]

        if plan.queries is not None:
            times[f"{branch} gather"] = timed(pack, device, 7)
        arguments = (*pack(), plan.segments, union)
        times[branch] = timed(lambda a=arguments, b=backend: b.run(*a), device, 7)
        sign = -1 if branch == CELLS else 1
        parts.append(BranchOutput(*backend.run(*arguments), place=plan.place, sign=sign))
    if union:
        times["routing order"] = timed(lambda: far_of(routing.group, layout, config), device, 7)
        index, place, keys = far_of(routing.group, layout, config)
        times["routed gather"] = timed(lambda: [packed(t, index) for t in tokens], device, 7)
        arguments = (*(packed(t, index) for t in tokens), keys, used["routed"].ranged)
        times["routed"] = timed(lambda: far_attention(*arguments), device, 7)
        parts.append(BranchOutput(*far_attention(*arguments), place=place))
    join = softmax_of if union else mean_of
    times["merge"] = timed(lambda: join(parts), device, 7)
    return times


def backward(
    layout: VideoLayout, heads: int, config: MoGAConfig, device: torch.device, repeats: int
) -> list[dict]:
    """Forward and backward, dense against MoGA, with every backend that trains."""
    q, k, v = (t.requires_grad_() for t in inputs(layout, heads, device))
    routing = routing_of(layout, config.groups, device, "even")
    rows = []
    for name in runnable(q, training=True, lse=config.combine == "union"):
        runs = {
            "dense": lambda n=name: dense(n, q, k, v),
            "moga": lambda n=name: moga_attention(q, k, v, routing, layout, config, backend=n),
        }
        row = {"tokens": layout.tokens, "heads": heads, "groups": config.groups}
        row |= {"combine": config.combine, "backend": name}
        for what, run in runs.items():

            def step(run: Callable[[], Tensor] = run) -> None:
                torch.autograd.grad(run().float().square().sum(), (q, k, v))

            row[f"{what}_ms"] = timed(step, device, repeats)
        row["times"] = row["dense_ms"] / row["moga_ms"]
        rows.append(row)
        print(f"forward and backward {row}", flush=True)
    return rows


def flex(layout: VideoLayout, heads: int, share: float, device: torch.device) -> dict:
    """Block-sparse flex_attention at the same density: random blocks of 128 x 128."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    blocks = -(-layout.tokens // 128)
    keep = torch.rand(blocks, blocks, device=device) < share
    keep.fill_diagonal_(True)
    mask = create_block_mask(
        lambda b, h, i, j: keep[i // 128, j // 128],
        *(None, None, layout.tokens, layout.tokens),
        device=device,
        _compile=True,
    )
    q, k, v = (t.transpose(1, 2) for t in inputs(layout, heads, device))
    compiled = torch.compile(flex_attention)
    ms = timed(lambda: compiled(q, k, v, block_mask=mask), device, 3)
    row = {"tokens": layout.tokens, "heads": heads, "density": share, "ms": ms}
    print(f"flex_attention {row}", flush=True)
    return row


def growth(rows: list[dict]) -> list[dict]:
    """How time grows with length: the exponent of tokens between neighbouring sizes."""
    out = []
    series: dict[tuple, list[dict]] = {}
    for row in rows:
        if row["spread"] == "even" and row["shots"] == 1:
            series.setdefault(
                (row["heads"], row["groups"], row["combine"], row["backend"]), []
            ).append(row)
    for (heads, groups, combine, backend), points in series.items():
        points.sort(key=lambda row: row["tokens"])
        for a, b in pairwise(points):
            power = math.log(b["ms"] / a["ms"]) / math.log(b["tokens"] / a["tokens"])
            key = {"heads": heads, "groups": groups, "combine": combine, "backend": backend}
            out.append({**key, "from": a["tokens"], "to": b["tokens"], "power": round(power, 2)})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="small sizes, for a CPU")
    parser.add_argument("--tokens", type=int, nargs="+")
    parser.add_argument("--heads", type=int, nargs="+")
    parser.add_argument("--groups", type=int, nargs="+")
    parser.add_argument("--combine", nargs="+", choices=COMBINES, default=COMBINES)
    parser.add_argument("--extras", nargs="*", choices=EXTRAS, default=[])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    device, grids = torch.device(given.device), QUICK if given.quick else GRIDS
    repeats = 3 if given.quick else 5
    print(kernels.report(device), flush=True)
    result: dict = {"machine": machine(device), "dense": [], "moga": [], "split": [], "extras": {}}

    def save() -> None:
        result["growth"] = growth(result["moga"])
        if given.json:
            given.json.write_text(json.dumps(result, indent=1) + "\n")

    for heads in given.heads or ([2] if given.quick else [12, 40]):
        for tokens in given.tokens or grids:
            layout = layout_of(grids[tokens], 1)
            dense_ms = dense_times(layout, heads, device, repeats)
            for name, ms in dense_ms.items():
                row = {"tokens": tokens, "heads": heads, "backend": name, "ms": ms}
                result["dense"].append(row)
            asked = ["auto", *([NO_PACKAGE] if "flash3" in dense_ms else []), *dense_ms]
            if device.type != "cuda":
                asked = ["auto"]
            for groups, combine in product(given.groups or CONFIGS, given.combine):
                config = dataclasses.replace(CONFIGS[groups], combine=combine)
                few = asked if heads <= 12 and groups != 10 else asked[:2]
                arguments = (few, device, dense_ms, repeats)
                result["moga"] += compare(layout, heads, config, *arguments)
                save()
                cases = [(6, "even")] if "shots" in given.extras else []
                if "skew" in given.extras:
                    cases += [(1, "skewed"), (1, "half empty")]
                for shots, spread in cases:
                    other = layout_of(grids[tokens], shots)
                    arguments = (asked[:2], device, dense_ms, repeats, spread)
                    result["moga"] += compare(other, heads, config, *arguments)
                for name in asked[:2] if "split" in given.extras else ():
                    with hidden(*(("flash3", "flash2") if name == NO_PACKAGE else ())):
                        times = split(layout, heads, config, "auto", device)
                    key = {"tokens": tokens, "heads": heads, "groups": groups, "backend": name}
                    key["combine"] = combine
                    result["split"].append({**key, "ms": times})
                    parts = ", ".join(f"{what} {ms:.2f}" for what, ms in times.items())
                    print(f"split {tokens} M={groups} {combine} {name}: {parts}", flush=True)
                save()
    heads = 2 if given.quick else 12
    for tokens in given.tokens or grids:
        layout = layout_of(grids[tokens], 1)
        if "backward" in given.extras and tokens < 200_000:
            for groups, combine in product(given.groups or CONFIGS, given.combine):
                rows = result["extras"].setdefault("backward", [])
                config = dataclasses.replace(CONFIGS[groups], combine=combine)
                rows += backward(layout, heads, config, device, 3)
                save()
        if "flex" in given.extras and tokens == 75_600 and device.type == "cuda":
            share = density(layout, CONFIGS[20])
            result["extras"]["flex_attention"] = flex(layout, heads, share, device)
        save()
    save()
    for row in result["growth"]:
        print("growth", row)


if __name__ == "__main__":
    main()
