"""Streamed decode with a ComfyUI VAE: a LATENT in, frames in [0, 1] out a few at a time.

Each frame is what ``VAE.decode`` gives for the whole latent, bit for bit, without its fallback to
tiles when memory runs out: tiles change the picture, so here running out is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...decode import stream_decode

# Width and height of the pixels that the decoder packs into channels, by kind of VAE.
PATCH_SIZES = {comfy.ldm.wan.vae.WanVAE: 1, comfy.ldm.wan.vae2_2.WanVAE: 2}


@dataclass(frozen=True)
class Decode:
    """A latent that a VAE can decode in a stream, and the video it will give.

    ``latent`` is (B, C, T, H, W). Its batch entries are decoded one after the other, so ``frames``
    counts those of all of them.
    """

    latent: Tensor
    frames: int
    height: int
    width: int
    channels: int


def plan_decode(vae, samples: dict) -> Decode:
    """Check a VAE and a LATENT against each other, before anything is loaded or decoded.

    Raises ValueError, naming the input and the way out.
    """
    vae.throw_exception_if_invalid()
    if _patch_size(vae) is None:
        kind = type(vae.first_stage_model).__name__
        raise ValueError(
            f"vae is {kind}, which can't be decoded frame by frame; connect the VAE of "
            "Wan 2.1 or Wan 2.2, or use ComfyUI's own VAE Decode."
        )
    latent = samples["samples"]
    if latent.is_nested:  # video and audio in one LATENT: the video comes first
        latent = latent.unbind()[0]
    if latent.ndim != 5 or 0 in latent.shape:
        raise ValueError(
            f"samples has the shape {tuple(latent.shape)}; connect a video latent, which is "
            "(batch, channels, frames, height, width)."
        )
    if latent.shape[1] != vae.latent_channels:
        raise ValueError(
            f"samples has {latent.shape[1]} channels and vae decodes {vae.latent_channels}; "
            "connect the VAE that belongs to the model (16 is Wan 2.1, 48 is Wan 2.2)."
        )
    _refuse_nan(latent)
    frames, height, width = vae.upscale_ratio
    return Decode(
        latent,
        frames=latent.shape[0] * frames(latent.shape[2]),
        height=latent.shape[3] * height,
        width=latent.shape[4] * width,
        channels=getattr(vae, "conv_out_channels", vae.output_channels),
    )


def decode_frames(vae, decode: Decode, sink: Callable[[Tensor], None]) -> None:
    """Pass all frames to ``sink`` in order, a few at a time: (T, H, W, C) in [0, 1].

    They are on the device the VAE runs on, in ComfyUI's intermediate dtype, and the sink's to keep
    or change. Shows progress on the node per frame and stops within a chunk when the user
    interrupts.
    """
    mm = comfy.model_management
    dtype = output_dtype(vae)
    patch_size = _patch_size(vae)
    progress = comfy.utils.ProgressBar(decode.frames)

    def finish(chunk: Tensor) -> None:
        mm.throw_exception_if_processing_interrupted()
        frames = vae.process_output(chunk.to(dtype))[0].movedim(0, -1)
        count = len(frames)
        sink(frames)
        progress.update(count)

    with _on_device(vae.device):
        memory = vae.memory_used_decode(decode.latent.shape, vae.vae_dtype)
        mm.load_models_gpu(
            [vae.patcher], memory_required=memory, force_full_load=vae.disable_offload
        )
        mm.throw_exception_if_processing_interrupted()
        for latent in decode.latent.split(1):
            latent = latent.to(device=vae.device, dtype=vae.vae_dtype)
            stream_decode(vae.first_stage_model, latent, finish, patch_size=patch_size)


def decode_images(vae, decode: Decode) -> Tensor:
    """All frames as one IMAGE, (frames, height, width, channels) on the intermediate device."""
    shape = (decode.frames, decode.height, decode.width, decode.channels)
    images = torch.empty(shape, dtype=output_dtype(vae), device=vae.output_device)
    done = 0

    def store(frames: Tensor) -> None:
        nonlocal done
        images[done : done + len(frames)] = frames
        done += len(frames)

    decode_frames(vae, decode, store)
    logging.info("Chunked decode: %d frames of %dx%d", done, decode.width, decode.height)
    return images


def output_dtype(vae) -> torch.dtype:
    """The dtype of this ComfyUI's images: float32 unless it was started with fp16 intermediates."""
    choose = getattr(vae, "vae_output_dtype", None)
    return torch.float32 if choose is None else choose()


def _patch_size(vae) -> int | None:
    """The patch size of a Wan VAE, and None for any other."""
    sizes = (size for kind, size in PATCH_SIZES.items() if isinstance(vae.first_stage_model, kind))
    return next(sizes, None)


def _refuse_nan(latent: Tensor) -> None:
    broken = latent.isfinite().all(dim=(0, 1, 3, 4)).logical_not().nonzero()
    if len(broken):
        raise ValueError(
            f"samples has values that aren't numbers (NaN or infinite) from latent frame "
            f"{int(broken[0])} on; sample again with another dtype, attention or LoRA strength."
        )


def _on_device(device: torch.device):
    """Make ``device`` the current one where this ComfyUI, which may use several, asks for that."""
    context = getattr(comfy.model_management, "cuda_device_context", None)
    return nullcontext() if context is None else context(device)
