"""A picture of a shot list: the bar of shots, the time axis, and what was made of what was asked.

Drawn to be read at less than half its size, which is how a ComfyUI node shows it.
"""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .shots import ShotList
from .shotscript import shorten

if TYPE_CHECKING:
    from PIL import Image

_DESIGN_WIDTH = 960  # the sizes below are pixels of a picture this wide
_MARGIN = 28
_INNER = _DESIGN_WIDTH - 2 * _MARGIN
_TITLE, _TEXT, _SMALL = 32, 26, 23  # font sizes
_BAR_TOP, _BAR = 116, 136
_TABLE_TOP = _BAR_TOP + _BAR + 76
_ROW = 42
_MAX_ROWS = 12
_LONGEST = 200  # characters of a caption that could ever fit

_BACKGROUND = "#222222"
_STRIPE = "#2b2b2b"
_RULE = "#4a4a4a"
_WHITE = "#ffffff"
_BRIGHT = "#f2f2f2"
_DIM = "#a8a8a8"
# Neighbours differ in hue and all are dark enough for white text.
_COLOURS = ("#3d6fb0", "#b3612f", "#2f8573", "#8a559f", "#8f7420", "#ac4a66", "#4d8139", "#5a5fb8")

# Tried, where the system has them, for what Pillow's own font lacks (all but ASCII).
_MORE_FONTS = (
    *("DejaVuSans.ttf", "arial.ttf", "Arial.ttf", "LiberationSans-Regular.ttf"),
    *("NotoSansCJK-Regular.ttc", "msyh.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc"),
    *("wqy-zenhei.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf"),
    *("YuGothM.ttc", "malgun.ttf", "AppleSDGothicNeo.ttc", "seguiemj.ttf", "seguisym.ttf"),
)
_MISSING = "\U000fffff"  # in no font, so it is drawn as an empty box


def draw_timeline(shots: ShotList, width: int = 960) -> Image.Image:
    """Draw ``shots`` as an RGB picture ``width`` pixels wide (at least 320), as high as it needs.

    At most 12 shots are listed under the bar; a last line counts the others.
    """
    from PIL import Image, ImageDraw

    width = max(320, width)
    listed = min(len(shots.shots), _MAX_ROWS)
    more = len(shots.shots) > listed
    height = _TABLE_TOP + _ROW * (1 + listed + more) + _MARGIN
    size = (width, round(height * width / _DESIGN_WIDTH))
    # Pillow draws shapes without smoothing: draw twice as large, unless letters could not follow.
    fine = 2 if _scales(_own_font(_TEXT)) else 1
    image = Image.new("RGB", (size[0] * fine, size[1] * fine), _BACKGROUND)
    pen = _Pen(ImageDraw.Draw(image), fine * width / _DESIGN_WIDTH)
    pen.text(_MARGIN, 48, pen.fit(shots.summary(), _TITLE, _INNER), _TITLE, _BRIGHT)
    _draw_bar(pen, shots)
    _draw_axis(pen, shots)
    _draw_table(pen, shots, listed)
    return image.resize(size, Image.Resampling.LANCZOS) if fine > 1 else image


def _draw_bar(pen: _Pen, shots: ShotList) -> None:
    """The shots in proportion, each with its number and words if they fit."""
    frames = shots.frames
    edges = [_MARGIN + _INNER * start / frames for start in (*shots.frame_starts, frames)]
    for number, (left, right) in enumerate(pairwise(edges), start=1):
        gap = 1.5 if right - left > 6 else 0
        pen.box(left + gap, _BAR_TOP, right - gap, _BAR_TOP + _BAR, _colour(number), radius=8)
        label, room = str(number), right - left - 24
        if room >= 90:
            pen.text(left + 12, _BAR_TOP + 38, label, _TITLE, _WHITE)
            for line, words in enumerate(_wrap(pen, shots.shots[number - 1].caption, room)):
                pen.text(left + 12, _BAR_TOP + 78 + 30 * line, words, _SMALL, _WHITE)
        elif right - left > 16 and pen.length(label, _SMALL) + 6 <= right - left:
            start = (left + right - pen.length(label, _SMALL)) / 2
            pen.text(start, _BAR_TOP + 38, label, _SMALL, _WHITE)
    _draw_cuts(pen, shots, edges[1:-1])


def _draw_cuts(pen: _Pen, shots: ShotList, cuts: list[float]) -> None:
    """The time of each cut above the bar, left out where it would run into the one before."""
    free_from = 0.0
    for x, frame in zip(cuts, shots.frame_starts[1:], strict=True):
        if x < free_from:
            continue
        label = f"{float(frame / shots.fps):.2f}"
        half = pen.length(label, _SMALL) / 2
        if x - half >= free_from and x + half <= _DESIGN_WIDTH:
            pen.text(x - half, _BAR_TOP - 18, label, _SMALL, _DIM)
            pen.line(x, _BAR_TOP - 10, x, _BAR_TOP - 3, _DIM)
            free_from = x + half + 14


def _wrap(pen: _Pen, text: str, room: float) -> tuple[str, str]:
    """The start of ``text`` as two lines, the first broken at a space or hyphen if it has one."""
    text = shorten(text, _LONGEST)
    keep = pen.fitting(text, _SMALL, room)
    if keep < len(text):
        keep = max(text.rfind(" ", 0, keep + 1), text.rfind("-", 0, keep) + 1, 0) or keep
    return text[:keep], pen.fit(text[keep:], _SMALL, room)


def _draw_axis(pen: _Pen, shots: ShotList) -> None:
    """Seconds under the bar, at round steps."""
    top = _BAR_TOP + _BAR
    seconds = float(shots.seconds)
    step, decimals = _tick(seconds)
    pen.line(_MARGIN, top + 12, _DESIGN_WIDTH - _MARGIN, top + 12, _RULE)
    free_from = 0.0
    for i in range(math.floor(seconds / step + 1e-6) + 1):
        x = _MARGIN + _INNER * i * step / seconds
        pen.line(x, top + 12, x, top + 20, _RULE)
        label = f"{i * step:.{decimals}f}" + (" s" if i == 0 else "")
        length = pen.length(label, _SMALL)
        left = min(max(_MARGIN, x - length / 2), _DESIGN_WIDTH - _MARGIN - length)
        if left >= free_from:
            pen.text(left, top + 44, label, _SMALL, _DIM)
            free_from = left + length + 14


def _tick(seconds: float) -> tuple[float, int]:
    """A step of 1, 2 or 5 times a power of ten that makes at most ten, and its decimals."""
    power = math.floor(math.log10(seconds / 10))
    step = next(m * 10.0**power for m in (1, 2, 5, 10) if m * 10.0**power * 10 >= seconds)
    return step, max(0, -math.floor(math.log10(step) + 1e-6))


def _draw_table(pen: _Pen, shots: ShotList, listed: int) -> None:
    """The first rows of the snapped table, asked and made side by side."""
    rows = [
        (shorten(asked, 9), f"{frames}f", f"{seconds}s", latent)
        for _, asked, frames, seconds, latent, *_ in shots.rows()[:listed]
    ]
    heads = ("asked", "made", "seconds", "latent")
    rights, x = [], _MARGIN + 62.0
    for column, head in zip(zip(*rows, strict=True), heads, strict=True):
        x += max(pen.length(head, _SMALL), *(pen.length(cell, _TEXT) for cell in column))
        rights.append(x)
        x += 44 if head == "asked" else 28  # room for the arrow
    baseline = _TABLE_TOP + 28
    for right, head in zip(rights, heads, strict=True):
        pen.text(right - pen.length(head, _SMALL), baseline, head, _SMALL, _DIM)
    pen.text(x, baseline, "caption", _SMALL, _DIM)
    for number, cells in enumerate(rows, start=1):
        top = _TABLE_TOP + _ROW * number
        _draw_row(pen, number, top, cells, rights)
        caption = pen.fit(shots.shots[number - 1].caption, _TEXT, _DESIGN_WIDTH - _MARGIN - 8 - x)
        pen.text(x, top + 30, caption, _TEXT, _BRIGHT)
    if len(shots.shots) > listed:
        rest = f"... and {len(shots.shots) - listed} more"
        pen.text(_MARGIN + 8, _TABLE_TOP + _ROW * (listed + 1) + 30, rest, _TEXT, _DIM)


def _draw_row(
    pen: _Pen, number: int, y: float, cells: tuple[str, ...], rights: list[float]
) -> None:
    """The number of a shot in its colour, and the cells, each ending at its place in ``rights``."""
    if number % 2:
        pen.box(_MARGIN, y, _DESIGN_WIDTH - _MARGIN, y + _ROW, _STRIPE, radius=6)
    pen.box(_MARGIN + 8, y + 7, _MARGIN + 44, y + _ROW - 7, _colour(number), radius=6)
    middle = _MARGIN + 26 - pen.length(str(number), _SMALL) / 2
    pen.text(middle, y + 29, str(number), _SMALL, "#ffffff")
    for cell, right, colour in zip(cells, rights, (_DIM, *[_BRIGHT] * 3), strict=True):
        pen.text(right - pen.length(cell, _TEXT), y + 30, cell, _TEXT, colour)
    pen.arrow(rights[0] + 10, y + _ROW / 2, _DIM)


def _colour(number: int) -> str:
    return _COLOURS[(number - 1) % len(_COLOURS)]


class _Pen:
    """Draws in units of the design, with a font for every character that the system has one for."""

    def __init__(self, draw: Any, scale: float) -> None:
        self.draw = draw
        self.scale = scale

    def text(self, x: float, baseline: float, text: str, size: float, fill: str) -> None:
        x, baseline = x * self.scale, baseline * self.scale
        for font, run in _runs(text, self._pixels(size)):
            self.draw.text((x, baseline - _ascent(font)), run, font=font, fill=fill)
            x += font.getlength(run)

    def length(self, text: str, size: float) -> float:
        runs = _runs(text, self._pixels(size))
        return sum(font.getlength(run) for font, run in runs) / self.scale

    def fitting(self, text: str, size: float, room: float) -> int:
        """How many of the first characters of ``text`` fit ``room``."""
        lengths = range(1, len(text) + 1)
        return bisect_right(lengths, room, key=lambda keep: self.length(text[:keep], size))

    def fit(self, text: str, size: float, room: float) -> str:
        """``text``, cut at the end so that it is no longer than ``room``."""
        text = shorten(text, _LONGEST)
        if self.length(text, size) <= room:
            return text
        keep = self.fitting(text, size, room - self.length("…", size))
        return text[:keep].rstrip() + "…"

    def box(
        self, left: float, top: float, right: float, bottom: float, fill: str, radius: float
    ) -> None:
        left, top, right, bottom = (v * self.scale for v in (left, top, right, bottom))
        radius = min(radius * self.scale, (right - left) / 2)
        self.draw.rounded_rectangle((left, top, max(left, right), bottom), radius, fill=fill)

    def line(self, x0: float, y0: float, x1: float, y1: float, fill: str) -> None:
        points = [v * self.scale for v in (x0, y0, x1, y1)]
        self.draw.line(points, fill=fill, width=max(1, round(2 * self.scale)))

    def arrow(self, x: float, y: float, fill: str) -> None:
        """An arrow 24 long to the right. Drawn, since Pillow's own font has none."""
        self.line(x, y, x + 16, y, fill)
        head = ((x + 14, y - 6), (x + 24, y), (x + 14, y + 6))
        self.draw.polygon([(a * self.scale, b * self.scale) for a, b in head], fill=fill)

    def _pixels(self, size: float) -> int:
        return max(8, round(size * self.scale))


def _runs(text: str, pixels: int) -> Iterator[tuple[Any, str]]:
    """``text`` cut where the font changes."""
    font, run = None, ""
    for char in unicodedata.normalize("NFC", text):  # a letter and its accent in one glyph
        wanted, char = _glyph(char, pixels)
        if wanted is not font and run:
            yield font, run
            run = ""
        font, run = wanted, run + char
    if run:
        yield font, run


@lru_cache(maxsize=4096)
def _glyph(char: str, pixels: int) -> tuple[Any, str]:
    """A font that has ``char``, and ``char``; or else the nearest thing that can be shown."""
    own = _own_font(pixels)
    if char.isspace():
        return own, " "
    for font in (own, *_more_fonts(pixels)):
        if _covers(font, char):
            return font, char
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return own, ""  # accents, joiners and the like mean nothing alone
    plain = unicodedata.normalize("NFKD", char)[0]
    return own, plain if _covers(own, plain) else _MISSING if _scales(own) else "?"


def _covers(font: Any, char: str) -> bool:
    """Whether ``font`` draws ``char`` otherwise than a character that no font has."""
    if not _scales(font):
        return char.isascii()
    mask, missing = font.getmask(char), font.getmask(_MISSING)
    return mask.size != missing.size or bytes(mask) != bytes(missing)


@lru_cache
def _own_font(pixels: int) -> Any:
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size=pixels)
    except (ImportError, OSError, TypeError):  # no FreeType, or a Pillow older than 10.1
        return ImageFont.load_default()


@lru_cache
def _more_fonts(pixels: int) -> tuple[Any, ...]:
    from PIL import ImageFont

    fonts = []
    for name in _MORE_FONTS:
        try:
            fonts.append(ImageFont.truetype(name, pixels))
        except (ImportError, OSError):
            continue
    return tuple(fonts)


def _scales(font: Any) -> bool:
    """False for the one small bitmap font of a Pillow without FreeType."""
    return hasattr(font, "getmetrics")


def _ascent(font: Any) -> int:
    return font.getmetrics()[0] if _scales(font) else 9
