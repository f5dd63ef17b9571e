"""Excerpts of videos as rows name them: what is read of them, and whether the video has them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..shots.script import show
from ..video.excerpt import Excerpt, shown_size, span_frames
from ..video.writer import frame_rate

_SPANS = "spans is {}; give a list such as [[12, 15.5], [16, 20]], in seconds."
_LONGEST = 10**6  # seconds
_CROP = "crop is {}; give four whole numbers, [x, y, width, height]."


def read_excerpt(spans: Any, crop: Any) -> Excerpt:
    """The excerpt that JSON values name; None for what is not named. Raises ValueError."""
    if spans is not None and (not isinstance(spans, list) or not spans):
        raise ValueError(_SPANS.format(show(spans)))
    return Excerpt(tuple(_spans(spans or [])), None if crop is None else _crop(crop))


def check_spans(excerpt: Excerpt, length: Fraction, fps: float) -> None:
    """Raise ValueError unless a video of so many seconds has the spans, each with a frame."""
    for number, span in enumerate(excerpt.spans, start=1):
        if Fraction(span[1]) > length + 1 / frame_rate(fps):  # containers round
            raise ValueError(
                f"span {number} ends at {span[1]:g} s, and the video at {float(length):.2f} s; "
                "end it before, or take it out."
            )
        if span_frames(span, fps) < 1:
            raise ValueError(
                f"span {number} lasts {span[1] - span[0]:.3g} s, less than a frame at {fps:g} fps; "
                "take it out."
            )


def check_crop(excerpt: Excerpt, video: Path) -> None:
    """Raise ValueError unless the pictures of a video have the crop."""
    if excerpt.crop is None:
        return
    x, y, width, height = excerpt.crop
    wide, high = shown_size(video)
    if x + width > wide or y + height > high:
        raise ValueError(
            f"crop is {list(excerpt.crop)}, which reaches to {x + width} x {y + height}, and the "
            f"pictures are {wide} x {high}; make it smaller."
        )


def _spans(spans: list[Any]) -> Iterator[tuple[float, float]]:
    before = 0.0
    for number, span in enumerate(spans, start=1):
        if not isinstance(span, list) or len(span) != 2 or not all(map(_is_time, span)):
            raise ValueError(_SPANS.format(show(spans) if len(spans) > 1 else show(span)))
        start, end = map(float, span)
        if not before <= start < end:
            fix = "end it after it starts" if start >= end else f"start it at {before:g} s or later"
            raise ValueError(f"span {number} goes from {start:g} to {end:g} s; {fix}.")
        before = end
        yield start, end


def _crop(crop: Any) -> tuple[int, int, int, int]:
    whole = isinstance(crop, list) and len(crop) == 4 and all(type(n) is int for n in crop)
    if not whole or min(crop[:2]) < 0 or min(crop[2:]) < 2:
        raise ValueError(_CROP.format(crop if whole else show(crop)))
    return tuple(crop)


def _is_time(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and 0 <= value < _LONGEST
    )
