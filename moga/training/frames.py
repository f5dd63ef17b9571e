"""Frames out of a video file, a few at a time, through ffmpeg."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..ffmpeg import find_ffmpeg, hidden_window
from ..shotscript import shorten
from ..video import frame_rate

_CHUNK = 16  # frames


class VideoReadError(RuntimeError):
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
    too, so that every start gives the very frames that reading from 0 gives. Raises VideoReadError.
    """
    first = round(start * fps)
    command = [find_ffmpeg(), "-hide_banner", "-loglevel", "error", "-nostdin"]
    command += ["-i", f"file:{video}", "-map", "0:v:0"]
    command += ["-vf", _filters(fps, width, height, first, frames), "-fps_mode", "passthrough"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    size = width * height * 3
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, **hidden_window())
        count, last = 0, None
        try:
            while frames is None or count < frames:
                wanted = _CHUNK if frames is None else min(_CHUNK, frames - count)
                data = process.stdout.read(size * wanted)
                if not data or len(data) % size:
                    break
                chunk = np.frombuffer(bytearray(data), np.uint8).reshape(-1, height, width, 3)
                count += len(chunk)
                last = chunk[-1:].copy()
                yield chunk
            if frames is None:
                failed = process.wait() != 0 or count == 0
            else:
                if count == frames - 1 and last is not None:
                    yield last
                    count += 1
                failed = count < frames
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        if failed:
            said.seek(0)
            words = ffmpeg_words(said.read().decode(errors="replace"))
            why = words or f"it ended after {count} frames"
            raise VideoReadError(f"{video.name} cannot be read to its end ({why}); replace it.")


def ffmpeg_words(said: str) -> str:
    """What ffmpeg complained of first, without the addresses it puts before it; "" for nothing."""
    first = next((line for line in said.splitlines() if line.strip()), "")
    return shorten(re.sub(r"^(\[[^]]* @ \w+\] *)+", "", first), 160)


def _filters(fps: float, width: int, height: int, first: int, frames: int | None) -> str:
    end = "" if frames is None else f":end_frame={first + frames}"
    # By display aspect, as pixels need not be square.
    cover = f"w='max({width},round({height}*dar))':h='max({height},round({width}/dar))'"
    return (
        f"fps={frame_rate(fps)},trim=start_frame={first}{end},"
        f"scale={cover}:flags=bicubic+accurate_rnd+full_chroma_int,format=rgb24,"
        f"crop={width}:{height}"
    )
