"""What a run would make and what it takes, worked out before anything large is read."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..flops import density
from ..hosts.diffusers.pipeline import check_embeddings
from ..hosts.diffusers.text_encoder import check_lengths, load_tokenizer
from ..layout import VideoLayout
from ..shots import ShotList
from ..video import find_ffmpeg
from .memory import Memory, estimate
from .models import Models, examine
from .options import Options, UsageError
from .tensors import embeddings_header, has_negative, latents_shape, prompt_shape

_POSITIONS = 1024  # that Wan's RoPE tables reach, in each direction
_VIDEO_BITS_PER_PIXEL = 4.0  # what H.264 at crf 18 takes for noise; pictures, a tenth of it


@dataclass(frozen=True)
class Plan:
    """A run that fits together. Sizes are bytes."""

    options: Options
    shots: ShotList
    models: Models
    layout: VideoLayout
    memory: Memory
    latents_size: int
    video_size: int

    def text(self) -> str:
        """The plan for reading."""
        layout = self.layout
        lines = [
            self.shots.table(),
            "",
            f"video     {self.shots.frames} frames of {self.options.width}x{self.options.height}",
            f"tokens    {layout.tokens} ({layout.frames} x {layout.height} x {layout.width})",
        ]
        for transformer in self.models.transformers:
            if transformer.moga is None:
                share = "dense, by --attention dense"
            else:
                part = density(layout, transformer.moga)
                share = f"{part:.1%} of dense ({transformer.moga.groups} groups)"
            lines.append(f"attention {share}: {transformer.name}")
        lines += [f"memory    {self.memory.text()}"]
        lines += [
            f"disk      {_size(self.latents_size)} latents, up to {_size(self.video_size)} video"
        ]
        return "\n".join(lines)


def make_plan(options: Options) -> Plan:
    """Read the script and the headers of all files, and hold them against each other.

    Raises ShotScriptError, ShotMismatchError, UsageError, CheckpointError and ConfigError, each
    with one sentence.
    """
    shots = ShotList.read(options.script, options.fps)
    if options.image is not None:
        open_image(options.image)
    models = examine(options)
    _check_experts(options, models)
    layout = _layout(options, shots, models)
    channels, frames = models.latent_channels, layout.frames
    height, width = options.height // models.scale, options.width // models.scale
    _check_tensors(options, shots, models, (1, channels, frames, height, width))
    latents = 4 * channels * frames * height * width
    pixels = shots.frames * options.height * options.width
    plan = Plan(
        options,
        shots,
        models,
        layout,
        estimate(options, models, layout),
        0 if options.latents else latents,
        int(pixels * _VIDEO_BITS_PER_PIXEL / 8),
    )
    _check_disk(plan)
    find_ffmpeg()  # better missed now than after sampling
    return plan


def _check_experts(options: Options, models: Models) -> None:
    for name, value in (("cfg-low", options.cfg_low), ("boundary", options.boundary)):
        if value is not None and len(models.transformers) == 1:
            raise UsageError(
                f"--{name} is for the low-noise expert of Wan 2.2 14B, and {models.first.name} is "
                "one model; leave it out, or give --model-high and --model-low."
            )


def _layout(options: Options, shots: ShotList, models: Models) -> VideoLayout:
    multiple = models.scale * models.patch
    for name, size in (("width", options.width), ("height", options.height)):
        if size < multiple or size % multiple:
            near = max(multiple, round(size / multiple) * multiple)
            raise UsageError(
                f"--size has a {name} of {size}; {_whose(models)} needs a multiple of {multiple}, "
                f"such as {near}."
            )
    layout = VideoLayout(
        shots.latent_frames,
        options.height // multiple,
        options.width // multiple,
        shots.latent_starts,
    )
    for name, count in (
        ("frames", layout.frames),
        ("rows", layout.height),
        ("columns", layout.width),
    ):
        if count > _POSITIONS:
            raise UsageError(
                f"the film has {count} latent {name}, and Wan's positions end at {_POSITIONS}; "
                f"{'shorten the shots' if name == 'frames' else 'make --size smaller'}."
            )
    return layout


def _whose(models: Models) -> str:
    return models.first.name if models.transformers else "Wan"


def _check_tensors(
    options: Options, shots: ShotList, models: Models, latents: tuple[int, ...]
) -> None:
    if options.latents is not None:
        found = latents_shape(options.latents)
        if found != latents:
            raise UsageError(
                f"{options.latents.name} has the shape {found}, but script, size and VAE make "
                f"{latents}; give the script and --size of the run that saved it."
            )
        return
    if options.latents_out.exists():
        raise UsageError(f"{options.latents_out} exists already; choose another --out.")
    if options.embeddings is None:
        check_lengths(load_tokenizer(options.text_encoder or options.model), shots.texts)
        return
    header = embeddings_header(options.embeddings)
    check_embeddings(prompt_shape(header), len(shots.shots), models.first.config["text_dim"])
    if options.cfg > 1 and not has_negative(header):
        raise UsageError(
            f"{options.embeddings.name} has no negative_prompt_embeds, which --cfg {options.cfg:g} "
            "needs; add them, or give --cfg 1."
        )


def open_image(path: Path) -> Any:
    """The first frame as an RGB picture. Raises UsageError for what is none."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path).convert("RGB")
    except (UnidentifiedImageError, OSError):
        raise UsageError(f"--image is {path}, which is no picture; give a PNG or JPEG.") from None


def _check_disk(plan: Plan) -> None:
    folder = plan.options.out.absolute().parent
    needed, free = plan.latents_size + plan.video_size, shutil.disk_usage(folder).free
    if needed > free:
        raise UsageError(
            f"{folder} has {_size(free)} free and the film may take {_size(needed)}; "
            "make room, or give --out on another disk."
        )


def _size(size: float) -> str:
    """Bytes for reading."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
