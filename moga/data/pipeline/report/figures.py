"""Numbers of the page: what came through each stage, why things were dropped, and histograms."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..records import Decision, Film, Sample, Shot

STAGES = ("probe", "split", "score", "crop", "caption", "merge")
_BINS = 24


@dataclass(frozen=True)
class Step:
    """What is left after a stage."""

    stage: str
    films: int
    shots: int
    seconds: float


@dataclass(frozen=True)
class Reason:
    """Why so many films or shots were dropped."""

    stage: str
    what: str
    words: str
    count: int
    seconds: float


@dataclass(frozen=True)
class Bin:
    """How many values lie in [low, high), and how many of them were kept."""

    low: float
    high: float
    kept: int
    dropped: int


@dataclass(frozen=True)
class Histogram:
    """bins of equal width. limit: what was asked for; None for nothing."""

    title: str
    unit: str
    bins: tuple[Bin, ...]
    limit: float | None

    @property
    def most(self) -> int:
        return max((one.kept + one.dropped for one in self.bins), default=0)


def steps(films: Sequence[Film]) -> list[Step]:
    """Films, shots and seconds that each stage leaves, in order."""
    found = []
    for number, stage in enumerate(STAGES):
        later = STAGES[number + 1 :]
        left = [f for f in films if f.source.kept or _stage_of(f.source.decisions) in later]
        shots = [
            (film, shot)
            for film in left
            for shot in film.shots
            if shot.kept or _stage_of(shot.decisions) in later
        ]
        seconds = sum(_seconds(film, shot) for film, shot in shots)
        if stage == "probe":
            shots, seconds = [], sum(float(film.source.seconds) for film in left)
        if stage == "merge":
            seconds = sum(float(s.frames / s.fps) for film in left for s in film.samples)
        found.append(Step(stage, len(left), len(shots), seconds))
    return found


def reasons(films: Iterable[Film]) -> list[Reason]:
    """Why films and shots were dropped, by what decided; the most frequent first."""
    count: Counter[tuple[str, str, str]] = Counter()
    seconds: dict[tuple[str, str, str], float] = defaultdict(float)
    for film in films:
        dropped: list[tuple[str, tuple[Decision, ...], float]] = []
        if not film.source.kept:
            dropped.append(("films", film.source.decisions, float(film.source.seconds)))
        for shot in film.shots if film.source.kept else ():
            if not shot.kept:
                dropped.append(("shots", shot.decisions, _seconds(film, shot)))
        for what, decisions, length in dropped:
            why = last_drop(decisions)
            key = (why.stage, what, _kind(why)) if why else ("", what, "no reason was noted")
            count[key] += 1
            seconds[key] += length
    return [Reason(*key, number, seconds[key]) for key, number in count.most_common()]


def last_drop(decisions: Sequence[Decision]) -> Decision | None:
    """What dropped a record; None for what was not."""
    return next((one for one in reversed(decisions) if not one.kept), None)


def histogram(
    title: str, unit: str, values: Sequence[tuple[float, bool]], limit: float | None = None
) -> Histogram:
    """values: each with whether it was kept. A value beyond 99 of 100 others is in the last bin."""
    numbers = sorted(value for value, _ in values if math.isfinite(value))
    if not numbers:
        return Histogram(title, unit, (), limit)
    low = min(0.0, numbers[0])
    high = max(numbers[math.ceil(0.99 * len(numbers)) - 1], limit or 0.0, low + 1e-6)
    width = (high - low) / _BINS
    kept, dropped = [0] * _BINS, [0] * _BINS
    for value, good in values:
        if math.isfinite(value):
            place = min(_BINS - 1, int((value - low) / width))
            (kept if good else dropped)[place] += 1
    bins = (Bin(low + i * width, low + (i + 1) * width, kept[i], dropped[i]) for i in range(_BINS))
    return Histogram(title, unit, tuple(bins), limit)


def sample_seconds(sample: Sample) -> float:
    return float(sample.frames / sample.fps)


def _seconds(film: Film, shot: Shot) -> float:
    return float(shot.frames / film.source.fps)


def _stage_of(decisions: Sequence[Decision]) -> str:
    """The stage that dropped a record."""
    why = last_drop(decisions)
    return why.stage if why else ""


def _kind(why: Decision) -> str:
    """What reasons of one kind have in common: the measure and its limit, or else the words."""
    if why.measure and why.value is not None and why.limit is not None:
        side = "below" if why.value < why.limit else "above"
        return f"{why.measure} {side} {why.limit:g}"
    return why.reason
