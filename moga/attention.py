"""The MoGA attention layer: routed groups, static windows and frames over the same q, k and v.

`moga_attention_reference` spells the definition out with masks; `moga_attention` computes the same
by permuting tokens so that every neighbourhood is one segment of a variable-length attention call.
RoPE is applied before, with the true position of every token; the output projection comes after.

Letters: B batch, L visual tokens (t-major, then h, then w), N heads, D head width, M groups.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from einops import rearrange
from torch import Tensor

from .backends.dense import needs_grad, triton_there
from .config import MoGAConfig
from .kernels import AUTO, Backend, Segments, assign, attend
from .layout import VideoLayout, Window, windows
from .merge import Part, merge
from .routing import Routing
from .segments import runs

_LARGE = 1 << 27  # elements of q from which the heads are halved to hold fewer copies at once


def moga_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Routing | None,
    layout: VideoLayout,
    config: MoGAConfig,
    *,
    backend: str = AUTO,
    heads_at_once: int | None = None,
) -> Tensor:
    """One MoGA attention layer (arXiv 2510.18692, section 3).

    q, k, v: (B, L, N, D), after qk-norm and RoPE, L = layout.tokens.
    routing: what `TokenRouter` made of the layer's input, for B samples of L tokens; None when
        config has no "routed" branch.
    heads_at_once: heads that are computed together where no gradient is wanted; fewer take less
        memory. None: all of a small layer, half of a large one (at most 4 tensors like q).
    Returns (B, L, N, D) in the type of q. Raises ValueError when the shapes do not belong together
    and BackendError when the backend cannot run.
    """
    _check(q, k, v, routing, layout, config)
    training = needs_grad(q, k, v)
    lse = config.combine == "lse"
    orders = _orders(routing, layout, config, q.shape[0], q.device)
    backends = layer_backends(q, layout, config, backend, training=training)
    branches = [(orders[name], backends[name]) for name in config.branches]
    heads = q.shape[2]
    if heads_at_once is None:
        copies = any(order.queries is not None and not b.indexed for order, b in branches)
        heads_at_once = -(-heads // 2) if copies and q.numel() >= _LARGE else heads
    tokens = [t.flatten(0, 1) for t in (q, k, v)]
    gate = routing.gate.flatten() if "routed" in orders and config.gate and not lse else None
    layer = partial(_layer, branches=branches, gate=gate, lse=lse)
    if training or heads_at_once >= heads:
        return layer(*tokens).unflatten(0, q.shape[:2])
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device).flatten(0, 1)
    for first in range(0, heads, heads_at_once):
        part = slice(first, first + heads_at_once)
        layer(*(t[:, part] for t in tokens), into=out[:, part])
    return out.unflatten(0, q.shape[:2])


def layer_backends(
    q: Tensor,
    layout: VideoLayout,
    config: MoGAConfig,
    backend: str = AUTO,
    *,
    training: bool = False,
) -> dict[str, Backend]:
    """What runs each branch of `moga_attention` on tensors like q (B, L, N, D), by its name.

    Raises BackendError when the backend cannot run.
    """
    batch, lengths = q.shape[0], {}
    for branch in config.branches:
        if branch == "routed":
            lengths[branch] = (layout.tokens / config.groups, batch * config.groups)
        elif branch == "windows":
            lengths[branch] = _windowed(layout, config, batch, q.device).lengths
        else:
            lengths[branch] = _framewise(layout, batch, q.device).lengths
    return assign(backend, q, lengths, training=training, lse=config.combine == "lse")


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


@dataclass(frozen=True)
class _Order:
    """The order that makes the neighbourhoods of a branch contiguous, for all samples of a batch.

    queries, keys: (B * L,) and (K,) token at each packed position; None where tokens lie so.
    place: (B * L,) where each token is packed, the inverse of queries.
    lengths: mean tokens of a segment, and how many runs of equal segments there are; None where
        the order follows the router, and with it the gate.
    """

    queries: Tensor | None
    keys: Tensor | None
    place: Tensor | None
    segments: Segments
    lengths: tuple[float, int] | None = None

    @property
    def routed(self) -> bool:
        return self.lengths is None


def _layer(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    branches: list[tuple[_Order, Backend]],
    gate: Tensor | None,
    lse: bool,
    into: Tensor | None = None,
) -> Tensor:
    """All branches of q, k, v (B * L, N, D), merged."""
    parts = []
    for order, backend in branches:
        gated = gate if order.routed else None
        if backend.indexed is not None:
            out = backend.indexed(q, k, v, order.queries, order.keys, order.segments, lse)
            parts.append(Part(*out, gate=gated))
            continue
        pairs = ((q, order.queries), (k, order.keys), (v, order.keys))
        out = attend(*(_packed(t, i) for t, i in pairs), order.segments, backend, lse=lse)
        parts.append(Part(*out, place=order.place, gate=gated))
    return merge(parts, weighted=lse, into=into)


def _packed(t: Tensor, index: Tensor | None) -> Tensor:
    """Tokens (tokens, N, D) in the order of index (P,): (P, N, D)."""
    if index is None:
        return t
    if t.is_cuda and not t.is_contiguous() and triton_there() and not needs_grad(t):
        # Some heads of a wider tensor: PyTorch's own gather is fast on whole rows only.
        return importlib.import_module(f"{__package__}.backends.merging").gather(t, index)
    return t.index_select(0, index)


def _orders(
    routing: Routing | None,
    layout: VideoLayout,
    config: MoGAConfig,
    batch: int,
    device: torch.device,
) -> dict[str, _Order]:
    orders = {}
    if "routed" in config.branches:
        orders["routed"] = _routed(routing.group, config.groups)
    if "windows" in config.branches:
        orders["windows"] = _windowed(layout, config, batch, device)
    if "frames" in config.branches:
        orders["frames"] = _framewise(layout, batch, device)
    return orders


def _routed(group: Tensor, groups: int) -> _Order:
    """One segment per group of each sample, of group (B, L)."""
    # Sorting bytes is several times faster than sorting int64.
    ids, order = group.to(torch.uint8).sort(dim=1, stable=True)
    index = _of_batch(order, group.shape[1])
    return _Order(index, index, _inverse(index), Segments.from_sorted(ids, groups))


# --- what depends on the layout alone, built once ------------------------------------------------


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # kept: a training step may use it later
def _windowed(layout: VideoLayout, config: MoGAConfig, batch: int, device: torch.device) -> _Order:
    """The static windows; their keys reach over cuts."""
    # Windows of one shape side by side: a backend can then run them as one batched call.
    boxes = sorted(windows(layout, config), key=lambda w: (w.queries, w.keys))
    queries, keys = (
        torch.cat([_box(layout, window, side) for window in boxes])
        for side in ("frames", "key_frames")
    )
    queries, keys = (
        _of_batch(index.expand(batch, -1), layout.tokens).to(device) for index in (queries, keys)
    )
    lengths = tuple((window.queries, window.keys) for window in boxes) * batch
    segments = Segments.from_lengths(lengths, device)
    return _Order(queries.int(), keys.int(), _inverse(queries), segments, _summary(lengths))


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # kept: a training step may use it later
def _framewise(layout: VideoLayout, batch: int, device: torch.device) -> _Order:
    """Latent frames: tokens already lie in that order."""
    lengths = ((layout.frame_tokens,) * 2,) * (layout.frames * batch)
    segments = Segments.from_lengths(lengths, device)
    return _Order(None, None, None, segments, _summary(lengths))


def _summary(lengths: tuple[tuple[int, int], ...]) -> tuple[float, int]:
    return sum(q for q, _ in lengths) / len(lengths), len(list(runs(lengths)))


def _of_batch(index: Tensor, tokens: int) -> Tensor:
    """Index (B, P) into each sample's tokens as one into all samples', (B * P,)."""
    if index.shape[0] == 1:
        return index[0]
    offset = torch.arange(index.shape[0], device=index.device)[:, None] * tokens
    return (index + offset).flatten()


def _inverse(order: Tensor) -> Tensor:
    """Where each token is packed, (B * L,) int32, of the token at each packed position."""
    places = torch.arange(order.shape[0], device=order.device, dtype=torch.int32)
    return torch.empty_like(places).scatter_(0, order, places)


def _box(layout: VideoLayout, window: Window, side: str) -> Tensor:
    """Indices of the window's tokens, in token order: `side` is "frames" or "key_frames"."""
    ranges = (getattr(window, side), window.rows, window.columns)
    t, h, w = (torch.arange(*span) for span in ranges)
    return ((t[:, None, None] * layout.height + h[:, None]) * layout.width + w).flatten()
