"""One layer at its own q, k and v: some queries, under MoGA and under dense attention.

The keys pass by a chunk at a time, so nothing of L x L is ever held: `moga.attention.reference`
says what a query sees, and this gives its numbers for the queries that were asked for.

Letters: L visual tokens, Q queries, K keys of a chunk, N heads, D head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention import key_boxes, visible
from ..config import MoGAConfig
from ..layout import VideoLayout
from ..routing import Routing

_SCORES = 1 << 24  # that exist at once, N * Q * K: 64 MB in float32
DENSE, NEAR, FAR = "dense", "near", "far"


@dataclass(frozen=True)
class LayerSample:
    """What queries get from dense attention and from MoGA.

    dense, moga: (Q, N, D) outputs, before the output projection.
    near, far: (Q,) shares of the dense softmax mass, mean over heads: of keys in the query's window
        or frame, and of those that only its group shows it.
    seen: (Q,) keys that MoGA shows over all keys, every key once.
    """

    dense: Tensor
    moga: Tensor
    near: Tensor
    far: Tensor
    seen: Tensor

    @property
    def error(self) -> float:
        """Size of the difference of both outputs over that of the dense one, all queries as one."""
        size = self.dense.norm()
        return float((self.moga - self.dense).norm() / size) if size > 0 else 0.0

    @property
    def recall(self) -> Tensor:
        """(Q,) share of the dense softmax mass that the keys hold which MoGA shows."""
        return self.near + self.far


def sample_layer(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    queries: Tensor,
    routing: Routing | None,
    layout: VideoLayout,
    config: MoGAConfig,
) -> LayerSample:
    """The layer's output for some queries, by its definition, beside that of dense attention.

    q: (Q, N, D) of the queries alone; k, v: (L, N, D); after norm and RoPE. queries: (Q,) int64
    token numbers. routing: of one sample; None where config has no "routed" branch.
    Computed in float32, or in float64 for such q.
    """
    precise = torch.promote_types(q.dtype, torch.float32)
    asked = q.to(precise).transpose(0, 1) / math.sqrt(q.shape[-1])  # (N, Q, D)
    parts = {name: _Softmax(asked) for name in _parts_of(config)}
    count, tokens = len(queries), layout.tokens
    seen = torch.zeros(count, dtype=torch.int64, device=q.device)
    step = max(1, _SCORES // (count * q.shape[1]))
    boxes = key_boxes(queries, layout, config)
    for first in range(0, tokens, step):
        keys = torch.arange(first, min(tokens, first + step), device=q.device)
        masks = _masks(queries, keys, routing, layout, config, boxes)
        chunk_k, chunk_v = (t[keys[0] : keys[-1] + 1].to(precise).transpose(0, 1) for t in (k, v))
        scores = asked @ chunk_k.transpose(1, 2)  # (N, Q, K)
        for name, part in parts.items():
            part.add(scores, chunk_v, masks.get(name))
        seen += (masks[NEAR] | masks[FAR]).sum(dim=-1)
    total = parts[DENSE].lse
    near, far = ((parts[name].lse - total).exp().mean(dim=0) for name in (NEAR, FAR))
    gate = None
    if routing is not None and config.gate and "routed" in config.branches:
        gate = routing.gate[0, queries].to(precise)
    merge = _one_softmax if config.combine == "union" else _mean
    out = merge(parts, gate, config)
    dense = parts[DENSE].out
    return LayerSample(
        dense.transpose(0, 1), out.transpose(0, 1), near, far, seen.to(precise) / tokens
    )


class _Softmax:
    """A softmax over keys that come in chunks, and what it makes of their values."""

    def __init__(self, asked: Tensor) -> None:
        self._most = asked.new_full(asked.shape[:2], -math.inf)  # (N, Q), score so far
        self._sum = asked.new_zeros(asked.shape[:2])
        self._values = torch.zeros_like(asked)

    def add(self, scores: Tensor, v: Tensor, mask: Tensor | None) -> None:
        """scores (N, Q, K), v (N, K, D), mask (Q, K): which keys count; None for all."""
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        most = torch.maximum(self._most, scores.amax(dim=-1))
        base = most.masked_fill(most == -math.inf, 0)  # where no key has counted yet
        weights = (scores - base[..., None]).exp()
        before = (self._most - base).exp()
        self._sum = self._sum * before + weights.sum(dim=-1)
        self._values = self._values * before[..., None] + weights @ v
        self._most = most

    @property
    def lse(self) -> Tensor:
        """(N, Q) log of the sum of all weights; minus infinity where no key counted."""
        return self._sum.log() + self._most.masked_fill(self._most == -math.inf, 0)

    @property
    def out(self) -> Tensor:
        """(N, Q, D), zero where no key counted."""
        tiny = torch.finfo(self._sum.dtype).tiny
        return self._values / self._sum.clamp_min(tiny)[..., None]


def _parts_of(config: MoGAConfig) -> tuple[str, ...]:
    return (DENSE, NEAR, FAR) + (config.branches if config.combine == "mean" else ())


def _masks(
    queries: Tensor,
    keys: Tensor,
    routing: Routing | None,
    layout: VideoLayout,
    config: MoGAConfig,
    boxes: Tensor,
) -> dict[str, Tensor]:
    """(Q, K) of each branch, and of what is near and far."""
    masks = {
        name: visible(name, queries, routing, layout, config, keys, boxes)[0]
        for name in config.branches
    }
    near = torch.zeros(len(queries), len(keys), dtype=torch.bool, device=keys.device)
    for name in ("windows", "frames"):
        near = near | masks.get(name, near)
    return {**masks, NEAR: near, FAR: masks.get("routed", near) & ~near}


def _one_softmax(parts: dict[str, _Softmax], gate: Tensor | None, config: MoGAConfig) -> Tensor:
    near, far = parts[NEAR].lse, parts[FAR].lse
    if gate is not None:
        far = far + (config.groups * gate).log()
    share = torch.stack([near, far]).softmax(dim=0)[..., None]
    return share[0] * parts[NEAR].out + share[1] * parts[FAR].out


def _mean(parts: dict[str, _Softmax], gate: Tensor | None, config: MoGAConfig) -> Tensor:
    outs = []
    for name in config.branches:
        out = parts[name].out
        outs.append(out * gate[:, None] if name == "routed" and gate is not None else out)
    return torch.stack(outs).mean(dim=0)
