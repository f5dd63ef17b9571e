"""Sizes that comfyui.py measures at: of models, videos and shots."""

from __future__ import annotations

from dataclasses import dataclass

from moga.layout import VideoLayout
from moga.wan import PATCH, SPATIAL_STRIDE, latent_frames

TINY_VIDEO = "80x48"


@dataclass(frozen=True)
class Shape:
    """Of a Wan text-to-video model. dtypes: in which it is measured, the smallest last."""

    dim: int
    ffn_dim: int
    layers: int
    dtypes: tuple[str, ...] = ("fp16", "bf16", "fp8")

    @property
    def parameters(self) -> float:
        return self.layers * (8 * self.dim**2 + 2 * self.dim * self.ffn_dim)

    def config(self) -> dict[str, int]:
        """Of ComfyUI's WanModel."""
        heads = self.dim // 128
        return {"dim": self.dim, "ffn_dim": self.ffn_dim, "num_heads": heads,
                "num_layers": self.layers, "text_dim": 4096}  # fmt: skip


SHAPES = {
    "tiny": Shape(256, 512, 2, ("bf16", "fp8")),
    "1.3B": Shape(1536, 8960, 30),
    "14B": Shape(5120, 13_824, 40, ("fp8",)),
}


def latent_shape(frames: int, size: str) -> tuple[int, ...]:
    """Of the latent of so many frames of WIDTHxHEIGHT: (1, C, T, H, W)."""
    width, height = map(int, size.split("x"))
    return (1, 16, latent_frames(frames), height // SPATIAL_STRIDE, width // SPATIAL_STRIDE)


def grid_of(shape: Shape, frames: int, size: str) -> VideoLayout:
    """The tokens of a model."""
    _, _, t, h, w = latent_shape(frames, size if shape.dim > 256 else TINY_VIDEO)
    return VideoLayout(t, -(-h // PATCH), -(-w // PATCH))


def lengths(frames: int, shots: int) -> list[int]:
    """Frames of that many shots, or of as many as the latent has frames, about equally long."""
    count = latent_frames(frames)
    shots = min(shots, count)
    share, more = divmod(count, shots)
    latent = [share + (i < more) for i in range(shots)]
    return [4 * n - 3 * (i == 0) for i, n in enumerate(latent)]
