"""A picture of what routing does: groups over frames, load of the groups, error of the blocks.

Drawn to be read when it is shown 1,000 pixels wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from ..blocks import parse_blocks
from ..diagnostics import Cell, Inspection
from ..wan import first_video_frame
from .heat import GROUP_COLOURS, HeatColours, HeatMap, group_colour, rgb
from .pen import Pen, own_font, scales

if TYPE_CHECKING:
    from PIL import Image

_WIDTH, _MARGIN = 1600, 40
_TITLE, _HEAD, _TEXT, _SMALL = 40, 30, 25, 22
_BLOCKS, _LABEL, _LOAD, _GAP = 3, 170, 270, 14
_LISTED = 12  # groups of a legend that cannot hold all
_TALLEST = 300  # of a frame
_UNDER = 0.5  # of its light that a colour keeps where the frame under it is dark

_BACKGROUND, _PANEL, _RULE = "#1e1e1e", "#292929", "#6a6a6a"
_WHITE, _BRIGHT, _DIM = "#ffffff", "#ececec", "#b4b4b4"


@dataclass(frozen=True)
class Frame:
    """A latent frame under its groups. label: of a few words. pixels: uint8 (h, w, 3), or None."""

    label: str
    pixels: np.ndarray | None = None


def frame_label(shot: int, latent_frame: int, fps: Fraction | float) -> str:
    """For a frame of a shot, counted from 0."""
    return f"shot {shot + 1}, {float(first_video_frame(latent_frame) / fps):.1f} s"


def draw_routing(
    found: Inspection, title: str, about: str, frames: Sequence[Frame], width: int = _WIDTH
) -> Image.Image:
    """Draw an inspection as an RGB picture `width` pixels wide.

    title, about: its first two lines. frames: those that the cells have the groups of, in order.
    """
    from PIL import Image, ImageDraw

    heat = _heat_map(found)
    maps = _Maps(found, frames)
    top = 200
    height = top + maps.height + 76 + heat.height + 62
    size = (width, round(height * width / _WIDTH))
    fine = 2 if scales(own_font(_TEXT)) else 1  # Pillow draws shapes without smoothing
    image = Image.new("RGB", (size[0] * fine, size[1] * fine), _BACKGROUND)
    pen = Pen(ImageDraw.Draw(image), fine * width / _WIDTH)
    room = _WIDTH - 2 * _MARGIN
    pen.text(_MARGIN, 66, pen.fit(title, _TITLE, room), _TITLE, _WHITE)
    pen.text(_MARGIN, 112, pen.fit(about, _TEXT, room), _TEXT, _DIM)
    pen.text(_MARGIN, 152, pen.fit(found.summary(), _TEXT, room), _TEXT, _BRIGHT)
    maps.draw(pen, image, top)
    _draw_heat(pen, heat, found, top + maps.height)
    return image.resize(size, Image.Resampling.LANCZOS) if fine > 1 else image


class _Maps:
    """The groups of up to three blocks over the frames, with the load beside them."""

    def __init__(self, found: Inspection, frames: Sequence[Frame]) -> None:
        level = min(found.levels)
        cells = [cell for block in found.blocks if (cell := found.at(block, level))]
        cells = [cell for cell in cells if cell.groups is not None]
        if len(cells) > _BLOCKS:
            last = len(cells) - 1
            cells = [cells[round(i * last / (_BLOCKS - 1))] for i in range(_BLOCKS)]
        self.cells, self.level, self.frames = cells, level, frames
        room = _WIDTH - 2 * _MARGIN - _LABEL - _LOAD - _GAP
        self.tile = room / max(1, len(frames))
        rows, columns = found.layout.height, found.layout.width
        width = self.tile - _GAP
        self.size = (width, width * rows / columns)
        if self.size[1] > _TALLEST:
            self.size = (_TALLEST * columns / rows, _TALLEST)

    @property
    def height(self) -> float:
        if not self.cells:
            return 0
        return 92 + len(self.cells) * (self.size[1] + _GAP) + 110

    def draw(self, pen: Pen, image: Image.Image, top: float) -> None:
        if not self.cells:
            return
        words = f"Where tokens go, at noise level {self.level:g}: one colour is one group"
        pen.text(_MARGIN, top + 24, words, _HEAD, _BRIGHT)
        left, load = _MARGIN + _LABEL, _WIDTH - _MARGIN - _LOAD
        for i, frame in enumerate(self.frames):
            label = pen.fit(frame.label, _SMALL, self.tile - _GAP)
            pen.text(left + i * self.tile, top + 70, label, _SMALL, _DIM)
        pen.text(load, top + 70, "load of each group", _SMALL, _DIM)
        for row, cell in enumerate(self.cells):
            y = top + 86 + row * (self.size[1] + _GAP)
            middle = y + self.size[1] / 2
            pen.text(_MARGIN, middle - 2, f"block {cell.block}", _TEXT, _WHITE)
            pen.text(_MARGIN, middle + 28, f"error {cell.error:.2f}", _SMALL, _DIM)
            for i, frame in enumerate(self.frames):
                self._tile(pen, image, frame, cell.groups[i], left + i * self.tile, y)
            _draw_load(pen, cell, load, y, self.size[1])
        self._legend(pen, top + 86 + len(self.cells) * (self.size[1] + _GAP) + 12)

    def _tile(
        self, pen: Pen, image: Image.Image, frame: Frame, groups: np.ndarray, x: float, y: float
    ) -> None:
        from PIL import Image, ImageOps

        size = tuple(round(edge * pen.scale) for edge in self.size)
        palette = np.array([rgb(colour) for colour in GROUP_COLOURS], np.float32)
        colours = Image.fromarray(palette[groups % len(palette)].astype(np.uint8))
        over = np.asarray(colours.resize(size, Image.Resampling.NEAREST), np.float32)
        if frame.pixels is not None:
            grey = ImageOps.autocontrast(Image.fromarray(frame.pixels).convert("L"), cutoff=1)
            grey = grey.resize(size, Image.Resampling.BICUBIC)
            light = np.asarray(grey, np.float32)[..., None] / 255
            over = over * (_UNDER + (1 - _UNDER) * light)
        place = round(x * pen.scale), round(y * pen.scale)
        image.paste(Image.fromarray(over.astype(np.uint8)), place)

    def _legend(self, pen: Pen, y: float) -> None:
        groups, left = len(self.cells[0].sizes), _MARGIN + _LABEL
        repeat = len(GROUP_COLOURS)
        shown = groups if groups <= repeat else _LISTED
        labels = [f"group {i + 1}" if groups <= 8 else str(i + 1) for i in range(shown)]
        if groups > shown:
            labels[-1] += f" ... {groups}: colours repeat after {repeat}"
        longest = max(pen.length(label, _SMALL) for label in labels[: shown - 1] or labels)
        room = _WIDTH - _MARGIN - left - pen.length(labels[-1], _SMALL)
        step = min(longest + 62, room / shown)
        for group, label in enumerate(labels):
            x = left + group * step
            pen.box(x, y, x + 24, y + 24, group_colour(group), radius=4)
            pen.text(x + 30, y + 21, label, _SMALL, _BRIGHT)
        words = "each block has a router of its own: the same colour in two blocks means nothing"
        pen.text(left, y + 60, words, _SMALL, _DIM)


def _draw_load(pen: Pen, cell: Cell, x: float, y: float, height: float) -> None:
    """Shares of the groups as bars, and a line where all would be even."""
    shares = [size / sum(cell.sizes) for size in cell.sizes]
    pen.box(x, y, x + _LOAD, y + height, _PANEL, radius=6)
    even = 1 / len(shares)
    most = max(*shares, 1.6 * even)
    base, tall, width = y + height - 8, height - 44, (_LOAD - 20) / len(shares)
    gap = 4 if width > 12 else 0.5 if width > 3 else 0
    for group, share in enumerate(shares):
        left = x + 10 + group * width
        top = base - max(1.0, tall * share / most)
        pen.box(left, top, left + width - gap, base, group_colour(group), radius=2)
    line = base - tall * even / most
    pen.line(x + 6, line, x + _LOAD - 6, line, _WHITE)
    largest = pen.fit(f"largest {max(shares):.0%}, even {even:.0%}", _SMALL, _LOAD - 20)
    pen.text(x + 12, y + 26, largest, _SMALL, _BRIGHT)


def _heat_map(found: Inspection) -> HeatMap:
    blocks, levels = found.blocks, found.levels
    cells = [[found.at(block, level) for block in blocks] for level in levels]
    dense = parse_blocks(found.dense_blocks, blocks[-1] + 1)
    return HeatMap(
        [f"noise {level:g}" for level in levels],
        [str(block) for block in blocks],
        [[None if cell is None else cell.error for cell in row] for row in cells],
        frozenset(i for i, block in enumerate(blocks) if block in dense),
    )


def _draw_heat(pen: Pen, heat: HeatMap, found: Inspection, top: float) -> None:
    pen.text(_MARGIN, top + 24, "Error of each block, against dense attention", _HEAD, _BRIGHT)
    _draw_scale(pen, heat, top)
    colours = HeatColours(_BRIGHT, _PANEL, _WHITE)
    heat.draw(pen, _MARGIN, top + 58, _WIDTH - _MARGIN, colours)
    y = top + 58 + heat.height
    pen.text(_MARGIN, y - 8, "block", _TEXT, _DIM)
    if found.dense_blocks:
        words = f"Better left dense (framed): dense_blocks {found.dense_blocks}"
    else:
        words = "No block stands out: no dense_blocks suggested"
    pen.text(_MARGIN, y + 46, pen.fit(words, _TEXT, _WIDTH - 2 * _MARGIN), _TEXT, _WHITE)


def _draw_scale(pen: Pen, heat: HeatMap, top: float) -> None:
    """From the same as dense attention to the highest error."""
    low, high = "0, the same", f"{heat.top:g}"
    right = _WIDTH - _MARGIN
    end = right - pen.length(high, _SMALL) - 12
    start, steps = end - 240, 48
    for i in range(steps):
        x = start + 240 * i / steps
        colour = heat.colour(heat.top * (i + 0.5) / steps)
        pen.box(x, top + 4, x + 240 / steps + 0.6, top + 26, colour, radius=0)
    pen.text(end + 12, top + 23, high, _SMALL, _DIM)
    pen.text(start - 12 - pen.length(low, _SMALL), top + 23, low, _SMALL, _DIM)
