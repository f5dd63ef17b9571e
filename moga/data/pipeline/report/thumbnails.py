"""Small pictures beside the page, made once: of the shots of samples, and of what was dropped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from ....files import written_whole
from ....video.excerpt import Excerpt
from ....video.reader import VideoReadError, read_frames
from ..clips import excerpt_of
from ..decode import upright
from ..records import Box, Sample, Shot, Source

FOLDER = "report"  # beside the page
_GAP = 2  # pixels between pictures of a shot
_QUALITY = 80
_TEXT, _CROP = "#ff4d4d", "#4da3ff"


@dataclass(frozen=True)
class Thumbnail:
    """A picture file, relative to the page, and its size in pixels."""

    file: str
    width: int
    height: int


def counts(sample: Sample, wanted: int) -> list[int]:
    """How many of `wanted` pictures each shot gets: one at least, the longest ones more."""
    ends = [*(shot.first for shot in sample.shots[1:]), sample.frames]
    lengths = [end - shot.first for shot, end in zip(sample.shots, ends, strict=True)]
    found = [1] * len(lengths)
    for _ in range(wanted - len(lengths)):
        emptiest = max(range(len(lengths)), key=lambda i: (lengths[i] / found[i], -i))
        found[emptiest] += 1
    return found


def sample_strips(
    sample: Sample, source: Source, folder: Path, width: int, wanted: int
) -> list[Thumbnail | None]:
    """A strip of pictures for each shot of a sample, out of what the trainer reads."""
    ends = [*(shot.first for shot in sample.shots[1:]), sample.frames]
    each = zip(sample.shots, ends, counts(sample, wanted), strict=True)
    size, strips = _size(sample.crop, source, width), []
    for number, (shot, end, count) in enumerate(each):
        length = end - shot.first
        places = [shot.first + length * (2 * i + 1) // (2 * count) for i in range(count)]
        file = f"{FOLDER}/{sample.id}-{number}-{count}x{width}.jpg"
        make = partial(_of_sample, sample, source, folder, places, size)
        strips.append(_kept(folder, Thumbnail(file, *_strip_size(count, size)), make))
    return strips


def shot_picture(source: Source, shot: Shot, folder: Path, width: int) -> Thumbnail | None:
    """The middle of a shot as it is in the film, with its texts and its crop drawn in."""
    size = _size(None, source, width)
    boxes = [(text.box, _TEXT) for text in shot.texts] + ([(shot.crop, _CROP)] if shot.crop else [])
    mark = hashlib.sha256(repr(boxes).encode()).hexdigest()[:6]
    file = f"{FOLDER}/{source.id}-{shot.start}-{shot.end}-{mark}-{width}.jpg"
    make = partial(_of_film, source, shot, size, boxes)
    return _kept(folder, Thumbnail(file, *size), make)


def _kept(
    folder: Path, wanted: Thumbnail, make: Callable[[], list[np.ndarray]]
) -> Thumbnail | None:
    """The picture, made where it is not there; None where its film cannot be read."""
    from PIL import Image

    path = folder / wanted.file
    if path.is_file():
        return wanted
    try:
        pictures = make()
    except VideoReadError:
        return None
    strip = Image.new("RGB", (wanted.width, wanted.height), "white")
    for number, picture in enumerate(pictures):
        strip.paste(Image.fromarray(picture), (number * (picture.shape[1] + _GAP), 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial_file:
        strip.save(partial_file, "JPEG", quality=_QUALITY)
    return wanted


def _strip_size(count: int, size: tuple[int, int]) -> tuple[int, int]:
    return count * (size[0] + _GAP) - _GAP, size[1]


def _size(crop: Box | None, source: Source, width: int) -> tuple[int, int]:
    shown = crop or Box(0, 0, source.width, source.height)
    return width, max(1, round(width * shown.height / shown.width))


def _of_sample(
    sample: Sample, source: Source, folder: Path, places: Sequence[int], size: tuple[int, int]
) -> list[np.ndarray]:
    """Frames of a sample by their numbers."""
    whole = excerpt_of(sample, source)
    found: list[np.ndarray] = []
    for place in places:
        seconds = _seconds(whole, place, sample) if sample.virtual else place / sample.fps
        excerpt = Excerpt(
            ((float(seconds), float(seconds + 1 / sample.fps)),),
            whole.crop if sample.virtual else None,
        )
        video = Path(source.path) if sample.virtual else folder / sample.video
        found += _read(video, excerpt, float(sample.fps), size, ())
    return found


def _seconds(whole: Excerpt, place: int, sample: Sample) -> Fraction:
    """Where a frame of a sample is in its film."""
    shot, span = max(
        (pair for pair in zip(sample.shots, whole.spans, strict=True) if pair[0].first <= place),
        key=lambda pair: pair[0].first,
    )
    return Fraction(span[0]) + (place - shot.first) / sample.fps


def _of_film(
    source: Source, shot: Shot, size: tuple[int, int], boxes: Sequence[tuple[Box, str]]
) -> list[np.ndarray]:
    from PIL import Image, ImageDraw

    start = float((shot.start + shot.end) // 2 / source.fps)
    excerpt = Excerpt(((start, start + float(1 / source.fps)),))
    video, before = Path(source.path), upright(source)
    picture = Image.fromarray(_read(video, excerpt, float(source.fps), size, before)[0])
    pen, scale = ImageDraw.Draw(picture), size[0] / source.width
    for box, colour in boxes:
        corners = (box.x, box.y, box.x + box.width, box.y + box.height)
        pen.rectangle([round(n * scale) for n in corners], outline=colour, width=2)
    return [np.asarray(picture)]


def _read(
    video: Path, excerpt: Excerpt, fps: float, size: tuple[int, int], before: Sequence[str]
) -> list[np.ndarray]:
    width, height = size
    frames = read_frames(video, fps=fps, width=width, height=height, excerpt=excerpt, before=before)
    return [frame for chunk in frames for frame in chunk]
