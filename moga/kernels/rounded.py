"""Segments of any size through cuDNN, which is fast only on lengths that it has met before.

cuDNN plans each new length for some 45 ms. So every segment's size is rounded to one of 32 steps
between two powers of two: queries up (rows of a neighbour come along and are dropped), keys down.
The few keys that are left over are added by a Triton kernel that goes on where cuDNN stopped:
an output and its log-sum-exp are all that attention needs to take in more keys. Forward only.

Letters: Q packed queries, P packed keys, N heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .cudnn import cudnn
from .segments import TILE, Segments, Tiles
from .triton_attention import attend_in_place, triton_packed

SMALL = 1024  # segments below this are left to the Triton kernel as a whole
SHORT = 5000  # mean segment below which it takes all: two launches for each would cost more
_STEPS = 5  # bits: 2 ** 5 lengths between two powers of two


def rounded(size: int) -> tuple[int, int]:
    """Queries and keys that cuDNN gets for a segment of `size` tokens; (0, 0) for a small one."""
    if size < SMALL:
        return 0, 0
    step = 1 << (size.bit_length() - 1 - _STEPS)
    keys = size // step * step
    return keys + step, keys


def cudnn_rounded(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Packed attention of segments whose queries are their keys; copies the sizes to the host."""
    if q.shape[0] < SHORT * (segments.cu_q.shape[0] - 1):
        return triton_packed(q, k, v, segments, lse)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    log = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device) if lse else None
    spans, at = [], 0
    for size, _ in segments.on_host():
        if size:
            queries, keys = rounded(size)
            first = max(0, min(at, q.shape[0] - queries))  # of a last segment: look back instead
            if queries > q.shape[0]:
                queries = keys = 0
            spans.append((at, at + size, at + keys, at + size, first, queries, keys))
        at += size
    bounds = torch.tensor(spans, dtype=torch.int32)[:, :4].contiguous().to(q.device)
    most = max(stop - start for start, stop, *_ in spans)
    first_rows = torch.arange(0, most, TILE, dtype=torch.int32, device=q.device)
    one = torch.zeros_like(first_rows)
    for bound, (start, stop, _, _, first, queries, keys) in zip(bounds, spans, strict=True):
        begun = None
        if keys:
            part = q[first : first + queries], k[start : start + keys], v[start : start + keys]
            done, mass = cudnn(*(t.transpose(0, 1)[None] for t in part))
            skip = start - first
            begun = done[0].transpose(0, 1)[skip:], mass[0, :, skip:]
        count = -(-(stop - start) // TILE)
        tiles = Tiles(one[:count], first_rows[:count])
        attend_in_place(
            *(q, k, v, None, None, bound[:2], bound[2:], tiles), out=out, lse=log, begun=begun
        )
    return out, log
