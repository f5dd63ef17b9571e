"""The CLIP vision encoder that Wan 2.1's image-to-video models look at the first frame with."""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from ...checkpoint import CheckpointError
from .names import MOST_BLOCKS, Shapes
from .weights import WeightFile, assemble

_PREFIX = "vision_model."
_HEAD_WIDTH = 80  # of ViT-H/14, the one that Wan uses


def load_image_encoder(
    path: str | os.PathLike[str], *, dtype: torch.dtype | None = None
) -> tuple[CLIPVisionModel, CLIPImageProcessor]:
    """CLIP's vision encoder on the CPU, and what prepares an image for it.

    path: ComfyUI's clip_vision_h.safetensors.
    dtype: None keeps what the file has. Nothing is downloaded. Raises CheckpointError.
    """
    file = open_image_encoder(path)
    config = clip_config(file.shapes)

    def build() -> CLIPVisionModel:
        return CLIPVisionModel(CLIPVisionConfig(**config))

    with init_empty_weights():
        own = set(build().state_dict())
    # transformers 5 dropped the prefix from its names.
    names = {
        key: key if key in own else key.removeprefix(_PREFIX)
        for key in file.shapes
        if key.startswith(_PREFIX) and not key.endswith(".position_ids")
    }
    probe = next(key for key in names if key.endswith("patch_embedding.weight"))
    model = assemble(build, file, names, file.dtype_of(probe, dtype), what="CLIP's vision encoder")
    size = config["image_size"]
    processor = CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    return model, processor


def open_image_encoder(path: str | os.PathLike[str]) -> WeightFile:
    """The header of a single-file CLIP vision encoder. Raises CheckpointError otherwise."""
    file = WeightFile.open(path)
    if clip_config(file.shapes) is None:
        raise CheckpointError(
            f"{file.name} is not a CLIP vision encoder, it looks like {file.looks_like()}; use "
            "clip_vision_h.safetensors (Comfy-Org/Wan_2.1_ComfyUI_repackaged)."
        )
    return file


def clip_config(shapes: Shapes) -> dict[str, Any] | None:
    """Settings of `CLIPVisionConfig` from the shapes of a file; None for another model."""
    try:
        width, _, patch, _ = shapes[f"{_PREFIX}embeddings.patch_embedding.weight"]
        positions = shapes[f"{_PREFIX}embeddings.position_embedding.weight"][0]
        wide = shapes[f"{_PREFIX}encoder.layers.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError, IndexError):
        return None
    side = round(max(0, positions - 1) ** 0.5)
    layers = sum(key.endswith(".layer_norm1.weight") for key in shapes)
    if side * side + 1 != positions or width % _HEAD_WIDTH or layers > MOST_BLOCKS:
        return None
    if 0 in (width, patch, side, wide, layers):
        return None
    return {
        "hidden_size": width,
        "intermediate_size": wide,
        "num_hidden_layers": layers,
        "num_attention_heads": width // _HEAD_WIDTH,
        "image_size": side * patch,
        "patch_size": patch,
        "hidden_act": "gelu",
    }
