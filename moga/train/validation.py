"""What a training is evaluated by: the loss on clips it does not train on, and films.

Every process samples and measures, because a model whose weights are split needs all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import WanPipeline
from torch import Tensor, nn

from ..hosts.diffusers import make_scheduler, save_video, shot_inputs
from ..shots import ShotList
from ..vae.decode import broken_frames
from ..video.writer import partial_of
from ..wan import WIDE_CHANNELS, first_video_frame
from .batches import Batch, Clips, padded
from .cache.reader import CachedClip, load_text
from .cache.spec import CacheSpec, text_file
from .errors import TrainingError
from .model_files import model_files
from .objective import losses
from .settings import Settings, Validate


class FixedClips:
    """Clips with noise of their own and noise levels spread evenly, the same every time."""

    def __init__(self, clips: Sequence[CachedClip], empty: Path, settings: Settings) -> None:
        count = min(settings.validation.loss_clips, len(clips))
        self._drawn = Clips(clips, empty, settings.data.text_tokens, (settings.seed, -1 % 2**32))
        self._levels = [(i + 0.5) / count for i in range(count)]
        self._shift = settings.objective.shift

    @torch.no_grad()
    def loss(self, transformer: nn.Module, device: torch.device, *, dense: bool = False) -> float:
        """Mean velocity loss. Raises TrainingError where it is not finite, with the clips."""
        values, broken = [], []
        for index in range(len(self._levels)):
            batch = self._batch(index)
            loss = losses(transformer, batch.to(device), self._shift, dense=dense).velocity
            values.append(loss.item())
            if not math.isfinite(values[-1]):
                broken += batch.sources
        if broken:
            raise TrainingError(f"it is not a number or infinite on {', '.join(broken)}")
        return sum(values) / len(values)

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
    return [
        text
        for shots in _scripts(settings).values()
        for text in (*shots.texts, _negative(settings, shots))
    ]


def films(settings: Settings, spec: CacheSpec) -> list[Film]:
    """The films of a training, their texts out of the cache."""

    def encoded(texts: Sequence[str]) -> Tensor:
        tokens = settings.data.text_tokens
        return torch.stack([padded(load_text(text_file(spec, text)), tokens) for text in texts])

    return [
        Film(name, shots, encoded(shots.texts), encoded([_negative(settings, shots)]))
        for name, shots in _scripts(settings).items()
    ]


def _negative(settings: Settings, shots: ShotList) -> str:
    return settings.validation.negative or shots.negative


def _scripts(settings: Settings) -> dict[str, ShotList]:
    paths = settings.validation.scripts
    return {path.stem: ShotList.read(path, settings.data.fps) for path in paths}


@torch.no_grad()
def sample(
    film: Film, transformer: nn.Module, settings: Settings, device: torch.device
) -> tuple[WanPipeline, Tensor]:
    """The pipeline of a film, and the latents it gives: (1, C, t, h, w)."""
    how: Validate = settings.validation
    pipe = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=model_files(settings).vae.load(torch.float32).to(device),
        transformer=transformer,
        scheduler=make_scheduler("unipc", settings.objective.shift),
        expand_timesteps=transformer.config.in_channels == WIDE_CHANNELS,
    )
    pipe.set_progress_bar_config(desc=f"film {film.name}", leave=False)
    latents = pipe(
        **shot_inputs(pipe, film.shots, embeddings=film.text, negative_embeddings=film.negative),
        height=settings.data.height,
        width=settings.data.width,
        num_inference_steps=how.steps,
        guidance_scale=how.cfg,
        generator=torch.Generator("cpu").manual_seed(how.seed),
        output_type="latent",
    ).frames
    return pipe, latents.float()


def write_film(pipe: WanPipeline, latents: Tensor, film: Film, path: Path) -> None:
    """Decode a film to an mp4. Raises TrainingError for latents that are not finite, VideoError."""
    if broken := broken_frames(latents):
        frame = first_video_frame(broken[0])
        raise TrainingError(
            f"what the model samples is not a number or infinite, from frame {frame} of "
            f"{film.shots.frames} on, in {len(broken)} of {latents.shape[2]} latent frames"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in (path, partial_of(path)):  # of a step that is done again
        old.unlink(missing_ok=True)
    save_video(pipe, latents, path, film.shots.fps)
