"""Samples as clips: encoded, or as excerpts that the trainer cuts out of their film itself."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from ...files import require_space
from ...video.excerpt import Excerpt
from ...video.formats import Encoder, ffv1, h264
from ...video.reader import VideoReadError, read_frames
from ...video.writer import FULL_DISK, VideoError, VideoWriter
from .decode import upright
from .facts import FilmError
from .records import Decision, Film, Sample, Source
from .settings import Merge, Settings

FOLDER = "clips"


def merge(film: Film, settings: Settings, folder: Path) -> Film:
    """The film with a video for each of its samples. folder: the dataset.

    A clip that is there already is kept: its name tells what it shows. Raises FilmError for a film
    that cannot be read, VideoError, NoSpaceError for a full disk.
    """
    virtual, why = _virtual(film.source, settings.merge)
    for partial in (folder / FOLDER).glob(f"{film.source.id}-*.partial.*"):
        partial.unlink(missing_ok=True)  # of a process that was killed
    samples = []
    for sample in film.samples:
        if virtual:
            video = film.source.path
        else:
            video = f"{FOLDER}/{_name(sample, film.source, settings.merge)}"
            if not (folder / video).exists():
                _encode(sample, film.source, settings.merge, folder / video)
        told = (Decision("merge", True, why),) if why else ()
        decisions = (*sample.decisions, *told)
        samples.append(replace(sample, video=video, virtual=virtual, decisions=decisions))
    return replace(film, samples=tuple(samples))


def excerpt_of(sample: Sample, source: Source) -> Excerpt:
    """What a sample shows of its film."""
    ends = [*(shot.first for shot in sample.shots[1:]), sample.frames]
    spans = []
    for shot, end in zip(sample.shots, ends, strict=True):
        start = shot.start / source.fps
        spans.append((float(start), float(start + (end - shot.first) / sample.fps)))
    box = sample.crop
    return Excerpt(tuple(spans), box and (box.x, box.y, box.width, box.height))


def clip_size(sample: Sample, source: Source, merge: Merge) -> tuple[int, int]:
    """Width and height of an encoded clip: it covers those of the training, and is never enlarged.

    So that scaling it again, where the trainer reads it, changes nothing.
    """
    wide = sample.crop.width if sample.crop else source.width
    high = sample.crop.height if sample.crop else source.height
    aspect = wide / high
    size = (
        max(merge.width, round(merge.height * aspect)),
        max(merge.height, round(merge.width / aspect)),
    )
    return size if size[0] < wide and size[1] < high else (wide, high)


def _virtual(source: Source, merge: Merge) -> tuple[bool, str]:
    """Whether samples are excerpts, and why not where they were asked for."""
    if merge.clips == "virtual" and upright(source):
        return False, "encoded, as the trainer reads no interlaced or HDR film itself"
    return merge.clips == "virtual", ""


def _encode(sample: Sample, source: Source, merge: Merge, path: Path) -> None:
    encoder = _encoder(merge)
    width, height = _encoded_size(sample, source, merge)
    path.parent.mkdir(parents=True, exist_ok=True)
    size = width * height * sample.frames * encoder.bytes_per_pixel + 2 * FULL_DISK
    require_space(path.parent, size, "a clip", "make room and start again, what is done is kept")
    frames = read_frames(
        Path(source.path),
        fps=float(sample.fps),
        width=width,
        height=height,
        frames=sample.frames,
        excerpt=excerpt_of(sample, source),
        before=upright(source),
    )
    try:
        with VideoWriter(path, width, height, sample.fps, encoder) as video:
            for chunk in frames:
                video.write(chunk)
    except VideoReadError as error:
        raise FilmError(str(error)) from None
    except VideoError:
        require_space(path.parent, 2 * FULL_DISK, "a clip", "make room and start again")
        raise
    finally:
        frames.close()


def _encoder(merge: Merge) -> Encoder:
    return h264(merge.quality) if merge.quality else ffv1()


def _encoded_size(sample: Sample, source: Source, merge: Merge) -> tuple[int, int]:
    step = _encoder(merge).size_multiple
    width, height = (math.ceil(n / step) * step for n in clip_size(sample, source, merge))
    return width, height


def _name(sample: Sample, source: Source, merge: Merge) -> str:
    width, height = _encoded_size(sample, source, merge)
    encoder = _encoder(merge)
    return f"{sample.id}-{width}x{height}-q{merge.quality}{encoder.extension}"
