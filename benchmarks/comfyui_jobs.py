"""What comfyui.py runs: each job a process of its own, each of its ways a row of the results."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import chain, product
from typing import Any

from comfyui_sizes import SHAPES, Shape, grid_of

from moga.config import MoGAConfig
from moga.flops import ModelShape, model_flops

CASES = {
    1: "stock, dense with 6 shots, MoGA M=5 and M=20: time and memory by frames and model",
    2: "the same numbers as on a CPU; one group without gate is stock",
    3: "memory management: --lowvram, --reserve-vram, dynamic VRAM, small cards, two experts",
    4: "torch.compile through core's node: right, recompilations, speed",
    5: "LoRA on fp8, GGUF, EasyCache, two experts, context windows, interrupt within a step",
    6: "long decode to a file beside core's nodes; the VAE in fp16 and bf16; nvenc",
    7: "one minute: 1,441 frames at 24 fps, 12 shots, to an mp4",
}
ATTENTION = ("moga-5", "moga-20")
FEATURES = ("lora on fp8", "gguf", "easycache", "two experts", "context windows", "interrupt")


@dataclass(frozen=True)
class Job:
    """case: of the issue. kind: what runs it (comfyui_child.py). model: of SHAPES.

    frames: of the video. card: GB that the card is limited to, None for all it has. arguments:
    ComfyUI's own. ways: each a row. beside_cpu: run on a CPU too, for comparison.
    """

    case: int
    kind: str
    model: str
    dtype: str
    frames: int
    ways: tuple[str, ...]
    card: int | None = None
    arguments: tuple[str, ...] = ()
    beside_cpu: bool = False

    @property
    def name(self) -> str:
        """What the rows of this job have in common, and no other job."""
        card = "" if self.card is None else f", {self.card} GB"
        words = " ".join(("", *self.arguments))
        return f"{self.case} {self.kind}: {self.model} {self.dtype}, {self.frames} f{card}{words}"

    def facts(self) -> dict[str, Any]:
        facts = asdict(self)
        del facts["ways"], facts["beside_cpu"]
        return {"job": self.name, **facts, "arguments": list(self.arguments)}


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    """All jobs that the options ask for, each with those of its ways that are asked for."""
    for job in chain.from_iterable(_MAKERS[case](options) for case in options.cases):
        ways = tuple(way for way in job.ways if not options.ways or way in options.ways)
        if ways:
            yield replace(job, ways=ways)


def _speed(options: argparse.Namespace) -> Iterator[Job]:
    ways = ["stock", "dense", *(f"{m} {b}" for b in options.backends for m in ATTENTION)]
    for model, frames, card in product(options.sizes, options.frames, options.cards):
        for dtype in options.dtypes or SHAPES[model].dtypes:
            yield Job(1, "speed", model, dtype, frames, tuple(ways), card)


def _same(options: argparse.Namespace) -> Iterator[Job]:
    ways = ("multishot_any_wan", "moga_t2v_multishot")
    fp32 = ("--fp32-unet", "--fp32-vae", "--fp32-text-enc")
    yield Job(2, "graphs", "tiny", "fp32", 17, ways, arguments=fp32, beside_cpu=True)
    for model in options.sizes[:1]:
        yield Job(2, "one group", model, "bf16", options.frames[0], ("one group",))


def _memory(options: argparse.Namespace) -> Iterator[Job]:
    ways, auto = ("stock", "moga-5 auto"), ((), None)
    settings: list[tuple[tuple[str, ...], int | None]] = [auto]
    settings += [(("--reserve-vram", "8"), None)]
    if options.device == "cuda":  # the rest has no meaning beside --cpu, or is refused
        settings += [((flag,), None) for flag in ("--lowvram", *options.flags)]
        settings += [((), card) for card in (12, 16, 24)]
    for model in options.sizes:
        dtype = SHAPES[model].dtypes[-1]
        for arguments, card in settings:
            yield Job(3, "speed", model, dtype, options.frames[0], ways, card, arguments)
    for card in (None, 24) if options.device == "cuda" else (None,):
        model = options.sizes[-1]
        swapped = ("stock, swapped", "moga-5, swapped")
        yield Job(3, "experts", model, SHAPES[model].dtypes[-1], options.frames[0], swapped, card)


def _compile(options: argparse.Namespace) -> Iterator[Job]:
    # With dynamic VRAM core's node reads the model anew, of its file, and this one has none.
    model, ways = options.sizes[0], ("stock", "moga-5")
    arguments = tuple(options.static_vram)
    yield Job(4, "compile", model, "bf16", options.frames[0], ways, arguments=arguments)


def _features(options: argparse.Namespace) -> Iterator[Job]:
    model = options.sizes[0]
    yield Job(5, "features", model, "bf16", options.frames[0], FEATURES)


def _decode(options: argparse.Namespace) -> Iterator[Job]:
    vae = "tiny" if options.sizes == ["tiny"] else "vae"
    for dtype in ("fp16", "bf16"):
        first = min(options.frames[0], 81)
        yield Job(6, "same pictures", vae, dtype, first, ("frames",), None, (f"--{dtype}-vae",))
    yield Job(6, "formats", vae, "bf16", 17, ("h264", "h264_nvenc", "hevc_nvenc", "av1_nvenc"))
    for frames in sorted({options.frames[0], options.minute}):
        yield Job(6, "decode", vae, "bf16", frames, ("core", "moga"))


def _minute(options: argparse.Namespace) -> Iterator[Job]:
    model = options.sizes[0]
    ways = tuple(f"moga-20 {backend}" for backend in options.backends[-1:])
    yield Job(7, "minute", model, SHAPES[model].dtypes[0], options.minute, ways)


_MAKERS = {1: _speed, 2: _same, 3: _memory, 4: _compile, 5: _features, 6: _decode, 7: _minute}


# --- how long they will take, about ---------------------------------------------------------------

RATE = {"cuda": 3.5e14, "cpu": 4e10}  # operations a second that a whole step reaches, with care


def seconds_of(job: Job, way: str, options: argparse.Namespace) -> float:
    """About how long one way of a job takes, the start of its process left out."""
    if job.kind in ("formats", "same pictures", "graphs"):
        return 20 if options.device == "cuda" else 6
    if job.kind == "decode":
        return job.frames * (0.05 if options.device == "cuda" else 0.02) * (2 - (way == "moga"))
    steps = {"speed": options.steps, "minute": 2, "one group": 4, "experts": 8}.get(job.kind, 12)
    calls = 1 if job.kind == "minute" else 2  # cfg
    flops = _step_flops(job.model, job.frames, way.split(" ")[0].rstrip(","), options.size)
    longer = 90 if job.kind == "compile" and options.device == "cuda" else 3
    return steps * calls * flops / RATE[options.device] + longer


def start_of(job: Job, options: argparse.Namespace) -> float:
    """About how long it takes until the first way begins: ComfyUI, and weights of the model."""
    gigabytes = SHAPES[job.model].parameters / 1e9 if job.model in SHAPES else 0
    return (15 if options.device == "cuda" else 12) + 3 * gigabytes


@lru_cache
def _step_flops(model: str, frames: int, way: str, size: str) -> float:
    """Of one call of the model."""
    if model not in SHAPES:
        return 0.0
    shape: Shape = SHAPES[model]
    groups = {"moga-5": 5, "moga-20": 20}.get(way)
    config = None if groups is None else MoGAConfig(groups, (2, 2) if groups == 5 else (4, 4))
    sizes = ModelShape(shape.layers, shape.dim, shape.ffn_dim)
    return model_flops(grid_of(shape, frames, size), config, sizes).total
