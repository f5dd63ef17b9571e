"""A pipeline's transformer run once for each of some noise levels, on a latent that is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor


def run_at_levels(
    pipe: Any,
    inputs: dict[str, Any],
    latents: Tensor,
    levels: Sequence[float],
    begin: Callable[[float], None],
    *,
    size: tuple[int, int],
    seed: int = 0,
) -> None:
    """Call the pipeline so that its transformer sees `latents` with as much noise as each level.

    All that the pipeline does around a step stays as it is. inputs: of `shot_inputs`, and an image
    where one is needed. latents: (1, C, t, h, w), as the transformer sees them. levels: falling,
    from 1 (noise alone) to 0. begin: is told each level before it runs. size: height and width in
    pixels. seed: of the noise.
    """
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    schedule = _Levels(levels, latents.float().cpu(), noise, begin)
    whole = {key: value for key, value in inputs.items() if not key.startswith("negative_")}
    scheduler, pipe.scheduler = pipe.scheduler, schedule
    pipe.set_progress_bar_config(desc="inspecting", unit="level")
    try:
        pipe(
            **whole,
            height=size[0],
            width=size[1],
            num_inference_steps=len(levels),
            guidance_scale=1.0,
            latents=schedule.noisy(0),
            output_type="latent",
        )
    finally:
        pipe.scheduler = scheduler


class _Levels(FlowMatchEulerDiscreteScheduler):
    """A scheduler whose steps go to the next level, whatever the transformer has said."""

    def __init__(
        self,
        levels: Sequence[float],
        latents: Tensor,
        noise: Tensor,
        begin: Callable[[float], None],
    ) -> None:
        super().__init__()
        self._levels, self._latents, self._noise, self._begin = levels, latents, noise, begin

    def noisy(self, index: int) -> Tensor:
        """The latents at a level, which is about to run."""
        level = self._levels[index]
        self._begin(level)
        return (1 - level) * self._latents + level * self._noise

    def set_timesteps(self, num_inference_steps: int, device: Any = None, **_: Any) -> None:
        self.sigmas = torch.tensor([*self._levels, 0.0])
        times = torch.tensor(self._levels) * self.config.num_train_timesteps
        self.timesteps = times.to(device)
        self.num_inference_steps, self._done = num_inference_steps, 0

    def step(self, velocity: Tensor, time: Tensor, sample: Tensor, **_: Any) -> tuple[Tensor]:
        self._done += 1
        if self._done == len(self._levels):
            return (sample,)
        return (self.noisy(self._done).to(sample),)
