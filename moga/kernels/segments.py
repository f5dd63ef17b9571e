"""Where the segments of a packed attention call begin and end.

Letters: Q packed queries, P packed keys, R segments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

TILE = 128  # queries that one program of a Triton kernel takes


@dataclass(frozen=True)
class Tiles:
    """Which queries each program takes: its segment (-1: none) and the first of them, int32."""

    segment: Tensor
    first: Tensor


@dataclass(frozen=True)
class Segments:
    """Queries of a segment attend to the keys of the same segment.

    cu_q, cu_k: (R + 1,) int32, cumulative query and key counts, on the device of the tensors.
    max_q, max_k: upper bounds of the counts of any one segment.
    queries: all packed queries.
    lengths: ((queries, keys), ...) of each segment where the host knows them, else None.
    """

    cu_q: Tensor
    cu_k: Tensor
    max_q: int
    max_k: int
    queries: int
    lengths: tuple[tuple[int, int], ...] | None = None

    @classmethod
    def from_lengths(
        cls, lengths: tuple[tuple[int, int], ...], device: torch.device | str
    ) -> Segments:
        """Segments of known lengths."""
        q, k = ([0, *(pair[side] for pair in lengths)] for side in (0, 1))
        cu_q, cu_k = (torch.tensor(n).cumsum(0).to(device, torch.int32) for n in (q, k))
        return cls(cu_q, cu_k, max(q), max(k), sum(q), lengths)

    @classmethod
    def from_sorted(cls, groups: Tensor, count: int) -> Segments:
        """One segment per group of each sample, from sorted group ids (B, L) uint8, no sync.

        A search in what is sorted anyway: counting by atomic adds would queue on few counters.
        """
        batch, tokens = groups.shape
        ids = _ids(batch, count, groups.dtype, groups.device)
        starts = torch.searchsorted(groups, ids, out_int32=True)
        if batch > 1:
            starts += torch.arange(batch, device=groups.device)[:, None] * tokens
        cu = torch.nn.functional.pad(starts.flatten(), (0, 1), value=batch * tokens)
        return cls(cu, cu, tokens, tokens, batch * tokens)

    def on_host(self) -> tuple[tuple[int, int], ...]:
        """The lengths as Python numbers; one small copy from the device if they are not known."""
        if self.lengths is not None:
            return self.lengths
        q, k = torch.stack([self.cu_q, self.cu_k]).diff(dim=1).tolist()
        return tuple(zip(q, k, strict=True))

    @cached_property
    def tiles(self) -> Tiles:
        """The queries in tiles, worked out on the device: the host may not know the lengths."""
        counts = (self.cu_q.diff() + (TILE - 1)).div(TILE, rounding_mode="floor")
        ends = counts.cumsum(0)
        most = self.queries // TILE + counts.numel()
        number = torch.arange(most, device=self.cu_q.device)
        segment = torch.searchsorted(ends, number, right=True)
        inside = segment.clamp(max=counts.numel() - 1)
        first = (number - (ends - counts)[inside]) * TILE
        segment = segment.where(segment < counts.numel(), -1)
        return Tiles(segment.int(), first.int())

    def uniform(self) -> bool:
        """Whether the host knows that all segments have the same queries and the same keys."""
        return self.lengths is not None and len(set(self.lengths)) == 1


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # kept: a training step may use it later
def _ids(batch: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.arange(count, device=device).to(dtype).repeat(batch, 1)


def runs(lengths: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, int, int, int, int]]:
    """Neighbours of equal length as (segments, queries each, keys each, first query, first key)."""
    q_at = k_at = start = 0
    while start < len(lengths):
        lq, lk = lengths[start]
        stop = start
        while stop < len(lengths) and lengths[stop] == (lq, lk):
            stop += 1
        if lq:
            yield stop - start, lq, lk, q_at, k_at
        q_at, k_at, start = q_at + (stop - start) * lq, k_at + (stop - start) * lk, stop
