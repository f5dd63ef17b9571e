"""The rectangle that all shots of a sample can be cut to."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from .records import Box, Shot, Source
from .settings import Settings


def common_crop(source: Source, shots: Sequence[Shot], settings: Settings) -> Box | None:
    """The largest rectangle within all crops, at their aspect ratio; None where too little is left.

    Of one shot its own crop. Even numbers, as most codecs need them, unless it is the whole.
    """
    whole = whole_of(source)
    crops = list(dict.fromkeys(shot.crop or whole for shot in shots))
    if len(crops) == 1:
        return whole if crops[0] == whole else even(crops[0])
    left, top = max(box.x for box in crops), max(box.y for box in crops)
    right = min(box.x + box.width for box in crops)
    bottom = min(box.y + box.height for box in crops)
    if right <= left or bottom <= top:
        return None
    inside = Box(left, top, right - left, bottom - top)
    box = even(_fitted(inside, Fraction(crops[0].width, crops[0].height)))
    share = box.width * box.height / (source.width * source.height)
    return box if min(box.width, box.height) > 0 and share >= settings.crop.share_least else None


def whole_of(source: Source) -> Box:
    """All of the picture."""
    return Box(0, 0, source.width, source.height)


def even(box: Box) -> Box:
    """The largest rectangle of even numbers in another one."""
    x, y = box.x + box.x % 2, box.y + box.y % 2
    return Box(x, y, (box.x + box.width - x) // 2 * 2, (box.y + box.height - y) // 2 * 2)


def _fitted(box: Box, aspect: Fraction) -> Box:
    """The largest rectangle of an aspect ratio in the middle of another one."""
    width = min(box.width, int(box.height * aspect))
    height = min(box.height, int(box.width / aspect))
    x, y = box.x + (box.width - width) // 2, box.y + (box.height - height) // 2
    return Box(x, y, width, height)
