"""Which shots become one sample: pure functions, and exact.

A sample holds adjacent shots of one film. On the trainer's grid the first has 4n + 1 frames and
each later one 4n, so that every cut falls between two latent frames; what is over at the end of a
shot, at most three frames, is left out. Long shots are cut into parts, which are samples' shots
like others, except that two parts of one shot never meet in a sample: there is no cut between them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

from ...video.writer import frame_rate
from ...wan import TEMPORAL_STRIDE
from .common_crop import common_crop, whole_of
from .records import Decision, Film, Sample, SampleShot, Shot
from .settings import Settings

_LEAST = TEMPORAL_STRIDE + 1  # frames of a shot, which leave a latent frame wherever it stands
_Cost = tuple[int, int, int]


@dataclass(frozen=True)
class Part:
    """A shot or a piece of a long one.

    start, end: frames of the source. frames: at the rate of the sample.
    """

    shot: Shot
    start: int
    end: int
    frames: int


def plan(film: Film, settings: Settings) -> Film:
    """The film with its samples, and with shots dropped that no sample can hold."""
    rate, merge = frame_rate(settings.merge.fps), settings.merge
    longest = _on_grid(math.floor(Fraction(merge.seconds_most) * rate))
    shots = tuple(_judged(shot, film.source.fps, rate) for shot in film.shots)
    samples: list[Sample] = []
    for run in _runs(shots, film.source.fps, rate, longest, merge.across_dropped):
        lengths = [part.frames for part in run]
        wanted, allowed = max(2, merge.shots_least), _allowed(film, run, settings)
        for first, end in group(lengths, longest, wanted, allowed):
            parts = run[first:end]
            sample = _sample(film, parts, rate, settings)
            if sample.frames >= merge.seconds_least * rate and len(parts) >= merge.shots_least:
                samples.append(sample)
    shots = _told(shots, samples, merge.shots_least, merge.seconds_least)
    return replace(film, shots=shots, samples=tuple(samples))


def frames_at(start: int, end: int, fps: Fraction, rate: Fraction) -> int:
    """Whole frames at `rate` in the time of frames [start, end) at `fps`."""
    return math.floor((end - start) * rate / fps)


def group(
    lengths: Sequence[int], longest: int, wanted: int, allowed: Callable[[int, int], bool]
) -> list[tuple[int, int]]:
    """Adjacent shots as samples: (first, end) for each, all shots in order and once.

    lengths: frames of each shot. longest: of a sample. allowed: whether shots [first, end) may be
    one sample; one alone always may, and what is in no such sample is in none. The fewest shots in
    samples of fewer than `wanted`, then the fewest samples, then the most even ones.
    """
    best: list[tuple[_Cost, int]] = [((0, 0, 0), 0)]
    for end in range(1, len(lengths) + 1):
        choices = []
        for first in reversed(range(end)):
            frames = sample_frames(lengths[first:end])
            if first + 1 < end and (frames > longest or not allowed(first, end)):
                break  # more shots need more room, and leave less of the picture
            few = end - first if end - first < wanted else 0
            choices.append((_sum(best[first][0], (few, 1, frames * frames)), first))
        best.append(min(choices))
    groups, end = [], len(lengths)
    while end:
        groups.append((best[end][1], end))
        end = best[end][1]
    return groups[::-1]


def sample_frames(lengths: Sequence[int]) -> int:
    """Frames of a sample of shots that have at least so many."""
    return _on_grid(lengths[0]) + sum(n - n % TEMPORAL_STRIDE for n in lengths[1:])


def _sum(one: _Cost, other: _Cost) -> _Cost:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _on_grid(frames: int) -> int:
    """The most frames up to so many that are 4n + 1."""
    return (frames - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1


def _judged(shot: Shot, fps: Fraction, rate: Fraction) -> Shot:
    frames = frames_at(shot.start, shot.end, fps, rate)
    if not shot.kept or frames >= _LEAST:
        return shot
    reason = f"it has {frames} frames at {float(rate):g} fps, and a shot of a sample needs {_LEAST}"
    return _dropped(shot, Decision("merge", False, reason, "frames", float(frames), float(_LEAST)))


def _dropped(shot: Shot, why: Decision) -> Shot:
    return replace(shot, kept=False, decisions=(*shot.decisions, why))


def _runs(
    shots: Sequence[Shot], fps: Fraction, rate: Fraction, longest: int, across: bool
) -> Iterator[list[Part]]:
    """Parts of shots that stand beside each other."""
    run: list[Part] = []
    for shot in shots:
        if shot.kept:
            run += _parts(shot, fps, rate, longest)
        elif run and not across:
            yield run
            run = []
    if run:
        yield run


def _parts(shot: Shot, fps: Fraction, rate: Fraction, longest: int) -> Iterator[Part]:
    """A shot in as few equal parts as are short enough for a sample."""
    frames = frames_at(shot.start, shot.end, fps, rate)
    count = math.ceil(_on_grid(frames) / longest)  # what the grid leaves out anyway makes no part
    # At the old rate, so that each part begins with a frame of the source.
    edges = [shot.start + shot.frames * i // count for i in range(count + 1)]
    for start, end in pairwise(edges):
        yield Part(shot, start, end, min(longest, frames_at(start, end, fps, rate)))


def _allowed(film: Film, run: Sequence[Part], settings: Settings) -> Callable[[int, int], bool]:
    def allowed(first: int, end: int) -> bool:
        shots = [part.shot for part in run[first:end]]
        if len({shot.id for shot in shots}) < len(shots):
            return False
        return common_crop(film.source, shots, settings) is not None

    return allowed


def _sample(film: Film, parts: Sequence[Part], rate: Fraction, settings: Settings) -> Sample:
    fps, shots, first = film.source.fps, [], 0
    for part in parts:
        frames = part.frames - part.frames % TEMPORAL_STRIDE if shots else _on_grid(part.frames)
        end = min(part.end, part.start + math.ceil(frames * fps / rate))
        shots.append(SampleShot(part.shot.id, first, part.start, end, part.shot.caption))
        first += frames
    box = common_crop(film.source, [part.shot for part in parts], settings)
    whole = box == whole_of(film.source)
    return Sample(
        id=f"{film.source.id}-{_mark(shots, first, rate, box)}",
        source=film.source.id,
        shots=tuple(shots),
        fps=rate,
        frames=first,
        start=shots[0].start / fps,
        crop=None if whole else box,
    )


def _mark(shots: Sequence[SampleShot], frames: int, rate: Fraction, box: object) -> str:
    """Where it begins, and a hash of what decides its frames."""
    parts = [(shot.first, shot.start) for shot in shots]
    made = hashlib.sha256(repr((parts, frames, rate, box)).encode()).hexdigest()
    return f"{shots[0].start:06d}-{made[:6]}"


def _told(
    shots: Sequence[Shot], samples: Sequence[Sample], shots_least: int, seconds_least: float
) -> tuple[Shot, ...]:
    """The shots, those dropped that are in no sample."""
    used = {shot.shot for sample in samples for shot in sample.shots}
    reason = (
        f"the sample that it would be in has fewer than {shots_least} shots or lasts less than "
        f"{seconds_least:g} s"
    )
    return tuple(
        shot
        if not shot.kept or shot.id in used
        else _dropped(shot, Decision("merge", False, reason))
        for shot in shots
    )
