"""Frames of a latent for a picture: decoded where there is a VAE, else guessed from the latent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.model_patcher
import numpy as np
import torch
from torch import Tensor

from ...diagnostics import drawn_frames
from ...layout import VideoLayout
from ...pictures.kept import KeptFrames
from ...pictures.routing import Frame, frame_label
from ...shots import ShotList
from ...vae.decode import to_uint8
from ...wan import first_video_frame
from .geometry import REFERENCE, Grid
from .vae import decode_frames, plan_decode


def frames_of(
    model: comfy.model_patcher.ModelPatcher,
    layout: VideoLayout,
    grid: Grid,
    samples: Tensor,
    shots: ShotList | None,
    vae: Any = None,
) -> tuple[Frame, ...]:
    """The frames of the grid whose groups are drawn, with what they show.

    samples: (1, C, t, h, w), to which the grid may add reference frames in front or behind.
    """
    owners = [
        owner
        for (start, stop), owner in zip(layout.shot_spans, grid.owners, strict=True)
        for _ in range(start, stop)
    ]
    front = next((i for i, owner in enumerate(owners) if owner != REFERENCE), 0)
    drawn = drawn_frames(layout)
    inside = [frame - front for frame in drawn if 0 <= frame - front < samples.shape[2]]
    pixels = _decoded(vae, samples, inside) if vae is not None else _guessed(model, samples, inside)
    return tuple(
        Frame(_label(frame - front, owners[frame], shots), pixels.get(frame - front))
        for frame in drawn
    )


def _label(frame: int, owner: int, shots: ShotList | None) -> str:
    if owner < 0:
        return "a reference frame"
    if shots is None:
        return f"latent frame {frame}"
    return frame_label(owner, frame, shots.fps)


def _decoded(vae: Any, samples: Tensor, frames: list[int]) -> Mapping[int, np.ndarray]:
    """The VAE's own frames; it is causal, so those after the last are not decoded."""
    kept = KeptFrames(map(first_video_frame, frames))
    part = {"samples": samples[:, :, : max(frames) + 1]}

    def keep(chunk: Tensor) -> None:
        kept.add(to_uint8(chunk[..., :3]).cpu().numpy())

    decode_frames(vae, plan_decode(vae, part), keep)
    return {frame: kept.found[first_video_frame(frame)] for frame in frames}


def _guessed(
    model: comfy.model_patcher.ModelPatcher, samples: Tensor, frames: list[int]
) -> Mapping[int, np.ndarray]:
    """Colours as ComfyUI's previews make them; nothing where there is nothing to see."""
    form = model.get_model_object("latent_format")
    factors = getattr(form, "latent_rgb_factors", None)
    if factors is None or not samples.any():
        return {}
    bias = getattr(form, "latent_rgb_factors_bias", None) or (0.0, 0.0, 0.0)
    latent = form.process_in(samples.float().cpu())[0, :, frames].movedim(0, -1)  # (F, h, w, C)
    colours = latent @ torch.tensor(factors) + torch.tensor(bias)
    pictures = to_uint8((colours.clamp(-1, 1) + 1) / 2).numpy()
    return dict(zip(frames, pictures, strict=True))
