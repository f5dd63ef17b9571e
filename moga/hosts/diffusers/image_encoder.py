"""The CLIP vision encoder that Wan 2.1's image-to-video models look at the first frame with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import DiffusionPipeline
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from ...checkpoint import CheckpointError
from . import folders
from .names import MOST_BLOCKS, Shapes
from .parts import Part, PathLike, find
from .recognise import looks_like
from .weights import assemble, dtype_of

_FIX = "use clip_vision_h.safetensors (Comfy-Org/Wan_2.1_ComfyUI_repackaged)"
_PREFIX = "vision_model."
_HEAD_WIDTH = 80  # of ViT-H/14, the one that Wan uses


@dataclass(frozen=True, eq=False)
class ImageEncoder(Part):
    """CLIP's vision encoder. whole: it lies in the folder of a pipeline, with its processor."""

    whole: bool

    def load(self, dtype: torch.dtype | None = None) -> tuple[CLIPVisionModel, CLIPImageProcessor]:
        """The encoder on the CPU, and what prepares an image for it. Raises CheckpointError.

        dtype: None keeps what the file has; so does a folder, whatever is asked for.
        """
        if self.whole:
            return _of_pipeline(self.source)

        def build() -> CLIPVisionModel:
            return CLIPVisionModel(CLIPVisionConfig(**self.config))

        file, shapes = self.weights, self.weights.shapes
        with init_empty_weights():
            own = set(build().state_dict())
        # transformers 5 dropped the prefix from its names.
        names = {
            key: key if key in own else key.removeprefix(_PREFIX)
            for key in shapes
            if key.startswith(_PREFIX) and not key.endswith(".position_ids")
        }
        probe = next(key for key in names if key.endswith("patch_embedding.weight"))
        stored = dtype_of(file, probe, dtype)
        model = assemble(build, file, names, stored, what="CLIP's vision encoder")
        size = self.config["image_size"]
        processor = CLIPImageProcessor(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        )
        return model, processor


def load_image_encoder(
    path: PathLike, *, dtype: torch.dtype | None = None
) -> tuple[CLIPVisionModel, CLIPImageProcessor]:
    """CLIP's vision encoder on the CPU, and what prepares an image for it.

    path: ComfyUI's clip_vision_h.safetensors, or the folder of a whole image-to-video pipeline.
    dtype: None keeps what the file has. Nothing is downloaded. Raises CheckpointError.
    """
    return open_image_encoder(path).load(dtype)


def open_image_encoder(path: PathLike) -> ImageEncoder:
    """Open an image encoder as `load_image_encoder` takes it. Raises CheckpointError otherwise."""
    file, folder, config = find(path, "image_encoder", otherwise=_FIX)
    if folder is not None:
        return ImageEncoder(Path(path), config, file, True)
    config = clip_config(file.shapes)
    if config is None:
        raise CheckpointError(
            f"{file.name} is not a CLIP vision encoder, it looks like {looks_like(file.shapes)}; "
            f"{_FIX}."
        )
    return ImageEncoder(Path(path), config, file, False)


def _of_pipeline(folder: Path) -> tuple[CLIPVisionModel, CLIPImageProcessor]:
    try:
        pipe = DiffusionPipeline.from_pretrained(
            folder, transformer=None, transformer_2=None, vae=None, text_encoder=None,
            tokenizer=None, local_files_only=True,
        )  # fmt: skip
    except Exception as error:  # whatever diffusers trips over
        raise folders.damaged(folder, error) from error
    return pipe.image_encoder, pipe.image_processor


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
