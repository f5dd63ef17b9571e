"""Exact streamed encode of a causal video VAE: frames in a few at a time, one latent out.

The model's own `encode` runs as it is, on a stand-in for the video that has its shape and no
memory. Whenever it calls its `encoder` on a part of the stand-in, so many real frames are taken
from their source and encoded in its place. So nothing about the chunk schedule or the cache of past
features is repeated here, and the latent is that of the one-shot encode, bit for bit.

Legend: b - batch, c - channels, t - frames of one chunk, h - height, w - width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from einops import rearrange
from torch import Tensor, nn

from .decode import drop_cache, forward_replaced


@torch.no_grad()
def stream_encode(
    vae: nn.Module, chunks: Iterable[Tensor], frames: int, *, patch_size: int = 1
) -> Tensor:
    """Encode `frames` frames that come as `chunks`, without ever holding them all.

    `vae` is a Wan 2.1 or Wan 2.2 VAE (or one built like them): `vae.encode(video)` passes the
    video to `vae.encoder` part by part, in order. `chunks` are `(b, c, t, h, w)` with any
    number of frames each, on the device and in the dtype and range the VAE computes in; they are
    taken as they are needed. `patch_size` is 2 for Wan 2.2, which packs 2x2 pixels into channels.

    Returns `(b, c, t, h, w)` as `vae.encode` does. Of `frames` other than 4n + 1, the VAE
    leaves out the last ones. Raises ValueError when `chunks` end too soon.
    """
    source = FrameSource(chunks)
    encode_part = vae.encoder.forward

    def encode_real(part: Tensor, *args, **kwargs) -> Tensor:
        real = patchify(source.take(part.shape[2]), patch_size)
        return encode_part(real, *args, **kwargs)

    stand_in = torch.empty((*source.peek(2), frames, *source.peek(-2)), device="meta")
    try:
        with forward_replaced(vae.encoder, encode_real):
            return vae.encode(stand_in)
    finally:
        drop_cache(vae)


class FrameSource:
    """Frames in the number asked for, from chunks of any number."""

    def __init__(self, chunks: Iterable[Tensor]) -> None:
        self._chunks = iter(chunks)
        self._rest: Tensor | None = None

    def peek(self, sizes: int) -> torch.Size:
        """The first sizes of the frames' shape; the last ones for a negative number."""
        if self._rest is None:
            self._rest = next(self._chunks, None)
            if self._rest is None:
                raise ValueError("There are no frames to encode.")
        return self._rest.shape[:sizes] if sizes > 0 else self._rest.shape[sizes:]

    def take(self, count: int) -> Tensor:
        """The next `count` frames, (b, c, count, h, w)."""
        parts, left = [], count
        while left:
            if self._rest is None or not self._rest.shape[2]:
                self._rest = next(self._chunks, None)
                if self._rest is None:
                    raise ValueError(f"The frames ended {left} too soon; give all that were named.")
            parts.append(self._rest[:, :, :left])
            self._rest = self._rest[:, :, left:]
            left -= parts[-1].shape[2]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def patchify(frames: Tensor, patch_size: int) -> Tensor:
    """Pack `patch_size` squared pixels, column by column, into channels."""
    if patch_size == 1:
        return frames
    return rearrange(
        frames,
        "b c t (h row) (w column) -> b (c column row) t h w",
        row=patch_size,
        column=patch_size,
    )
