"""Decoding a frame in overlapping tiles, where whole frames don't fit the device.

Approximate: a VAE's decoder sees the whole frame (its middle block attends to all of it), and a
tile shows it a part. In time nothing changes, as each tile keeps its own cache of past features;
between its turns that cache waits on the host.

Legend: b - batch, c - channels, t - frames of one chunk, h - height, w - width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiling:
    """Height and width of a tile, and how much neighbours share, in latent pixels."""

    size: int
    overlap: int

    def __post_init__(self) -> None:
        if self.size < 2 or not 0 <= self.overlap <= self.size // 2:
            raise ValueError(
                f"tiles of {self.size} latent pixels overlap by {self.overlap}; choose a size of "
                "at least 2 and an overlap of at most half of it."
            )

    def spans(self, length: int) -> list[tuple[int, int]]:
        """Where tiles begin and end along an edge: as few as cover it, evenly spread."""
        if length <= self.size:
            return [(0, length)]
        steps = -(-(length - self.size) // (self.size - self.overlap))
        starts = [round(step * (length - self.size) / steps) for step in range(steps + 1)]
        return [(start, start + self.size) for start in starts]


class TiledDecoder:
    """Stands in for a causal decoder's `forward` during one decode, and decodes by tiles."""

    def __init__(self, decode_chunk: Callable[..., Any], tiling: Tiling) -> None:
        self._decode_chunk = decode_chunk
        self._tiling = tiling
        self._caches: dict[tuple, list] = {}

    def __call__(
        self, x: Tensor, *, feat_cache: list | None = None, **options: Any
    ) -> Tensor | list[Tensor]:
        """Frames of the latent chunk `x` blended from all tiles, in the form the decoder gives.

        That is (b, c, t, h, w), or a list with one such tensor.
        """
        height, width = x.shape[-2:]
        canvas = total = None
        for rows in self._tiling.spans(height):
            for columns in self._tiling.spans(width):
                result = self._decode_tile(x, rows, columns, feat_cache, options)
                tile = torch.cat(result, 2) if isinstance(result, list) else result
                scale = tile.shape[-1] // (columns[1] - columns[0])
                fade = self._tiling.overlap * scale
                weight = _ramp(rows, height, scale, fade, tile)[:, None] * _ramp(
                    columns, width, scale, fade, tile
                )
                if canvas is None:
                    size = (height * scale, width * scale)
                    canvas = torch.zeros(*tile.shape[:3], *size, device=tile.device)
                    total = torch.zeros(size, device=tile.device)
                part = tuple(slice(a * scale, b * scale) for a, b in (rows, columns))
                canvas[..., part[0], part[1]] += tile.float() * weight
                total[part] += weight
        frames = canvas.div_(total)
        return [frames] if isinstance(result, list) else frames

    def _decode_tile(self, x: Tensor, rows: tuple, columns: tuple, shared: list | None, options):
        part = x[..., slice(*rows), slice(*columns)]
        if shared is None:
            result = self._decode_chunk(part, feat_cache=None, **options)
        else:
            cache = self._caches.setdefault((rows, columns), [None] * len(shared))
            cache[:] = _moved(cache, x.device)
            index = {"feat_idx": [0]} if "feat_idx" in options else {}
            result = self._decode_chunk(part, feat_cache=cache, **{**options, **index})
            cache[:] = _moved(cache, torch.device("cpu"))
        return result


def _ramp(span: tuple[int, int], length: int, scale: int, fade: int, like: Tensor) -> Tensor:
    """Weights along one edge of a tile: rising from an inner border, falling to the next."""
    start, end = span
    weights = torch.ones((end - start) * scale, device=like.device)
    rise = (torch.arange(fade, device=like.device) + 1) / (fade + 1)
    if start > 0:
        weights[:fade] *= rise
    if end < length:
        weights[len(weights) - fade :] *= rise.flip(0)
    return weights


def _moved(cache: Any, device: torch.device) -> Any:
    """What a decoder keeps, on another device: tensors, and marks that aren't tensors."""
    if isinstance(cache, list):
        return [_moved(each, device) for each in cache]
    return cache.to(device) if isinstance(cache, Tensor) else cache
