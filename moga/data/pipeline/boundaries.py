"""Where shots meet, from what detectors say that work differently.

Two that agree within a few frames make a clean cut. One alone, or a run of high scores, makes a
transition with the frames it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from .detectors import REACH
from .records import Boundary
from .settings import Split

_GAP = 3  # frames of low scores within one transition: the black between two fades
_LONG = 3  # frames at a quarter of the height that a cut's scores never fill
_INSIDE = REACH - 2  # of Gradual's bump on each side, that lie before and after the transition
_STEP = 3  # frames that Gradual's plateau of a cut may take to rise


@dataclass(frozen=True)
class Evidence:
    """What the detectors said of all T frames of a film.

    sharp: scores at the first frames of new shots. gradual: float32 (T,). one, many: the learned
    detector's, float32 (T,); looked: bool (T,), which frames it was shown.
    """

    sharp: Mapping[int, float]
    gradual: np.ndarray
    one: np.ndarray
    many: np.ndarray
    looked: np.ndarray


def find_boundaries(seen: Evidence, settings: Split) -> list[Boundary]:
    """Cuts and transitions in order; none overlaps another."""
    found = [*_transitions(seen, settings), *_bumps(seen, settings)]
    found = _merged(found)
    taken = np.zeros(len(seen.gradual) + 1, bool)
    for boundary in found:
        taken[boundary.first : boundary.last + 1] = True
    sharp = {cut: score for cut, score in seen.sharp.items() if not taken[cut]}
    alone = [*_learned_alone(seen, settings, taken, sharp)]
    for cut, score in sharp.items():
        agreed = _agreement(seen, settings, cut)
        voices = {"content": score, **agreed}
        if agreed:
            found.append(Boundary("cut", cut, cut, voices))
        else:
            alone.append(Boundary("transition", cut - 1, cut + 1, voices))
    return [_rounded(boundary) for boundary in _merged([*found, *alone])]


def _rounded(boundary: Boundary) -> Boundary:
    """With scores as precise as another number of threads gives them, too."""
    voices = {name: round(score, 3) for name, score in boundary.detectors.items()}
    return replace(boundary, detectors=voices)


def is_clear(seen: Evidence, settings: Split, cut: int) -> bool:
    """Whether Gradual shows the plateau of a hard cut: up in a step, level, down in a step."""
    scores = seen.gradual
    low, high = cut - REACH, cut + REACH
    if low < REACH + _STEP or high + REACH + _STEP > len(scores):
        return bool(scores[cut] >= settings.confirm)
    level = scores[low + 1 : high - 1]
    before, after = scores[low - _STEP], scores[high + _STEP - 1]
    most = float(level.max())
    flat = float(level.min()) >= 0.7 * most
    return bool(most >= settings.confirm and flat and max(before, after) <= 0.75 * most)


def doubtful(seen: Evidence, settings: Split, start: int, end: int) -> bool:
    """Whether the frames [start, end) hold anything that a clear cut does not explain."""
    open_to = np.zeros(len(seen.gradual), bool)
    open_to[max(0, start - REACH) : end + REACH] = True
    for cut in seen.sharp:
        near = slice(max(0, cut - REACH - _STEP), cut + REACH + _STEP)
        if is_clear(seen, settings, cut):
            open_to[near] = False
        elif start <= cut < end:
            return True
    return bool((seen.gradual[open_to] >= settings.doubt).any())


def _agreement(seen: Evidence, settings: Split, cut: int) -> dict[str, float]:
    """The other detectors that say there is a cut at `cut`, with their scores."""
    if seen.looked[cut]:
        # The learned one is high at the last frame of the old shot.
        near = slice(max(0, cut - 1 - settings.agreement), cut + settings.agreement)
        score = float(max(seen.one[near].max(), seen.many[near].max()))
        return {"learned": score} if score >= settings.agree else {}
    if is_clear(seen, settings, cut):
        return {"histogram": float(seen.gradual[cut])}
    return {}


def _transitions(seen: Evidence, settings: Split) -> Iterator[Boundary]:
    """Runs of frames that the learned detector counts to a transition, longer than a cut's."""
    for first, end in _runs(seen.many >= settings.low, _GAP):
        scores = seen.many[first:end]
        peak = float(scores.max())
        wide = int((scores >= max(settings.low, peak / 4)).sum())
        if peak >= settings.gradual and wide >= _LONG:
            voices = {"learned": float(max(peak, seen.one[first:end].max()))}
            voices |= {"content": max(s)} if (s := _within(seen.sharp, first, end + 1)) else {}
            yield Boundary("transition", first, end, voices)


def _bumps(seen: Evidence, settings: Split) -> Iterator[Boundary]:
    """Changes of colour over many frames, where the learned detector did not look."""
    scores = np.where(seen.looked, 0, seen.gradual)
    for cut in seen.sharp:
        if is_clear(seen, settings, cut):
            scores[max(0, cut - REACH - _STEP) : cut + REACH + _STEP] = 0
    for first, end in _runs(scores >= settings.confirm, 0):
        peak = float(scores[first:end].max())
        if peak < settings.histogram:
            continue
        half = np.flatnonzero(scores[first:end] >= peak / 2) + first
        start, stop = int(half[0]) + _INSIDE, int(half[-1]) + 1 - _INSIDE
        if stop - start < 2:
            start, stop = (start + stop) // 2 - 1, (start + stop) // 2 + 1
        start = max(0, min(start, len(scores) - 1))
        stop = max(start + 1, min(stop, len(scores)))
        yield Boundary("transition", start, stop, {"histogram": peak})


def _learned_alone(
    seen: Evidence, settings: Split, taken: np.ndarray, sharp: Mapping[int, float]
) -> Iterator[Boundary]:
    for first, end in _runs(seen.one >= settings.learned_threshold, 1):
        cut = first + int(seen.one[first:end].argmax()) + 1
        near = range(cut - settings.agreement, cut + settings.agreement + 1)
        inside = cut < len(taken) - 1 and not taken[first : end + 1].any()
        if inside and not any(other in sharp for other in near):
            yield Boundary("transition", first, end + 1, {"learned": float(seen.one[cut - 1])})


def _within(sharp: Mapping[int, float], first: int, end: int) -> list[float]:
    return [score for cut, score in sharp.items() if first <= cut < end]


def _runs(high: np.ndarray, gap: int) -> list[tuple[int, int]]:
    """Runs [first, end) of what is true; those no more than `gap` apart are one."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], high, [False]])))
    runs: list[tuple[int, int]] = []
    for first, end in edges.reshape(-1, 2).tolist():
        if runs and first - runs[-1][1] <= gap:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((first, end))
    return runs


def _merged(boundaries: list[Boundary]) -> list[Boundary]:
    """In order; those that overlap are one transition, with all that spoke for either."""
    done: list[Boundary] = []
    for new in sorted(boundaries, key=lambda b: (b.first, b.last)):
        if done and new.first < done[-1].last:
            old = done.pop()
            names = sorted({*old.detectors, *new.detectors})
            voices = {n: max(old.detectors.get(n, 0), new.detectors.get(n, 0)) for n in names}
            new = Boundary("transition", old.first, max(old.last, new.last), voices)
        done.append(new)
    return done
