"""The MoGA attention layer: routed groups, static windows and frames over the same q, k and v.

`moga_attention_reference` spells the definition out with masks; `moga_attention` computes the same
by permuting tokens so that every neighbourhood is one segment of a variable-length attention call.
RoPE is applied before, with the true position of every token; the output projection comes after.

Letters: B batch, L visual tokens (t-major, then h, then w), N heads, D head width, M groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor

from .config import MoGAConfig
from .kernels import AUTO, Backend, Segments, attend, needs_grad, select
from .layout import VideoLayout, Window, windows
from .routing import Routing


def moga_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Routing | None,
    layout: VideoLayout,
    config: MoGAConfig,
    *,
    backend: str = AUTO,
) -> Tensor:
    """One MoGA attention layer (arXiv 2510.18692, section 3).

    q, k, v: (B, L, N, D), after qk-norm and RoPE, L = layout.tokens.
    routing: what `TokenRouter` made of the layer's input, for B samples of L tokens; None when
        config has no "routed" branch.
    Returns (B, L, N, D) in the type of q. Raises ValueError when the shapes do not belong together
    and BackendError when the backend cannot run.
    """
    _check(q, k, v, routing, layout, config)
    with_lse = config.combine == "lse"
    chosen, _ = select(backend, q, training=needs_grad(q, k, v), lse=with_lse)
    parts = []
    for branch in config.branches:
        if branch == "routed":
            out, lse = _routed(q, k, v, routing, chosen, with_lse)
            if config.gate and not with_lse:
                out = (out * routing.gate[..., None, None]).to(out.dtype)
        elif branch == "windows":
            out, lse = _windowed(q, k, v, layout, config, chosen, with_lse)
        else:
            out, lse = _framewise(q, k, v, layout, chosen, with_lse)
        parts.append((out, lse))
    return _mean(parts) if config.combine == "mean" else _weighted(parts)


def moga_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Routing | None,
    layout: VideoLayout,
    config: MoGAConfig,
    *,
    backend: str = AUTO,
) -> Tensor:
    """The definition, for tests: `moga_attention` by L x L masks in float32 or better.

    Takes and returns what `moga_attention` does; `backend` is accepted and has no effect.
    """
    _check(q, k, v, routing, layout, config)
    precise = torch.promote_types(q.dtype, torch.float32)
    scores = torch.einsum("bqnd,bknd->bnqk", q.to(precise), k.to(precise)) / math.sqrt(q.shape[-1])
    outs, lses = [], []
    for branch in config.branches:
        masked = scores.masked_fill(~_mask(branch, routing, layout, config, q.device), -math.inf)
        out = torch.einsum("bnqk,bknd->bqnd", masked.softmax(dim=-1), v.to(precise))
        if branch == "routed" and config.gate and config.combine == "mean":
            out = out * routing.gate.to(precise)[..., None, None]
        outs.append(out)
        lses.append(rearrange(masked.logsumexp(dim=-1), "b n q -> b q n 1"))
    if config.combine == "mean":
        return torch.stack(outs).mean(dim=0).to(q.dtype)
    shares = torch.stack(lses).softmax(dim=0)
    return (torch.stack(outs) * shares).sum(dim=0).to(q.dtype)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Routing | None,
    layout: VideoLayout,
    config: MoGAConfig,
) -> None:
    if q.ndim != 4 or q.shape != k.shape or q.shape != v.shape:
        shapes = ", ".join(str(tuple(t.shape)) for t in (q, k, v))
        raise ValueError(f"q, k and v have shapes {shapes}; give three equal (B, L, N, D).")
    if q.shape[1] != layout.tokens:
        raise ValueError(
            f"q has {q.shape[1]} tokens, but the layout of {layout.frames} x {layout.height} x "
            f"{layout.width} has {layout.tokens}."
        )
    if "routed" not in config.branches:
        return
    if routing is None:
        raise ValueError("routing is None, but config has the branch 'routed'; give a Routing.")
    if tuple(routing.group.shape) != tuple(q.shape[:2]):
        raise ValueError(
            f"routing is for {tuple(routing.group.shape)} tokens, q has {tuple(q.shape[:2])}."
        )
    if routing.groups != config.groups:
        raise ValueError(f"routing has {routing.groups} groups, config {config.groups}.")


# --- the reference's masks -----------------------------------------------------------------------


def _mask(
    branch: str,
    routing: Routing | None,
    layout: VideoLayout,
    config: MoGAConfig,
    device: torch.device,
) -> Tensor:
    """Which query sees which key, broadcastable to (B, N, L, L)."""
    if branch == "routed":
        return (routing.group[:, :, None] == routing.group[:, None, :])[:, None]
    if branch == "frames":
        frame = torch.arange(layout.tokens, device=device) // layout.frame_tokens
        return (frame[:, None] == frame[None, :])[None, None]
    mask = torch.zeros(layout.tokens, layout.tokens, dtype=torch.bool, device=device)
    for window in windows(layout, config):
        queries, keys = (_box(layout, window, side).to(device) for side in ("frames", "key_frames"))
        mask[queries[:, None], keys[None, :]] = True
    return mask[None, None]


# --- branches: permute, attend, un-permute -------------------------------------------------------


def _routed(
    q: Tensor, k: Tensor, v: Tensor, routing: Routing, backend: Backend, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Attention inside each group of each sample; one segment per group."""
    group = routing.group.to(torch.uint8)  # sorting bytes is several times faster than int64
    order = group.argsort(dim=1, stable=True)
    segments = Segments.from_counts(routing.sizes().flatten(), bound=q.shape[1])
    packed = (_flat(t, order) for t in (q, k, v))
    out, lse = attend(*packed, segments, backend, lse=with_lse)
    inverse = _inverse(order)
    return _restore(out, inverse), _restore(lse, inverse)


def _windowed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: VideoLayout,
    config: MoGAConfig,
    backend: Backend,
    with_lse: bool,
) -> tuple[Tensor, Tensor | None]:
    """Attention inside the static windows; keys reach over cuts."""
    plan = _window_plan(layout, config, q.shape[0], q.device)
    batch = q.shape[0]
    packed_q = _flat(q, plan.queries.expand(batch, -1))
    packed_k, packed_v = (_flat(t, plan.keys.expand(batch, -1)) for t in (k, v))
    out, lse = attend(packed_q, packed_k, packed_v, plan.segments, backend, lse=with_lse)
    inverse = plan.inverse.expand(batch, -1)
    return _restore(out, inverse), _restore(lse, inverse)


def _framewise(
    q: Tensor, k: Tensor, v: Tensor, layout: VideoLayout, backend: Backend, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Attention inside each latent frame; tokens already lie in that order."""
    segments = _frame_segments(layout, q.shape[0], q.device)
    out, lse = attend(*(t.flatten(0, 1) for t in (q, k, v)), segments, backend, lse=with_lse)
    shape = q.shape[:2]
    return out.unflatten(0, shape), None if lse is None else lse.unflatten(0, shape)


def _flat(t: Tensor, index: Tensor) -> Tensor:
    """Tokens (B, L, N, D) in the order of index (B, K), packed as (B * K, N, D)."""
    offset = torch.arange(t.shape[0], device=t.device)[:, None] * t.shape[1]
    return t.flatten(0, 1).index_select(0, (index + offset).flatten())


def _restore(packed: Tensor | None, inverse: Tensor) -> Tensor | None:
    """Undo `_flat`: packed tokens (B * L, ...) back as (B, L, ...), token i from inverse[i]."""
    if packed is None:
        return None
    batch, tokens = inverse.shape
    offset = torch.arange(batch, device=inverse.device)[:, None] * tokens
    return packed.index_select(0, (inverse + offset).flatten()).unflatten(0, (batch, tokens))


def _inverse(order: Tensor) -> Tensor:
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)


def _mean(parts: list[tuple[Tensor, Tensor | None]]) -> Tensor:
    total = parts[0][0]
    for out, _ in parts[1:]:
        total = total + out
    return total / len(parts)


def _weighted(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Branches weighted by their share of the softmax mass: exp(lse), normalised."""
    shares = torch.stack([lse for _, lse in parts]).softmax(dim=0)
    total = sum(
        out.float() * share[..., None] for (out, _), share in zip(parts, shares, strict=True)
    )
    return total.to(parts[0][0].dtype)


# --- what depends on the layout alone, built once ------------------------------------------------


@dataclass(frozen=True)
class _WindowPlan:
    """Token order of the window branch: queries (1, L), keys (1, K), inverse (1, L)."""

    queries: Tensor
    keys: Tensor
    inverse: Tensor
    segments: Segments


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # kept: a training step may use it later
def _window_plan(
    layout: VideoLayout, config: MoGAConfig, batch: int, device: torch.device
) -> _WindowPlan:
    # Windows of one shape side by side: a backend can then run them as one batched call.
    boxes = sorted(windows(layout, config), key=lambda w: (w.queries, w.keys))
    queries, keys = (
        torch.cat([_box(layout, window, side) for window in boxes]).to(device)[None]
        for side in ("frames", "key_frames")
    )
    lengths = tuple((window.queries, window.keys) for window in boxes)
    segments = Segments.from_lengths(lengths * batch, device)
    return _WindowPlan(queries, keys, _inverse(queries), segments)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # kept: a training step may use it later
def _frame_segments(layout: VideoLayout, batch: int, device: torch.device) -> Segments:
    tokens = layout.frame_tokens
    return Segments.from_lengths(((tokens, tokens),) * (layout.frames * batch), device)


def _box(layout: VideoLayout, window: Window, side: str) -> Tensor:
    """Indices of the window's tokens, in token order: `side` is "frames" or "key_frames"."""
    ranges = (getattr(window, side), window.rows, window.columns)
    t, h, w = (torch.arange(*span) for span in ranges)
    return ((t[:, None, None] * layout.height + h[:, None]) * layout.width + w).flatten()
