"""The definition: which keys a query sees in each branch, and attention by masks of that.

Letters: B batch, L visual tokens (t-major, then h, then w), Q some of them, N heads, D head width.
"""

from __future__ import annotations

import math

import torch
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
    seen = {name: visible(name, everyone, routing, layout, config) for name in config.branches}
    if config.combine == "union":
        near = torch.zeros_like(scores[:1, 0], dtype=torch.bool)
        for name in ("windows", "frames"):
            near = near | seen.get(name, near)
        every = near | seen.get("routed", near)
        if "routed" in seen and config.gate:
            weight = (config.groups * routing.gate.to(precise)).log()[:, None, :, None]
            scores = torch.where(near[:, None], scores, scores + weight)
        weights = scores.masked_fill(~every[:, None], -math.inf).softmax(dim=-1)
        return torch.einsum("bnqk,bknd->bqnd", weights, v.to(precise)).to(q.dtype)
    outs = []
    for name, mask in seen.items():
        weights = scores.masked_fill(~mask[:, None], -math.inf).softmax(dim=-1)
        out = torch.einsum("bnqk,bknd->bqnd", weights, v.to(precise))
        gated = name == "routed" and config.gate
        outs.append(out * routing.gate.to(precise)[..., None, None] if gated else out)
    return torch.stack(outs).mean(dim=0).to(q.dtype)


def visible(
    branch: str,
    queries: Tensor,
    routing: Routing | None,
    layout: VideoLayout,
    config: MoGAConfig,
    keys: Tensor | None = None,
    boxes: Tensor | None = None,
) -> Tensor:
    """Which keys the queries see in one branch, (B, Q, K) bool; B is 1 where samples don't differ.

    branch: "routed", "windows" or "frames". queries: (Q,) int64 token numbers, and keys: (K,); all
    L where they are None. boxes: `key_boxes` of the queries, where they are known already.
    """
    if keys is None:
        keys = torch.arange(layout.tokens, device=queries.device)
    if branch == "routed":
        return routing.group[:, queries, None] == routing.group[:, None, keys]
    if branch == "frames":
        return (queries[:, None] // layout.frame_tokens == keys // layout.frame_tokens)[None]
    boxes = key_boxes(queries, layout, config) if boxes is None else boxes
    seen = torch.ones(len(queries), len(keys), dtype=torch.bool, device=queries.device)
    for place, bounds in zip(_places(keys, layout), boxes.unbind(1), strict=True):
        seen &= (place >= bounds[:, :1]) & (place < bounds[:, 1:])
    return seen[None]


def key_boxes(queries: Tensor, layout: VideoLayout, config: MoGAConfig) -> Tensor:
    """Frames, rows and columns, each from and to, of the keys in each query's window: (Q, 3, 2)."""
    places = torch.stack(_places(queries.cpu(), layout))  # many small steps: none for a GPU
    boxes = torch.zeros(len(queries), 3, 2, dtype=torch.int64)
    for window in windows(layout, config):  # every query lies in one
        area = torch.tensor((window.frames, window.rows, window.columns))
        inside = ((places >= area[:, :1]) & (places < area[:, 1:])).all(dim=0)
        boxes[inside] = torch.tensor((window.key_frames, window.rows, window.columns))
    return boxes.to(queries.device)


def _places(tokens: Tensor, layout: VideoLayout) -> tuple[Tensor, Tensor, Tensor]:
    """Frame, row and column of each token."""
    in_frame = tokens % layout.frame_tokens
    return tokens // layout.frame_tokens, in_frame // layout.width, in_frame % layout.width
