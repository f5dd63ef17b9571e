"""The order that makes a branch's neighbourhoods contiguous: permute, attend, un-permute.

Letters: B batch, L visual tokens (t-major, then h, then w), P packed positions, N heads, D head
width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..config import MoGAConfig
from ..kernels import Segments, Work
from ..kernels.probe import needs_grad, triton_there
from ..kernels.segments import runs as runs_of
from ..layout import VideoLayout, Window, windows
from ..routing import Routing


@dataclass(frozen=True)
class Packing:
    """How the tokens of all samples of a batch are packed for one branch.

    queries, keys: (B * L,) and (P,) token at each packed position; None where tokens lie so.
    place: (B * L,) where each token is packed, the inverse of queries.
    """

    queries: Tensor | None
    keys: Tensor | None
    place: Tensor | None
    segments: Segments


CELLS = "cells"  # what a window and a frame have in common, under one softmax


def parts_of(config: MoGAConfig) -> tuple[str, ...]:
    """The parts of a layer that are segments: its branches, or of one softmax what is near."""
    if config.combine == "mean":
        return config.branches
    near = tuple(branch for branch in config.branches if branch != "routed")
    return (*near, CELLS) if len(near) == 2 else near


def packings(
    routing: Routing | None,
    layout: VideoLayout,
    config: MoGAConfig,
    batch: int,
    device: torch.device,
) -> dict[str, Packing]:
    """The packing of every part of the layer, by its name."""
    return {
        branch: by_group(routing.group, config.groups)
        if branch == "routed"
        else _static(branch, layout, config, batch, device)
        for branch in parts_of(config)
    }


def work_of(
    layout: VideoLayout, config: MoGAConfig, batch: int, device: torch.device
) -> dict[str, Work]:
    """What every part of the layer asks of attention, by its name."""
    work = {}
    for branch in parts_of(config):
        if branch == "routed":
            work[branch] = Work(layout.tokens / config.groups, None, gathered=True)
            continue
        packing = _static(branch, layout, config, batch, device)
        lengths = packing.segments.lengths
        mean = sum(q for q, _ in lengths) / len(lengths)
        work[branch] = Work(mean, len(list(runs_of(lengths))), packing.queries is not None)
    return work


def packed(t: Tensor, index: Tensor | None) -> Tensor:
    """Tokens (tokens, N, D) in the order of index (P,): (P, N, D)."""
    if index is None:
        return t
    if t.is_cuda and not t.is_contiguous() and triton_there() and not needs_grad(t):
        # Some heads of a wider tensor: PyTorch's own gather is fast on whole rows only.
        from ..kernels.triton_merge import gather

        return gather(t, index)
    return t.index_select(0, index)


def by_group(group: Tensor, groups: int) -> Packing:
    """One segment per group of each sample, of group (B, L)."""
    # Sorting bytes is several times faster than sorting int64.
    ids, order = group.to(torch.uint8).sort(dim=1, stable=True)
    index = of_batch(order, group.shape[1])
    return Packing(index, index, inverse(index), Segments.from_sorted(ids, groups))


# --- what depends on the layout alone, built once ------------------------------------------------


@lru_cache(maxsize=24)
@torch.inference_mode(False)  # kept: a training step may use it later
def _static(
    branch: str, layout: VideoLayout, config: MoGAConfig, batch: int, device: torch.device
) -> Packing:
    make = {"windows": _windowed, "frames": _framewise, CELLS: _cells}
    return make[branch](layout, config, batch, device)


def _windowed(layout: VideoLayout, config: MoGAConfig, batch: int, device: torch.device) -> Packing:
    """The static windows; their keys reach over cuts."""
    # Windows of one shape side by side: a backend can then run them as one batched call.
    boxes = sorted(windows(layout, config), key=lambda w: (w.queries, w.keys))
    queries, keys = (
        torch.cat([box(layout, window, side) for window in boxes])
        for side in ("frames", "key_frames")
    )
    queries, keys = (
        of_batch(index.expand(batch, -1), layout.tokens).to(device) for index in (queries, keys)
    )
    lengths = tuple((window.queries, window.keys) for window in boxes) * batch
    segments = Segments.from_lengths(lengths, device)
    return Packing(queries.int(), keys.int(), inverse(queries), segments)


def _framewise(
    layout: VideoLayout, config: MoGAConfig, batch: int, device: torch.device
) -> Packing:
    """Latent frames: tokens already lie in that order."""
    lengths = ((layout.frame_tokens,) * 2,) * (layout.frames * batch)
    return Packing(None, None, None, Segments.from_lengths(lengths, device))


def _cells(layout: VideoLayout, config: MoGAConfig, batch: int, device: torch.device) -> Packing:
    """The tokens of one spatial window in one frame."""
    window = window_of(layout, config)
    order = window.argsort(stable=True)
    sizes = window.bincount().tolist()
    frames = torch.arange(layout.frames)[:, None] * layout.frame_tokens
    # Cells of one size side by side: a backend can then run them as one batched call.
    number = sorted(range(len(sizes)), key=lambda w: sizes[w])
    pieces = order.split(sizes)
    index = torch.cat([(frames + pieces[w]).flatten() for w in number])
    index = of_batch(index.expand(batch, -1), layout.tokens).to(device)
    lengths = tuple((sizes[w],) * 2 for w in number for _ in range(layout.frames)) * batch
    index32 = index.int()
    return Packing(index32, index32, inverse(index), Segments.from_lengths(lengths, device))


def window_of(layout: VideoLayout, config: MoGAConfig) -> Tensor:
    """The spatial window of each token of a frame, (H * W,) int64."""
    spatial = dict.fromkeys((window.rows, window.columns) for window in windows(layout, config))
    number = torch.empty(layout.height, layout.width, dtype=torch.int64)
    for one, (rows, columns) in enumerate(spatial):
        number[slice(*rows), slice(*columns)] = one
    return number.flatten()


def of_batch(index: Tensor, tokens: int) -> Tensor:
    """Index (B, P) into each sample's tokens as one into all samples', (B * P,)."""
    if index.shape[0] == 1:
        return index[0]
    offset = torch.arange(index.shape[0], device=index.device)[:, None] * tokens
    return (index + offset).flatten()


def inverse(order: Tensor) -> Tensor:
    """Where each token is packed, (B * L,) int32, of the token at each packed position."""
    places = torch.arange(order.shape[0], device=order.device, dtype=torch.int32)
    return torch.empty_like(places).scatter_(0, order, places)


def box(layout: VideoLayout, window: Window, side: str) -> Tensor:
    """Indices of the window's tokens, in token order: `side` is "frames" or "key_frames"."""
    ranges = (getattr(window, side), window.rows, window.columns)
    t, h, w = (torch.arange(*span) for span in ranges)
    return ((t[:, None, None] * layout.height + h[:, None]) * layout.width + w).flatten()
