"""Looking at what routing does in a ComfyUI model, on a latent with noise put back onto it.

The model runs as it would be sampled, once for each noise level, through ComfyUI's own sampling
code with its conditions and wrappers; its blocks are watched as MoGA's stand-ins see them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor, nn

from ...config import MoGAConfig
from ...diagnostics import Inspection, Observer, Request, UnsuitableError, check_tokens, config_text
from ...layout import ShotMismatchError, VideoLayout
from ...pictures.routing import Frame
from ...routing import random_routers
from ...shots import ShotList
from ...vae.decode import check_latent
from .apply import apply_moga, check_fit
from .conditioning import Conditioning, shot_text
from .frames import frames_of
from .geometry import Grid
from .keys import APPLIED
from .loading import carried_routers
from .routers import RouterSet
from .settings import DENSE, Settings
from .vae import plan_decode, video_latent
from .wan import wan_model


@dataclass(frozen=True)
class Looked:
    """What was found. title, about: two lines on what was looked at. frames: those to be drawn."""

    found: Inspection
    title: str
    about: str
    frames: tuple[Frame, ...]

    def text(self) -> str:
        return self.found.text([self.title, self.about, ""])


@dataclass(frozen=True)
class _Subject:
    """settings, used: what the model runs with, None for dense attention. measured: the routers.

    what_if: whether they are random.
    """

    settings: Settings
    used: RouterSet | None
    measured: RouterSet
    what_if: bool

    @property
    def title(self) -> str:
        doing = "would do" if self.used is None else "does"
        return f"What routing {doing}: {self.measured.source}"

    def about(self, blocks: int) -> str:
        ran = "dense attention ran"
        if self.used is not None:
            sparse = blocks - len(self.settings.dense_blocks)
            ran = f"MoGA ran in {sparse} of {blocks} blocks"
        return f"{config_text(self.measured.config)}; {ran}"


def inspect_model(
    model: comfy.model_patcher.ModelPatcher,
    positive: Conditioning,
    latent: dict[str, Any],
    *,
    levels: str,
    blocks: str,
    queries: int,
    seed: int,
    what_if: MoGAConfig,
    shots: ShotList | None = None,
    routers: RouterSet | None = None,
    vae: Any = None,
) -> Looked:
    """Run the model once for each noise level on the latent, and measure its blocks.

    MoGA that is on the model is what is looked at; else `routers`, or those that it carries, are
    put on it; where there are none either, it runs dense and random ones of `what_if` are measured.
    levels, blocks: as text. seed: of noise, queries and random routers. vae: to show the frames;
    without, their colours are a rough guess. The model is left as it was.
    Raises MogaError, before anything runs where that can be known.
    """
    dit = wan_model(model)
    request = Request.parse(levels, blocks, len(dit.blocks), queries, seed)
    subject = _subject(model, dit, shots, routers, what_if, seed)
    _check_text(positive, subject.settings)
    samples = _samples(model, latent)
    if vae is not None:
        plan_decode(vae, {"samples": samples})  # refuses one that the frames can't be shown by
    config, min_tokens = subject.measured.config, subject.settings.min_tokens
    check_tokens(_layout(dit, samples), config, min_tokens)
    bar = comfy.utils.ProgressBar(len(request.levels) * len(request.blocks))

    def advance() -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update(1)

    observer = Observer(
        request, config, subject.measured.weights, min_tokens=min_tokens, advance=advance
    )
    grid = _run(model, subject, positive, samples, latent.get("noise_mask"), observer)
    found = observer.result()
    frames = frames_of(model, found.layout, grid, samples, subject.settings.shots, vae)
    about = subject.about(len(dit.blocks))
    if not samples.any():
        about += "; the latent is empty, so below noise level 1 the model saw grey"
    return Looked(found, subject.title, about, frames)


def _subject(
    model: comfy.model_patcher.ModelPatcher,
    dit: nn.Module,
    shots: ShotList | None,
    routers: RouterSet | None,
    what_if: MoGAConfig,
    seed: int,
) -> _Subject:
    applied, given = model.get_attachment(APPLIED), routers or carried_routers(model)
    if applied is None:
        settings, used = Settings(shots=shots), given
    else:
        settings, used = applied.settings, applied.routers
        _refuse_second(applied.settings.shots, shots, "shots")
        if used is not None:
            _refuse_second(used, routers, "routers")
    measured = used or given  # behind Apply Shot Prompts they are measured and not run
    if random := measured is None:
        made = {}
        if "routed" in what_if.branches:
            made = random_routers(dit.dim, what_if.groups, len(dit.blocks), seed)
        measured = RouterSet(made, what_if, f"random routers of seed {seed} (what if)")
    check_fit(measured, dit.dim, len(dit.blocks))
    if used is None:
        settings = replace(settings, attention=DENSE)
    return _Subject(settings, used, measured, random)


def _refuse_second(own: Any, given: Any, name: str) -> None:
    if given is not None and given is not own and given != own:
        raise UnsuitableError(
            f"model has Apply MoGA on it, whose {name} differ from those connected to {name}; "
            f"leave {name} unconnected, or connect the model from before Apply MoGA."
        )


def _check_text(positive: Conditioning, settings: Settings) -> None:
    texts = [text for _, extras in positive if (text := shot_text(extras)) is not None]
    if texts and settings.shots is None:
        raise ShotMismatchError(
            f"positive has the texts of {len(texts[0].spans)} shots, but no shots are connected; "
            "connect the shots output of the same Multi-Shot Prompt Schedule."
        )


def _samples(model: comfy.model_patcher.ModelPatcher, latent: dict[str, Any]) -> Tensor:
    """The first video of a LATENT, (1, C, t, h, w), finite. Raises UnsuitableError."""
    samples = video_latent(latent["samples"])
    if samples.ndim != 5 or 0 in samples.shape:
        raise UnsuitableError(
            f"latent has the shape {tuple(samples.shape)}; connect a video latent, which is "
            "(batch, channels, frames, height, width)."
        )
    channels = model.get_model_object("latent_format").latent_channels
    if samples.shape[1] != channels:
        raise UnsuitableError(
            f"latent has {samples.shape[1]} channels and the model works on {channels}; connect a "
            "latent that this model made (16 is Wan 2.1 and 2.2 14B, 48 is Wan 2.2 5B)."
        )
    check_latent(samples, "latent")
    return samples[:1]


def _layout(dit: nn.Module, samples: Tensor) -> VideoLayout:
    sizes = zip(samples.shape[2:], dit.patch_size, strict=True)
    return VideoLayout(*(-(-size // patch) for size, patch in sizes))


def _run(
    model: comfy.model_patcher.ModelPatcher,
    subject: _Subject,
    positive: Conditioning,
    samples: Tensor,
    mask: Tensor | None,
    observer: Observer,
) -> Grid:
    """One call of the model for each noise level; the grid of what was measured."""
    grids: list[Grid] = []

    def watch(block: int, grid: Grid, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
        observer.see(block, grid.layout, x, q, k, v)
        if not grids and observer.layout is not None:
            grids.append(grid)  # of what is measured; other context windows have others

    patched = apply_moga(model, subject.settings, subject.used, watch=watch)
    make = torch.Generator().manual_seed(observer.request.seed)
    noise = torch.randn(samples.shape, generator=make)
    levels = observer.request.levels
    try:
        comfy.sample.sample_custom(
            patched,
            noise,
            1.0,
            comfy.samplers.KSAMPLER(_each_level(levels, observer.begin)),
            torch.tensor([*levels, 0.0]),
            positive,
            positive,
            samples,
            noise_mask=None if mask is None else mask[:1],
            disable_pbar=True,
            seed=observer.request.seed,
        )
    finally:
        patched.eject_model()
    return grids[0] if grids else None


def _each_level(levels: tuple[float, ...], begin: Callable[[float], None]) -> Callable[..., Tensor]:
    """A sampler that calls the model at each noise level and leaves the latent as it is."""

    def sampler(model: Any, x: Tensor, sigmas: Tensor, extra_args: dict, **_: Any) -> Tensor:
        sampling = model.inner_model.inner_model.model_sampling
        for level in levels:
            begin(level)
            sigma = x.new_full((x.shape[0],), level)
            noisy = sampling.noise_scaling(sigma, model.noise, model.latent_image)
            model(noisy, sigma, **extra_args)
        return x

    return sampler
