"""The model files of a run, judged by their headers and routers before anything large is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import UMT5Config

from ..checkpoint import DTYPES, check_routers, read_routers
from ..config import MoGAConfig
from ..hosts.diffusers import folders
from ..hosts.diffusers.image_encoder import open_image_encoder
from ..hosts.diffusers.pipeline import (
    check_pair,
    check_text_width,
    check_vae,
    pipeline_folder,
    takes_image,
)
from ..hosts.diffusers.text_encoder import open_text_encoder, text_encoder_folder, umt5_config
from ..hosts.diffusers.transformer import open_routers, open_wan, wan_config
from ..hosts.diffusers.vae import open_vae
from ..hosts.diffusers.vae_names import vae_config
from ..wan import CHANNELS, SPATIAL_STRIDE, WIDE_CHANNELS
from .options import DENSE, Options, UsageError

_PATCH = 2  # of all Wan models


@dataclass(frozen=True)
class Transformer:
    """One transformer of the run. config: diffusers' settings; size: bytes of its weights."""

    name: str
    config: dict[str, Any]
    size: int
    moga: MoGAConfig | None

    @property
    def width(self) -> int:
        return self.config["num_attention_heads"] * self.config["attention_head_dim"]


@dataclass(frozen=True)
class Models:
    """All models of a run, the VAE alone where latents are only decoded.

    patch: latent pixels of a token, along height and width. Sizes are bytes of weights in the type
    of the run.
    """

    transformers: tuple[Transformer, ...]
    latent_channels: int
    scale: int
    patch: int
    vae_size: int
    text_size: int
    image_size: int

    @property
    def first(self) -> Transformer:
        return self.transformers[0]


def examine(options: Options) -> Models:
    """Open the headers of all model files, and the routers, and hold them against each other.

    Raises UsageError, CheckpointError and ConfigError, each with what to give instead.
    """
    dtype = DTYPES[options.dtype]
    model = options.model
    whole = pipeline_folder(model) if model else None
    vae, vae_size = _vae(options.vae or whole, dtype)
    channels, scale = vae.get("z_dim", CHANNELS), vae.get("scale_factor_spatial", SPATIAL_STRIDE)
    if options.latents is not None:
        return Models((), channels, scale, _PATCH, vae_size, 0, 0)
    high = _transformer(model, options.routers, dtype, options, "--routers")
    transformers = [high]
    low = options.model_low or (folders.part(whole, "transformer_2") if whole else None)
    if low:
        transformers.append(_transformer(low, options.routers_low, dtype, options, "--routers-low"))
        check_pair(high.config, transformers[1].config)
    _check_image(options, high)
    check_vae(channels, high.config["out_channels"])
    text_size = _text(options.text_encoder or whole, dtype, high.config["text_dim"], options)
    image_size = 0
    if high.config.get("image_dim") and options.image_encoder:
        image_size = open_image_encoder(options.image_encoder).bytes_as(dtype)
    elif high.config.get("image_dim") and not whole:
        raise UsageError(
            f"{high.name} looks at the image through CLIP; give "
            "--image-encoder clip_vision_h.safetensors."
        )
    patch = high.config["patch_size"][1]
    return Models(tuple(transformers), channels, scale, patch, vae_size, text_size, image_size)


def _transformer(
    path: Path, routers: Path | None, dtype: torch.dtype, options: Options, flag: str
) -> Transformer:
    if os.path.isdir(path):
        folder = folders.model(path, "transformer")
        config = folders.read_config(folder, WanTransformer3DModel)
        size, own = folders.weights(folder).bytes_as(dtype), None
    else:
        own = open_wan(path)
        config, size = wan_config(own), own.bytes_as(dtype)
    if options.attention == DENSE:
        return Transformer(path.name, config, size, None)
    carrier = open_routers(routers) if routers else own
    found, moga = read_routers(carrier.path, carrier.name) if carrier else ({}, None)
    routed = moga is None or "routed" in moga.branches  # static branches alone need no routers
    if routed and not found:
        raise UsageError(
            f"{path.name} holds no MoGA routers; give {flag} FILE, or --attention dense for plain "
            "Wan with a text per shot."
        )
    transformer = Transformer(path.name, config, size, moga)
    if routed:
        blocks = config["num_layers"]
        check_routers(found, moga, source=carrier.name, dim=transformer.width, blocks=blocks)
    return transformer


def _check_image(options: Options, transformer: Transformer) -> None:
    needs = takes_image(transformer.config)
    could = transformer.config["out_channels"] == WIDE_CHANNELS  # the 5B model does both
    if needs and options.image is None:
        raise UsageError(f"{transformer.name} begins with an image; give --image FILE.")
    if options.image is not None and not (needs or could):
        raise UsageError(
            f"{transformer.name} is a text-to-video model; leave --image out, or choose an "
            "image-to-video model."
        )


def _vae(path: Path | None, dtype: torch.dtype) -> tuple[dict[str, Any], int]:
    if path is None:
        raise UsageError(
            "--vae is missing; give wan_2.1_vae.safetensors (wan2.2_vae.safetensors for the 5B "
            "model)."
        )
    if os.path.isdir(path):
        folder = folders.model(path, "vae")
        config = folders.read_config(folder, AutoencoderKLWan)
        return config, folders.weights(folder).bytes_as(dtype)
    file = open_vae(path)
    return vae_config(file.shapes), file.bytes_as(dtype)


def _text(path: Path | None, dtype: torch.dtype, wanted: int, options: Options) -> int:
    """Bytes of the text encoder; 0 where none is needed."""
    if options.embeddings:
        return 0
    if path is None:
        raise UsageError(
            "--text-encoder is missing; give umt5_xxl_fp16.safetensors, or --embeddings."
        )
    if os.path.isdir(path):
        folder = text_encoder_folder(path)
        check_text_width(folders.read_config(folder, UMT5Config)["d_model"], wanted)
        return folders.weights(folder).bytes_as(dtype)
    file = open_text_encoder(path)
    check_text_width(umt5_config(file.shapes)["d_model"], wanted)
    return file.bytes_as(dtype)
