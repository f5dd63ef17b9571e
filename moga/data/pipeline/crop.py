"""The stage that crops: the largest rectangle of an aspect ratio clear of borders and text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, replace
from fractions import Fraction

from .decisions import Limit, dropped, judged
from .measures import Borders, borders_of
from .records import Box, Film, Shot, Source
from .settings import Settings


def crop(film: Film, settings: Settings) -> Film:
    """The film with a crop for each kept shot, None where that is the whole picture; shots of which
    too little is left are dropped."""
    shots = [_cropped(shot, film.source, settings) if shot.kept else shot for shot in film.shots]
    return replace(film, shots=tuple(shots))


def ratio_of(source: Source, settings: Settings) -> Fraction:
    """Width over height that crops have."""
    aspect = settings.crop.aspect
    if aspect == "source":
        return Fraction(source.width, source.height)
    if aspect == "target":
        return Fraction(settings.merge.width, settings.merge.height)
    across, down = map(int, aspect.split(":"))
    return Fraction(across, down)


def largest(
    width: int, height: int, ratio: Fraction, inside: Borders, boxes: Sequence[Box]
) -> Box | None:
    """The largest rectangle of `ratio` within the borders that touches no box: exactly that, to the
    pixel; of several the one nearest to the middle. None where there is no room for a pixel.

    Its height h is a whole number and its width `h * ratio` rounded down, one pixel at least.
    """
    room = Box(inside.left, inside.top, width - inside.left - inside.right,
               height - inside.top - inside.bottom)  # fmt: skip
    tallest = min(room.height, int((room.width + 1) / ratio) + 1)
    low, high = 0, max(0, tallest)
    # What has room for a height has room for every lower one: halve what is left.
    while low < high:
        tried = (low + high + 1) // 2
        if _corner(_across(tried, ratio), tried, room, boxes):
            low = tried
        else:
            high = tried - 1
    if not low:
        return None
    across = _across(low, ratio)
    return _central(
        across, low, room, boxes, Fraction(width - across, 2), Fraction(height - low, 2)
    )


def _across(height: int, ratio: Fraction) -> int:
    return max(1, int(height * ratio))


def _corner(across: int, down: int, room: Box, boxes: Sequence[Box]) -> bool:
    """Whether there is a place: where there is one, it can be pushed to the left and up until a box
    or the border stops it."""
    lefts = {room.x, *(box.x + box.width for box in boxes)}
    tops = {room.y, *(box.y + box.height for box in boxes)}
    return any(_free(Box(x, y, across, down), room, boxes) for x in lefts for y in tops)


def _central(
    across: int, down: int, room: Box, boxes: Sequence[Box], middle_x: Fraction, middle_y: Fraction
) -> Box:
    """The place nearest to the middle: there, or where a box or the border stops it."""
    xs = _stops(middle_x, room.x, room.x + room.width - across,
                [(box.x - across, box.x + box.width) for box in boxes])  # fmt: skip
    ys = _stops(middle_y, room.y, room.y + room.height - down,
                [(box.y - down, box.y + box.height) for box in boxes])  # fmt: skip
    places = [Box(x, y, across, down) for x in xs for y in ys]
    return min(
        (place for place in places if _free(place, room, boxes)),
        key=lambda p: ((p.x - middle_x) ** 2 + (p.y - middle_y) ** 2, p.y, p.x),
    )


def _stops(middle: Fraction, least: int, most: int, edges: Iterable[tuple[int, int]]) -> set[int]:
    nearest = min(max(int(middle), least), most)
    return {nearest, least, most, *(edge for pair in edges for edge in pair)}


def _free(place: Box, room: Box, boxes: Sequence[Box]) -> bool:
    return (
        place.x >= room.x
        and place.y >= room.y
        and place.x + place.width <= room.x + room.width
        and place.y + place.height <= room.y + room.height
        and not any(_touch(place, box) for box in boxes)
    )


def _touch(a: Box, b: Box) -> bool:
    across = a.x < b.x + b.width and b.x < a.x + a.width
    return across and a.y < b.y + b.height and b.y < a.y + a.height


def clean(source: Source, shots: Iterable[Shot], settings: Settings) -> Box | None:
    """The largest rectangle that is clean in all of some shots; None where there is none."""
    whole, insides, boxes = borders_of(source.scores), [], []
    for shot in shots:
        # A dark shot does not show its borders; the film does.
        own = borders_of(shot.scores)
        insides.append(own if own != Borders() else whole)
        boxes += [text.box for text in shot.texts]
    inside = Borders(*(max(sides) for sides in zip(*map(astuple, insides), strict=True)))
    return largest(source.width, source.height, ratio_of(source, settings), inside, boxes)


def _cropped(shot: Shot, source: Source, settings: Settings) -> Shot:
    width, height = source.width, source.height
    found = clean(source, [shot], settings)
    if found is None:
        return dropped(shot, "crop", "no clean rectangle is left")
    share = found.width * found.height / (width * height)
    everything = found == Box(0, 0, width, height)
    shot = replace(
        shot, crop=None if everything else found, scores={**shot.scores, "crop_share": share}
    )
    words = "keeps {value:.0%} of the picture without borders and text, less than {limit:.0%}"
    return judged(shot, "crop", [Limit("share", share, words, least=settings.crop.share_least)])
