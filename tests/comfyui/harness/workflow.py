"""The shipped workflows at a size that a CPU can run: tiny models under the names they ask for."""

from typing import Any

from . import tiny
from .scene import router_weights

ENCODER = "umt5_xxl_fp8_e4m3fn_scaled.safetensors"
VAE = "wan_2.1_vae.safetensors"
MOGA, PLAIN = "wan2.1_t2v_1.3B_moga.safetensors", "wan2.1_t2v_1.3B_fp16.safetensors"


def install_models(comfy: Any) -> None:
    """Write random models, to be loaded within ``tiny.small_models``."""
    checkpoint = comfy.module("moga.checkpoint")
    config = comfy.module("moga.config").MoGAConfig()
    merged = checkpoint.merge_routers(tiny.wan(), router_weights(config.groups))
    comfy.add_model("diffusion_models", MOGA, merged, {"moga": config.to_json()})
    comfy.add_model("diffusion_models", PLAIN, tiny.wan())
    comfy.add_model("text_encoders", ENCODER, tiny.text_encoder())
    comfy.add_model("vae", VAE, tiny.vae())


def small(prompt: dict, **changes: Any) -> dict:
    """The prompt with few pixels and steps, and other widgets changed by name."""
    changes = {"width": 64, "height": 48, "steps": 2, **changes}
    for node in prompt.values():
        for name, value in changes.items():
            if not isinstance(node["inputs"].get(name, []), list):  # a link stays
                node["inputs"][name] = value
    return prompt
