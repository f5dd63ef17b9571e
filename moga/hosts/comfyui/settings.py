"""What `Apply MoGA` or `Apply Shot Prompts` was asked for, checked."""

from __future__ import annotations

from dataclasses import dataclass

from ...kernels import AUTO
from ...shots import ShotList

MOGA, DENSE = "moga", "dense"


@dataclass(frozen=True)
class Settings:
    """The inputs of `Apply MoGA` apart from the model and its routers.

    attention: "moga", or "dense" for per-shot text alone, which `Apply Shot Prompts` gives; then
        shots and ffn_chunks are all else that counts.
    start_percent, end_percent: the part of sampling in which MoGA runs; dense outside.
    dense_blocks: indices of blocks that stay dense. min_tokens: fewer tokens stay dense.
    ffn_chunks: parts of the tokens that go through a feed-forward one after the other.
    """

    shots: ShotList | None = None
    attention: str = MOGA
    start_percent: float = 0.0
    end_percent: float = 1.0
    dense_blocks: frozenset[int] = frozenset()
    min_tokens: int = 0
    backend: str = AUTO
    ffn_chunks: int = 1

    def __post_init__(self) -> None:
        if self.attention not in (MOGA, DENSE):
            raise ValueError(f"attention is {self.attention!r}; choose 'moga' or 'dense'.")
        if not 0 <= self.start_percent < self.end_percent <= 1:
            raise ValueError(
                f"start_percent is {self.start_percent:g} and end_percent {self.end_percent:g}; "
                "give 0 <= start_percent < end_percent <= 1."
            )
        if self.ffn_chunks < 1:
            raise ValueError(f"ffn_chunks is {self.ffn_chunks}; give 1 or more.")

    @property
    def node(self) -> str:
        """The node that asks for this, by the name that people see."""
        return "Apply Shot Prompts" if self.attention == DENSE else "Apply MoGA"
