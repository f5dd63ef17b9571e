"""The rectangle that all shots of a sample are cut to."""

from __future__ import annotations

from collections.abc import Sequence

from .crop import clean
from .records import Box, Shot, Source
from .settings import Settings


def common_crop(source: Source, shots: Sequence[Shot], settings: Settings) -> Box | None:
    """The largest rectangle that is clean in all shots; None where too little is left.

    Even numbers, as most codecs need them, unless it is the whole picture. Where all shots have one
    crop, that is it.
    """
    whole = whole_of(source)
    crops = {shot.crop or whole for shot in shots}
    if len(crops) == 1:
        return _even(crops.pop(), whole)
    found = clean(source, shots, settings)
    if found is None:
        return None
    box = _even(found, whole)
    least = max(
        settings.crop.share_least * _area(whole),
        settings.merge.crop_least * max(map(_area, crops)),
    )
    return box if _area(box) >= max(least, 1) else None


def whole_of(source: Source) -> Box:
    """All of the picture."""
    return Box(0, 0, source.width, source.height)


def _area(box: Box) -> int:
    return box.width * box.height


def _even(box: Box, whole: Box) -> Box:
    """The largest rectangle of even numbers in another one."""
    if box == whole:
        return whole
    x, y = box.x + box.x % 2, box.y + box.y % 2
    return Box(x, y, (box.x + box.width - x) // 2 * 2, (box.y + box.height - y) // 2 * 2)
