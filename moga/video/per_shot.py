"""One video file per shot, from the frames of the whole video."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction

import numpy as np

from ..shots import ShotList
from .chapters import Chapter
from .writer import VideoWriter


def chapters_of(shots: ShotList, videos: int = 1) -> tuple[Chapter, ...]:
    """A chapter for each shot, titled with its caption, for `videos` that follow one another."""
    parts = zip(shots.shots, shots.frame_starts, shots.frame_counts, strict=True)
    return tuple(
        Chapter(video * shots.frames + start, frames, shot.caption)
        for video, (shot, start, frames) in _product(range(videos), tuple(parts))
    )


def seconds(frames: int, rate: Fraction) -> Fraction:
    """How long `frames` last."""
    return Fraction(frames) / rate


class ShotFiles:
    """Takes the frames of a whole video and writes each chapter to a file of its own.

    `open_file` gives the writer of a chapter, by its number from 1. A shot's encoder ends with
    the shot; all files get their final names when the block is left, or none does.
    """

    def __init__(
        self, chapters: Iterable[Chapter], open_file: Callable[[int, Chapter], VideoWriter]
    ) -> None:
        self._chapters = enumerate(chapters, start=1)
        self._open = open_file
        self._files = ExitStack()
        self._writer: VideoWriter | None = None
        self._left = 0

    def __enter__(self) -> ShotFiles:
        return self

    def write(self, frames: np.ndarray) -> None:
        """Append `frames`, uint8 (T, H, W, 3)."""
        while len(frames):
            if not self._left:
                number, chapter = next(self._chapters)
                self._writer = self._files.enter_context(self._open(number, chapter))
                self._left = chapter.frames
            now, frames = frames[: self._left], frames[self._left :]
            self._writer.write(now)
            self._left -= len(now)
            if not self._left:
                self._writer.finish()
                self._writer = None

    def kill(self) -> None:
        """End the encoder that is at work, be it with its last frames."""
        if self._writer is not None:
            self._writer.kill()

    def __exit__(self, *error) -> bool | None:
        return self._files.__exit__(*error)


def _product(numbers: Iterable[int], parts: tuple) -> Iterator[tuple]:
    return ((number, part) for number in numbers for part in parts)
