"""A pen for pictures: shapes, and text whose characters each have a font, or a plain stand-in."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ..shots.script import shorten

_LONGEST = 200  # characters of a text that could ever fit

# Tried, where the system has them, for what Pillow's own font lacks (all but ASCII).
_MORE_FONTS = (
    *("DejaVuSans.ttf", "arial.ttf", "Arial.ttf", "LiberationSans-Regular.ttf"),
    *("NotoSansCJK-Regular.ttc", "msyh.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc"),
    *("wqy-zenhei.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf"),
    *("YuGothM.ttc", "malgun.ttf", "AppleSDGothicNeo.ttc", "seguiemj.ttf", "seguisym.ttf"),
)
_MISSING = "\U000fffff"  # in no font, so it is drawn as an empty box


class Pen:
    """Draws in units of a design, `scale` pixels each."""

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
        """How many of the first characters of `text` fit `room`."""
        lengths = range(1, len(text) + 1)
        return bisect_right(lengths, room, key=lambda keep: self.length(text[:keep], size))

    def line_of(self, text: str, size: float) -> str:
        """The start of `text` in one line, of characters that can be drawn."""
        drawn = "".join(run for _, run in _runs(shorten(text, _LONGEST), self._pixels(size)))
        return " ".join(drawn.split())

    def fit(self, text: str, size: float, room: float) -> str:
        """`line_of` `text`, cut at the end so that it is no longer than `room`."""
        text = self.line_of(text, size)
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

    def frame(self, left: float, top: float, right: float, bottom: float, fill: str) -> None:
        """The edge of a box, 3 wide."""
        edges = tuple(v * self.scale for v in (left, top, right, bottom))
        width = max(1, round(3 * self.scale))
        self.draw.rounded_rectangle(edges, 4 * self.scale, outline=fill, width=width)

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
    """`text` cut where the font changes."""
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
    """A font that has `char`, and `char`; or else the nearest thing that can be shown."""
    own = own_font(pixels)
    if char.isspace():
        return own, " "
    for font in (own, *_more_fonts(pixels)):
        if _covers(font, char):
            return font, char
    return own, next(nearest for nearest in _nearest(char) if not nearest or _covers(own, nearest))


def _nearest(char: str) -> Iterator[str]:
    """What may stand for `char`, the best first: an empty box would say less than nothing."""
    kind = unicodedata.category(char)
    yield unicodedata.normalize("NFKD", char)[0]
    if kind[0] in "SMC":
        yield ""  # emoji can be spared; accents, joiners and the like mean nothing alone
    yield "-" if kind == "Pd" else "·"
    yield "."


def _covers(font: Any, char: str) -> bool:
    """Whether `font` draws `char` otherwise than a character that no font has."""
    if not scales(font):
        return char.isascii()
    mask, missing = font.getmask(char), font.getmask(_MISSING)
    return mask.size != missing.size or bytes(mask) != bytes(missing)


@lru_cache
def own_font(pixels: int) -> Any:
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


def scales(font: Any) -> bool:
    """False for the one small bitmap font of a Pillow without FreeType."""
    return hasattr(font, "getmetrics")


def _ascent(font: Any) -> int:
    return font.getmetrics()[0] if scales(font) else 9
