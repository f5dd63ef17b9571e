"""Captions that lie beside a film: film.json, film.srt, film.vtt or film.txt."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ....shots import Shot, ShotScriptError
from ....shots.script import one_line, show
from ..facts import FilmError

ENDINGS = (".json", ".srt", ".vtt", ".txt")  # the first that is there is read
_FORM = 'write {"global": "...", "shots": [{"start": 0, "end": 2.5, "caption": "..."}]}.'


class SidecarError(FilmError):
    """A file that cannot be used; the message names it and the fix."""


@dataclass(frozen=True)
class Passage:
    """What is said from one second of a film to another."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Sidecar:
    """What a file says of a film: of all of it, and of parts of it."""

    text: str = ""
    passages: tuple[Passage, ...] = ()

    def between(self, start: float, end: float) -> str:
        """What is said of a shot: each passage that it has half of, or that has half of it."""
        said = []
        for passage in self.passages:
            shared = min(end, passage.end) - max(start, passage.start)
            if 2 * shared >= min(end - start, passage.end - passage.start) and shared > 0:
                said.append(passage.text)
        return " ".join(dict.fromkeys(said))


def find_sidecar(film: Path) -> Path | None:
    """The file beside a film that has its name."""
    files = (film.with_suffix(ending) for ending in ENDINGS)
    return next((file for file in files if file.is_file()), None)


def read_sidecar(path: Path) -> Sidecar:
    """Raises SidecarError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise SidecarError(f"{path.name} is not UTF-8; save it as such.") from None
    except OSError as error:
        raise SidecarError(f"{path.name} cannot be read ({error.strerror}); check it.") from None
    try:
        if path.suffix == ".json":
            return _of_json(text)
        if path.suffix == ".txt":
            return Sidecar(_checked(text))
        return _of_subtitles(text, path.suffix)
    except ValueError as error:
        raise SidecarError(f"{path.name}: {error}") from None


def _of_json(text: str) -> Sidecar:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"it is not JSON; {_FORM}") from None
    shots = data.get("shots", []) if isinstance(data, dict) else None
    if not isinstance(shots, list) or not all(isinstance(shot, dict) for shot in shots):
        raise ValueError(f"it is of another form; {_FORM}")
    starts = [_seconds(shot.get("start"), f"shot {n}: start") for n, shot in enumerate(shots, 1)]
    for number, (before, after) in enumerate(pairwise(starts), start=2):
        if after <= before:
            raise ValueError(f"shot {number} starts at {after:g} s, not after the one before it.")
    ends = [*starts[1:], math.inf][: len(starts)]
    passages = []
    for number, (shot, start, end) in enumerate(zip(shots, starts, ends, strict=True), start=1):
        if "end" in shot:
            end = _seconds(shot["end"], f"shot {number}: end")
        if end <= start:
            raise ValueError(f"shot {number} ends at {end:g} s, not after its start; mend it.")
        passages.append(Passage(start, end, _checked(shot.get("caption"), f"shot {number}: ")))
    return Sidecar(_checked(data.get("global", "")), tuple(passages))


def _of_subtitles(text: str, ending: str) -> Sidecar:
    import pysubs2

    try:
        cues: Sequence[Any] = pysubs2.SSAFile.from_string(text, format_=ending[1:])
    except (pysubs2.Pysubs2Error, ValueError, IndexError) as error:
        raise ValueError(f"it holds no subtitles ({error}).") from None
    passages = [
        Passage(cue.start / 1000, cue.end / 1000, _checked(cue.plaintext, f"cue {number}: "))
        for number, cue in enumerate(cues, start=1)
        if cue.end > cue.start and cue.plaintext.strip()
    ]
    if not passages:
        raise ValueError("it holds no subtitles; write cues with times, or take it away.")
    return Sidecar("", tuple(passages))


def _seconds(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise ValueError(f"{where} is {show(value)}; give seconds from 0 on.")
    return float(value)


def _checked(text: Any, where: str = "") -> str:
    """A text in one line that a row may hold, or "". Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError(f"{where}{show(text)} is no text; give one in quotes.")
    if not (line := one_line(text)):
        return ""
    try:
        return Shot(line, frames=1).caption
    except ShotScriptError as error:
        raise ValueError(f"{where}{error}") from None
