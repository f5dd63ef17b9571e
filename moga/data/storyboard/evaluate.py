"""Reading a storyboard's character back from pixels, exactly.

Places are pale and characters are not, so what has colour is the character. Its shape is the one
whose outline, drawn at the same place and size, overlaps best; colour and texture follow inside it.

Letters: T frames, H, W pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .drawing import COLOURS, DARK, SHAPES, TEXTURES, cover, points
from .film import Character

_CHROMA = 60  # largest less smallest of r, g, b: pale places stay below
_SMALLEST = 0.015  # of the frame
_OVERLAP = 0.7  # below it no shape is recognised
_CONTRAST = 0.5  # of a texture's own, below it the character is plain
_INSIDE = 0.86  # of the radius; the rim is blurred


@dataclass(frozen=True)
class Seen:
    """What one frame or shot shows: words, None where nothing is recognised.

    overlap: of the best shape with what has colour, 0 to 1.
    """

    shape: str | None
    colour: str | None
    texture: str | None
    overlap: float

    @property
    def character(self) -> Character | None:
        """Who it is, if all of it was recognised."""
        words = (self.shape, self.colour, self.texture)
        return None if None in words else Character(*words)


NOTHING = Seen(None, None, None, 0.0)


def read_frame(frame: NDArray[np.uint8]) -> Seen:
    """What a frame (H, W, 3) shows; NOTHING unless a character is wholly in the picture."""
    pixels = frame.astype(np.float32)
    mask = _without_specks(pixels.max(-1) - pixels.min(-1) > _CHROMA)
    if mask.mean() < _SMALLEST or _touches_edge(mask):
        return NOTHING
    shape, overlap, (x, y, radius) = max((_fit(mask, name) for name in SHAPES), key=lambda f: f[1])
    if overlap < _OVERLAP:
        return NOTHING
    height, width = mask.shape
    u = points(x, y, radius, width, height)
    inside = SHAPES[shape](u[0] / _INSIDE, u[1] / _INSIDE) < 0
    if inside.sum() < 12:
        return NOTHING
    colour = _colour(pixels[inside])
    texture = _texture(pixels.mean(-1)[inside], u[0][inside], u[1][inside], radius)
    return Seen(shape, colour, texture, overlap)


def read_shot(frames: Iterable[NDArray[np.uint8]]) -> Seen:
    """What the frames of one shot show, by majority of those that show something."""
    seen = [found for found in map(read_frame, frames) if found.shape is not None]
    if not seen:
        return NOTHING
    words = (
        Counter(getattr(one, name) for one in seen).most_common(1)[0][0]
        for name in ("shape", "colour", "texture")
    )
    return Seen(*words, overlap=float(np.mean([one.overlap for one in seen])))


def read_film(frames: NDArray[np.uint8], starts: Sequence[int]) -> list[Seen]:
    """What each shot of a film (T, H, W, 3) shows. starts: first frame of each shot."""
    ends = (*starts[1:], len(frames))
    return [read_shot(frames[start:end]) for start, end in zip(starts, ends, strict=True)]


def same_character(one: Seen, other: Seen) -> bool:
    """Whether two shots show the same character, recognised in both."""
    return one.character is not None and one.character == other.character


def _without_specks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels whose neighbourhood is mostly in the mask."""
    padded = np.pad(mask, 1).astype(np.int8)
    height, width = mask.shape
    around = sum(padded[i : i + height, j : j + width] for i in range(3) for j in range(3))
    return around >= 5


def _touches_edge(mask: NDArray[np.bool_]) -> bool:
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def _fit(mask: NDArray[np.bool_], shape: str) -> tuple[str, float, tuple[float, float, float]]:
    """A shape laid over a mask by area and centre of mass, and how well the two overlap."""
    area, down = _moments(shape)
    rows, columns = np.nonzero(mask)
    radius = float(np.sqrt(len(rows) / area))
    x, y = columns.mean() + 0.5, rows.mean() + 0.5 - down * radius
    drawn = cover(shape, points(x, y, radius, mask.shape[1], mask.shape[0]), radius) > 0.5
    overlap = (drawn & mask).sum() / (drawn | mask).sum()
    return shape, float(overlap), (x, y, radius)


@cache
def _moments(shape: str) -> tuple[float, float]:
    """Area, and how far down the centre of mass lies, in radii."""
    u = points(128, 128, 100, 256, 256)
    inside = SHAPES[shape](*u) < 0
    return float(inside.sum()) / 100**2, float(u[1][inside].mean())


def _colour(pixels: NDArray[np.float32]) -> str:
    """The nearest hue; brightness and paleness do not count."""
    mean = pixels.mean(0)
    pure = _pure(mean)
    return min(COLOURS, key=lambda name: float(np.abs(_pure(COLOURS[name]) - pure).sum()))


def _pure(colour: Sequence[float] | NDArray[np.float32]) -> NDArray[np.float32]:
    rgb = np.asarray(colour, np.float32)
    return (rgb - rgb.min()) / max(1e-6, float(rgb.max() - rgb.min()))


def _texture(
    light: NDArray[np.float32], x: NDArray[np.float32], y: NDArray[np.float32], radius: float
) -> str:
    """The pattern that explains light and dark inside a shape; plain where there is little."""
    best, share = "plain", _CONTRAST
    for name, pattern in TEXTURES.items():
        if name == "plain":
            continue
        dark = pattern(x, y)
        centred = dark - dark.mean()
        power = float((centred**2).sum())
        if power == 0:
            continue
        # Least squares for light = tone * (1 - (1 - DARK) * dark), as a share of what it should be.
        slope = -float((centred * light).sum()) / power
        tone = float(light.mean()) / (1 - (1 - DARK) * float(dark.mean()))
        found = slope / (tone * (1 - DARK))
        if found > share:
            best, share = name, found
    return best
