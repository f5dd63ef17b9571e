"""The models of a pipeline, opened: each is judged once, by its header, and travels as that."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...checkpoint import CheckpointError
from ...tensor_file import TensorFile
from ...wan import CHANNELS, SPATIAL_STRIDE, WIDE_CHANNELS
from . import folders
from .weights import open_weights

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Part:
    """A model that was opened and judged: it travels instead of its path.

    source: the file or folder, as it was given. config: the settings of its class in diffusers or
    transformers. weights: the header of its file, or of all files of its folder.
    """

    source: Path
    config: Mapping[str, Any]
    weights: TensorFile

    def __str__(self) -> str:
        return str(self.source)

    @property
    def name(self) -> str:
        return self.source.name

    def bytes_as(self, dtype: torch.dtype) -> int:
        """Memory of the weights once cast to `dtype`."""
        return self.weights.bytes_as(dtype)

    def load(self, dtype: torch.dtype | None = None) -> Any:
        """The model on the CPU. dtype: None keeps what the file has. Raises CheckpointError."""
        raise NotImplementedError


class Found(NamedTuple):
    """What lies at a path. folder: of a model in diffusers' form, with its config; None for a file,
    whose shapes tell the settings."""

    weights: TensorFile
    folder: Path | None = None
    config: folders.Config | None = None


def find(path: PathLike, name: str, kind: Any = None, *, otherwise: str | None = None) -> Found:
    """Open a single file, or a diffusers folder: the only place that asks which of the two it is.

    name: of the model's folder inside that of a pipeline. kind: the class that the folder has to be
    of. otherwise: what to use instead where it is not inside the folder of a pipeline; None where
    the model's own folder will do. Raises CheckpointError.
    """
    if not os.path.isdir(path):
        return Found(open_weights(path))
    folder = folders.model(Path(path), name, otherwise)
    config = folders.read_config(folder, kind)
    return Found(folders.weights(folder), folder, config)


def takes_image(config: Mapping[str, Any]) -> bool:
    """Whether a transformer with these settings needs a first frame: it has channels for one."""
    return config["in_channels"] != config["out_channels"]


def latent_channels(vae: Mapping[str, Any]) -> int:
    """Channels of a latent, by a VAE's settings; those that they leave out are diffusers' own."""
    return vae.get("z_dim", CHANNELS)


def spatial_stride(vae: Mapping[str, Any]) -> int:
    """Pixels of a latent column or row, by a VAE's settings."""
    return vae.get("scale_factor_spatial", SPATIAL_STRIDE)


def check_together(
    transformer: Part,
    vae: Part | None = None,
    text_encoder: Part | None = None,
    *,
    image_encoder: Part | None = None,
    low: Part | None = None,
) -> None:
    """Raise CheckpointError, in one sentence, unless these parts can make one pipeline.

    low: the low-noise expert of Wan 2.2, where `transformer` is the high-noise one. What is None is
    not looked at.
    """
    own = transformer.config
    if low is not None:
        _check_experts(own, low.config)
    if vae is not None and (channels := latent_channels(vae.config)) != own["out_channels"]:
        right = "wan2.2_vae" if own["out_channels"] == WIDE_CHANNELS else "wan_2.1_vae"
        raise CheckpointError(
            f"the VAE has {channels} latent channels, the model {own['out_channels']}; "
            f"use {right}.safetensors."
        )
    if text_encoder is not None and (width := text_encoder.config["d_model"]) != own["text_dim"]:
        raise CheckpointError(
            f"the text encoder gives text of width {width}, the model reads {own['text_dim']}; use "
            "the text encoder that belongs to the model (umt5_xxl for Wan)."
        )
    wanted = own.get("image_dim")
    width = None if image_encoder is None else image_encoder.config.get("hidden_size", wanted)
    if width not in (None, wanted):
        raise CheckpointError(
            f"the image encoder gives images of width {width}, the model reads "
            f"{wanted}; use clip_vision_h.safetensors."
        )


def _check_experts(high: Mapping[str, Any], low: Mapping[str, Any]) -> None:
    for name in ("in_channels", "out_channels", "text_dim", "image_dim"):
        if high.get(name) != low.get(name):
            raise CheckpointError(
                f"the two models differ in {name} ({high.get(name)} and {low.get(name)}); "
                "give the high-noise and the low-noise file of the same Wan 2.2 model."
            )
