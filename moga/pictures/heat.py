"""A heat map of small numbers, and the colours of groups.

Drawn with `Pen`, in units of a design.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .pen import Pen

_STOPS = ("#22365c", "#2c7d78", "#e3b23c", "#e2553f", "#ffd9d2")  # low to high
_DARK, _BRIGHT = "#141414", "#ffffff"
_ROW, _GAP = 58, 3
_SMALL, _TEXT = 22, 25

# As far apart as can be, in hue and brightness, on a dark page.
GROUP_COLOURS = (
    *("#4c8fe8", "#f28e2b", "#37b46b", "#e15759", "#f2cf3b", "#dc0afa", "#facdfa", "#6419fa"),
    *("#0afa0a", "#73fafa", "#8a7a2c", "#9146a0", "#fa0aa0", "#0a7382", "#eb82eb", "#a0fa91"),
    *("#af91be", "#a073fa", "#37afbe", "#0a55dc"),
)


def group_colour(group: int) -> str:
    """Of a group, counted from 0; they begin anew after twenty."""
    return GROUP_COLOURS[group % len(GROUP_COLOURS)]


def rgb(colour: str) -> tuple[int, int, int]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


@dataclass(frozen=True)
class HeatMap:
    """rows, columns: their names. values: by row and column, None where there is none.

    marked: columns with a frame around them. top: the number that the last colour stands for.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    marked: frozenset[int]

    @property
    def top(self) -> float:
        most = max((v for row in self.values for v in row if v is not None), default=0.0)
        steps = [base * 10**power for power in range(-2, 6) for base in (1, 2, 5)]
        return next((step for step in steps if step >= most), most)

    @property
    def height(self) -> float:
        """Units that `draw` takes."""
        return len(self.rows) * (_ROW + _GAP) + 44

    def draw(self, pen: Pen, left: float, top: float, right: float, colours: HeatColours) -> None:
        """Within left and right; row names take the first 170 units."""
        start = left + 170
        width = (right - start) / len(self.columns)
        numbers = width >= 62
        for r, name in enumerate(self.rows):
            y = top + r * (_ROW + _GAP)
            pen.text(left, y + 37, name, _TEXT, colours.text)
            for c, value in enumerate(self.values[r]):
                x = start + c * width
                fill = colours.empty if value is None else self.colour(value)
                pen.box(x, y, x + width - _GAP, y + _ROW, fill, radius=3)
                if numbers and value is not None:
                    words = f"{value:.2f}"
                    place = x + (width - _GAP - pen.length(words, _SMALL)) / 2
                    pen.text(place, y + 37, words, _SMALL, _ink(fill))
        bottom = top + len(self.rows) * (_ROW + _GAP) - _GAP
        for c in self.marked:
            x = start + c * width
            pen.frame(x - 1, top - 4, x + width - _GAP + 1, bottom + 4, colours.mark)
        widest = max(pen.length(name, _SMALL) for name in self.columns)
        every = math.ceil((widest + 10) / width)
        for c, name in list(enumerate(self.columns))[::every]:
            place = start + c * width + (width - _GAP - pen.length(name, _SMALL)) / 2
            pen.text(place, bottom + 36, name, _SMALL, colours.text)

    def colour(self, value: float) -> str:
        """Of a value from 0 to `top`."""
        at = min(1.0, max(0.0, value / self.top if self.top else 0.0)) * (len(_STOPS) - 1)
        low = min(math.floor(at), len(_STOPS) - 2)
        pairs = zip(rgb(_STOPS[low]), rgb(_STOPS[low + 1]), strict=True)
        return "#{:02x}{:02x}{:02x}".format(*(round(a + (b - a) * (at - low)) for a, b in pairs))


@dataclass(frozen=True)
class HeatColours:
    """What is around the cells: words, cells without a value, the frame of marked columns."""

    text: str
    empty: str
    mark: str


def _ink(fill: str) -> str:
    """Black or white, whichever is read better on a colour."""
    r, g, b = rgb(fill)
    return _DARK if 0.299 * r + 0.587 * g + 0.114 * b > 140 else _BRIGHT
