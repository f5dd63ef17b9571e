"""Frames out of a video file, a few at a time, through ffmpeg."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import MogaError
from .complaints import REPORT, complaints, damaged, decode_errors, plain
from .ffmpeg import find_ffmpeg, hidden_window
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
) -> Iterator[np.ndarray]:
    """Frames of a video, uint8 (T, height, width, 3) in RGB, a few at a time.

    At the constant rate `fps`, scaled to cover width x height and cut to it in the middle.
    start: seconds from the video's first picture; the nearest frame at that rate is the first one.
    frames: how many; None reads to the end. A video that ends one frame early, as containers
        round, repeats its last one.
    ffmpeg ends with the iterator, wherever that is left. The pictures before `start` are decoded
    too, so that every start gives the very frames that reading from 0 gives. Raises VideoReadError,
    also where ffmpeg met errors in the pictures so far: of `frames`, the last are not given then.
    """
    first = round(start * fps)
    command = [find_ffmpeg(), "-hide_banner", "-nostdin", *REPORT]
    command += ["-i", f"file:{video}", "-map", "0:v:0"]
    command += ["-vf", _filters(fps, width, height, first, frames), "-fps_mode", "passthrough"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    size = width * height * 3
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, **hidden_window())
        count, last, held = 0, None, None
        try:
            while count != frames:
                wanted = _CHUNK if frames is None else min(_CHUNK, frames - count)
                data = process.stdout.read(size * wanted)
                if not data or len(data) % size:
                    break
                chunk = np.frombuffer(bytearray(data), np.uint8).reshape(-1, height, width, 3)
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
        raise VideoReadError(f"{video.name}: {damaged(decode_errors(video) or errors)}")
    if held is not None:
        yield held
    elif frames is not None:
        yield last


def ffmpeg_words(said: str) -> str:
    """What ffmpeg said first, without the addresses it puts before it; "" for nothing."""
    return plain(next((line for line in said.splitlines() if line.strip()), ""))


def _filters(fps: float, width: int, height: int, first: int, frames: int | None) -> str:
    end = "" if frames is None else f":end_frame={first + frames}"
    # By display aspect, as pixels need not be square.
    cover = f"w='max({width},round({height}*dar))':h='max({height},round({width}/dar))'"
    return (
        f"fps={frame_rate(fps)},trim=start_frame={first}{end},"
        f"scale={cover}:flags=bicubic+accurate_rnd+full_chroma_int,format=rgb24,"
        f"crop={width}:{height}"
    )
