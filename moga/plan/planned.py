"""A request answered: the fastest arrangement of its cards, and the smallest that would fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .arrange import fastest, for_learning, for_sampling, learning_ways, sampling_ways
from .errors import PlanError
from .estimate import Arrangement, Estimate
from .options import Request
from .passes import Job
from .training import Learning

_LARGEST = 1024  # cards, up to which an arrangement that fits is looked for


@dataclass(frozen=True)
class Answer:
    """For one kind of work. job: with the arrangement that was chosen.

    fitting: where it does not fit, the smallest number of cards that does; None if none does.
    clips: of a training step; 0 for generation.
    """

    job: Job
    estimate: Estimate
    cards: int
    fits: bool
    fitting: int | None
    clips: int = 0

    @property
    def idle(self) -> int:
        return self.cards - self.estimate.arrangement.cards


def job_of(request: Request) -> Job:
    """Before its cards are arranged."""
    how = Arrangement()
    return Job(request.film, request.card, request.network, how, request.backend)


def generation(request: Request) -> Answer:
    """The fastest way to make one film with the cards, others beside it on what is left."""
    job, sampling = job_of(request), request.sampling
    estimated = for_sampling(job, sampling)

    def ways(cards: int, sequence: int | None) -> list[Arrangement]:
        return sampling_ways(cards, request.film.model.heads, sampling.guided, sequence)

    best, fits = fastest(ways(request.gpus, request.sequence), estimated)
    fitting = None if fits else _smallest(lambda cards: fastest(ways(cards, None), estimated)[1])
    return Answer(replace(job, arrangement=best.arrangement), best, request.gpus, fits, fitting)


def training(request: Request) -> Answer:
    """The fastest way to do a step of so many clips; of one a card group where none are given."""
    job, heads = job_of(request), request.film.model.heads

    def answer(cards: int, sequence: int | None, shard: int | None) -> tuple[Estimate, bool, int]:
        if request.learning.clips:
            estimated = for_learning(job, request.learning)
            ways = learning_ways(cards, heads, request.learning.clips, sequence, shard)
            return *_checked(ways, estimated, shard), request.learning.clips
        # As many clips as fit side by side: the fewest ranks for each, and all of them busy.
        best = None
        for ranks in [sequence] if sequence else range(1, min(cards, heads) + 1):
            clips = cards // ranks
            learning = replace(request.learning, clips=clips)
            ways = [w for w in learning_ways(cards, heads, clips, ranks, shard) if w.copies == clips]
            if not ways:
                continue
            found = (*_checked(ways, for_learning(job, learning), shard), clips)
            if best is None or _better(found, best):
                best = found
        if best is None:
            raise _no_shard(shard)
        return best

    best, fits, clips = answer(request.gpus, request.sequence, request.shard)
    fitting = None if fits else _smallest(lambda cards: answer(cards, None, None)[1])
    job = replace(job, arrangement=best.arrangement)
    return Answer(job, best, request.gpus, fits, fitting, clips)


def _better(found: tuple[Estimate, bool, int], best: tuple[Estimate, bool, int]) -> bool:
    """Fits where the other doesn't; or else does more clips a second."""
    if found[1] != best[1]:
        return found[1]
    if not found[1]:
        return found[0].bytes_held < best[0].bytes_held
    return found[2] / found[0].step > 1.01 * best[2] / best[0].step


def _checked(ways, estimated, shard: int | None) -> tuple[Estimate, bool]:
    if not ways:
        raise _no_shard(shard)
    return fastest(ways, estimated)


def _no_shard(shard: int | None) -> PlanError:
    return PlanError(
        f"--shard is {shard}, which does not divide the cards that have work; give a number that "
        "does, or leave it out."
    )


def _smallest(fits) -> int | None:
    """Cards from which on it fits, at most _LARGEST, found among all numbers up to 16 and powers."""
    for cards in (*range(1, 17), *(2**power for power in range(5, 11))):
        if cards <= _LARGEST and fits(cards):
            return cards
    return None


def learning_of(answer: Answer, learning: Learning) -> Learning:
    """With the clips that were chosen."""
    return replace(learning, clips=answer.clips)
