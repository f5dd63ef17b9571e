"""The clips of a training, one JSON object per line, judged all together before anything runs.

    {"video": "a.mp4", "global": "A red coat.", "shots": [{"start": 0, "caption": "She walks."}]}

A path is relative to the file that names it. `global` may be left out. A caption of null says that
there is none. A clip may be an excerpt of its video: `"spans": [[12, 15.5], [16, 20]]` are seconds
of the video, joined, and `"crop": [x, y, width, height]` pixels of it, as it is shown; `start` then
counts from the beginning of what was joined.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import MogaError
from ..shots import Shot, ShotList
from ..shots.script import located, show
from ..video.excerpt import WHOLE, Excerpt
from ..video.ffmpeg import find_ffmpeg
from ..video.length import length_of
from ..video.writer import frame_rate
from ..wan import TEMPORAL_STRIDE, latent_frames
from .excerpts import check_crop, check_spans, read_excerpt

_ROW, _SHOT = ("video", "global", "shots", "spans", "crop"), ("start", "caption")
_NOTHING = "-"  # stands for a caption that is not there
_MOST = 50  # problems listed
_LONGEST = 10**6  # seconds


class RowsError(MogaError, ValueError):
    """Rows that cannot be used: every wrong line with its number and the fix."""


@dataclass(frozen=True)
class RowShot:
    """start: seconds from the beginning of the clip. caption: "" where there is none."""

    start: float
    caption: str


@dataclass(frozen=True)
class Row:
    """One line: a video, what all its shots share ("" for nothing), and its shots.

    excerpt: of the video, which is the clip.
    """

    line: int
    video: Path
    global_text: str
    shots: tuple[RowShot, ...]
    excerpt: Excerpt = WHOLE

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """What is encoded for each shot, as `moga.shots.ShotList.texts` joins it.

        Of a shot without a caption what all share, or nothing.
        """
        captions = [shot.caption or _NOTHING for shot in self.shots]
        texts = _script(captions, self.global_text).texts
        return tuple(
            text if shot.caption else self.global_text
            for shot, text in zip(self.shots, texts, strict=True)
        )


@dataclass(frozen=True)
class Examined:
    """A row whose video was looked at. frames: of the clip, at the frame rate of the training."""

    row: Row
    frames: int
    fps: float

    @property
    def cuts(self) -> tuple[int, ...]:
        """The video frame that each shot begins with."""
        return tuple(round(shot.start * self.fps) for shot in self.row.shots)


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSONL file in UTF-8; blank lines are skipped.

    Raises RowsError, also for a file without rows.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RowsError(f"{path} cannot be read ({error.strerror}); check the path.") from None
    rows: list[Row] = []
    problems: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(_row(number, line, path.parent))
        except ValueError as error:
            problems.append(f"{path.name}, line {number}: {error}")
    refuse(problems)
    if not rows:
        raise RowsError(f"{path} holds no clips; write a line for each video.")
    return rows


def examine(rows: Sequence[Row], *, fps: float) -> list[Examined]:
    """Look at the video of every row, without decoding it.

    fps: frame rate of the training. Raises RowsError with all rows that cannot be trained on,
    ValueError for an impossible fps.
    """
    rate = frame_rate(fps)
    find_ffmpeg()
    videos = list(dict.fromkeys(row.video for row in rows))
    pool = ThreadPoolExecutor()
    try:
        looked = tqdm(
            pool.map(length_of, videos),
            "videos",
            len(videos),
            unit="video",
            leave=False,
            disable=None,
        )
        lengths = dict(zip(videos, looked, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    problems: list[str] = []
    found: list[Examined] = []
    for row in rows:
        try:
            found.append(_examined(row, lengths[row.video], fps, rate))
        except ValueError as error:
            problems.append(f"line {row.line}, {row.video.name}: {error}")
    refuse(problems)
    return found


def latent_starts(starts: Iterable[float], fps: float, latent_frames: int) -> tuple[int, ...]:
    """The latent frame that each shot begins with, ascending: the one nearest to its cut.

    starts: seconds, the first 0. latent_frames: of the clip. Raises ValueError for a shot that is
    left without a latent frame.
    """
    found = [nearest_latent(round(start * fps)) for start in starts]
    for number, (start, end) in enumerate(pairwise([*found, latent_frames]), start=1):
        if end <= start:
            raise ValueError(
                f"shot {number} is shorter than one latent frame; let it take at least "
                f"{TEMPORAL_STRIDE / fps:.2f} s, or take it out."
            )
    return tuple(found)


def nearest_latent(frame: int) -> int:
    """The latent frame that begins nearest to a video frame; of two equally near, the later.

    Latent frame 0 holds video frame 0, latent frame f > 0 begins with video frame 4f - 3.
    """
    return (frame + 3 + TEMPORAL_STRIDE // 2) // TEMPORAL_STRIDE if frame > 0 else 0


def _row(line: int, text: bytes, folder: Path) -> Row:
    try:
        data = json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8; save the file in UTF-8.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg} at column {error.colno}); mend it.") from None
    except RecursionError:
        raise ValueError("is nested too deeply; write it as the other rows are.") from None
    _keys(data, _ROW, ("video", "shots"), "the row")
    if not isinstance(data["video"], str):
        raise ValueError(f"video is {show(data['video'])}; give a path in quotes.")
    video = folder / data["video"]
    if not video.is_file():
        raise ValueError(f"video is {show(data['video'])}, which is not there; check the path.")
    shots = data["shots"]
    if not isinstance(shots, list) or not shots:
        raise ValueError(f"shots is {show(shots)}; give a list of at least one shot.")
    for number, shot in enumerate(shots, start=1):
        _keys(shot, _SHOT, _SHOT, f"shot {number}")
    said = [_NOTHING if shot["caption"] is None else shot["caption"] for shot in shots]
    script = _script(said, data.get("global", ""))
    captions = [
        "" if shot["caption"] is None else read.caption
        for shot, read in zip(shots, script.shots, strict=True)
    ]
    starts = list(_ascending(shot["start"] for shot in shots))
    excerpt = read_excerpt(data.get("spans"), data.get("crop"))
    return Row(line, video, script.global_caption, tuple(map(RowShot, starts, captions)), excerpt)


def _script(captions: Iterable[Any], global_text: Any) -> ShotList:
    """Captions under the rules of all shot lists; its durations and rate mean nothing."""
    shots = []
    for number, caption in enumerate(captions, start=1):
        with located(f"shot {number}"):
            shots.append(Shot(caption, frames=1))
    return ShotList(tuple(shots), 1, global_text)


def _ascending(starts: Iterable[Any]) -> Iterator[float]:
    before = None
    for number, start in enumerate(starts, start=1):
        if isinstance(start, bool) or not isinstance(start, (int, float)):
            raise ValueError(f"shot {number}: start is {show(start)}; give seconds.")
        if not 0 <= start < _LONGEST:  # false for NaN, too, which Python's JSON knows
            raise ValueError(f"shot {number}: start is {show(start)}; give seconds from 0 on.")
        if before is None and start != 0:
            raise ValueError(f"shot 1 starts at {start:g} s; let the first shot start at 0.")
        if before is not None and start <= before:
            raise ValueError(
                f"shot {number} starts at {start:g} s, not after shot {number - 1} at "
                f"{before:g} s; put the shots in order."
            )
        before = start
        yield float(start)


def _keys(data: Any, known: tuple[str, ...], needed: tuple[str, ...], where: str) -> None:
    if not isinstance(data, dict):
        raise ValueError(f"{where} is {show(data)}; write an object with {', '.join(known)}.")
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            fix = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}."
            raise ValueError(f"{where} has the key {show(key)}; {fix}")
    for key in needed:
        if key not in data:
            raise ValueError(f"{where} has no {key!r}; add it.")


def _examined(row: Row, length: Fraction | ValueError, fps: float, rate: Fraction) -> Examined:
    if isinstance(length, ValueError):
        raise length
    check_crop(row.excerpt, row.video)
    if row.excerpt.spans:
        check_spans(row.excerpt, length, fps)
        frames = row.excerpt.frames(fps)
        length = frames / rate
    else:
        frames = math.floor(length * rate + Fraction(1, 2))  # as ffmpeg's filter `fps` rounds
    if frames < 1:
        raise ValueError(
            f"it lasts {float(length):.2f} s, less than a frame at {fps:g} fps; use a longer clip."
        )
    for number, shot in enumerate(row.shots, start=1):
        if shot.start >= length:
            raise ValueError(
                f"shot {number} starts at {shot.start:g} s, and the video ends at "
                f"{float(length):.2f} s; move the shot or take it out."
            )
    latent_starts((shot.start for shot in row.shots), fps, latent_frames(frames))
    return Examined(row, frames, fps)


def refuse(problems: Sequence[str]) -> None:
    """Raise RowsError with what is wrong, where anything is."""
    if problems:
        more = len(problems) - _MOST
        rest = [f"... and {more} more."] if more > 0 else []
        raise RowsError("\n".join([*problems[:_MOST], *rest]))
