"""Arrangements of so many cards, and which of them is fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .errors import PlanError
from .estimate import Arrangement, Estimate

_ALIKE = 1.01  # times as long is as fast: then the one with fewer ranks to a film is better


def sampling_ways(cards: int, heads: int, guided: bool, sequence: int | None) -> list[Arrangement]:
    """What so many cards can do for one film; the rest make other films at once."""
    return [
        Arrangement(ranks, halves, cards // (halves * ranks))
        for halves in ((1, 2) if guided else (1,))
        for ranks in _ranks(cards // halves, heads, sequence)
    ]


def learning_ways(
    cards: int,
    heads: int,
    clips: int | None,
    sequence: int | None,
    shard: int | None,
    host_cards: int,
    split: bool = False,
) -> list[Arrangement]:
    """What so many cards can do for a step of so many clips; None: as many as go side by side.

    Weights are whole on each card, split over a host's, or over all, where `shard` doesn't say.
    split: never whole.
    """
    found = []
    for ranks in _ranks(cards, heads, sequence):
        copies = min(cards // ranks, clips or cards)
        used = ranks * copies
        shards = {1, host_cards, used} if shard is None else {shard}
        if split:
            shards -= {1}
        found += [Arrangement(ranks, 1, copies, s) for s in sorted(shards) if used % s == 0]
    return found


def _ranks(cards: int, heads: int, sequence: int | None) -> Iterable[int]:
    most = min(cards, heads)
    return range(1, most + 1) if sequence is None else [sequence] * (sequence <= most)


def fastest(
    ways: Iterable[Arrangement],
    estimated: Callable[[Arrangement], Estimate],
    cost: Callable[[Estimate], float],
) -> tuple[Estimate, bool]:
    """The one with the least cost that fits, and True; where none fits, the smallest and False.

    Raises PlanError where there are none.
    """
    found = [estimated(way) for way in ways]
    if not found:
        raise PlanError(
            "no arrangement of these cards is what --sequence, --shard and --host-weights say; "
            "--shard has to divide the cards that have work, and --host-weights needs two of them, "
            "so give others, or leave them out."
        )
    fitting = [one for one in found if one.fits]
    if not fitting:
        return min(found, key=lambda one: one.bytes_held), False
    alike = _ALIKE * min(map(cost, fitting))
    near = [one for one in fitting if cost(one) <= alike]
    return min(near, key=lambda one: (_together(one.arrangement), cost(one))), True


def _together(how: Arrangement) -> int:
    return how.sequence * how.halves
