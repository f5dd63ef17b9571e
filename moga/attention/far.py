"""What a token's group shows it besides what is near, as key ranges with a mask or as segments.

Letters: B batch, L visual tokens, P packed positions, R segments, M groups.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..config import MoGAConfig
from ..kernels import Segments
from ..kernels.far import FarKeys
from ..layout import VideoLayout, temporal_runs, windows
from .packing import Packing, box, inverse, of_batch, window_of


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

    The group, less its part of the window and of the frame, plus of both: group (B, L).
    """
    tokens = group.shape[1]
    frame = torch.arange(tokens, device=group.device) // layout.frame_tokens
    whole = _by_code(group, config.groups, tokens)
    found = [(Packing(whole[0], whole[0], None, whole[1]), 1)]
    near = [name for name in config.branches if name != "routed"]
    if "frames" in near:
        code = group * layout.frames + frame
        index, segments = _by_code(code, config.groups * layout.frames, layout.frame_tokens)
        found.append((Packing(index, index, None, segments), -1))
    if "windows" in near:
        found.append((_groups_of_windows(group, layout, config), -1))
    if len(near) == 2:
        cells = window_of(layout, config).to(group.device)
        count, most = int(cells.max()) + 1, int(cells.bincount().max())
        code = (frame * count + cells.repeat(layout.frames)) * config.groups + group
        index, segments = _by_code(code, layout.frames * count * config.groups, most)
        found.append((Packing(index, index, None, segments), 1))
    return found


def _groups_of_windows(group: Tensor, layout: VideoLayout, config: MoGAConfig) -> Packing:
    """One segment per window and group: its queries, and its keys, which reach over cuts."""
    boxes = windows(layout, config)
    sides = []
    for side, most in (("frames", "queries"), ("key_frames", "keys")):
        pieces = [box(layout, window, side) for window in boxes]
        number = [piece.new_full(piece.shape, n) for n, piece in enumerate(pieces)]
        token, number = (torch.cat(part).to(group.device) for part in (pieces, number))
        code = number * config.groups + group[:, token]
        longest = max(getattr(window, most) for window in boxes)
        index, segments = _by_code(code, len(boxes) * config.groups, longest)
        sample = index // token.shape[0]
        sides.append((token[index % token.shape[0]] + sample * layout.tokens, segments))
    (queries, of_queries), (keys, of_keys) = sides
    segments = Segments(
        of_queries.cu_q, of_keys.cu_q, of_queries.max_q, of_keys.max_q, of_queries.queries
    )
    return Packing(queries, keys, None, segments)


def _by_code(code: Tensor, codes: int, most: int) -> tuple[Tensor, Segments]:
    """Places of code (B, P) sorted by it, in all samples' (B * P,), and a segment for each code.

    most: how many of one code there can be, at most.
    """
    batch, length = code.shape
    code = code + torch.arange(batch, device=code.device)[:, None] * codes
    ordered, index = code.flatten().sort(stable=True)
    edges = torch.arange(batch * codes + 1, device=code.device)
    cu = torch.searchsorted(ordered, edges, out_int32=True)
    return index, Segments(cu, cu, most, most, batch * length)


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
