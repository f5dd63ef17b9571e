"""What a token's group shows it besides what is near, as key ranges with a mask or as segments.

Letters: B batch, L visual tokens, P packed positions, R segments, M groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from ..config import ConfigError, MoGAConfig
from ..kernels import Segments
from ..kernels.far_keys import FarKeys
from ..layout import VideoLayout, temporal_runs, windows
from .packing import CELLS, Packing, box, inverse, of_batch, window_of

_OVERLAPS = (("windows", -1), ("frames", -1), (CELLS, 1))
_WINDOWS = 1 << 16  # spatial ones of a frame, which half of a code tells apart
_SHORT = 128  # tokens: what flash attention's backward pass adds to each segment


def far_of(
    group: Tensor, layout: VideoLayout, config: MoGAConfig
) -> tuple[Tensor, Tensor, FarKeys]:
    """Of group (B, L): the order by group and time (B * L,), its inverse, and what is far in it."""
    batch, tokens = group.shape
    ids, order = group.to(torch.uint8).sort(dim=1, stable=True)
    probes, in_frame, bits = _far_static(layout, config, batch, group.device)
    frame = order // layout.frame_tokens
    sample = torch.arange(batch, device=group.device)[:, None]
    # Sorted as it stands: by sample, group, and the frame of each token.
    code = ((sample * config.groups + ids) * layout.frames + frame).flatten()
    bounds = torch.searchsorted(code, probes, out_int32=True)
    cu = torch.nn.functional.pad(bounds[0], (0, 1), value=batch * tokens)
    index = of_batch(order, tokens)
    window = None
    if in_frame is not None:
        window = in_frame.index_select(0, (order % layout.frame_tokens).flatten())
    of_frame = frame.flatten().int() if "frames" in config.branches else None
    keys = FarKeys(cu, *bounds[1:].unbind(), of_frame, window, bits)
    return index, inverse(index), keys


def far_in_segments(
    group: Tensor, layout: VideoLayout, config: MoGAConfig
) -> list[tuple[Packing, int]]:
    """What is far as segments with signs, for kernels that know no mask: (packing, 1 or -1).

    The group, less its part of the window and of the frame, plus of both: group (B, L). Parts of
    many short segments come in several packings: kernels take room for each segment, used or not.
    """
    batch, tokens = group.shape
    whole, cu = _by_code(group, config.groups)
    most = max(1, batch * tokens // _SHORT)
    found = [(Packing(whole, whole, None, Segments(cu, cu, tokens, tokens, batch * tokens)), 1)]
    for name, sign in _OVERLAPS:
        if units := _units(name, layout, config, group.device):
            found += [(packing, sign) for packing in _in_units(group, units, config.groups, most)]
    return found


@dataclass(frozen=True)
class _Side:
    """Queries or keys by unit: token (P,) of a sample, its code inside the unit's, ends of units.

    most: tokens of one code, at most.
    """

    token: Tensor
    code: Tensor
    ends: tuple[int, ...]
    most: int


@dataclass(frozen=True)
class _Units:
    """A branch as units of tokens that the host can count. codes: of one unit, before groups."""

    queries: _Side
    keys: _Side
    codes: int


def _in_units(group: Tensor, units: _Units, groups: int, most: int) -> Iterator[Packing]:
    """The groups inside every unit, as packings of whole units with `most` segments or so each."""
    batch, tokens = group.shape
    sides = []
    for side in (units.queries, units.keys):
        count = side.token.shape[0]
        codes = (len(side.ends) - 1) * units.codes * groups
        index, cu = _by_code(side.code * groups + group[:, side.token], codes)
        index = side.token[index % count] + index // count * tokens
        ends = [end + sample * count for sample in range(batch) for end in side.ends[:-1]]
        sides.append((index, cu, [*ends, batch * count]))
    (queries, cu_q, ends_q), (keys, cu_k, ends_k) = sides
    of_unit = units.codes * groups
    step = max(1, most // of_unit)
    for first in range(0, len(ends_q) - 1, step):
        last = min(first + step, len(ends_q) - 1)
        rows, columns = slice(ends_q[first], ends_q[last]), slice(ends_k[first], ends_k[last])
        part = slice(first * of_unit, last * of_unit + 1)
        segments = Segments(
            *(cu_q[part] - rows.start, cu_k[part] - columns.start),
            *(units.queries.most, units.keys.most, rows.stop - rows.start),
        )
        yield Packing(queries[rows], keys[columns], None, segments)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # kept: a training step may use it later
def _units(
    name: str, layout: VideoLayout, config: MoGAConfig, device: torch.device
) -> _Units | None:
    """The units of what a group shares with "windows", "frames" or "cells"; None if it doesn't."""
    needed = {"windows", "frames"} if name == CELLS else {name}
    if not needed <= set(config.branches):
        return None
    if name == "windows":
        boxes, sides = windows(layout, config), []
        for side, most in (("frames", "queries"), ("key_frames", "keys")):
            pieces = [box(layout, window, side) for window in boxes]
            code = torch.cat([piece.new_full(piece.shape, n) for n, piece in enumerate(pieces)])
            ends = (0, *accumulate(map(len, pieces)))
            longest = max(getattr(window, most) for window in boxes)
            sides.append(_Side(torch.cat(pieces).to(device), code.to(device), ends, longest))
        return _Units(*sides, codes=1)
    token = torch.arange(layout.tokens)
    code, codes, most = token // layout.frame_tokens, 1, layout.frame_tokens
    if name == CELLS:
        cell = window_of(layout, config)
        codes, most = int(cell.max()) + 1, int(cell.bincount().max())
        code = code * codes + cell.repeat(layout.frames)
    ends = tuple(range(0, layout.tokens + 1, layout.frame_tokens))
    side = _Side(token.to(device), code.to(device), ends, most)
    return _Units(side, side, codes)


def _by_code(code: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """Places of code (B, P) sorted by it, in all samples' (B * P,), and where each code begins."""
    batch = code.shape[0]
    code = code + torch.arange(batch, device=code.device)[:, None] * codes
    ordered, index = code.flatten().sort(stable=True)
    edges = torch.arange(batch * codes + 1, device=code.device)
    return index, torch.searchsorted(ordered, edges, out_int32=True)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # kept: a training step may use it later
def _far_static(
    layout: VideoLayout, config: MoGAConfig, batch: int, device: torch.device
) -> tuple[Tensor, Tensor | None, bool]:
    """What is searched for in the sorted codes, (5, R), the window of a frame's tokens, and `bits`.

    A segment is one temporal run of a group. Without windows a run is a frame, without frames
    either it is the whole video, with nothing near.
    """
    whole = layout.frames
    if "windows" in config.branches:
        runs = list(temporal_runs(layout, config))
        window = window_of(layout, config).int().to(device)
        if (count := int(window.max()) + 1) > _WINDOWS:
            raise ConfigError(
                f"windows is {config.windows}, which makes {count:,} of a frame of "
                f"{layout.height} x {layout.width} tokens; give fewer, at most {_WINDOWS:,}."
            )
    elif "frames" in config.branches:
        runs, window = [((t, t + 1),) * 2 for t in range(whole)], None
    else:
        runs, window = [((0, whole), (0, 0))], None
    base = torch.arange(batch * config.groups)[:, None] * whole
    rows = [
        base + torch.tensor(values)
        for values in (
            [first for (first, _), _ in runs],
            [0] * len(runs),
            [first for _, (first, _) in runs],
            [last for _, (_, last) in runs],
            [whole] * len(runs),
        )
    ]
    longest = max(last - first for _, (first, last) in runs)
    bits = longest <= 16 and (window is None or int(window.max()) < 16)
    return torch.stack([row.flatten() for row in rows]).to(device), window, bits
