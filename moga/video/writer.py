"""Frames to a video file through ffmpeg, a few at a time.

The file grows under a temporary name beside its final one and takes that name when it is complete,
so a failed run leaves nothing that looks like a video.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import IO

import numpy as np

from ..errors import MogaError
from .audio import Audio
from .chapters import Chapter, ffmetadata
from .containers import flaw
from .ffmpeg import find_ffmpeg, hidden_window
from .formats import Encoder, h264

STDERR_LINES = 20
FULL_DISK = 2**20  # bytes free, at and below which a failure is blamed on the disk
_TAG = re.compile(r"[\w-]+", re.ASCII)


class VideoError(MogaError, RuntimeError):
    """A video could not be written; the message says why, in ffmpeg's words where it has any."""


def partial_of(path: Path) -> Path:
    """Where a video is written before it gets its name."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


class VideoWriter:
    """A video file under construction, used as a context manager.

        with VideoWriter("out.mp4", width=832, height=480, fps=16) as video:
            video.write(frames)  # uint8 (T, H, W, 3), as often as needed

    Leaving the block completes the file. Leaving it with an exception of any kind ends ffmpeg and
    removes what was written. The temporary name is `out.partial.mp4`; while that file exists
    nobody else can write `out.mp4` through this class.

    `tags` and `chapters` become the file's metadata and `audio` its sound. An encoder that
    makes a folder of pictures puts the tags beside them, each in a JSON file that its key names.

    Raises ValueError for a size, rate, frame or tag that doesn't fit, FileExistsError when the file
    is there or being written, ImportError when ffmpeg is missing, VideoError when ffmpeg fails or
    what it leaves isn't whole.
    """

    def __init__(
        self,
        path: str | Path,
        width: int,
        height: int,
        fps: float | Fraction,
        encoder: Encoder | None = None,
        *,
        audio: Audio | None = None,
        tags: Mapping[str, str] | None = None,
        chapters: Sequence[Chapter] = (),
    ) -> None:
        self.path = Path(path).absolute()
        self.partial = partial_of(self.path)
        self.width = width
        self.height = height
        self.rate = frame_rate(fps)
        self.encoder = h264() if encoder is None else encoder
        self.audio = audio
        self.tags = dict(tags or {})
        self.chapters = tuple(chapters)
        self.frames = 0
        self._ffmpeg = find_ffmpeg()
        self._finished = False
        multiple = self.encoder.size_multiple
        if width < 1 or height < 1 or width % multiple or height % multiple:
            raise ValueError(
                f"The frame size is {width}x{height}; {self.encoder.name} needs a width and height "
                f"that are multiples of {multiple}."
            )
        for key in self.tags:
            if not _TAG.fullmatch(key):
                raise ValueError(
                    f"tags have the key {key!r}; use letters, digits, - and _, as in workflow."
                )

    def __enter__(self) -> VideoWriter:
        if self.path.exists():
            raise FileExistsError(f"{self.path} exists already; choose another name.")
        try:
            self._reserve()
        except FileExistsError:
            raise FileExistsError(
                f"{self.partial} exists, so {self.path.name} is being written or was cut off by a "
                "crash; choose another name, or delete that file."
            ) from None
        with ExitStack() as undo:
            undo.callback(self._remove)
            self._scratch = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="moga-")))
            self._process = self._start(self._arguments())
            self._undo = undo.pop_all()
        self._messages = _Tail(self._process.stderr)
        return self

    def write(self, frames: np.ndarray) -> None:
        """Append `frames`, uint8 (T, H, W, 3) in RGB. Waits while ffmpeg is busy."""
        frames = np.ascontiguousarray(frames)
        if frames.dtype != np.uint8 or frames.shape[1:] != (self.height, self.width, 3):
            raise ValueError(
                f"frames are {frames.dtype} {frames.shape}; this video takes uint8 "
                f"(frames, {self.height}, {self.width}, 3)."
            )
        try:
            self._process.stdin.write(frames)
        except OSError as error:
            raise self._failure() from error
        self.frames += len(frames)

    def finish(self) -> None:
        """Let ffmpeg complete the file, which has its final name once the block is left."""
        if self.frames == 0:
            raise VideoError(f"No frame was written, so there is no {self.path.name}.")
        try:
            self._process.stdin.close()
        except OSError as error:
            raise self._failure() from error
        if self._process.wait() != 0:
            raise self._failure()
        if why := flaw(self.partial, self.encoder, self.frames, self.audio is not None):
            raise VideoError(
                f"ffmpeg ended without an error, but {self.path.name} isn't whole: {why}."
                f"{self._full_disk()}"
            )
        self._finished = True

    def kill(self) -> None:
        """End ffmpeg at once; a `write` that waits for it in another thread fails."""
        self._process.kill()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                if not self._finished:
                    self.finish()
                self._take_final_name()
        finally:
            self._clean_up()

    def _take_final_name(self) -> None:
        if self.encoder.is_folder:
            for key, value in self.tags.items():
                _write_text(self.partial / f"{key}.json", value)
        if self.path.exists():
            kept = self.path.with_name(f"{self.path.stem}.kept{self.path.suffix}")
            os.replace(self.partial, kept)
            raise FileExistsError(
                f"{self.path} appeared while it was being written; the new video is {kept}."
            )
        os.replace(self.partial, self.path)

    def _start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                [self._ffmpeg, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                **hidden_window(),
            )
        except OSError as error:
            raise VideoError(f"ffmpeg can't be started: {error}.{self._full_disk()}") from error

    def _reserve(self) -> None:
        if self.encoder.is_folder:
            self.partial.mkdir()
        else:
            self.partial.touch(exist_ok=False)

    def _remove(self) -> None:
        if self.encoder.is_folder:
            shutil.rmtree(self.partial, ignore_errors=True)
        else:
            self.partial.unlink(missing_ok=True)

    def _clean_up(self) -> None:
        """Leave no process, no open pipe and no half file, whatever state they are in."""
        self._process.kill()
        self._process.wait()
        with suppress(OSError):
            self._process.stdin.close()
        self._messages.close()
        self._undo.close()

    def _failure(self) -> VideoError:
        """What ended ffmpeg, once it has ended."""
        with suppress(OSError):
            self._process.stdin.close()
        code = self._process.wait()
        said = self._messages.close() or "it gave no reason"
        return VideoError(
            f"ffmpeg stopped with code {code} at frame {self.frames}: {said}{self._full_disk()}"
        )

    def _full_disk(self) -> str:
        free = shutil.disk_usage(self.path.parent).free
        return f" The disk of {self.path.parent} is full." if free <= FULL_DISK else ""

    def _arguments(self) -> list[str]:
        """ffmpeg's command line. Writes the files it names beside the frames' pipe."""
        inputs = [
            *("-f", "rawvideo", "-pixel_format", "rgb24"),
            *("-video_size", f"{self.width}x{self.height}"),
            *("-framerate", f"{self.rate.numerator}/{self.rate.denominator}", "-i", "pipe:0"),
        ]
        chosen = ["-map", "0:v"]
        if self.audio is not None:
            inputs += self.audio.write_raw(self._scratch / "audio")
        if (self.tags or self.chapters) and not self.encoder.is_folder:
            text = self._scratch / "metadata"
            _write_text(text, ffmetadata(self.tags, self.chapters, self.rate))
            index = "1" if self.audio is None else "2"
            inputs += ["-f", "ffmetadata", "-i", f"file:{text}"]
            chosen += ["-map_metadata", index, "-map_chapters", index]
        coding = ["-vf", self._conversion(), *self.encoder.options]
        sound = [] if self.audio is None else ["-map", "1:a", *self.encoder.audio_options]
        if self.encoder.is_folder:
            folder = str(self.partial)
            pictures = os.path.join(folder.replace("%", "%%"), "%06d.png")
            sound += ["-f", "wav", f"file:{os.path.join(folder, 'audio.wav')}"] if sound else []
            outputs = [*chosen, *coding, "-f", self.encoder.container, f"file:{pictures}", *sound]
        else:
            file = f"file:{self.partial}"
            outputs = [*chosen, *sound, *coding, "-f", self.encoder.container, file]
        return ["-hide_banner", "-nostats", "-loglevel", "error", "-y", *inputs, *outputs]

    def _conversion(self) -> str:
        """ffmpeg's filters from RGB to what is encoded."""
        if self.encoder.is_rgb:
            return f"format={self.encoder.pixel_format}"
        # BT.709 in limited range is what players assume of HD and what most of them assume of all
        # video. The conversion is asked for by name, as ffmpeg's default is BT.601.
        return (
            "scale=flags=bicubic+accurate_rnd+full_chroma_int:out_color_matrix=bt709:out_range=tv,"
            f"format={self.encoder.pixel_format},"
            "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
        )


def frame_rate(fps: float | Fraction) -> Fraction:
    """`fps` as the exact rate that is meant: 23.976, for one, is short for 24000/1001."""
    if not 0 < fps <= 1000:
        raise ValueError(f"fps is {fps}; choose a rate above 0 and up to 1000, such as 16.")
    whole = round(fps)
    ntsc = Fraction(whole * 1000, 1001)
    if fps != whole and abs(fps - ntsc) < 0.005:
        return ntsc
    return Fraction(fps).limit_denominator(1000)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="replace")  # which has no halves of characters


class _Tail:
    """The last lines of a pipe, read by a thread of its own so that the writer is never blocked."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._lines: deque[str] = deque(maxlen=STDERR_LINES)
        self._thread = Thread(target=self._read, name="ffmpeg messages", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while line := self._pipe.readline(1000):
            if text := line.decode(errors="replace").strip():
                self._lines.append(text)

    def close(self) -> str:
        """Wait for the end of the pipe, then give the last lines."""
        self._thread.join()
        self._pipe.close()
        return "\n".join(self._lines)
