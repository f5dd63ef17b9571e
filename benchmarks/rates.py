"""The rates that `python -m moga.plan` plans with, taken from benchmarks/results.

    python benchmarks/rates.py

moga/plan/rates.py holds what this prints, and tests/plan/test_measured.py that it does. Which rows
they are taken from is said beside each; all the others are predicted from them.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.grids import GRIDS
from moga.config import MoGAConfig
from moga.layout import VideoLayout
from moga.plan import blocks
from moga.plan.backward import grown
from moga.plan.layer import BACKWARD_FLOPS, FORWARD_FLOPS, VALUE, forward_steps, kernels_of
from moga.plan.models import MODELS
from moga.plan.parts import ROUTED, LayerParts, Part, dense_parts, parts_of
from moga.plan.rates import Kernel, Rates
from moga.wan import HEAD_WIDTH

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ALONE = "auto, no extra package"

Term = tuple[float, ...]  # a row of an equation: factors of the unknowns, then what was measured


def main() -> None:
    for name, found in (("H100", h100()), ("H200", h200(h100()))):
        print(name)
        for field in dataclasses.fields(found):
            print(f"  {field.name}: {getattr(found, field.name)}")


def results(name: str) -> dict:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def layout_of(tokens: int, shots: int = 1) -> VideoLayout:
    frames, height, width = GRIDS[tokens]
    return VideoLayout(
        frames, height, width, tuple(round(i * frames / shots) for i in range(shots))
    )


def config_of(groups: int, combine: str) -> MoGAConfig:
    return MoGAConfig(groups, (4, 4) if groups == 20 else (2, 2), combine=combine)


def row_parts(row: dict, combine: str = "mean") -> LayerParts:
    """The parts of a layer that a row of attention.json or union.json measured, evenly grouped."""
    config = config_of(row["groups"], row.get("combine", combine))
    return parts_of(layout_of(row["tokens"], row.get("shots", 1)), config)


def h100() -> Rates:
    """Of attention.json and forward.json."""
    layers, whole = results("attention.json"), results("forward.json")
    copy = copying(layers)
    first = split_of(whole, "1.3B", 62_400)
    unit = 62_400 * 1536 * VALUE * 30
    passes = {
        name: first[step] * 1e-3 * copy / unit
        for name, step in (("norms", "norm and modulation"), ("rope", "qk-norm and RoPE"))
    }
    found = Rates(
        forward=forward_kernels(layers, copy),
        backward={},
        gemm=matrices(whole),
        copy=copy,
        elementwise=copy,
        order=statistics.median(row["ms"]["routing order"] for row in layers["split"]) * 1e-3,
        mean_backward=0.0,
        trainer=0.0,
        **passes,
    )
    found = with_backward(found, layers["extras"]["backward"])
    return dataclasses.replace(found, trainer=trainer(found, whole["trainer"]["rows"]))


def h200(like: Rates) -> Rates:
    """Of union.json where memory counts; arithmetic is an H100's."""
    one, other = results("forward.json"), results("union.json")
    steps = ("norm and modulation", "qk-norm and RoPE")
    took = [sum(split_of(f, "1.3B", 187_200, "auto", 5)[s] for s in steps) for f in (one, other)]
    faster = took[0] / took[1]
    return dataclasses.replace(like, copy=copying(other), elementwise=like.elementwise * faster)


def copying(layers: dict) -> float:
    """Bytes a second of gathers that read and write q, k and v: every such step of `split`."""
    found = []
    for row in layers["split"]:
        size = 6 * row["tokens"] * row["heads"] * HEAD_WIDTH * VALUE
        found += [size / ms * 1e3 for step, ms in row["ms"].items() if step.endswith("gather")]
    return statistics.median(found)


def split_of(
    whole: dict, model: str, tokens: int, way: str = "dense sdpa", groups: int | None = None
) -> dict[str, float]:
    wanted = (model, tokens, way, groups, 1)
    keys = ("model", "tokens", "way", "groups", "feed_forward_portions")
    return next(r for r in whole["forward"] if tuple(r[k] for k in keys) == wanted)["split_ms"]


def matrices(whole: dict) -> float:
    """Operations a second of `projections`, in the forward passes with dense sdpa."""
    found = []
    for model, tokens, layers in (("1.3B", 62_400, 30), ("14B", 62_400, 10), ("14B", 187_200, 4)):
        width = MODELS[model].shape.width
        took = split_of(whole, model, tokens)["projections"] * 1e-3 / layers
        found.append(8 * tokens * width**2 / took)
    return statistics.mean(found)


def forward_kernels(layers: dict, copy: float) -> dict[str, Kernel]:
    """Of the dense calls and of the steps of `split`; of `torch`, which has none, of two layers."""
    seen: dict[str, list[Term]] = {}
    for row in layers["dense"]:
        part = dense_parts(layout_of(row["tokens"])).all[0]
        if row["backend"] != "triton":  # which `auto` gives short segments only
            seen.setdefault(row["backend"], []).append(term(part, row["heads"], row["ms"]))
    for row in layers["split"]:
        parts = row_parts(row)
        used = kernels_of(parts, "sdpa" if row["backend"] == ALONE else "flash3")
        for part in parts.all:
            seen.setdefault(used[part.name], []).append(
                term(part, row["heads"], row["ms"][part.name])
            )
    masked = results("union.json")
    for row in masked["split"]:
        if row["backend"] == ALONE and row["combine"] == "union":
            part = row_parts(row).routed
            seen.setdefault("far", []).append(term(part, row["heads"], row["ms"][ROUTED]))
    found = {name: kernel(terms) for name, terms in seen.items() if name != "torch"}
    plain = Rates(found, {}, 1.0, copy, copy, 0.0, 0.0, 0.0, 0.0, 0.0)
    for row in layers["moga"]:
        if (row["tokens"], row["backend"]) == (32_760, "torch"):
            seen["torch"].append(whole_layer(row, plain))
    return found | {"torch": kernel(seen["torch"])}


def whole_layer(row: dict, plain: Rates) -> Term:
    """The attention of a layer all of one kernel: what it took, less its copies."""
    parts = row_parts(row)
    used = {part.name: "free" for part in parts.all}
    free = dataclasses.replace(plain, forward={"free": Kernel(1e30, 0)})
    copies = sum(forward_steps(parts, used, row["heads"], free).values())
    seconds = row["ms"] * 1e-3 - copies
    each = [term(part, row["heads"], 1e3) for part in parts.all]
    return sum(t[0] for t in each), sum(t[1] for t in each), seconds


def term(part: Part, heads: int, ms: float) -> Term:
    flops = FORWARD_FLOPS * heads * part.pairs
    return flops, flops / part.length, ms * 1e-3


def kernel(terms: Sequence[Term], block: int = 1) -> Kernel:
    """seconds = flops / peak + half / peak * flops / length, to the least relative errors."""
    slope, bend = solved(terms)
    return Kernel(1 / slope, max(0.0, bend / slope), block)


def with_backward(found: Rates, rows: Iterable[dict]) -> Rates:
    """Kernels backwards, bent as they are forwards: of all dense rows, and of torch's layers."""
    terms: dict[str, list[Term]] = {"torch": [], "sdpa": []}
    for row in rows:
        name = row["backend"]
        for parts, ms in ((dense_parts(layout_of(row["tokens"])), row["dense_ms"]),
                          (row_parts(row), row["moga_ms"])):  # fmt: skip
            if name == "sdpa" and parts.groups:
                continue
            used = {part.name: name for part in parts.all}
            forward = sum(forward_steps(parts, used, row["heads"], found).values())
            flops = bent = 0.0
            for part in parts.backward():
                pairs, length = grown(part, 128)
                one = BACKWARD_FLOPS * row["heads"] * pairs
                flops, bent = flops + one, bent + one / length
            unit = row["tokens"] * row["heads"] * HEAD_WIDTH * VALUE / found.elementwise
            terms[name].append((flops, bent, unit if parts.groups else 0.0, ms * 1e-3 - forward))
    half = found.forward["torch"].half
    slope, passes = solved([(a + half * b, c, s) for a, b, c, s in terms["torch"]])
    dense = statistics.mean(t[0] / t[-1] for t in terms["sdpa"])
    kernels = {
        "torch": Kernel(1 / slope, half, 128),
        "sdpa": Kernel(dense, found.forward["sdpa"].half, 128),
    }
    return dataclasses.replace(found, backward=kernels, mean_backward=passes)


def trainer(found: Rates, rows: Iterable[dict]) -> float:
    """Passes of the trainer's own, a block and step: of one clip of 62,400 tokens with the mean."""
    row = next(r for r in rows if (r["gpus"], r["tokens"], r["way"]) == (1, 62_400, "moga"))
    model = MODELS["1.3B"]
    parts = parts_of(layout_of(62_400), config_of(5, "mean"))
    work = blocks.BlockWork(model.shape, parts, 62_400, model.heads)
    used = {part.name: "torch" for part in parts.all}
    known = 2 * sum(blocks.forward(work, used, found).values())
    known += sum(blocks.backward(work, "torch", found, frozen=False).values())
    rest = row["step_s"] / model.shape.layers - known
    return rest * found.elementwise / work.unit


def solved(terms: Sequence[Term]) -> list[float]:
    """Unknowns of the terms by least squares of the relative errors (normal equations)."""
    rows = [[factor / t[-1] for factor in t[:-1]] for t in terms]
    count = len(rows[0])
    scale = [max(abs(row[i]) for row in rows) or 1.0 for i in range(count)]
    rows = [[value / s for value, s in zip(row, scale, strict=True)] for row in rows]
    matrix = [
        [sum(row[i] * row[j] for row in rows) for j in range(count)] + [sum(row[i] for row in rows)]
        for i in range(count)
    ]
    for i in range(count):
        matrix[i] = [value / matrix[i][i] for value in matrix[i]]
        for j in range(count):
            if j != i:
                factor = matrix[j][i]
                matrix[j] = [a - factor * b for a, b in zip(matrix[j], matrix[i], strict=True)]
    return [matrix[i][-1] / scale[i] for i in range(count)]


if __name__ == "__main__":
    main()
