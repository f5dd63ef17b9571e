"""What is measured in pictures: sharpness, exposure, black borders, change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_HEIGHT = (
    480  # that sharpness is measured at: the trainer's, so that what it has to blow up is soft
)
_DARK, _BRIGHT = 20, 245
_BLUR = 9  # pixels, of the blur that sharp pictures lose by
_CELLS, _TEXTURE = 12, 1.0  # across and down; grey levels from pixel to pixel in one that counts
_SMALLEST = 0.2  # of width and of height: with less between borders, the picture itself is dark


@dataclass(frozen=True)
class Borders:
    """Black rows and columns at each side, in pixels of the picture."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def share(self, width: int, height: int) -> float:
        """Of the picture that they take."""
        inside = (width - self.left - self.right) * (height - self.top - self.bottom)
        return 1 - inside / (width * height)


def grey(frames: np.ndarray) -> np.ndarray:
    """Luma of pictures, uint8 (T, H, W), from BGR (T, H, W, 3)."""
    import cv2

    return np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames])


def clarity(picture: np.ndarray) -> float:
    """Sharpness of a grey picture (H, W) where it is sharpest, 0 to 1; 0 for what is flat.

    How much of the difference between neighbours a blur takes away (Crete et al., 2007, The blur
    effect), which hangs neither on contrast nor on how much there is to see. At one height for all,
    so it is the same for a film in any resolution above that; 0.7 is crisp, 0.2 out of focus.
    """
    import cv2

    height, width = picture.shape
    size = (max(_CELLS, round(width * _HEIGHT / height)), _HEIGHT)
    way = cv2.INTER_AREA if height > _HEIGHT else cv2.INTER_CUBIC
    plain = cv2.resize(picture, size, interpolation=way).astype(np.float32)
    sharp, strong = [], []
    for axis, kernel in ((1, (_BLUR, 1)), (0, (1, _BLUR))):
        steps = np.abs(np.diff(plain, axis=axis))
        lost = np.maximum(0, steps - np.abs(np.diff(cv2.blur(plain, kernel), axis=axis)))
        steps, lost = (cv2.resize(x, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
                       for x in (steps, lost))  # fmt: skip
        sharp.append(lost / np.maximum(steps, 1e-6))
        strong.append(steps)
    seen = np.minimum(*strong) > _TEXTURE
    return float(np.percentile(np.minimum(*sharp)[seen], 90)) if seen.any() else 0.0


def exposure(pictures: np.ndarray) -> tuple[float, float]:
    """Shares of pixels that are black and that are white, of grey pictures."""
    return float((pictures < _DARK).mean()), float((pictures > _BRIGHT).mean())


def borders(pictures: np.ndarray, black: int) -> Borders:
    """Rows and columns that are black in all of the grey pictures (T, H, W).

    Of a row or column, one pixel in a hundred may be brighter: noise, a logo.
    """
    most = pictures.max(axis=0)
    rows = np.percentile(most, 99, axis=1) > black
    if not rows.any():
        return Borders()
    top, bottom = int(rows.argmax()), int(rows[::-1].argmax())
    columns = np.percentile(most[top : len(rows) - bottom], 99, axis=0) > black
    if not columns.any():
        return Borders()
    left, right = int(columns.argmax()), int(columns[::-1].argmax())
    height, width = most.shape
    if width - left - right < _SMALLEST * width or height - top - bottom < _SMALLEST * height:
        return Borders()
    return Borders(left, top, right, bottom)


def summary(pictures: np.ndarray, black: int) -> dict[str, float]:
    """All scores of grey pictures (T, H, W) out of one shot or film, by name."""
    found = borders(pictures, black)
    height, width = pictures.shape[1:]
    inside = pictures[:, found.top : height - found.bottom, found.left : width - found.right]
    scores = {
        "clarity": float(np.median([clarity(picture) for picture in inside])),
        "dark": exposure(inside)[0],
        "bright": exposure(inside)[1],
        "borders": found.share(width, height),
        "border_left": float(found.left),
        "border_top": float(found.top),
        "border_right": float(found.right),
        "border_bottom": float(found.bottom),
    }
    # As precise as another number of threads gives it, too.
    return {name: round(value, 4) for name, value in scores.items()}


def even_frames(first: int, end: int, count: int) -> list[int]:
    """Up to `count` frames from [first, end), evenly spread and none at its edges."""
    length = end - first
    chosen = (first + (2 * k + 1) * length // (2 * count) for k in range(count))
    return sorted(set(chosen))


def borders_of(scores: Mapping[str, float]) -> Borders:
    """The borders among scores that `summary` made."""
    sides = ("left", "top", "right", "bottom")
    return Borders(*(int(scores.get(f"border_{side}", 0)) for side in sides))
