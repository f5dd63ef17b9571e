"""The clips of a training, one JSON object per line, judged all together before anything runs."""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..ffmpeg import find_ffmpeg, hidden_window
from ..shotscript import one_line

STRIDE = 4  # video frames of a latent frame, but for the first
_ROW, _SHOT = ("video", "global", "shots"), ("start", "caption")
_MOST = 50  # problems listed
_RATE = re.compile(r"Stream #\S+.*?: Video: .*?(?P<width>\d{2,5})x(?P<height>\d{2,5}).*?"
                   r"(?P<fps>\d+(?:\.\d+)?) fps")  # fmt: skip
_COUNT = re.compile(r"frame=\s*(\d+)")


class RowsError(ValueError):
    """Rows that cannot be used: every wrong line with its number and the fix."""


@dataclass(frozen=True)
class RowShot:
    """start: seconds from the beginning of the clip."""

    start: float
    caption: str


@dataclass(frozen=True)
class Row:
    """One line: a video, what all its shots share, and its shots."""

    line: int
    video: Path
    global_text: str
    shots: tuple[RowShot, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """What is encoded for each shot, joined as `moga.shots.ShotList.texts` joins it."""
        before = f"{self.global_text} " if self.global_text else ""
        return tuple(before + shot.caption for shot in self.shots)


@dataclass(frozen=True)
class Examined:
    """A row whose video was looked at. frames: of the video, at the frame rate of the training."""

    row: Row
    frames: int
    fps: float

    @property
    def cuts(self) -> tuple[int, ...]:
        """The video frame that each shot begins with."""
        return tuple(round(shot.start * self.fps) for shot in self.row.shots)


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSONL file; paths of videos are relative to it. Raises RowsError."""
    rows: list[Row] = []
    problems: list[tuple[int, str]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(_row(number, line, path.parent))
        except ValueError as error:
            problems.append((number, str(error)))
    _raise(path.name, problems)
    return rows


def examine(rows: Iterable[Row], *, fps: float) -> list[Examined]:
    """Look at the video of every row. Raises RowsError with all rows that cannot be trained on."""
    find_ffmpeg()
    problems: list[tuple[int, str]] = []
    found: list[Examined] = []

    def attempt(row: Row) -> Examined | ValueError:
        try:
            return _examine(row, fps)
        except ValueError as error:
            return error

    with ThreadPoolExecutor() as pool:
        for row, result in zip(rows, pool.map(attempt, rows), strict=True):
            if isinstance(result, ValueError):
                problems.append((row.line, str(result)))
            else:
                found.append(result)
    _raise("rows", problems)
    return found


def latent_starts(cuts: Iterable[int], latent_frames: int) -> list[int]:
    """The latent frame nearest to each cut, a video frame.

    Latent frame 0 holds video frame 0, latent frame j > 0 begins with video frame 4j - 3. A cut in
    the middle goes to the later one.
    """
    return [min(latent_frames, max(0, (cut + 3 + STRIDE // 2) // STRIDE)) if cut > 0 else 0
            for cut in cuts]  # fmt: skip


def latent_count(frames: int) -> int:
    """Latent frames of so many video frames; the VAE leaves out those beyond 4n + 1."""
    return (frames - 1) // STRIDE + 1


def _row(line: int, text: str, folder: Path) -> Row:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg} at column {error.colno})") from None
    _keys(data, _ROW, ("video", "shots"), "the row")
    video = folder / _string(data["video"], "video")
    if not video.is_file():
        raise ValueError(f"video is {data['video']!r}, which is not there")
    shots = data["shots"]
    if not isinstance(shots, list) or not shots:
        raise ValueError("shots is no list of shots; give at least one")
    parsed = [_shot(shot, number) for number, shot in enumerate(shots, start=1)]
    if parsed[0].start != 0:
        raise ValueError(f"shot 1 starts at {parsed[0].start:g} s; the first one starts at 0")
    for number, (before, after) in enumerate(itertools.pairwise(parsed), start=2):
        if after.start <= before.start:
            raise ValueError(
                f"shot {number} starts at {after.start:g} s, not after shot {number - 1} at "
                f"{before.start:g} s; put the shots in order"
            )
    global_text = one_line(_string(data.get("global", ""), "global"))
    return Row(line, video, global_text, tuple(parsed))


def _shot(data: Any, number: int) -> RowShot:
    where = f"shot {number}"
    _keys(data, _SHOT, _SHOT, where)
    start = data["start"]
    if isinstance(start, bool) or not isinstance(start, (int, float)):
        raise ValueError(f"{where}: start is {start!r}; give seconds")
    if not math.isfinite(start) or start < 0:
        raise ValueError(f"{where}: start is {start}; give seconds from 0 on")
    caption = one_line(_string(data["caption"], f"{where}: caption"))
    if not caption:
        raise ValueError(f"{where}: caption is empty; say what the shot shows")
    return RowShot(float(start), caption)


def _keys(data: Any, known: tuple[str, ...], needed: tuple[str, ...], where: str) -> None:
    if not isinstance(data, dict):
        raise ValueError(f"{where} is {type(data).__name__}, not a JSON object")
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0)[0]
            raise ValueError(f"{where} has the key {key!r}; did you mean {near!r}?")
    for key in needed:
        if key not in data:
            raise ValueError(f"{where} has no {key!r}; add it")


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}; give text")
    return value


def _examine(row: Row, fps: float) -> Examined:
    examined = Examined(row, _frames(row.video, fps), fps)
    total = latent_count(examined.frames)
    length = examined.frames / fps
    starts = latent_starts(examined.cuts, total)
    for number, (shot, start) in enumerate(zip(row.shots, starts, strict=True), start=1):
        if start >= total:
            raise ValueError(
                f"shot {number} starts at {shot.start:g} s, and the video ends at {length:.2f} s"
            )
        if number > 1 and start <= starts[number - 2]:
            raise ValueError(
                f"shots {number - 1} and {number} begin in the same latent frame; give each at "
                f"least {STRIDE / fps:.2g} s"
            )
    return examined


def _frames(video: Path, fps: float) -> int:
    """How many frames a video has at `fps`."""
    command = [find_ffmpeg(), "-hide_banner", "-nostdin", "-i", video]
    command += ["-map", "0:v:0", "-c", "copy", "-f", "null", "-"]
    run = subprocess.run(
        command, capture_output=True, text=True, errors="replace", **hidden_window()
    )
    rate, counts = _RATE.search(run.stderr), _COUNT.findall(run.stderr)
    if run.returncode or rate is None or not counts:
        said = [line for line in run.stderr.splitlines() if line.strip()]
        raise ValueError(f"{video.name} cannot be read ({said[-1].strip() if said else 'empty'})")
    # Through rational numbers: 93 frames at 16 a second stay 93 at 16.
    native = Fraction(rate["fps"]).limit_denominator(1001)
    frames = round(int(counts[-1]) * Fraction(fps).limit_denominator(1001) / native)
    if frames < 1:
        raise ValueError(f"{video.name} is shorter than one latent frame; use a longer clip")
    return frames


def _raise(name: str, problems: list[tuple[int, str]]) -> None:
    if not problems:
        return
    lines = [f"{name}, line {number}: {problem}." for number, problem in problems[:_MOST]]
    more = len(problems) - len(lines)
    raise RowsError("\n".join(lines + ([f"... and {more} more."] if more else [])))
