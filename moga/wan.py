"""What is true of Wan's models and of their VAEs, and of nothing else here."""

from __future__ import annotations

TEMPORAL_STRIDE = 4  # video frames of a latent frame, after the first, which holds one
SPATIAL_STRIDE, WIDE_SPATIAL_STRIDE = 8, 16  # pixels of a latent column: Wan 2.1, Wan 2.2 5B
PATCH = 2  # latent rows and columns of a token
CHANNELS, WIDE_CHANNELS = 16, 48  # of a latent: Wan 2.1 and 2.2 14B, Wan 2.2 5B
HEAD_WIDTH = 128
TEXT_TOKENS = 512  # of one text, padded
FPS, WIDE_FPS = 16, 24  # that the models were trained at


def latent_frames(frames: int) -> int:
    """Latent frames of so many video frames; the VAE leaves out those beyond 4n + 1."""
    return (frames - 1) // TEMPORAL_STRIDE + 1


def video_frames(latent_frames: int) -> int:
    """Video frames that so many latent frames hold, 4n + 1."""
    return TEMPORAL_STRIDE * (latent_frames - 1) + 1


def first_video_frame(latent_frame: int) -> int:
    """The first video frame that a latent frame holds, both counted from 0."""
    return max(0, TEMPORAL_STRIDE * latent_frame - 3)
