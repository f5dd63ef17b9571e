"""Shot-level text: the visual tokens of a shot read the text tokens of that shot, and no others.

Visual tokens are ordered frame by frame, so a shot is one contiguous range of them: instead of a
mask, cross-attention runs once per range with the text tokens that belong to it.

Letters: B batch, L visual tokens, X text tokens, C model width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Span = tuple[int, int]  # (start, stop)


class Reading(NamedTuple):
    """One range of visual tokens and the ranges of context tokens that it reads."""

    tokens: Span
    context: tuple[Span, ...]


def shot_parts(
    x: Tensor, context: Tensor, readings: Sequence[Reading]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each range of x (B, L, C) with the part of context (B, X, C) that it reads.

    readings: consecutive ranges that cover x, so that cross-attention of the parts, one after the
        other along L, is that of the whole.
    """
    if len(readings) == 1 and readings[0].context == ((0, context.shape[1]),):
        yield x, context
        return
    for (first, last), spans in readings:
        yield x[:, first:last], _cut(context, spans)


def joined(outs: Sequence[Tensor]) -> Tensor:
    """What the parts gave, one after the other along L."""
    return outs[0] if len(outs) == 1 else torch.cat(tuple(outs), dim=1)


def _cut(context: Tensor, spans: tuple[Span, ...]) -> Tensor:
    parts = [context[:, first:last] for first, last in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
