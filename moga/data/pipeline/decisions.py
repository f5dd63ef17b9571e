"""Measures held against limits: what is dropped says why, in words and in numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from .records import Decision, Shot, Source

Record = TypeVar("Record", Source, Shot)


@dataclass(frozen=True)
class Limit:
    """A value, and what it must be at least or at most. words: of the reason to drop, formatted
    with `value` and `limit`."""

    measure: str
    value: float
    words: str
    least: float | None = None
    most: float | None = None

    def decision(self, stage: str) -> Decision:
        """Kept unless the value is beyond the limit."""
        limit = self.least if self.most is None else self.most
        low = self.least is not None and self.value < self.least
        kept = not low and not (self.most is not None and self.value > self.most)
        why = "" if kept else self.words.format(value=self.value, limit=limit)
        return Decision(stage, kept, why, self.measure, float(self.value), float(limit))


def judged(record: Record, stage: str, limits: Iterable[Limit]) -> Record:
    """The record with a decision for each limit; dropped if any is passed."""
    found = tuple(limit.decision(stage) for limit in limits)
    kept = record.kept and all(decision.kept for decision in found)
    return replace(record, decisions=(*record.decisions, *found), kept=kept)


def dropped(record: Record, stage: str, reason: str) -> Record:
    """The record, dropped for a reason without a number."""
    why = Decision(stage, False, reason)
    return replace(record, decisions=(*record.decisions, why), kept=False)
