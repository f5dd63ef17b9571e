"""Nodes that read MoGA files."""

from typing import Any

import folder_paths
import torch
from comfy_api.latest import io

from ..moga.hosts.comfyui import load_diffusion_model, load_routers
from ..moga.hosts.comfyui.errors import as_value_error
from .types import MogaRouters, also_found_as

_WEIGHT_DTYPES: dict[str, dict[str, Any]] = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}


class MoGALoadDiffusionModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoGALoadDiffusionModel",
            display_name="Load MoGA Diffusion Model",
            category="MoGA/loaders",
            description="Load a Wan diffusion model together with the MoGA routers in its file. "
            "The model stays dense until Apply MoGA.",
            inputs=[
                io.Combo.Input(
                    "unet_name",
                    options=folder_paths.get_filename_list("diffusion_models"),
                    tooltip="A .safetensors file in models/diffusion_models: a MoGA checkpoint, "
                    "or any Wan model.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(_WEIGHT_DTYPES),
                    default="default",
                    tooltip="Type that the model's weights are kept in; fp8 halves their memory. "
                    "Routers always stay in float32.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, carrying its routers.")],
            **also_found_as("load moga checkpoint", "unet loader"),
        )

    @classmethod
    @as_value_error
    def execute(cls, unet_name: str, weight_dtype: str) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("diffusion_models", unet_name)
        return io.NodeOutput(load_diffusion_model(path, dict(_WEIGHT_DTYPES[weight_dtype])))


class MoGALoadRouters(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoGALoadRouters",
            display_name="Load MoGA Routers",
            category="MoGA/loaders",
            description="Load MoGA routers from a file of their own, for any Wan model: fp8, GGUF "
            "or with LoRA merged in.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=folder_paths.get_filename_list("model_patches"),
                    tooltip="A .safetensors file in models/model_patches that holds MoGA routers.",
                ),
            ],
            outputs=[MogaRouters.Output(tooltip="Connect to routers of Apply MoGA.")],
            **also_found_as("moga adapter"),
        )

    @classmethod
    @as_value_error
    def execute(cls, file: str) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("model_patches", file)
        return io.NodeOutput(load_routers(path, file))
