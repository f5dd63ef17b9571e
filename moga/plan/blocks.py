"""One Wan block on one card: operations, and seconds forward and backward.

Letters: L visual tokens of the whole film, l those of this card, X text tokens, C model width,
F feed-forward width.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..flops import ModelShape
from ..wan import HEAD_WIDTH
from .backward import backward_steps
from .layer import FORWARD_FLOPS, VALUE, Kernels, forward_steps
from .parts import LayerParts
from .rates import Rates

# Passes over (l, C), each a read or a write of two bytes a number.
CROSS = 5  # of cross-attention: its norm, and the sum
ACTIVATION = 2  # over (l, F)


@dataclass(frozen=True)
class BlockWork:
    """What one card does of a block.

    tokens: l. heads: of the attention, which sees all L tokens. shots: each with a text of its own.
    """

    shape: ModelShape
    parts: LayerParts
    tokens: float
    heads: float
    shots: int = 1

    @property
    def unit(self) -> float:
        """Bytes of (l, C) in bfloat16."""
        return self.tokens * self.shape.width * VALUE

    @property
    def projections(self) -> float:
        """Operations of q, k, v and the output, router included."""
        return 2 * self.tokens * self.shape.width * (4 * self.shape.width + self.parts.groups)

    @property
    def feed_forward(self) -> float:
        return 4 * self.tokens * self.shape.width * self.shape.feed_forward

    @property
    def text_projections(self) -> float:
        """q and the output of every token, k and v of every text, which each card works out."""
        texts = self.shots * self.shape.text_tokens
        return 4 * (self.tokens + texts) * self.shape.width**2

    @property
    def text_attention(self) -> float:
        return 4 * self.tokens * self.shape.text_tokens * self.shape.width

    @property
    def attention(self) -> dict[str, float]:
        """Operations of the parts of self-attention, by their names."""
        heads = FORWARD_FLOPS * self.heads
        return {part.name: heads * part.pairs for part in self.parts.all}


def forward(work: BlockWork, kernels: Kernels, rates: Rates) -> dict[str, float]:
    """Seconds of each step of a forward pass, by the names that benchmarks/forward.py has."""
    unit, shape = work.unit, work.shape
    text = rates.forward["sdpa"].seconds(
        work.tokens * shape.text_tokens, shape.text_tokens, shape.width / HEAD_WIDTH, FORWARD_FLOPS
    )
    inner = ACTIVATION * unit * shape.feed_forward / shape.width
    return {
        "norm and modulation": rates.norms * unit / rates.elementwise,
        "projections": work.projections / rates.gemm,
        "qk-norm and RoPE": rates.rope * unit / rates.elementwise,
        "self-attention": sum(forward_steps(work.parts, kernels, work.heads, rates).values()),
        "cross-attention": work.text_projections / rates.gemm
        + text
        + CROSS * unit / rates.elementwise,
        "feed-forward": work.feed_forward / rates.gemm + inner / rates.elementwise,
    }


def backward(work: BlockWork, kernel: str, rates: Rates, *, frozen: bool) -> dict[str, float]:
    """Seconds of each step of a backward pass. frozen: whether the weights need no gradient."""
    unit, shape = work.unit, work.shape
    text = rates.backward["sdpa"].seconds(
        work.tokens * shape.text_tokens,
        shape.text_tokens,
        shape.width / HEAD_WIDTH,
        2.5 * FORWARD_FLOPS,
    )
    matrices = 1 if frozen else 2
    inner = ACTIVATION * unit * shape.feed_forward / shape.width
    passes = 2 * (rates.norms + rates.rope + CROSS) * unit + 2 * inner
    return {
        "norms, RoPE, modulation": passes / rates.elementwise,
        "projections": matrices * work.projections / rates.gemm,
        "self-attention": sum(backward_steps(work.parts, kernel, work.heads, rates).values()),
        "cross-attention": matrices * work.text_projections / rates.gemm + text,
        "feed-forward": matrices * work.feed_forward / rates.gemm,
    }
