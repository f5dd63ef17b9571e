"""What a training looks at on the way: the loss on clips it does not train on, and films.

Every process does all of it, because a model whose weights are split needs all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import WanPipeline
from torch import Tensor, nn

from ..hosts.diffusers import load_vae, save_video, shot_inputs
from ..hosts.diffusers.pipeline import WIDE_CHANNELS, make_scheduler
from ..shots import ShotList
from ..video import partial_of
from .batches import Batch, Clips, padded
from .cache import CachedClip, load_text
from .cache_spec import CacheSpec, text_file
from .objective import losses
from .settings import Settings, Validate


class FixedClips:
    """Clips with noise of their own and noise levels spread evenly, the same at every look."""

    def __init__(self, clips: Sequence[CachedClip], empty: Path, settings: Settings) -> None:
        count = min(settings.validation.loss_clips, len(clips))
        self._drawn = Clips(clips, empty, settings.data.text_tokens, (settings.seed, -1 % 2**32))
        self._levels = [(i + 0.5) / count for i in range(count)]
        self._shift = settings.objective.shift

    @torch.no_grad()
    def loss(self, transformer: nn.Module, device: torch.device, *, dense: bool = False) -> float:
        """Mean velocity loss."""
        found = [
            losses(transformer, self._batch(i).to(device), self._shift, dense=dense).velocity
            for i in range(len(self._levels))
        ]
        return torch.stack(found).mean().item()

    def _batch(self, index: int) -> Batch:
        batch = self._drawn.collate([self._drawn[index, index]])
        return replace(batch, level=torch.tensor([self._levels[index]]))


@dataclass(frozen=True)
class Film:
    """A script that is rendered now and then. text: (shots, K, width); negative: (1, K, width)."""

    name: str
    shots: ShotList
    text: Tensor
    negative: Tensor


def script_texts(settings: Settings) -> list[str]:
    """All texts that films need encoded."""
    texts = [text for shots in _scripts(settings).values() for text in shots.texts]
    return [*texts, settings.validation.negative] if texts else []


def films(settings: Settings, spec: CacheSpec) -> list[Film]:
    """The films of a training, their texts out of the cache."""

    def encoded(texts: Sequence[str]) -> Tensor:
        tokens = settings.data.text_tokens
        return torch.stack([padded(load_text(text_file(spec, text)), tokens) for text in texts])

    negative = settings.validation.negative
    return [
        Film(name, shots, encoded(shots.texts), encoded([negative]))
        for name, shots in _scripts(settings).items()
    ]


def _scripts(settings: Settings) -> dict[str, ShotList]:
    paths = settings.validation.scripts
    return {path.stem: ShotList.read(path, settings.data.fps) for path in paths}


@torch.no_grad()
def render(
    film: Film, transformer: nn.Module, settings: Settings, path: Path | None, device: torch.device
) -> None:
    """Sample a film and write it to `path`, if there is one: other processes only help sampling."""
    wanted: Validate = settings.validation
    pipe = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=load_vae(settings.data.vae, dtype=torch.float32).to(device),
        transformer=transformer,
        scheduler=make_scheduler("unipc", settings.objective.shift),
        expand_timesteps=transformer.config.in_channels == WIDE_CHANNELS,
    )
    pipe.set_progress_bar_config(desc=f"film {film.name}", leave=False)
    latents = pipe(
        **shot_inputs(pipe, film.shots, embeddings=film.text, negative_embeddings=film.negative),
        height=settings.data.height,
        width=settings.data.width,
        num_inference_steps=wanted.steps,
        guidance_scale=wanted.cfg,
        generator=torch.Generator("cpu").manual_seed(wanted.seed),
        output_type="latent",
    ).frames
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in (path, partial_of(path)):  # of a step that is done again
            old.unlink(missing_ok=True)
        save_video(pipe, latents.float(), path, film.shots.fps)
