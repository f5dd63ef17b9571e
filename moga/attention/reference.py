"""The definition: which keys a query sees in each branch, and attention by masks of that.

Letters: B batch, L visual tokens (t-major, then h, then w), Q some of them, N heads, D head width.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor

from ..config import MoGAConfig
from ..layout import VideoLayout, windows
from ..routing import Routing
from .validation import check_inputs


def moga_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Routing | None,
    layout: VideoLayout,
    config: MoGAConfig,
    *,
    backend: str = "auto",
) -> Tensor:
    """`moga_attention`, spelled out by L x L masks in float32 or better.

    Takes and returns what `moga_attention` does; `backend` is accepted and has no effect.
    """
    check_inputs(q, k, v, routing, layout, config)
    everyone = torch.arange(layout.tokens, device=q.device)
    precise = torch.promote_types(q.dtype, torch.float32)
    scores = torch.einsum("bqnd,bknd->bnqk", q.to(precise), k.to(precise)) / math.sqrt(q.shape[-1])
    outs, lses = [], []
    for branch in config.branches:
        seen = visible(branch, everyone, routing, layout, config)[:, None]
        masked = scores.masked_fill(~seen, -math.inf)
        out = torch.einsum("bnqk,bknd->bqnd", masked.softmax(dim=-1), v.to(precise))
        if branch == "routed" and config.gate and config.combine == "mean":
            out = out * routing.gate.to(precise)[..., None, None]
        outs.append(out)
        lses.append(rearrange(masked.logsumexp(dim=-1), "b n q -> b q n 1"))
    if config.combine == "mean":
        return torch.stack(outs).mean(dim=0).to(q.dtype)
    shares = torch.stack(lses).softmax(dim=0)
    return (torch.stack(outs) * shares).sum(dim=0).to(q.dtype)


def visible(
    branch: str,
    queries: Tensor,
    routing: Routing | None,
    layout: VideoLayout,
    config: MoGAConfig,
) -> Tensor:
    """Which keys the queries see in one branch, (B, Q, L) bool; B is 1 where samples don't differ.

    branch: "routed", "windows" or "frames". queries: (Q,) int64 token numbers.
    """
    if branch == "routed":
        return routing.group[:, queries, None] == routing.group[:, None, :]
    everyone = torch.arange(layout.tokens, device=queries.device)
    if branch == "frames":
        return (queries[:, None] // layout.frame_tokens == everyone // layout.frame_tokens)[None]
    seen = torch.zeros(len(queries), layout.tokens, dtype=torch.bool, device=queries.device)
    for window in windows(layout, config):
        asking, asked = (
            _within(tokens, layout, (frames, window.rows, window.columns))
            for tokens, frames in ((queries, window.frames), (everyone, window.key_frames))
        )
        seen |= asking[:, None] & asked
    return seen[None]


def _within(tokens: Tensor, layout: VideoLayout, box: tuple[tuple[int, int], ...]) -> Tensor:
    """Which tokens lie in a box of (start, stop) frames, rows and columns."""
    in_frame = tokens % layout.frame_tokens
    places = (tokens // layout.frame_tokens, in_frame // layout.width, in_frame % layout.width)
    inside = torch.ones_like(tokens, dtype=torch.bool)
    for place, (start, stop) in zip(places, box, strict=True):
        inside &= (place >= start) & (place < stop)
    return inside
