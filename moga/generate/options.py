"""What `python -m moga.generate` is asked for: the command line, as far as it can be judged."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint import DTYPES
from ..errors import MogaError
from ..kernels import AUTO, backend_names, require

MOGA, DENSE = "moga", "dense"
OFFLOADS = ("none", "model", "group", "sequential")
SCHEDULERS = ("unipc", "euler")
_MOST_OF_A_LORA = 100  # as in ComfyUI


class UsageError(MogaError, ValueError):
    """A request that cannot be met; the message names the option, the value and the fix."""


@dataclass(frozen=True)
class LoraOption:
    """A LoRA, and how much of it."""

    path: Path
    weight: float

    def __str__(self) -> str:
        return f"{self.path}:{self.weight}"


@dataclass(frozen=True)
class Options:
    """The command line. Paths are as given; see `parser` for what each one means."""

    script: Path
    out: Path
    model: Path | None
    model_low: Path | None
    routers: Path | None
    routers_low: Path | None
    loras: tuple[LoraOption, ...]
    loras_low: tuple[LoraOption, ...]
    vae: Path | None
    text_encoder: Path | None
    image_encoder: Path | None
    embeddings: Path | None
    image: Path | None
    latents: Path | None
    contact_sheet: Path | None
    negative: str | None
    width: int
    height: int
    fps: str
    seed: int
    steps: int
    cfg: float
    cfg_low: float | None
    scheduler: str
    shift: float
    boundary: float | None
    attention: str
    backend: str
    dtype: str
    device: str
    offload: str
    cfg_halves: bool
    plan: bool

    @property
    def latents_out(self) -> Path:
        """Where the latents are saved before they are decoded: beside the video."""
        return self.out.with_suffix(".latents.safetensors")


def parse(arguments: Sequence[str]) -> Options:
    """Read a command line. Exits as argparse does on a bad one; raises UsageError, BackendError."""
    options = options_of(vars(parser().parse_args(arguments)))
    _check_places(options)
    check(options)
    return options


def options_of(given: dict[str, Any]) -> Options:
    """The options of `parser`, by name, together. Raises UsageError."""
    high = given.pop("model_high")
    both, none = given["model"] and high, not (given["model"] or high)
    if both or (none and given["latents"] is None):
        raise UsageError("give either --model, or --model-high and --model-low.")
    if (high is None) != (given["model_low"] is None):
        raise UsageError("--model-high and --model-low belong together; give both, or --model.")
    given["model"] = given["model"] or high
    given["loras"] = _loras("lora", given.pop("lora"))
    given["loras_low"] = _loras("lora-low", given.pop("lora_low"))
    given["width"], given["height"] = _size(given.pop("size"))
    return Options(**given)


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    top = argparse.ArgumentParser(
        prog="python -m moga.generate",
        description="A film of several shots from a script, with MoGA on Wan 2.1 or 2.2. "
        "Nothing is downloaded: every file is one that you have. On several GPUs: torchrun "
        "--standalone --nproc-per-node N -m moga.generate ...",
    )
    _add_files(top.add_argument_group("files"))
    film = _adder(top.add_argument_group("film"))
    film("--negative", metavar="TEXT", help="what to avoid, instead of the script's negative:")
    film("--size", default="832x480", metavar="WxH", help="pixels (default: %(default)s)")
    film(
        "--fps", default="16", help="frames per second (default: %(default)s; 24 for the 5B model)"
    )
    film("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    film("--steps", type=int, default=30, help="sampling steps (default: %(default)s); 4, with "
         "--cfg 1, for most step-distilled LoRAs")  # fmt: skip
    film("--cfg", type=float, default=5.0, help="guidance (default: %(default)s); 1 is none, and "
         "one forward a step instead of two")  # fmt: skip
    film("--cfg-low", type=float, help="guidance of the low-noise expert (default: --cfg)")
    film("--scheduler", choices=SCHEDULERS, default="unipc", help="(default: %(default)s)")
    film("--shift", type=float, default=5.0, help="of the noise levels (default: %(default)s)")
    film("--boundary", type=float, help="share of the noise levels for the low-noise expert "
         "(default: 0.875, with an image 0.9)")  # fmt: skip

    run = _adder(top.add_argument_group("running"))
    run("--attention", choices=(MOGA, DENSE), default=MOGA,
        help="dense: plain Wan, with a text per shot (default: %(default)s)")  # fmt: skip
    run("--backend", choices=backend_names(), default=AUTO, help="attention kernel")
    run("--dtype", choices=list(DTYPES), default="bf16",
        help="of the weights (default: %(default)s)")  # fmt: skip
    run("--device", default="auto", help="cuda, cuda:1, mps or cpu (default: the best there is)")
    run("--offload", choices=OFFLOADS, default="none",
        help="keep one model, one block or one layer on the GPU (default: all)")  # fmt: skip
    run("--no-cfg-halves", action="store_false", dest="cfg_halves",
        help="under torchrun, let all processes share each forward; otherwise, with --cfg and an "
        "even number of them, one half makes the text's and one the negative's")  # fmt: skip
    run("--plan", action="store_true", help="say what would be made and what it takes, and stop")
    return top


def _add_files(files) -> None:
    file = _adder(files, type=Path, metavar="FILE")
    file("--script", required=True, help="the shots, as text or JSON (the schedule node's form)")
    file("--out", required=True, help="the video to write, .mp4; its latents are saved beside it")
    file("--model", help="a Wan 2.1 or 2.2 model as ComfyUI has it, or a diffusers folder")
    file("--model-high", help="the high-noise expert of Wan 2.2 A14B, instead of --model")
    file("--model-low", help="its low-noise expert")
    file("--routers", help="MoGA routers, for a model file without them")
    file("--routers-low", help="MoGA routers for the low-noise expert")
    lora = _adder(files, action="append", default=[], metavar="FILE:WEIGHT")
    lora("--lora", help="a LoRA for the model, or for the high-noise expert, as ComfyUI has it, or "
         "a training's adapter.safetensors, whose routers come along; :WEIGHT is 1 where it is "
         "left out, and 0 leaves the LoRA out; give --lora again for more of them")  # fmt: skip
    lora("--lora-low", help="a LoRA for the low-noise expert, in the same way")
    file("--vae", help="wan_2.1_vae.safetensors, or wan2.2_vae.safetensors for the 5B model")
    file("--text-encoder", help="umt5_xxl_fp16.safetensors")
    file("--image-encoder", help="clip_vision_h.safetensors, for Wan 2.1 image-to-video")
    file("--embeddings", help="encoded captions instead of a text encoder: prompt_embeds (shots, "
         "tokens, width) and negative_prompt_embeds (1, tokens, width)")  # fmt: skip
    file("--image", help="the first frame: any picture, scaled to cover --size and cut to it in "
         "the middle; what is transparent lies on white")  # fmt: skip
    file("--latents", help="decode these, saved by an earlier run, instead of sampling; "
         "needs --vae and no other model")  # fmt: skip
    file("--contact-sheet", help="also write a picture with some frames of every shot")


def _adder(group, **common):
    def add(flag: str, **details) -> None:
        group.add_argument(flag, **{**common, **details})

    return add


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})\s*[xX×]\s*(\d{1,5})", text.strip())
    if not match:
        raise UsageError(f"--size is {text!r}; give width and height in pixels, such as 832x480.")
    return int(match[1]), int(match[2])


def _loras(flag: str, given: Sequence[str]) -> tuple[LoraOption, ...]:
    """Each as FILE or FILE:weight; a colon that belongs to the path stays in it."""
    loras = []
    for text in given:
        path, colon, weight = text.rpartition(":")
        if not colon or re.search(r"[\\/]|\.(safetensors|sft)$", weight, re.IGNORECASE):
            path, weight = text, "1"
        if not path:
            raise UsageError(f"--{flag} is {text!r}, which names no file; give FILE or FILE:0.8.")
        try:
            number = float(weight)
        except ValueError:
            raise UsageError(
                f"--{flag} is {text!r}, and its weight {weight!r} is no number; give FILE or "
                "FILE:0.8."
            ) from None
        if not abs(number) <= _MOST_OF_A_LORA:
            raise UsageError(
                f"--{flag} is {text!r}, whose weight is {number:g}; give a number from "
                f"-{_MOST_OF_A_LORA} to {_MOST_OF_A_LORA}."
            )
        loras.append(LoraOption(Path(path), number))
    return tuple(loras)


def _check_loras(flag: str, loras: Sequence[LoraOption], other: str, routers: Path | None) -> None:
    """Raise UsageError for a LoRA that would be added twice. other: the flag of the routers."""
    taken = None if routers is None else _place(routers)
    before: set[str] = set()
    for lora in loras:
        place = _place(lora.path)
        if place == taken:
            raise UsageError(
                f"--{flag} names {lora.path}, as {other} does; --{flag} takes the routers in it "
                f"too, so leave {other} out."
            )
        if place in before:
            raise UsageError(
                f"--{flag} names {lora.path} twice; give it once, with the sum of the weights."
            )
        before.add(place)


def _place(path: Path) -> str:
    """The same for all ways to write a path."""
    return os.path.normcase(os.path.realpath(path))


def check(options: Options) -> None:
    """What can be judged without opening a file, apart from places. Raises UsageError."""
    ranges = {"steps": (1, 1000), "shift": (0.01, 100), "cfg": (0, 100), "cfg_low": (0, 100)}
    for name, (low, high) in ranges.items():
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is {value}; give a number from {low} to {high}.")
    if options.cfg <= 1 < (options.cfg_low or 0):
        raise UsageError(
            f"--cfg-low is {options.cfg_low:g} and --cfg {options.cfg:g}, which turns guidance off "
            "for both experts; give a --cfg above 1, or leave --cfg-low out."
        )
    if options.boundary is not None and not 0 < options.boundary < 1:
        raise UsageError(f"--boundary is {options.boundary}; give a share between 0 and 1.")
    if not 0 <= options.seed < 2**63:
        raise UsageError(f"--seed is {options.seed}; give a whole number of at least 0.")
    if options.routers_low and not options.model_low:
        raise UsageError("--routers-low is for --model-low, which is not given.")
    if options.attention == DENSE and (options.routers or options.routers_low):
        raise UsageError("--attention dense uses no routers; leave --routers out.")
    _check_loras("lora", options.loras, "--routers", options.routers)
    _check_loras("lora-low", options.loras_low, "--routers-low", options.routers_low)
    if options.embeddings and options.negative:
        raise UsageError("--negative is not encoded; put it into --embeddings, or leave it out.")
    if options.backend != AUTO:
        require(options.backend)
    for name in ("script", "image", "latents"):
        path = getattr(options, name)
        if path is not None and not os.path.isfile(path):
            raise UsageError(f"--{name} is {path}, which is not there; check the path.")


def _check_places(options: Options) -> None:
    """Names and folders of what is written; what can be written there is places.py's."""
    if options.out.suffix.lower() != ".mp4":
        raise UsageError(f"--out is {options.out.name!r}; give a name that ends in .mp4.")
    if not os.path.isdir(options.out.absolute().parent):
        raise UsageError(f"--out names a folder that is not there ({options.out.parent}); make it.")
    if os.path.lexists(options.out):
        raise UsageError(f"{options.out} exists already; choose another name.")
    sheet = options.contact_sheet
    if sheet is not None:
        if sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise UsageError(f"--contact-sheet is {sheet.name!r}; give a name that ends in .png.")
        if not os.path.isdir(sheet.absolute().parent):
            raise UsageError(f"--contact-sheet names a folder that is not there ({sheet.parent}).")
        if os.path.isdir(sheet):
            raise UsageError(f"--contact-sheet is {sheet}, a folder; choose another name.")
