"""What storyboards are drawn with: shapes, textures, colours and places.

Letters: H, W pixels. Points u are in the character's own frame: its centre is 0, its radius 1, y
points down.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Colour = tuple[int, int, int]

# Hues far apart and strong; places are pale, so that a character is what has colour.
COLOURS: dict[str, Colour] = {
    "red": (222, 40, 44),
    "yellow": (244, 206, 36),
    "green": (36, 178, 62),
    "cyan": (44, 200, 222),
    "blue": (44, 76, 222),
    "pink": (238, 84, 196),
}
DARK = 0.56  # of the second tone of a texture

# Sky above, ground below.
PLACES: dict[str, tuple[Colour, Colour]] = {
    "meadow": ((202, 212, 218), (150, 166, 142)),
    "desert": ((226, 218, 204), (194, 178, 152)),
    "sea": ((192, 202, 210), (118, 138, 152)),
    "night": ((36, 38, 50), (24, 25, 32)),
    "snow": ((200, 208, 218), (242, 244, 246)),
    "cave": ((88, 80, 76), (52, 47, 45)),
}
HORIZON = 0.62  # of the height


def _peaks(x: Floats) -> Floats:
    return 0.16 * np.abs(np.mod(2.2 * x + 0.3, 1) - 0.5) - 0.06


# How much the horizon bends, as a share of the height; x from 0 to 1.
_HORIZONS: dict[str, Callable[[Floats], Floats]] = {
    "meadow": lambda x: 0.05 * np.sin(2 * np.pi * (x + 0.1)),
    "desert": lambda x: 0.09 * np.cos(np.pi * (x - 0.35)) ** 2 - 0.05,
    "sea": lambda x: 0.0 * x,
    "night": _peaks,
    "snow": lambda x: 0.05 * np.cos(2 * np.pi * (1.5 * x + 0.2)),
    "cave": lambda x: -0.08 * np.cos(2 * np.pi * (x - 0.5)),
}


def _circle(x: Floats, y: Floats) -> Floats:
    return np.hypot(x, y) - 0.95


def _square(x: Floats, y: Floats) -> Floats:
    return np.maximum(np.abs(x), np.abs(y)) - 0.82


def _triangle(x: Floats, y: Floats) -> Floats:
    slope = 0.866 * np.abs(x) - 0.5 * y
    return np.maximum(slope - 0.5, y - 0.75)


def _star(x: Floats, y: Floats) -> Floats:
    """Five points: one tip, folded into a wedge."""
    angle = np.arctan2(x, -y)
    angle = np.abs(np.mod(angle + np.pi / 5, 2 * np.pi / 5) - np.pi / 5)
    radius = np.hypot(x, y)
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    # From the tip at (1, 0) to the notch between two tips.
    notch = 0.46 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    side = np.array([notch[0] - 1.0, notch[1]])
    normal = np.array([side[1], -side[0]]) / np.hypot(*side)
    return ((along - 1.0) * normal[0] + across * normal[1]).astype(np.float32)


def _heart(x: Floats, y: Floats) -> Floats:
    """Two lobes, and a tip whose sides touch them."""
    across = np.abs(x)
    lobes = np.hypot(across - 0.44, y + 0.36) - 0.50
    tip = np.maximum(0.72 * across + 0.69 * y - 0.568, across - 0.75)
    return np.minimum(lobes, np.maximum(tip, -y - 0.2))


def _cross(x: Floats, y: Floats) -> Floats:
    a, b = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(a - 0.30, b - 0.95), np.maximum(a - 0.95, b - 0.30))


# About the distance to the outline in radii, negative inside.
SHAPES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
}


def _plain(x: Floats, y: Floats) -> Floats:
    return np.zeros_like(x)


def _striped(x: Floats, y: Floats) -> Floats:
    return _wave(y + 0.165, 0.66)


def _dotted(x: Floats, y: Floats) -> Floats:
    near = np.hypot(*(np.mod(v + 0.3, 0.6) - 0.3 for v in (x, y)))
    return np.clip((0.20 - near) / 0.06 + 0.5, 0, 1)


def _checked(x: Floats, y: Floats) -> Floats:
    a, b = _wave(x, 0.9), _wave(y, 0.9)
    return a + b - 2 * a * b


def _wave(v: Floats, period: float) -> Floats:
    """0 and 1 by turns, half a period each, with soft edges."""
    return np.clip(0.5 + 3.0 * np.sin(2 * np.pi * v / period), 0, 1)


# Share of the second tone.
TEXTURES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "plain": _plain,
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
}


def place(name: str, width: int, height: int) -> Floats:
    """The empty scene, (H, W, 3), values 0 to 255."""
    sky, ground = (np.array(colour, np.float32) for colour in PLACES[name])
    x, y = ((np.arange(n, dtype=np.float32) + 0.5) / n for n in (width, height))
    below = y[:, None] - HORIZON - _HORIZONS[name](x)[None, :]
    shade = np.clip(below * height / 2 + 0.5, 0, 1)[..., None]
    # Sky and ground are a little darker away from the horizon.
    return (sky * (1 - shade) + ground * shade) * (1 - 0.08 * np.abs(below))[..., None]


def points(x: float, y: float, radius: float, width: int, height: int) -> tuple[Floats, Floats]:
    """The pixels of a frame in the frame of a character at (x, y) pixels: two arrays (H, W)."""
    columns = (np.arange(width, dtype=np.float32) + 0.5 - x) / radius
    rows = (np.arange(height, dtype=np.float32) + 0.5 - y) / radius
    across, down = np.meshgrid(columns, rows)
    return across, down


def cover(shape: str, u: tuple[Floats, Floats], radius: float) -> Floats:
    """How much of each pixel a shape covers, (H, W), 0 to 1. radius: in pixels."""
    return np.clip(0.5 - SHAPES[shape](*u) * radius, 0, 1)


def paint(
    scene: Floats, shape: str, colour: str, texture: str, x: float, y: float, radius: float
) -> Floats:
    """A scene (H, W, 3) with a character in it; all in pixels."""
    height, width = scene.shape[:2]
    u = points(x, y, radius, width, height)
    tone = np.array(COLOURS[colour], np.float32)
    second = TEXTURES[texture](*u)[..., None]
    body = tone * (1 - second) + DARK * tone * second
    alpha = cover(shape, u, radius)[..., None]
    return scene * (1 - alpha) + body * alpha
