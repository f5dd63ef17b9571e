"""A request answered: the fastest arrangement of its cards, and the smallest that would fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from . import generation, training
from .arrange import fastest, learning_ways, sampling_ways
from .estimate import Arrangement, Estimate
from .options import Request
from .passes import Job
from .training import ADAMW_8BIT


@dataclass(frozen=True)
class Answer:
    """For one kind of work. job: with the arrangement that was chosen. cards: that were given.

    fitting: where it does not fit, the smallest number of cards that it does, and how; or None.
    others: half as many cards and twice as many, and what they do; None where it does not fit.
    """

    job: Job
    estimate: Estimate
    cards: int
    fits: bool
    fitting: tuple[int, Estimate] | None
    others: tuple[tuple[int, Estimate | None], ...]

    @property
    def idle(self) -> int:
        return self.cards - self.estimate.arrangement.cards


def answers(request: Request) -> tuple[Answer | None, Answer | None]:
    """For generation and for training; None for what was not asked."""
    return (
        None if request.sampling is None else _answer(request, best_sampling),
        None if request.learning is None else _answer(request, best_learning),
    )


Best = Callable[[Request], tuple[Estimate, bool]]


def best_sampling(request: Request) -> tuple[Estimate, bool]:
    """The fastest way to make one film, with others beside it on what is left; does it fit?"""
    job, sampling = job_of(request), request.sampling
    return fastest(
        sampling_ways(request.gpus, _most(request), sampling.guided, request.sequence),
        lambda how: generation.estimate(replace(job, arrangement=how), sampling),
        lambda one: one.step,
    )


def best_learning(request: Request) -> tuple[Estimate, bool]:
    """The way to do most clips a second; does it fit?"""
    job, learning = job_of(request), request.learning
    shard = 1 if learning.optimizer == ADAMW_8BIT else request.shard
    ways = learning_ways(
        *(request.gpus, _most(request), learning.clips, request.sequence, shard),
        request.network.host_cards,
        learning.host_weights,
    )
    return fastest(
        ways,
        lambda how: training.estimate(replace(job, arrangement=how), learning),
        lambda one: one.step / (learning.clips or one.arrangement.copies),
    )


def _most(request: Request) -> int:
    """Ranks to a sequence: each needs a head and a token."""
    return min(request.film.model.heads, request.film.layout.tokens)


def job_of(request: Request) -> Job:
    """Before its cards are arranged."""
    how = Arrangement()
    return Job(request.film, request.card, request.network, how, request.backend)


def _answer(request: Request, best: Best) -> Answer:
    found, fits = best(request)
    job = replace(job_of(request), arrangement=found.arrangement)
    fitting = None if fits else _smallest(request, best)
    return Answer(job, found, request.gpus, fits, fitting, _others(request, best))


def _others(request: Request, best: Best) -> tuple[tuple[int, Estimate | None], ...]:
    free, found = replace(request, sequence=None, shard=None), []
    for cards in {request.gpus // 2, request.gpus * 2} - {0} - _too_few(request, best):
        estimate, fits = best(replace(free, gpus=cards))
        found.append((cards, estimate if fits else None))
    return tuple(sorted(found, key=lambda other: other[0]))


def _too_few(request: Request, best: Best) -> set[int]:
    """Numbers of cards over which nothing can be split that is asked to be."""
    return {1} if best is best_learning and request.learning.host_weights else set()


def _smallest(request: Request, best: Best) -> tuple[int, Estimate] | None:
    """Of all numbers of cards to 16, and then of powers of two to 1,024."""
    free = replace(request, sequence=None, shard=None)
    tried = (*range(1, 17), *(2**power for power in range(5, 11)))
    for cards in (count for count in tried if count not in _too_few(request, best)):
        estimate, fits = best(replace(free, gpus=cards))
        if fits:
            return cards, estimate
    return None
