"""What a run would make and what it takes, worked out before anything large is read."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..config import MAX_POSITIONS
from ..files import readable, require_space
from ..flops import density
from ..hosts.diffusers import Transformer, check_embeddings, check_lengths
from ..layout import VideoLayout
from ..parallel import check_heads
from ..shots import ShotList
from ..video.writer import find_ffmpeg
from .memory import Memory, estimate
from .models import Models, open_models
from .options import Options, UsageError
from .picture import Picture, open_picture
from .places import prove
from .sharing import Sharing
from .tensors import Embeddings, read_embeddings, read_latents

_VIDEO_BITS_PER_PIXEL = 4.0  # what H.264 at crf 18 takes for noise; pictures, a tenth of it


@dataclass(frozen=True)
class Plan:
    """A run that fits together, with what it begins from read already. Sizes are bytes.

    picture: of the film's size; embeddings: in float32; latents: (1, C, t, h, w) to be decoded,
    where nothing is sampled.
    """

    options: Options
    shots: ShotList
    models: Models
    layout: VideoLayout
    memory: Memory
    sharing: Sharing
    latents_size: int
    video_size: int
    picture: Picture | None = None
    embeddings: Embeddings | None = None
    latents: Tensor | None = None

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of the film's latents, (1, C, t, h, w)."""
        return _latent_shape(self.options, self.models, self.layout)

    def text(self) -> str:
        """The plan for reading."""
        layout = self.layout
        lines = [
            self.shots.table(),
            "",
            f"video     {self.shots.frames} frames of {self.options.width}x{self.options.height}",
            f"tokens    {layout.tokens} ({layout.frames} x {layout.height} x {layout.width})",
        ]
        if self.picture is not None:
            lines.append(f"image     {self.picture.said}")
        if self.shots.negative and self.latents is None:
            lines.append(f"negative  {self._negative()}")
        for transformer in self.models.transformers:
            if transformer.moga is None:
                share = "dense, by --attention dense"
            else:
                part = density(layout, transformer.moga)
                share = f"{part:.1%} of dense ({transformer.moga.groups} groups)"
            lines.append(f"attention {share}: {transformer.name}")
            lines += _loras(transformer)
        if self.sharing.processes > 1:
            lines.append(f"processes {self.sharing.text()}")
        lines += [f"memory    {self.memory.text()}"]
        latents, video = readable(self.latents_size), readable(self.video_size)
        lines += [f"disk      {latents} latents, up to {video} video"]
        return "\n".join(lines)

    def _negative(self) -> str:
        """Where a script with a negative has it from, as there may be others."""
        if self.embeddings is not None:
            return f"as encoded in {self.options.embeddings.name}, not the script's"
        if self.options.negative is not None:
            return "from --negative; the script's is not used"
        return "from the script"


def _loras(transformer: Transformer) -> list[str]:
    lines = []
    for lora in transformer.loras:
        routers = ", with its routers" if lora.file is transformer.router_file else ""
        lines.append(f"lora      {lora.text()}{routers}: {transformer.name}")
    return lines


def make_plan(options: Options, processes: int = 1) -> Plan:
    """`fit`, and that there is a place for the film, which is proved by writing there."""
    plan = fit(options, processes)
    if options.latents is None and os.path.lexists(options.latents_out):
        raise UsageError(f"{options.latents_out} exists already; choose another --out.")
    prove(options)  # better missed now than after sampling, like room and the program
    _check_disk(plan)
    find_ffmpeg()
    return plan


def fit(options: Options, processes: int = 1) -> Plan:
    """Read the script and the headers of all files, and hold them against each other.

    processes: that share the work. Raises ShotScriptError, ShotMismatchError, UsageError,
    CheckpointError, ConfigError and ParallelismError, each with one sentence.
    """
    shots = ShotList.read(options.script, options.fps)
    models = open_models(options)
    _check_experts(options, models)
    sharing = Sharing.of(options, processes)
    for transformer in models.transformers:
        check_heads(transformer.config["num_attention_heads"], sharing.ranks)
    layout = _layout(options, shots, models)
    picture = None
    if options.image is not None:
        picture = open_picture(options.image, options.width, options.height)
    shape = _latent_shape(options, models, layout)
    pixels = shots.frames * options.height * options.width
    embeddings = latents = None
    if options.latents is not None:
        latents = saved_latents(options.latents, shape)
    elif options.embeddings is not None:
        embeddings = _embeddings(options, len(shots.shots), models.first.config["text_dim"])
    else:
        check_lengths(models.pipeline.text_encoder.tokenizer, shots.texts)
    return Plan(
        options,
        shots,
        models,
        layout,
        estimate(options, models, layout, sharing.ranks),
        sharing,
        0 if options.latents else 4 * math.prod(shape),
        int(pixels * _VIDEO_BITS_PER_PIXEL / 8),
        picture,
        embeddings,
        latents,
    )


def _check_experts(options: Options, models: Models) -> None:
    low = {"cfg-low": options.cfg_low, "boundary": options.boundary,
           "lora-low": options.loras_low or None}  # fmt: skip
    for name, value in low.items():
        if value is not None and len(models.transformers) == 1:
            raise UsageError(
                f"--{name} is for the low-noise expert of Wan 2.2 14B, and {models.first.name} is "
                "one model; leave it out, or give --model-high and --model-low."
            )


def _layout(options: Options, shots: ShotList, models: Models) -> VideoLayout:
    multiple = models.vae.stride * models.patch
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
        if count > MAX_POSITIONS:
            raise UsageError(
                f"the film has {count} latent {name}, and Wan's positions end at {MAX_POSITIONS}; "
                f"{'shorten the shots' if name == 'frames' else 'make --size smaller'}."
            )
    return layout


def _latent_shape(options: Options, models: Models, layout: VideoLayout) -> tuple[int, ...]:
    stride = models.vae.stride
    size = (options.height // stride, options.width // stride)
    return (1, models.vae.channels, layout.frames, *size)


def _whose(models: Models) -> str:
    return models.first.name if models.transformers else "Wan"


def saved_latents(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Latents of an earlier run, (1, C, t, h, w). Raises UsageError for another shape."""
    latents = read_latents(path)
    if latents.shape != shape:
        raise UsageError(
            f"{path.name} has the shape {tuple(latents.shape)}, but script, size and VAE make "
            f"{shape}; give the script and --size of the run that saved it."
        )
    return latents


def _embeddings(options: Options, shots: int, text_dim: int) -> Embeddings:
    """Encoded captions for that many shots, and for what to avoid where guidance needs it."""
    found, name = read_embeddings(options.embeddings), options.embeddings.name
    check_embeddings(found.prompt.shape, shots, text_dim)
    one, each = (1, *found.prompt.shape[1:]), found.prompt.shape
    if found.negative is not None and found.negative.shape not in (one, each):
        raise UsageError(
            f"{name} has negative_prompt_embeds of shape {tuple(found.negative.shape)}, and the "
            f"captions need {one}; encode both to the same length."
        )
    if options.cfg > 1 and found.negative is None:
        raise UsageError(
            f"{name} has no negative_prompt_embeds, which --cfg {options.cfg:g} needs; add them, "
            "or give --cfg 1."
        )
    return found


def _check_disk(plan: Plan) -> None:
    folder = plan.options.out.absolute().parent
    fix = "make room, or give --out on another disk"
    require_space(folder, plan.latents_size + plan.video_size, "the film", fix)
