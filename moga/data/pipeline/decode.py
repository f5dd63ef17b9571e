"""Pictures of a film, upright, with square pixels and at a constant rate, a few at a time."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...video.complaints import REPORT, complaints, damaged
from ...video.excerpt import Run
from ...video.ffmpeg import apart, find_ffmpeg
from .facts import FilmError
from .records import Source

_CHUNK = 1 << 23  # bytes of pictures held at a time
# From the light of a scene to what a plain screen shows.
_TONES = ("format=yuv444p10le,zscale=t=linear:npl=100,format=gbrpf32le,tonemap=hable:desat=0,"
          "zscale=p=bt709:t=bt709:m=bt709:r=tv:d=none,format=yuv444p")  # fmt: skip


def upright(source: Source) -> list[str]:
    """ffmpeg's filters that make plain pictures: whole instead of interlaced, and not HDR.

    ffmpeg itself turns pictures as the file says; whoever scales to the size that the source is
    shown in makes pixels square.
    """
    return [*_whole(source), *_plain(source)]


def _whole(source: Source) -> list[str]:
    return ["bwdif=mode=send_frame"] if source.facts and source.facts.interlaced else []


def _plain(source: Source) -> list[str]:
    return [_TONES] if source.facts and source.facts.hdr else []


def fitted(source: Source, side: int) -> tuple[int, int]:
    """Width and height, the longer one `side` or that of the source, whichever is less."""
    scale = min(1.0, side / max(source.width, source.height))
    return max(1, round(source.width * scale)), max(1, round(source.height * scale))


def stream(source: Source, width: int, height: int, threads: int = 1) -> Iterator[np.ndarray]:
    """All frames of a film, uint8 (T, height, width, 3) in BGR, some at a time.

    Frame n is the one shown at n / fps. Raises FilmError where the decoder met errors, at the end
    or before it.
    """
    filters = [*_whole(source), f"fps={source.fps}"]
    filters += [f"scale={width}:{height}:flags=area", *_plain(source)]
    command = [*_begin(threads), "-i", f"file:{source.path}", "-map", "0:v:0"]
    command += ["-vf", ",".join(filters), *_RAW]
    size = width * height * 3
    yield from _read(command, size, (height, width, 3), max(1, _CHUNK // size))


def sampled(source: Source, frames: Sequence[int], threads: int = 1) -> np.ndarray:
    """Some frames at the size that the film is shown in, uint8 (T, height, width, 3) in BGR.

    frames: ascending. The film is decoded from the key frame before the first to the last one.
    A film that ends earlier gives fewer. Raises FilmError.
    """
    first, path = frames[0], Path(source.path)
    run = Run(float(first / source.fps), 0, frames[-1] - first + 1)
    chosen = "+".join(f"eq(n,{frame - first})" for frame in frames)
    filters = [*_whole(source), run.filters(path, float(source.fps)), f"select='{chosen}'"]
    filters += _plain(source)
    filters.append(f"scale={source.width}:{source.height}:flags=bicubic")
    command = [*_begin(threads), *run.input(path), "-map", "0:v:0"]
    command += ["-vf", ",".join(filters), "-frames:v", str(len(frames)), *_RAW]
    size = source.width * source.height * 3
    shape = (source.height, source.width, 3)
    return np.concatenate(list(_read(command, size, shape, len(frames), strict=False)))


_RAW = ("-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "bgr24", "-")


def _begin(threads: int) -> list[str]:
    return [find_ffmpeg(), "-hide_banner", "-nostdin", *REPORT, "-threads", str(threads)]


def _read(
    command: list[str], size: int, shape: tuple[int, ...], many: int, strict: bool = True
) -> Iterator[np.ndarray]:
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, **apart())
        count = 0
        try:
            while data := process.stdout.read(size * many):
                whole = len(data) // size
                if whole:
                    count += whole
                    yield np.frombuffer(data, np.uint8, whole * size).reshape(-1, *shape)
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        said.seek(0)
        words = said.read().decode(errors="replace")
    errors = complaints(words)
    if errors and strict:
        raise FilmError(damaged(errors))
    if not count or code:
        why = errors[0] if errors else f"no picture came, and ffmpeg ended with {code}"
        raise FilmError(f"cannot be decoded ({why}); replace the file.")
