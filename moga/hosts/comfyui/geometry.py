"""What one call of the DiT works on: its token grid, where the shots lie, which text they read.

Worked out once per call, from the tensors of the call itself, because the keys that ComfyUI sets
differ between versions and variants. Letters: T, H, W latent tokens of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import Tensor, nn

from ...attention.text import Reading, Span
from ...layout import VideoLayout
from ...shots import ShotList
from .wan import reference_frames

LEADING, APPENDED, REFERENCE = -1, -2, -3  # frames that belong to no shot


@dataclass(frozen=True)
class Grid:
    """The video tokens of one call.

    layout: the grid, with a cut wherever the shot changes; a reference frame in front counts.
    owners: which shot each run between cuts belongs to, or one of the constants above.
    """

    layout: VideoLayout
    owners: tuple[int, ...]


def call_grid(
    dit: nn.Module,
    x: Tensor,
    options: dict[str, Any],
    shots: ShotList | None,
    *,
    time_dim_concat: Tensor | None = None,
    reference_latent: Tensor | None = None,
) -> Grid | None:
    """The grid of a call on latent x (B, C, t, h, w), or None where the tokens form no grid.

    time_dim_concat: frames that the model appends in time (Phantom); (B, C, t', h, w).
    reference_latent: what the model puts in front, one frame (Fun control; (B, C, h, w)) or
        several (SCAIL; (B, C, t', h, w)).
    """
    patch = dit.patch_size
    frames, height, width = (-(-size // p) for size, p in zip(x.shape[2:], patch, strict=True))
    owners = _owners(frames, options.get("context_window"), shots)
    if len(owners) != frames:
        return None
    if time_dim_concat is not None:
        owners += [APPENDED] * -(-time_dim_concat.shape[2] // patch[0])
    if references := reference_frames(dit, reference_latent):
        if tuple(reference_latent.shape[-2:]) != tuple(x.shape[-2:]):
            return None
        owners = [REFERENCE] * references + owners
    runs = [(owner, len(list(run))) for owner, run in groupby(owners)]
    starts = [0]
    for _, length in runs[:-1]:
        starts.append(starts[-1] + length)
    layout = VideoLayout(len(owners), height, width, tuple(starts))
    return Grid(layout, tuple(owner for owner, _ in runs))


def _owners(frames: int, window: Any, shots: ShotList | None) -> list[int]:
    """The shot of each latent frame of a call, also inside one of ComfyUI's context windows."""
    indices: Sequence[int] = range(frames)
    total = frames
    if window is not None:
        anchor = getattr(window, "causal_anchor_index", None)
        indices = list(window.index_list)
        if anchor is not None and anchor >= 0:
            indices = [anchor, *indices]
        total = getattr(window, "total_frames", 0)  # 0.3.64 does not say
    if shots is None:
        return [0] * len(indices)
    lead = max(0, total - shots.latent_frames)
    return [_owner(index - lead, shots.latent_starts) for index in indices]


def _owner(frame: int, starts: Sequence[int]) -> int:
    return sum(start <= frame for start in starts) - 1  # -1 is LEADING


def readings(
    grid: Grid, spans: Sequence[Span], tokens: int, context: int, image_tokens: int
) -> tuple[Reading, ...]:
    """Which context tokens each range of the call's tokens reads.

    spans: text tokens of each shot, counted from the first text token.
    tokens: all tokens of the call; those past the grid read everything, like reference frames.
    context: all context tokens, of which the first `image_tokens` are an image and are read by all,
        like text past the last span.
    """
    everything = ((0, context),)
    image = [(0, image_tokens)] if image_tokens else []
    end = image_tokens + max(stop for _, stop in spans)
    common = [(end, context)] if end < context else []
    per_frame = grid.layout.frame_tokens
    out = []
    for (first, last), owner in zip(grid.layout.shot_spans, grid.owners, strict=True):
        if owner >= 0:
            start, stop = spans[owner]
            text = [(image_tokens + start, image_tokens + stop)]
            read: tuple[Span, ...] = tuple(image + text + common)
        else:
            read = everything
        out.append(Reading((first * per_frame, last * per_frame), read))
    if grid.layout.tokens < tokens:
        out.append(Reading((grid.layout.tokens, tokens), everything))
    return tuple(out)
