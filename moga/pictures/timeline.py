"""A picture of a shot list: the bar of shots, the time axis, and what was made of what was asked.

Drawn to be read at less than half its size, which is how a ComfyUI node shows it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from ..shots import ShotList
from ..shots.script import shorten
from .pen import Pen, own_font, scales

if TYPE_CHECKING:
    from PIL import Image

_MARGIN = 28
_TITLE, _TEXT, _SMALL = 32, 26, 23  # font sizes
_BAR_TOP = 116
_MAX_ROWS = 24
# A node shows a picture as large as fits it; higher than this, it would leave room at the sides.
_WIDTH_TO_HEIGHT = 1.4

_BACKGROUND = "#222222"
_STRIPE = "#2b2b2b"
_RULE = "#4a4a4a"
_WHITE = "#ffffff"
_BRIGHT = "#f2f2f2"
_DIM = "#a8a8a8"
# Neighbours differ in hue and all are dark enough for white text.
_COLOURS = ("#3d6fb0", "#b3612f", "#2f8573", "#8a559f", "#8f7420", "#ac4a66", "#4d8139", "#5a5fb8")


@dataclass(frozen=True)
class _Layout:
    """The sizes of a picture, in units of which letters are 26 high.

    Many shots get lower rows, a lower bar, as its parts have no room for words, and a wider
    picture, which is the same as smaller letters.
    """

    shots: int

    @property
    def few(self) -> bool:
        return self.shots <= 8

    @property
    def listed(self) -> int:
        return min(self.shots, _MAX_ROWS)

    @property
    def row(self) -> int:
        return 42 if self.few else 34

    @property
    def bar(self) -> int:
        return 136 if self.few else 60

    @property
    def table_top(self) -> int:
        return _BAR_TOP + self.bar + (76 if self.few else 60)

    @property
    def height(self) -> int:
        rows = 1 + self.listed + (self.shots > self.listed)
        return self.table_top + rows * self.row + _MARGIN

    @property
    def width(self) -> int:
        return max(960, math.ceil(self.height * _WIDTH_TO_HEIGHT))

    @property
    def inner(self) -> int:
        """The width between the margins."""
        return self.width - 2 * _MARGIN


def draw_timeline(shots: ShotList, width: int = 960) -> Image.Image:
    """Draw `shots` as an RGB picture `width` pixels wide (at least 320), as high as it needs.

    At most 24 shots are listed under the bar; a last line counts the others.
    """
    from PIL import Image, ImageDraw

    width = max(320, width)
    layout = _Layout(len(shots.shots))
    size = (width, round(layout.height * width / layout.width))
    # Pillow draws shapes without smoothing: draw twice as large, unless letters could not follow.
    fine = 2 if scales(own_font(_TEXT)) else 1
    image = Image.new("RGB", (size[0] * fine, size[1] * fine), _BACKGROUND)
    pen = Pen(ImageDraw.Draw(image), fine * width / layout.width)
    pen.text(_MARGIN, 48, pen.fit(shots.summary(), _TITLE, layout.inner), _TITLE, _BRIGHT)
    _draw_bar(pen, shots, layout)
    _draw_axis(pen, shots, layout)
    _draw_table(pen, shots, layout)
    return image.resize(size, Image.Resampling.LANCZOS) if fine > 1 else image


def _draw_bar(pen: Pen, shots: ShotList, layout: _Layout) -> None:
    """The shots in proportion, each with its number and words if they fit."""
    frames = shots.frames
    edges = [_MARGIN + layout.inner * start / frames for start in (*shots.frame_starts, frames)]
    for number, (left, right) in enumerate(pairwise(edges), start=1):
        gap = 1.5 if right - left > 6 else 0
        pen.box(left + gap, _BAR_TOP, right - gap, _BAR_TOP + layout.bar, _colour(number), radius=8)
        label, room = str(number), right - left - 24
        if layout.few and room >= 90:
            pen.text(left + 12, _BAR_TOP + 38, label, _TITLE, _WHITE)
            for line, words in enumerate(_wrap(pen, shots.shots[number - 1].caption, room)):
                pen.text(left + 12, _BAR_TOP + 78 + 30 * line, words, _SMALL, _WHITE)
        elif right - left > 16 and pen.length(label, _SMALL) + 6 <= right - left:
            start = (left + right - pen.length(label, _SMALL)) / 2
            pen.text(start, _BAR_TOP + 38, label, _SMALL, _WHITE)
    _draw_cuts(pen, shots, layout, edges[1:-1])


def _draw_cuts(pen: Pen, shots: ShotList, layout: _Layout, cuts: list[float]) -> None:
    """The time of each cut above the bar, left out where it would run into the one before."""
    free_from = 0.0
    for x, frame in zip(cuts, shots.frame_starts[1:], strict=True):
        if x < free_from:
            continue
        label = f"{float(frame / shots.fps):.2f}"
        half = pen.length(label, _SMALL) / 2
        if x - half >= free_from and x + half <= layout.width:
            pen.text(x - half, _BAR_TOP - 18, label, _SMALL, _DIM)
            pen.line(x, _BAR_TOP - 10, x, _BAR_TOP - 3, _DIM)
            free_from = x + half + 14


def _wrap(pen: Pen, text: str, room: float) -> tuple[str, str]:
    """The start of `text` as two lines, the first broken at a space or hyphen if it has one."""
    text = pen.line_of(text, _SMALL)
    keep = pen.fitting(text, _SMALL, room)
    if keep < len(text):
        keep = max(text.rfind(" ", 0, keep + 1), text.rfind("-", 0, keep) + 1, 0) or keep
    return text[:keep], pen.fit(text[keep:], _SMALL, room)


def _draw_axis(pen: Pen, shots: ShotList, layout: _Layout) -> None:
    """Seconds under the bar, at round steps."""
    top = _BAR_TOP + layout.bar
    seconds = float(shots.seconds)
    step, decimals = _tick(seconds)
    pen.line(_MARGIN, top + 12, layout.width - _MARGIN, top + 12, _RULE)
    free_from = 0.0
    for i in range(math.floor(seconds / step + 1e-6) + 1):
        x = _MARGIN + layout.inner * i * step / seconds
        pen.line(x, top + 12, x, top + 20, _RULE)
        label = f"{i * step:.{decimals}f}" + (" s" if i == 0 else "")
        length = pen.length(label, _SMALL)
        left = min(max(_MARGIN, x - length / 2), layout.width - _MARGIN - length)
        if left >= free_from:
            pen.text(left, top + 44, label, _SMALL, _DIM)
            free_from = left + length + 14


def _tick(seconds: float) -> tuple[float, int]:
    """A step of 1, 2 or 5 times a power of ten that makes at most ten, and its decimals."""
    power = math.floor(math.log10(seconds / 10))
    step = next(m * 10.0**power for m in (1, 2, 5, 10) if m * 10.0**power * 10 >= seconds)
    return step, max(0, -math.floor(math.log10(step) + 1e-6))


def _draw_table(pen: Pen, shots: ShotList, layout: _Layout) -> None:
    """The first rows of the snapped table, asked and made side by side."""
    rows = [
        (shorten(asked, 9), f"{frames}f", f"{seconds}s", latent)
        for _, asked, frames, seconds, latent, *_ in shots.rows()[: layout.listed]
    ]
    heads = ("asked", "made", "seconds", "latent")
    rights, x = [], _MARGIN + 62.0
    for column, head in zip(zip(*rows, strict=True), heads, strict=True):
        x += max(pen.length(head, _SMALL), *(pen.length(cell, _TEXT) for cell in column))
        rights.append(x)
        x += 44 if head == "asked" else 28  # room for the arrow
    baseline = layout.table_top + 28
    for right, head in zip(rights, heads, strict=True):
        pen.text(right - pen.length(head, _SMALL), baseline, head, _SMALL, _DIM)
    pen.text(x, baseline, "caption", _SMALL, _DIM)
    for number, cells in enumerate(rows, start=1):
        y = _draw_row(pen, layout, number, cells, rights)
        caption = pen.fit(shots.shots[number - 1].caption, _TEXT, layout.width - _MARGIN - 8 - x)
        pen.text(x, y, caption, _TEXT, _BRIGHT)
    if len(shots.shots) > layout.listed:
        y = layout.table_top + (layout.listed + 1.5) * layout.row + 9
        rest = f"... and {len(shots.shots) - layout.listed} more"
        pen.text(_MARGIN + 8, y, rest, _TEXT, _DIM)


def _draw_row(
    pen: Pen, layout: _Layout, number: int, cells: tuple[str, ...], rights: list[float]
) -> float:
    """The number of a shot in its colour, and the cells, each ending at its place in `rights`.

    Returns the baseline of the text.
    """
    top = layout.table_top + layout.row * number
    middle, bottom = top + layout.row / 2, top + layout.row
    if number % 2:
        pen.box(_MARGIN, top, layout.width - _MARGIN, bottom, _STRIPE, radius=6)
    pen.box(_MARGIN + 8, middle - 14, _MARGIN + 44, middle + 14, _colour(number), radius=6)
    centre = _MARGIN + 26 - pen.length(str(number), _SMALL) / 2
    pen.text(centre, middle + 8, str(number), _SMALL, _WHITE)
    for cell, right, colour in zip(cells, rights, (_DIM, *[_BRIGHT] * 3), strict=True):
        pen.text(right - pen.length(cell, _TEXT), middle + 9, cell, _TEXT, colour)
    pen.arrow(rights[0] + 10, middle, _DIM)
    return middle + 9


def _colour(number: int) -> str:
    return _COLOURS[(number - 1) % len(_COLOURS)]
