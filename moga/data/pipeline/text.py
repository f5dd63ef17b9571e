"""Text that stays where it is: subtitles and watermarks, by RapidOCR's detector of text boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .records import Box, Text
from .settings import TextBoxes

_EDGE = 40  # of a gradient, in grey levels: letters have it, most scenery has not
_CELLS = 24  # across and down, that lasting edges are counted in
_SAME = 0.3  # of the union of two boxes, that they share where they are one text


def read_boxes(picture: np.ndarray, settings: TextBoxes, threads: int = 1) -> list[Text]:
    """Boxes of text in a picture, uint8 (H, W, 3) in BGR. Nothing is read, nothing fetched."""
    import cv2

    height, width = picture.shape[:2]
    scale = min(1.0, settings.side / max(width, height))
    small = picture
    if scale < 1:
        size = (round(width * scale), round(height * scale))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    found = _reader(settings.side, threads)(small, use_det=True, use_cls=False, use_rec=False)
    if found.boxes is None:
        return []
    texts = []
    for corners, sure in zip(found.boxes, found.scores, strict=True):
        (x0, y0), (x1, y1) = corners.min(axis=0) / scale, corners.max(axis=0) / scale
        line = min(x1 - x0, y1 - y0) <= settings.tallest * min(width, height)
        box = _around(x0, y0, x1, y1, settings.padding, width, height)
        if line and sure >= settings.confidence and box is not None:
            texts.append(Text(box, 1.0, round(float(sure), 4)))
    return texts


def persistent(
    frames: Sequence[Sequence[Text]], settings: TextBoxes, size: tuple[int, int]
) -> tuple[Text, ...]:
    """Texts that are at one place in enough of the frames, with the box around all their boxes.

    A subtitle changes its words: what counts is that boxes overlap, or lie in one line.
    """
    groups: list[list[tuple[int, Text]]] = []
    for number, texts in enumerate(frames):
        for text in texts:
            own = [g for g in groups if any(_one(text.box, other.box) for _, other in g)]
            merged = [(number, text), *(item for group in own for item in group)]
            groups = [g for g in groups if g not in own] + [merged]
    found = []
    for group in groups:
        share = len({number for number, _ in group}) / len(frames)
        if share >= settings.share:
            sure = max(text.confidence for _, text in group)
            found.append(Text(_union([text.box for _, text in group]), share, sure))
    return tuple(sorted(found, key=lambda t: (t.box.y, t.box.x, t.box.width, t.box.height)))


def lasting_edges(pictures: np.ndarray) -> float:
    """The densest cell of strong edges that all grey pictures (T, H, W) have in one place, 0 to 1.

    What moves has none, but a still scene has them too: then the boxes are read.
    """
    import cv2

    least = None
    for picture in pictures:
        height, width = picture.shape
        size = (480, max(1, round(480 * height / width)))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        dx = cv2.Sobel(small, cv2.CV_32F, 1, 0) / 4
        dy = cv2.Sobel(small, cv2.CV_32F, 0, 1) / 4
        edge = np.hypot(dx, dy)
        least = edge if least is None else np.minimum(least, edge)
    strong = (least > _EDGE).astype(np.float32)
    cells = cv2.resize(strong, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
    return float(cells.max())


@lru_cache(maxsize=1)
def _reader(side: int, threads: int) -> Any:
    from rapidocr import RapidOCR

    engine = "EngineConfig.onnxruntime"
    return RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.use_cls": False,
            "Global.use_rec": False,
            "Global.max_side_len": side,
            "Det.limit_type": "max",
            "Det.limit_side_len": side,
            f"{engine}.intra_op_num_threads": threads,
            f"{engine}.inter_op_num_threads": 1,
        }
    )


def _around(
    x0: float, y0: float, x1: float, y1: float, padding: int, width: int, height: int
) -> Box | None:
    left, top = max(0, math.floor(x0) - padding), max(0, math.floor(y0) - padding)
    right, bottom = min(width, math.ceil(x1) + padding), min(height, math.ceil(y1) + padding)
    if right <= left or bottom <= top:
        return None
    return Box(left, top, right - left, bottom - top)


def _one(a: Box, b: Box) -> bool:
    """Whether two boxes are one text: they share much, or lie over each other in one line."""
    across = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    down = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    if across <= 0 or down <= 0:
        return False
    shared = across * down
    union = a.width * a.height + b.width * b.height - shared
    return shared >= _SAME * union or down >= 0.6 * min(a.height, b.height)


def _union(boxes: Sequence[Box]) -> Box:
    left, top = min(b.x for b in boxes), min(b.y for b in boxes)
    right, bottom = max(b.x + b.width for b in boxes), max(b.y + b.height for b in boxes)
    return Box(left, top, right - left, bottom - top)
