"""Frames out of a video file, a few at a time, through ffmpeg."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..ffmpeg import find_ffmpeg, hidden_window

_CHUNK = 16  # frames


class VideoReadError(RuntimeError):
    """A video that cannot be read; the message has ffmpeg's words."""


def read_frames(
    video: Path, *, fps: float, width: int, height: int, start: int = 0, frames: int
) -> Iterator[np.ndarray]:
    """`frames` frames of a video, uint8 (T, height, width, 3), a few at a time.

    At the constant rate `fps`, from frame number `start` at that rate on, scaled to cover width x
    height and cut to it in the middle. A video that ends one frame early, as containers round,
    repeats its last one. Raises VideoReadError.
    """
    filters = (
        f"fps={fps},trim=start_frame={start}:end_frame={start + frames},"
        f"scale={width}:{height}:force_original_aspect_ratio=increase:flags=bicubic,"
        f"crop={width}:{height}"
    )
    command = [find_ffmpeg(), "-hide_banner", "-loglevel", "error", "-nostdin", "-i", video]
    command += ["-map", "0:v:0", "-vf", filters, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    size = width * height * 3
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, **hidden_window())
        try:
            left, last = frames, None
            while left and (data := process.stdout.read(size * min(_CHUNK, left))):
                if len(data) % size:
                    break
                chunk = np.frombuffer(bytearray(data), np.uint8).reshape(-1, height, width, 3)
                left -= len(chunk)
                last = chunk[-1:]
                yield chunk
            if left == 1 and last is not None:
                yield last
                left = 0
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        if left:
            said.seek(0)
            words = said.read().decode(errors="replace").strip().splitlines()
            why = words[-1] if words else f"it ended {left} frames early"
            raise VideoReadError(f"{video.name} cannot be read to its end ({why}).")
