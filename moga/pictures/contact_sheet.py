"""A contact sheet: the timeline of the shots, and some frames of each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..files import written_whole
from ..shots import ShotList
from .timeline import draw_timeline

if TYPE_CHECKING:
    from PIL import Image

_WIDTH, _GAP, _BACKGROUND = 960, 8, "#222222"


class ContactSheet:
    """Keeps `columns` frames of each shot, spread over it, of all that pass by."""

    def __init__(self, shots: ShotList, columns: int = 4) -> None:
        self.shots = shots
        self.columns = columns
        self._wanted: dict[int, list[tuple[int, int]]] = {}  # frame -> its places (row, column)
        starts = zip(shots.frame_starts, shots.frame_counts, strict=True)
        for row, (start, count) in enumerate(starts):
            for column in range(columns):
                frame = start + (count - 1) * column // max(1, columns - 1)
                self._wanted.setdefault(frame, []).append((row, column))
        self._kept: dict[tuple[int, int], Image.Image] = {}
        self._seen = 0

    def add(self, frames: np.ndarray) -> None:
        """The next frames, uint8 (T, H, W, 3)."""
        from PIL import Image

        width = (_WIDTH - _GAP * (self.columns + 1)) // self.columns
        for frame in frames:
            for place in self._wanted.get(self._seen, ()):
                picture = Image.fromarray(frame)
                height = max(1, round(picture.height * width / picture.width))
                self._kept[place] = picture.resize((width, height), Image.Resampling.LANCZOS)
            self._seen += 1

    def draw(self) -> Image.Image:
        """The sheet, one row of frames for each shot, under the timeline."""
        from PIL import Image, ImageDraw, ImageFont

        top = draw_timeline(self.shots, _WIDTH)
        width, height = next(iter(self._kept.values())).size
        rows = len(self.shots.shots)
        sheet = Image.new("RGB", (_WIDTH, top.height + rows * (height + _GAP) + _GAP), _BACKGROUND)
        sheet.paste(top, (0, 0))
        for (row, column), picture in self._kept.items():
            at = (_GAP + column * (width + _GAP), top.height + _GAP + row * (height + _GAP))
            sheet.paste(picture, at)
            if column == 0:
                number = ImageDraw.Draw(sheet)
                number.rectangle((*at, at[0] + 30, at[1] + 28), fill=_BACKGROUND)
                font = ImageFont.load_default(size=20)
                number.text((at[0] + 15, at[1] + 13), str(row + 1), "white", font, anchor="mm")
        return sheet

    def save(self, path: Path) -> None:
        """Write the sheet, as PNG or JPEG by the name. Raises OSError."""
        kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
        with written_whole(path) as partial:
            self.draw().save(partial, format=kind)
