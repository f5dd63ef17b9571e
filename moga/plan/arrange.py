"""Arrangements of so many cards, and which of them is fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from . import generation, training
from .errors import PlanError
from .estimate import Arrangement, Estimate
from .generation import Sampling
from .passes import Job
from .training import Learning

Estimated = Callable[[Arrangement], Estimate]


def for_sampling(job: Job, sampling: Sampling) -> Estimated:
    """What an arrangement comes to for a film."""
    return lambda how: generation.estimate(replace(job, arrangement=how), sampling)


def for_learning(job: Job, learning: Learning) -> Estimated:
    """What an arrangement comes to for a training."""
    return lambda how: training.estimate(replace(job, arrangement=how), learning)


def sampling_ways(cards: int, heads: int, guided: bool, sequence: int | None) -> list[Arrangement]:
    """What so many cards can do for one film; the rest make other films at once."""
    found = []
    for halves in (1, 2) if guided else (1,):
        for ranks in _ranks(cards // halves, heads, sequence):
            found.append(Arrangement(ranks, halves, cards // (halves * ranks)))
    return found


def learning_ways(
    cards: int, heads: int, clips: int, sequence: int | None, shard: int | None
) -> list[Arrangement]:
    """What so many cards can do for a step of so many clips."""
    found = []
    for ranks in _ranks(cards, heads, sequence):
        copies = min(cards // ranks, clips)
        used = ranks * copies
        if shard is None:
            found.append(Arrangement(ranks, 1, copies, used))
        elif used % shard == 0:
            found.append(Arrangement(ranks, 1, copies, shard))
    return found


def _ranks(cards: int, heads: int, sequence: int | None) -> Iterable[int]:
    most = min(cards, heads)
    return range(1, most + 1) if sequence is None else [sequence] * (sequence <= most)


def fastest(ways: Iterable[Arrangement], estimated: Estimated) -> tuple[Estimate, bool]:
    """The one with the shortest step, and whether it fits; where none fits, the one nearest to it.

    Of two that are equally fast (to 1 %), the one with fewer cards for a step.
    """
    found = [estimated(way) for way in ways]
    if not found:
        raise PlanError("no arrangement of these cards is possible; give more.")
    if not any(one.fits for one in found):
        return min(found, key=lambda one: one.bytes_held), False
    fit = [one for one in found if one.fits]
    best = min(one.step for one in fit)
    near = [one for one in fit if one.step <= 1.01 * best]
    return min(near, key=lambda one: (one.arrangement.sequence * one.arrangement.halves, one.step)), True
