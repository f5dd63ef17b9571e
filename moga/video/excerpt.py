"""Parts of a video that are read as if they were a file of their own."""

from __future__ import annotations

import math
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

from .ffmpeg import apart, find_ffmpeg
from .writer import frame_rate

_MICRO = 10**6
_SEEK_EARLY = 1  # seconds, so that the picture that is still shown at the start has been decoded
# Containers that list where pictures lie that others do not depend on. In a transport stream, for
# one, ffmpeg looks for the place, and may land behind it without a word.
_INDEXED = ("mov,mp4,", "matroska,")
_PICTURE = re.compile(r"^0, *-?\d+, *(-?\d+),", re.MULTILINE)
_SHAPE = re.compile(r"^#dimensions 0: (\d+)x(\d+)", re.MULTILINE)
_ASPECT = re.compile(r"^#sar 0: (\d+)/(\d+)", re.MULTILINE)
_FORMAT = re.compile(r"^Input #0, (.*), from ", re.MULTILINE)


@dataclass(frozen=True)
class Excerpt:
    """Spans of a video one after the other, of all pictures the same rectangle.

    spans: (start, end) in seconds from the video's first picture; none for all of it. crop: x, y,
    width, height in pixels of the picture as it is shown: upright, and where pixels are not square
    wider or higher than it is stored.
    """

    spans: tuple[tuple[float, float], ...] = ()
    crop: tuple[int, int, int, int] | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from other excerpts, as plain data; nothing for a whole video."""
        return (self.spans, self.crop) if self != WHOLE else ()

    def frames(self, fps: float) -> int:
        """How many frames the spans have at a constant rate."""
        return sum(span_frames(span, fps) for span in self.spans)

    def runs(self, fps: float, first: int, frames: int | None) -> Iterator[Run]:
        """What has to be read of each span for `frames` frames from number `first` on."""
        left = max(0, self.frames(fps) - first) if frames is None else frames
        for span in self.spans:
            count = min(span_frames(span, fps) - first, left)
            if count > 0:
                yield Run(span[0], first, count)
                left -= count
            first = max(0, first - span_frames(span, fps))
        if left:
            raise ValueError(f"the spans have {left} frames less than were asked for.")


WHOLE = Excerpt()


@dataclass(frozen=True)
class Run:
    """Frames of a span: of those that a constant rate gives from `start` on, `count` from `first`.

    start: seconds from the video's first picture.
    """

    start: float
    first: int
    count: int

    def input(self, video: Path) -> list[str]:
        """ffmpeg's arguments up to the input, with times as the file has them."""
        place, early = _place(video), self.start - _SEEK_EARLY
        seek = []
        if place.indexed and early > 0:
            seconds = Fraction(place.first, _MICRO) + Fraction(early)
            # Not accurate: that drops a picture which began before and is still shown.
            seek = ["-seek_timestamp", "1", "-noaccurate_seek", "-ss", f"{float(seconds):.6f}"]
        return ["-copyts", *seek, "-i", f"file:{video}"]

    def filters(self, video: Path, fps: float) -> str:
        """ffmpeg's filters that give the frames."""
        origin = _place(video).first + round(Fraction(self.start) * _MICRO)
        return (
            f"settb=1/{_MICRO},setpts=PTS-({origin}),fps={frame_rate(fps)}:start_time=0,"
            f"trim=start_frame={self.first}:end_frame={self.first + self.count}"
        )


def span_frames(span: tuple[float, float], fps: float) -> int:
    """Frames of a span at a constant rate, to the nearest."""
    start, end = map(Fraction, span)
    return math.floor((end - start) * frame_rate(fps) + Fraction(1, 2))


def shown_size(video: Path) -> tuple[int, int]:
    """Width and height of a video's pictures as they are shown; 0 for what is no video."""
    return _place(video).size


@dataclass(frozen=True)
class _Place:
    """first: when the first picture is shown, in microseconds. indexed: whether seeking is safe."""

    first: int = 0
    indexed: bool = False
    size: tuple[int, int] = (0, 0)


def _place(video: Path) -> _Place:
    try:
        found = os.stat(video)
    except OSError:  # of which whoever reads its frames tells
        return _Place()
    return _look(video, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=4096)
def _look(video: Path, size: int, modified: int) -> _Place:
    """size, modified: so that another file under this name is looked at again."""
    command = [find_ffmpeg(), "-hide_banner", "-nostdin", "-copyts", "-i", f"file:{video}"]
    command += ["-map", "0:v:0", "-vf", f"settb=1/{_MICRO}", "-frames:v", "1"]
    command += ["-fps_mode", "passthrough", "-enc_time_base", f"1:{_MICRO}", "-f", "framecrc", "-"]
    run = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", **apart()
    )
    picture, kind = _PICTURE.search(run.stdout), _FORMAT.search(run.stderr)
    shape, aspect = _SHAPE.search(run.stdout), _ASPECT.search(run.stdout)
    if not (picture and kind and shape and aspect):
        return _Place()
    wide, high, over, under = (
        int(number) for found in (shape, aspect) for number in found.groups()
    )
    aspect = Fraction(over, under) if over and under else Fraction(1)
    if aspect > 1:
        wide = round(wide * aspect)
    else:
        high = round(high / aspect)
    return _Place(int(picture[1]), kind[1].startswith(_INDEXED), (wide, high))
