"""Wan's VAE from the files that people have, and exact decode a few frames at a time.

Letters: B batch, C channels, T frames, H, W pixels (t, h, w in the latent).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from ...checkpoint import CheckpointError
from ...vae.decode import check_latent, stream_decode, to_uint8
from ...vae.encode import stream_encode
from .parts import Part, PathLike, find, latent_channels, spatial_stride
from .recognise import looks_like
from .vae_names import vae_config, vae_names
from .weights import assemble, dtype_of


@dataclass(frozen=True, eq=False)
class Vae(Part):
    """A VAE of Wan.

    names: diffusers' name of each weight. stored: the type to load into where none is asked for.
    """

    names: Mapping[str, str]
    stored: torch.dtype | None

    @property
    def channels(self) -> int:
        """Of a latent."""
        return latent_channels(self.config)

    @property
    def stride(self) -> int:
        """Pixels of a latent column or row."""
        return spatial_stride(self.config)

    def load(self, dtype: torch.dtype | None = None) -> AutoencoderKLWan:
        """The VAE on the CPU. dtype: None keeps what the file has. Raises CheckpointError."""
        first = next(iter(self.names))
        return assemble(
            lambda: AutoencoderKLWan.from_config(self.config),
            self.weights,
            self.names,
            dtype_of(self.weights, first, dtype or self.stored),
            what="Wan's VAE",
        )


def load_vae(path: PathLike | Vae, *, dtype: torch.dtype | None = None) -> AutoencoderKLWan:
    """The VAE of Wan 2.1 or 2.2 on the CPU.

    path: one safetensors file as ComfyUI users have it (`wan_2.1_vae`, `wan2.2_vae`) or in
        diffusers' names, or a diffusers folder, with or without the rest of a pipeline; or what
        `open_vae` made of it.
    dtype: None keeps what the file has. Nothing is downloaded. Raises CheckpointError.
    """
    return open_vae(path).load(dtype)


def open_vae(path: PathLike | Vae) -> Vae:
    """Open a VAE as `load_vae` takes it. Raises CheckpointError for anything else."""
    if isinstance(path, Vae):
        return path
    file, folder, config = find(path, "vae", AutoencoderKLWan)
    if folder is not None:
        return Vae(Path(path), config, file, {key: key for key in file.shapes}, torch.float32)
    config = vae_config(file.shapes)
    if config is None:
        raise CheckpointError(
            f"{file.name} is not a VAE of Wan, it looks like {looks_like(file.shapes)}; choose "
            "wan_2.1_vae.safetensors, or wan2.2_vae.safetensors for the 5B model."
        )
    return Vae(Path(path), config, file, vae_names(file.shapes), None)


@dataclass(frozen=True)
class VideoSize:
    """What a latent decodes to."""

    frames: int
    height: int
    width: int


def check_latents(vae: AutoencoderKLWan, latents: Tensor) -> VideoSize:
    """What latents (1, C, t, h, w) will decode to.

    Raises ValueError when they do not fit, NotFiniteError (one too) when they are not all numbers.
    """
    if latents.ndim != 5 or latents.shape[0] != 1 or latents.shape[1] != vae.config.z_dim:
        raise ValueError(
            f"latents have the shape {tuple(latents.shape)}, this VAE decodes (1, "
            f"{vae.config.z_dim}, frames, height, width); use the VAE that belongs to the model."
        )
    if vae.use_tiling:
        raise ValueError("the VAE decodes in tiles, which changes the picture; disable_tiling.")
    check_latent(latents, "latents")
    frames, height, width = latents.shape[2:]
    scale = vae.config.scale_factor_spatial
    return VideoSize(
        vae.config.scale_factor_temporal * (frames - 1) + 1, height * scale, width * scale
    )


@torch.no_grad()
def decode_frames(
    vae: AutoencoderKLWan,
    latents: Tensor,
    sink: Callable[[Tensor], None],
    *,
    device: torch.device | None = None,
) -> VideoSize:
    """Decode what a Wan pipeline gives for output_type="latent", a few frames at a time.

    latents: (1, C, t, h, w), normalised as the transformer sees them.
    sink: called with uint8 frames (T, H, W, 3) on the CPU, in order; their values are those of
        `vae.decode` on the whole, rounded to the nearest.
    device: where the VAE computes, if it is offloaded (a pipeline's `_execution_device`).
    Raises as `check_latents`, and NotFiniteError when what the VAE gives is not all numbers.
    """
    size = check_latents(vae, latents)
    weights = next(vae.parameters())
    device = device or weights.device
    mean, std = (
        torch.tensor(values, device=device, dtype=weights.dtype).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )

    def finish(chunk: Tensor) -> None:
        frames = chunk.clamp(-1, 1)[0].float().div(2).add_(0.5)
        sink(to_uint8(frames.permute(1, 2, 3, 0)).cpu())

    # As the pipelines write it, so that the numbers are theirs.
    latent = latents.to(device, weights.dtype) / (1 / std) + mean
    stream_decode(_Decoding(vae), latent, finish, patch_size=vae.config.patch_size or 1)
    return size


def encode_frames(
    vae: AutoencoderKLWan,
    chunks: Iterable[Tensor],
    frames: int,
    *,
    device: torch.device | None = None,
) -> Tensor:
    """The opposite of `decode_frames`: the latents of a video that comes a few frames at a time.

    chunks: uint8 (T, H, W, 3), any number of frames each. frames: how many there are, 4n + 1.
    device: where the VAE computes, if it is offloaded.
    Returns (1, C, t, h, w) float32 on the CPU, normalised as the transformer sees them: the mean of
    what `vae.encode` gives for the whole video. Raises ValueError when `chunks` end too soon.
    """
    if frames < 1 or frames % vae.config.scale_factor_temporal != 1:
        raise ValueError(
            f"frames is {frames}; this VAE encodes 4n + 1 of them, such as 1, 5 or 81, so cut the "
            "video to that."
        )
    if vae.use_tiling:
        raise ValueError("the VAE encodes in tiles, which changes the latents; disable_tiling.")
    weights = next(vae.parameters())
    device = device or weights.device

    def prepared() -> Iterator[Tensor]:
        for chunk in chunks:
            video = chunk.to(device).permute(3, 0, 1, 2)[None]
            yield (video.float() / 127.5 - 1).to(weights.dtype)

    patch = vae.config.patch_size or 1
    moments = stream_encode(_Encoding(vae), prepared(), frames, patch_size=patch)
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return (moments.float().cpu() - mean) * (1 / std)


class _Encoding:
    """The VAE as `stream_encode` expects it: encode() gives a tensor."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self.encoder: nn.Module = vae.encoder
        self.clear_cache = vae.clear_cache
        self._vae = vae

    def encode(self, video: Tensor) -> Tensor:
        return self._vae.encode(video, return_dict=False)[0].mode()


class _Decoding:
    """The VAE as `stream_decode` expects it: decode() gives a tensor."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self.decoder: nn.Module = vae.decoder
        self.clear_cache = vae.clear_cache
        self._vae = vae

    def decode(self, latent: Tensor) -> Tensor:
        return self._vae.decode(latent, return_dict=False)[0]
