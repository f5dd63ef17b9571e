"""From a film's size and length to tokens, as the rest of the house rounds them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from ..config import MAX_POSITIONS, MoGAConfig
from ..layout import VideoLayout
from ..shots import Shot, ShotList
from ..wan import PATCH, video_frames
from .errors import PlanError
from .models import Model


@dataclass(frozen=True)
class Film:
    """What is generated or trained on. config: None for dense attention. uneven: see `parts_of`."""

    model: Model
    layout: VideoLayout
    config: MoGAConfig | None
    width: int
    height: int
    fps: Fraction
    uneven: float = 1.0

    @property
    def frames(self) -> int:
        return video_frames(self.layout.frames)


def film_of(
    model: Model,
    config: MoGAConfig | None,
    seconds: float,
    fps: str,
    size: tuple[int, int],
    shots: int = 1,
    uneven: float = 1.0,
) -> Film:
    """A film of `seconds`, cut into shots of equal length. Raises PlanError and ShotScriptError."""
    asked = ShotList((Shot("a shot", seconds=seconds),), fps)
    width, height = size
    step = model.stride * PATCH
    for name, pixels in (("width", width), ("height", height)):
        if pixels < step or pixels % step:
            raise PlanError(
                f"--size is {width}x{height}; {model.name} takes a {name} that is a multiple of "
                f"{step}, such as {max(1, round(pixels / step)) * step}."
            )
    frames, rows, columns = asked.latent_frames, height // step, width // step
    for name, count in (("--seconds", frames), ("--size", max(rows, columns))):
        if count > MAX_POSITIONS:
            raise PlanError(
                f"{name} makes {count:,} positions in one direction, and Wan's RoPE reaches "
                f"{MAX_POSITIONS:,}; make it smaller."
            )
    if not 1 <= shots <= frames:
        raise PlanError(f"--shots is {shots}; give 1 to {frames}, the latent frames of the film.")
    starts = tuple(i * frames // shots for i in range(shots))
    most = config.groups if config else 1
    if not 1 <= uneven <= most:
        raise PlanError(f"--uneven is {uneven:g}; give 1, for equal groups, to {most}, for one.")
    layout = VideoLayout(frames, rows, columns, starts)
    return Film(model, layout, config, width, height, asked.fps, uneven)
