"""Exact streamed decode of a causal video VAE: one latent in, frames out a few at a time.

A causal VAE such as Wan's already decodes in small chunks: its `decode` calls its `decoder`
once per latent frame or two, carrying a cache of past features, and only then joins the results.
The joining is what costs memory. Here the model's own `decode` runs as it is, while each call of
the decoder passes its frames to a sink and hands back none. So nothing about the chunk schedule or
the cache is repeated here, and the frames are those of the one-shot decode, bit for bit.

Legend: b - batch, c - channels, t - frames of one chunk, h - height, w - width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import MogaError
from .host_memory import GivesBack, give_back
from .tiles import TiledDecoder, Tiling

Sink = Callable[[Tensor], None]


class NotFiniteError(MogaError, ValueError):
    """Values of a latent, a frame or a layer that aren't numbers; the message says where."""


@torch.no_grad()
def stream_decode(
    vae: nn.Module,
    latent: Tensor,
    sink: Sink,
    *,
    patch_size: int = 1,
    tiling: Tiling | None = None,
    first_frame: int = 0,
) -> int:
    """Decode `latent` through `vae`, passing frames to `sink` as soon as they exist.

    `vae` is a Wan 2.1 or Wan 2.2 VAE (or one built like them): `vae.decode(latent)` makes every
    frame by calling `vae.decoder`, whose result is a `(b, c, t, h, w)` tensor or a list of such
    tensors. `latent` is `(b, c, t, h, w)`, on the device and in the dtype the VAE computes in.
    `patch_size` is 2 for Wan 2.2, whose decoder packs 2x2 pixels into channels. With `tiling`
    each chunk is decoded in overlapping tiles: less memory, and no longer the exact frames.
    `first_frame` is the number that messages give to the first frame, where others went before.

    `sink` gets `(b, c, t, h, w)` chunks in order of time. Nobody else holds a chunk: the sink
    may change it in place, and once it lets go of it the memory is free. Whatever the sink raises
    ends the decode, and `vae` is as it was before.

    Returns the number of frames. Raises NotFiniteError for frames with values that aren't numbers:
    from a device the sink may have got them by then, but none after them. Raises TypeError when the
    frames don't come from `vae.decoder`.
    """
    decode_chunk = vae.decoder.forward
    if tiling is not None:
        decode_chunk = TiledDecoder(decode_chunk, tiling)
    watch = _FrameWatch(first_frame)
    on_cpu, memory = latent.device.type == "cpu", GivesBack()

    def emit(piece: Tensor) -> Tensor:
        watch.add(piece)
        sink(unpatchify(piece, patch_size))
        if on_cpu:
            memory.look()
        # A new tensor: a zero-length view would keep the whole piece alive until the end.
        return piece.new_empty((*piece.shape[:2], 0, *piece.shape[3:]))

    def stream_chunk(*args, **kwargs) -> Tensor | list[Tensor]:
        result = decode_chunk(*args, **kwargs)
        if isinstance(result, list):
            return [emit(result.pop(0)) for _ in range(len(result))]
        return emit(result)

    try:
        with forward_replaced(vae.decoder, stream_chunk):
            rest = vae.decode(latent)
    finally:
        drop_cache(vae)
        if on_cpu:
            give_back()
    watch.look()
    if watch.frames == 0 or rest.shape[2] != 0:
        raise TypeError(
            f"{type(vae).__name__} can't be decoded in a stream, as its decode() doesn't take its "
            "frames from decoder(); use decode() itself."
        )
    return watch.frames


class _FrameWatch:
    """Counts frames, and refuses those that aren't numbers.

    A chunk on a device is looked at when the next one is there, whose kernels then keep the device
    busy: to look at once would make it wait for the host, chunk after chunk.
    """

    def __init__(self, first_frame: int) -> None:
        self.frames = 0
        self._first_frame = self._chunk_frame = first_frame
        self._largest: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    def add(self, chunk: Tensor) -> None:
        """Take `chunk`, (b, c, t, h, w), as it came from the decoder: nothing is clamped yet."""
        # The largest magnitude of each frame, which NaN and infinity make NaN or infinite.
        largest = torch.linalg.vector_norm(chunk, inf, dim=(0, 1, 3, 4))
        arrived = None
        if largest.is_cuda:
            largest = largest.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self.look()
        self._chunk_frame = self._first_frame + self.frames
        self._largest, self._arrived = largest, arrived
        self.frames += chunk.shape[2]
        if chunk.device.type == "cpu":
            self.look()

    def look(self) -> None:
        """Raise NotFiniteError when the chunk that was added last has such a frame."""
        if self._largest is None:
            return
        if self._arrived is not None:
            self._arrived.synchronize()
        broken = self._largest.isfinite().logical_not().nonzero()
        self._largest = None
        if len(broken):
            raise NotFiniteError(
                "vae gives values that aren't numbers (NaN or infinite) from video frame "
                f"{self._chunk_frame + int(broken[0])} on, counted from 0; let it compute in "
                "float32 or bfloat16, or take another file of it."
            )


def broken_frames(latent: Tensor) -> list[int]:
    """The latent frames of (b, c, t, h, w) that have values which aren't numbers."""
    broken = latent.isfinite().all(dim=4).all(dim=3).all(dim=1).all(dim=0).logical_not()
    return broken.nonzero().flatten().tolist()


def check_latent(latent: Tensor, name: str = "samples") -> None:
    """Refuse a latent, (b, c, t, h, w), with values that aren't numbers, by its first such frame.

    `name` is what the caller calls it. Raises NotFiniteError.
    """
    if broken := broken_frames(latent):
        raise NotFiniteError(
            f"{name} has values that aren't numbers (NaN or infinite) from latent frame "
            f"{broken[0]} on, counted from 0; sample again with another dtype, attention or "
            "LoRA strength."
        )


def unpatchify(frames: Tensor, patch_size: int) -> Tensor:
    """Spread channels that hold `patch_size` squared pixels, column by column, over the frame."""
    if patch_size == 1:
        return frames
    return rearrange(
        frames,
        "b (c column row) t h w -> b c t (h row) (w column)",
        row=patch_size,
        column=patch_size,
    )


def to_uint8(frames: Tensor) -> Tensor:
    """Frames in [0, 1] as 8-bit values, each rounded to the nearest."""
    return frames.float().mul(255).round_().to(torch.uint8)


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable) -> Iterator[None]:
    """Call `forward` in place of `module.forward`; afterwards leave no trace of it."""
    previous = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if previous is None:
            del module.forward
        else:
            module.forward = previous


def drop_cache(vae: nn.Module) -> None:
    """Free the features that some VAEs keep on themselves when a decode is cut short."""
    clear = getattr(vae, "clear_cache", None)
    if clear is not None:
        clear()
