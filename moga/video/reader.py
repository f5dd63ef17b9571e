"""Frames out of a video file, a few at a time, through ffmpeg."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..errors import MogaError
from .complaints import REPORT, complaints, damaged, decode_errors, plain
from .excerpt import WHOLE, Excerpt
from .ffmpeg import apart, find_ffmpeg
from .writer import frame_rate

_CHUNK = 16  # frames


class VideoReadError(MogaError, RuntimeError):
    """A video that cannot be read; the message has ffmpeg's words."""


def read_frames(
    video: Path,
    *,
    fps: float,
    width: int,
    height: int,
    start: float = 0.0,
    frames: int | None = None,
    excerpt: Excerpt = WHOLE,
    before: Sequence[str] = (),
) -> Iterator[np.ndarray]:
    """Frames of a video, uint8 (T, height, width, 3) in RGB, a few at a time.

    At the constant rate `fps`, scaled to cover width x height and cut to it in the middle.
    start: seconds from the video's first picture, or into the excerpt; the nearest frame at that
        rate is the first one.
    frames: how many; None reads to the end. A video that ends one frame early, as containers
        round, repeats its last one.
    excerpt: the parts that are read, as if they were the video. Each begins with a frame of the
        rate, and only they are decoded where the container says where pictures lie.
    before: filters of ffmpeg that pictures go through first.
    ffmpeg ends with the iterator, wherever that is left. Of a video, the pictures before `start`
    are decoded too, so that every start gives the very frames that reading from 0 gives. Raises
    VideoReadError, also where ffmpeg met errors in the pictures so far: of `frames`, the last are
    not given then. ValueError for more frames than an excerpt has.
    """
    first = round(start * fps)
    shape = _shape(width, height, excerpt.crop)
    if not excerpt.spans:
        end = "" if frames is None else f":end_frame={first + frames}"
        chosen = f"fps={frame_rate(fps)},trim=start_frame={first}{end}"
        source = ["-i", f"file:{video}"]
        filters = ",".join([*before, chosen, shape])
        yield from _read(video, excerpt, source, filters, (height, width), frames)
        return
    for run in excerpt.runs(fps, first, frames):
        filters = ",".join([*before, run.filters(video, fps), shape])
        yield from _read(video, excerpt, run.input(video), filters, (height, width), run.count)


def _read(
    video: Path,
    excerpt: Excerpt,
    source: list[str],
    filters: str,
    size: tuple[int, int],
    frames: int | None,
) -> Iterator[np.ndarray]:
    """What ffmpeg's filters make of a source, a few frames at a time. size: height, width."""
    command = [find_ffmpeg(), "-hide_banner", "-nostdin", *REPORT]
    command += [*source, "-map", "0:v:0", "-vf", filters, "-fps_mode", "passthrough"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    one = size[0] * size[1] * 3
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, **apart())
        count, last, held = 0, None, None
        try:
            while count != frames:
                wanted = _CHUNK if frames is None else min(_CHUNK, frames - count)
                data = process.stdout.read(one * wanted)
                if not data or len(data) % one:
                    break
                chunk = np.frombuffer(bytearray(data), np.uint8).reshape(-1, *size, 3)
                count += len(chunk)
                last = chunk[-1:].copy()
                if count == frames:
                    held = chunk
                else:
                    yield chunk
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        said.seek(0)
        errors = complaints(said.read().decode(errors="replace"))
    if count < (1 if frames is None else max(1, frames - 1)) or (frames is None and code):
        why = errors[0] if errors else f"it ended after {count} frames"
        raise VideoReadError(f"{video.name} cannot be read to its end ({why}); replace it.")
    if errors:
        errors = decode_errors(video, excerpt) or errors
        raise VideoReadError(f"{video.name}: {damaged(errors)}")
    if held is not None:
        yield held
    elif frames is not None:
        yield last


def ffmpeg_words(said: str) -> str:
    """What ffmpeg said first, without the addresses it puts before it; "" for nothing."""
    return plain(next((line for line in said.splitlines() if line.strip()), ""))


def _shape(width: int, height: int, crop: tuple[int, int, int, int] | None) -> str:
    """ffmpeg's filters from a picture, or a part of it, to width x height in RGB."""
    # By display aspect, as pixels need not be square.
    cover = f"w='max({width},round({height}*dar))':h='max({height},round({width}/dar))'"
    part = ""
    if crop is not None:
        x, y, wide, high = crop
        part = (
            f"crop=w='round({wide}/max(sar,1))':h='round({high}*min(sar,1))'"
            f":x='round({x}/max(sar,1))':y='round({y}*min(sar,1))',"
        )
    return (
        f"{part}scale={cover}:flags=bicubic+accurate_rnd+full_chroma_int,format=rgb24,"
        f"crop={width}:{height}"
    )
