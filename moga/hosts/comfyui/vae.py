"""Streamed decode and encode with a ComfyUI VAE: frames in [0, 1], a few at a time.

Each frame is what `VAE.decode` gives for the whole latent, bit for bit, without its fallback to
tiles when memory runs out: tiles change the picture, so here running out is an error, and tiles are
used when they are asked for. The latent of an encode is that of `VAE.encode`, likewise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain

import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import comfy.model_management
import torch
from torch import Tensor

from ...vae.decode import check_latent, stream_decode
from ...vae.encode import stream_encode
from ...vae.tiles import Tiling
from .progress import Picture, Progress

_LATENT_TYPES = (torch.float32, torch.float16, torch.bfloat16)

# Width and height of the pixels that the decoder packs into channels, by kind of VAE.
PATCH_SIZES = {comfy.ldm.wan.vae.WanVAE: 1, comfy.ldm.wan.vae2_2.WanVAE: 2}


@dataclass(frozen=True)
class Decode:
    """A latent that a VAE can decode in a stream, and the video it will give.

    `latent` is (B, C, T, H, W). Its batch entries are decoded one after the other, so `frames`
    counts those of all of them. With `tiling` the frames are approximate.
    """

    latent: Tensor
    frames: int
    height: int
    width: int
    channels: int
    tiling: Tiling | None = None


def plan_decode(vae, samples: dict, tile_size: int = 0, tile_overlap: int = 64) -> Decode:
    """Check a VAE and a LATENT against each other, before anything is loaded or decoded.

    `tile_size` and `tile_overlap` are in pixels; a size of 0 means whole frames, and so does
    one that the frame doesn't exceed.

    Raises ValueError, naming the input and the way out.
    """
    vae.throw_exception_if_invalid()
    _refuse_other_vae(vae)
    latent = video_latent(samples["samples"])
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
    check_latent(latent)
    frames, height, width = vae.upscale_ratio
    return Decode(
        latent,
        frames=latent.shape[0] * frames(latent.shape[2]),
        height=latent.shape[3] * height,
        width=latent.shape[4] * width,
        channels=getattr(vae, "conv_out_channels", vae.output_channels),
        tiling=_tiling(latent, height, tile_size, tile_overlap),
    )


def decode_frames(
    vae,
    decode: Decode,
    sink: Callable[[Tensor], None],
    picture: Callable[[], Picture | None] = lambda: None,
) -> Progress:
    """Pass all frames to `sink` in order, a few at a time: (T, H, W, C) in [0, 1].

    They are on the device the VAE runs on, in ComfyUI's intermediate dtype, and the sink's to keep
    or change. Shows progress on the node per frame, with what `picture` gives beside it, and
    stops within a chunk when the user interrupts. Returns the finished progress.
    """
    mm = comfy.model_management
    dtype = output_dtype(vae)
    patch_size = _patch_size(vae)
    if decode.tiling:
        logging.warning(
            "Decoding in tiles, which is approximate (%d latent pixels wide, %d of them shared)",
            decode.tiling.size,
            decode.tiling.overlap,
        )
    progress = Progress(decode.frames, "approximate (tiles)" if decode.tiling else "")

    def finish(chunk: Tensor) -> None:
        mm.throw_exception_if_processing_interrupted()
        frames = vae.process_output(chunk.to(dtype))[0].movedim(0, -1)
        count = len(frames)
        sink(frames)
        progress.advance(count, picture())

    with _on_device(vae.device):
        shape = list(decode.latent.shape)
        if decode.tiling:
            shape[3:] = (min(edge, decode.tiling.size) for edge in shape[3:])
        memory = vae.memory_used_decode(shape, vae.vae_dtype)
        mm.load_models_gpu(
            [vae.patcher], memory_required=memory, force_full_load=vae.disable_offload
        )
        mm.throw_exception_if_processing_interrupted()
        for latent in decode.latent.split(1):
            stream_decode(
                vae.first_stage_model,
                latent.to(device=vae.device, dtype=vae.vae_dtype),
                finish,
                patch_size=patch_size,
                tiling=decode.tiling,
                first_frame=progress.done,
            )
    return progress


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
    return images


def encode_frames(vae, chunks: Iterable[Tensor], frames: int) -> dict:
    """The LATENT of `frames` frames that come as `chunks` of (T, H, W, C) in [0, 1].

    It is the one that `VAE.encode` gives for all of them at once, without ever holding them all;
    of frames other than 4n + 1, the last ones are left out as there. Stops within a chunk when the
    user interrupts. Raises ValueError for a VAE that isn't Wan's, and when chunks end too soon.
    """
    vae.throw_exception_if_invalid()
    _refuse_other_vae(vae)
    chunks = iter(chunks)
    first = next(chunks, None)
    if first is None or frames < 1:
        raise ValueError("frames are none; give at least one to encode.")
    with _on_device(vae.device):
        height, width = vae.vae_encode_crop_pixels(first).shape[1:3]
        memory = vae.memory_used_encode((1, 3, frames, height, width), vae.vae_dtype)
        comfy.model_management.load_models_gpu(
            [vae.patcher], memory_required=memory, force_full_load=vae.disable_offload
        )
        video = _prepared(vae, chain((first,), chunks))
        patch_size = _patch_size(vae)
        latent = stream_encode(vae.first_stage_model, video, frames, patch_size=patch_size)
    return {"samples": latent.to(device=vae.output_device, dtype=output_dtype(vae))}


def _prepared(vae, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Frames as the VAE's encoder takes them, (1, C, T, H, W), one chunk after the other."""
    for chunk in chunks:
        comfy.model_management.throw_exception_if_processing_interrupted()
        video = vae.vae_encode_crop_pixels(chunk).movedim(-1, 0).unsqueeze(0)
        yield vae.process_input(video).to(vae.vae_dtype).to(vae.device)


def output_dtype(vae) -> torch.dtype:
    """The dtype of this ComfyUI's images: float32 unless it was started with fp16 intermediates."""
    choose = getattr(vae, "vae_output_dtype", None)
    return torch.float32 if choose is None else choose()


def _patch_size(vae) -> int | None:
    """The patch size of a Wan VAE, by itself or else by its class; None for any other VAE."""
    model = vae.first_stage_model
    usual = next((size for kind, size in PATCH_SIZES.items() if isinstance(model, kind)), None)
    own = getattr(model, "patch_size", None)
    return usual if usual is None or own is None else int(own)


def _refuse_other_vae(vae) -> None:
    if _patch_size(vae) is None:
        kind = type(vae.first_stage_model).__name__
        raise ValueError(
            f"vae is {kind}, which can't be decoded frame by frame; connect the VAE of "
            "Wan 2.1 or Wan 2.2, or use ComfyUI's own VAE nodes."
        )


def tile_problem(tile_size: int, tile_overlap: int) -> str | None:
    """Why frames can't be decoded in such tiles, in one sentence; None when they can."""
    if tile_size and not 32 <= tile_size <= 4096:
        return f"tile_size is {tile_size}; choose 32 to 4096 pixels, or 0 for whole frames."
    if tile_overlap < 0:
        return f"tile_overlap is {tile_overlap}; choose 0 or more pixels."
    if tile_size and tile_overlap > tile_size // 2:
        return (
            f"tile_overlap is {tile_overlap} and tile_size {tile_size}; choose an overlap of at "
            "most half the size, or a size of 0 for whole frames."
        )
    return None


def _tiling(latent: Tensor, scale: int, tile_size: int, tile_overlap: int) -> Tiling | None:
    if problem := tile_problem(tile_size, tile_overlap):
        raise ValueError(problem)
    size = tile_size // scale
    if not tile_size or size >= max(latent.shape[3:]):
        return None
    return Tiling(size, tile_overlap // scale)


def video_latent(latent: Tensor) -> Tensor:
    """The video latent in a floating point type, which whole numbers and bools are not."""
    if latent.is_nested:  # video and audio in one LATENT: the video comes first
        latent = latent.unbind()[0]
    if latent.is_complex():
        raise ValueError(
            f"samples are complex numbers ({latent.dtype}), and a latent is real ones; connect the "
            "latent of a sampler."
        )
    return latent if latent.dtype in _LATENT_TYPES else latent.float()


def _on_device(device: torch.device):
    """Make `device` the current one where this ComfyUI, which may use several, asks for that."""
    context = getattr(comfy.model_management, "cuda_device_context", None)
    return nullcontext() if context is None else context(device)
