"""The latent grid, its shots, and the static windows that follow from them.

Letters: T, H, W latent tokens of the grid. Tokens are ordered t-major, then h, then w.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product

from .config import MoGAConfig
from .errors import MogaError


class LayoutError(MogaError, ValueError):
    """A latent grid or shot list that does not fit; the message names the value and the fix."""


class ShotMismatchError(LayoutError):
    """Shots, text and latent that do not belong together; the message says what to do."""


@dataclass(frozen=True)
class VideoLayout:
    """A latent grid of frames x height x width tokens, cut into shots.

    shots: first latent frame of each shot, ascending, starting with 0.
    Raises LayoutError when sizes are not positive or the shots do not fit.
    """

    frames: int
    height: int
    width: int
    shots: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        for name in ("frames", "height", "width"):
            size = getattr(self, name)
            if type(size) is not int or size < 1:
                raise LayoutError(f"{name} is {size!r}; a latent grid needs at least 1.")
        shots = tuple(self.shots)
        if not shots or shots[0] != 0 or any(a >= b for a, b in pairwise(shots)):
            raise LayoutError(
                f"shots is {shots}; give the first latent frame of each shot, "
                "ascending, starting with 0."
            )
        if shots[-1] >= self.frames:
            raise LayoutError(
                f"shots is {shots}, but the latent has only {self.frames} frames; "
                "make the video longer or use fewer shots."
            )
        object.__setattr__(self, "shots", shots)

    @property
    def frame_tokens(self) -> int:
        """Tokens of one latent frame, H * W."""
        return self.height * self.width

    @property
    def tokens(self) -> int:
        """Tokens of the whole latent, T * H * W."""
        return self.frames * self.frame_tokens

    @property
    def shot_spans(self) -> tuple[tuple[int, int], ...]:
        """Each shot as (first latent frame, one past its last)."""
        return tuple(pairwise((*self.shots, self.frames)))


@dataclass(frozen=True)
class Window:
    """One static window: queries and keys share rows and columns, keys may reach further in time.

    Every field is a (start, stop) range of the latent grid.
    """

    frames: tuple[int, int]
    key_frames: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]

    def _area(self, frames: tuple[int, int]) -> int:
        return (frames[1] - frames[0]) * _length(self.rows) * _length(self.columns)

    @property
    def queries(self) -> int:
        return self._area(self.frames)

    @property
    def keys(self) -> int:
        return self._area(self.key_frames)


@lru_cache(maxsize=64)
def windows(layout: VideoLayout, config: MoGAConfig) -> tuple[Window, ...]:
    """The windows of the static branch: spatial windows x temporal groups of every shot.

    A temporal group never crosses a cut; the one that touches a cut borrows keys from up to
    `boundary_frames` latent frames of the shot on the other side.
    """
    return tuple(
        Window(frames, key_frames, rows, columns)
        for (frames, key_frames), rows, columns in product(
            temporal_runs(layout, config),
            _split(0, layout.height, config.windows[0]),
            _split(0, layout.width, config.windows[1]),
        )
    )


def temporal_runs(
    layout: VideoLayout, config: MoGAConfig
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Each temporal group as (its frames, the frames of its keys), ranges of latent frames."""
    spans = layout.shot_spans
    for index, (start, stop) in enumerate(spans):
        runs = _split(start, stop, -(-(stop - start) // config.window_frames))
        for first, last in runs:
            key_first, key_last = first, last
            if first == start and index > 0:
                key_first = max(spans[index - 1][0], first - config.boundary_frames)
            if last == stop and index + 1 < len(spans):
                key_last = min(spans[index + 1][1], last + config.boundary_frames)
            yield (first, last), (key_first, key_last)


def _split(start: int, stop: int, parts: int) -> list[tuple[int, int]]:
    """Cut a range into `parts` runs as equal as possible, longer ones first, none empty."""
    parts = min(parts, stop - start)  # the rest would be empty, however many are asked for
    size, longer = divmod(stop - start, parts)
    runs, at = [], start
    for part in range(parts):
        end = at + size + (part < longer)
        runs.append((at, end))
        at = end
    return runs


def _length(span: tuple[int, int]) -> int:
    return span[1] - span[0]
