"""The Wan models that can be planned for, and how many weights they have.

Letters: C model width, F feed-forward width.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..flops import WAN_1_3B, WAN_5B, WAN_14B, ModelShape
from ..wan import CHANNELS, HEAD_WIDTH, PATCH, SPATIAL_STRIDE, WIDE_CHANNELS, WIDE_SPATIAL_STRIDE

_TEXT_WIDTH = 4096  # of umT5-XXL
_TIME_WIDTH = 256  # of the sines that a noise level becomes
LORA_RANK = 64  # the trainer's own default is 32; its recipes have 64


@dataclass(frozen=True)
class Model:
    """A Wan transformer. stride: pixels of a latent column. channels: of a latent."""

    name: str
    shape: ModelShape
    stride: int = SPATIAL_STRIDE
    channels: int = CHANNELS

    @property
    def heads(self) -> int:
        return self.shape.width // HEAD_WIDTH

    def block_weights(self, groups: int) -> int:
        """Weights of one block, its router included. groups: 0 for none."""
        width, inner = self.shape.width, self.shape.feed_forward
        attention = 4 * (width * width + width) + 2 * width  # and the norms of q and k
        feed_forward = 2 * width * inner + inner + width
        router = groups * (width + 1)
        return 2 * attention + feed_forward + 2 * width + 6 * width + router

    def weights(self, groups: int) -> int:
        """Weights of the model with its routers."""
        width = self.shape.width
        patch = PATCH * PATCH * self.channels
        text = (_TEXT_WIDTH + width + 2) * width
        time = (_TIME_WIDTH + width + 2) * width + 6 * width * (width + 1)
        ends = (patch + 1) * width + (width + 1) * patch + 2 * width
        return self.shape.layers * self.block_weights(groups) + text + time + ends

    def lora_weights(self, rank: int = LORA_RANK) -> int:
        """Weights of a LoRA on the projections of self-attention and the feed-forward."""
        width, inner = self.shape.width, self.shape.feed_forward
        return self.shape.layers * rank * (4 * 2 * width + 2 * (width + inner))


MODELS = {
    model.name: model
    for model in (
        Model("1.3B", WAN_1_3B),
        Model("5B", WAN_5B, WIDE_SPATIAL_STRIDE, WIDE_CHANNELS),
        Model("14B", WAN_14B),
    )
}
