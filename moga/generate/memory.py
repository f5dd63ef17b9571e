"""About how much memory a run takes on its device, from shapes alone.

The constants count tensors alive at the worst moment, with diffusers 0.42. Measured on an H100 with
a model of Wan 2.1 1.3B's sizes in bfloat16, 81 frames: sampling takes 1.63 GiB at 480x832 (said:
1.7) and 3.6 at 720x1280 (3.8), decoding 4.2 and 9.7 (4.2 and 9.8).

Letters: L visual tokens, C model width.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..checkpoint import DTYPES
from ..layout import VideoLayout
from .models import Models
from .options import Options

_ATTENTION_COPIES = 12  # of (L, C) alive at the worst moment of self-attention
_FEED_FORWARD_COPIES = 6  # of (L, C) beside the two (L, ffn) of the feed-forward
_VAE_BYTES_PER_PIXEL = 5700  # times the bytes of a value; one chunk of frames


@dataclass(frozen=True)
class Memory:
    """Bytes: weights of all models, of the largest, and what each phase needs besides."""

    weights: int
    sampling_weights: int
    largest: int
    sampling: int
    decoding: int
    offload: str

    @property
    def peak(self) -> int:
        """The most that the device holds at once."""
        work = max(self.sampling, self.decoding)
        if self.offload == "none":
            return self.weights + work
        if self.offload == "model":
            return max(self.largest, self.sampling_weights + self.sampling, self.decoding)
        return work + self.largest // 20  # a block or two

    def text(self) -> str:
        gb = 1 / 1024**3
        return (
            f"about {self.peak * gb:.1f} GiB on the device with --offload {self.offload} "
            f"({self.weights * gb:.1f} weights, {self.sampling * gb:.1f} sampling, "
            f"{self.decoding * gb:.1f} decoding)"
        )


def estimate(options: Options, models: Models, layout: VideoLayout, ranks: int = 1) -> Memory:
    """The memory of a run, on each device of `ranks` that share the tokens."""
    dtype = DTYPES[options.dtype]
    weights = [transformer.bytes_as(dtype) for transformer in models.transformers]
    others = [part.bytes_as(dtype) for part in models.others]
    return Memory(
        weights=sum(weights) + sum(others),
        sampling_weights=max(weights, default=0),
        largest=max(*weights, *others, 0),
        sampling=dtype.itemsize * _values(models, layout.tokens, ranks),
        decoding=_VAE_BYTES_PER_PIXEL * dtype.itemsize * options.width * options.height,
        offload=options.offload,
    )


def _values(models: Models, tokens: int, ranks: int) -> int:
    """Alive on each of the ranks that share the tokens: first each embeds all of them."""
    shared = -(-tokens // ranks) * _values_per_token(models)
    if ranks == 1 or not models.transformers:
        return shared
    return max(2 * tokens * models.first.width, shared + tokens * models.first.width)


def _values_per_token(models: Models) -> int:
    """Alive at the worst moment of sampling; 0 where nothing is sampled."""
    if not models.transformers:
        return 0
    width = models.first.width
    feed_forward = 2 * models.first.config["ffn_dim"] + _FEED_FORWARD_COPIES * width
    return max(_ATTENTION_COPIES * width, feed_forward)
