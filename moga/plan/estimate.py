"""What one arrangement of cards comes to."""

from __future__ import annotations

from dataclasses import dataclass

from .cards import Card


@dataclass(frozen=True)
class Arrangement:
    """How cards share the work.

    sequence: ranks that share the tokens of one forward pass. halves: 2 where guidance's two
    forwards run side by side. copies: films, or clips of a step, side by side. shard: cards that
    the weights are split over; 1: each has all.
    """

    sequence: int = 1
    halves: int = 1
    copies: int = 1
    shard: int = 1

    @property
    def cards(self) -> int:
        """How many have work."""
        return self.sequence * self.halves * self.copies


@dataclass(frozen=True)
class Estimate:
    """Of one card and one step.

    seconds, wire (bytes received), memory (bytes), operations: of their parts by name; `memory` is
    what is held at the worst moment. forwards: how many this card does in a step, one after the
    other. film_operations: of one forward pass of one film, on all cards together.
    """

    card: Card
    arrangement: Arrangement
    seconds: dict[str, float]
    wire: dict[str, float]
    memory: dict[str, float]
    operations: dict[str, float]
    forwards: int

    @property
    def step(self) -> float:
        return sum(self.seconds.values())

    @property
    def bytes_held(self) -> float:
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        return self.bytes_held <= self.card.usable
