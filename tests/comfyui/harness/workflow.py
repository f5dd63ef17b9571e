"""The shipped workflows at a size that a CPU can run: tiny models under the names they ask for."""

from pathlib import Path
from typing import Any

import torch

from . import tiny
from .scene import router_weights

ENCODER = "umt5_xxl_fp8_e4m3fn_scaled.safetensors"
VAE = "wan_2.1_vae.safetensors"
MOGA, PLAIN = "wan2.1_t2v_1.3B_moga.safetensors", "wan2.1_t2v_1.3B_fp16.safetensors"
PICTURE = "example.png"


def install_models(comfy: Any) -> None:
    """Write random models, to be loaded within ``tiny.small_models``, and a picture."""
    comfy.add_model("text_encoders", ENCODER, tiny.text_encoder())
    comfy.add_model("vae", VAE, tiny.vae())
    comfy.add_model("vae", "wan2.2_vae.safetensors", tiny.vae("2.2"))
    plain = {
        PLAIN: tiny.wan(),
        "wan2.1_t2v_14B_fp8_scaled.safetensors": in_fp8(tiny.wan()),
        "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors": tiny.wan(),
        "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors": tiny.wan(seed=1),
        "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors": tiny.wan("i2v_2.2"),
        "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors": tiny.wan("i2v_2.2", seed=1),
        "wan2.2_ti2v_5B_fp16.safetensors": tiny.wan("ti2v"),
    }
    for name, weights in plain.items():
        comfy.add_model("diffusion_models", name, weights)
    _install_moga(comfy)
    _install_picture()


def _install_moga(comfy: Any) -> None:
    checkpoint = comfy.module("moga.checkpoint")
    make_config = comfy.module("moga.config").MoGAConfig
    minute = "wan2.1_t2v_1.3B_moga_24fps_m20.safetensors"
    for folder, name, weights, config in (
        ("diffusion_models", MOGA, tiny.wan(), make_config()),
        ("diffusion_models", minute, tiny.wan(), make_config(groups=20, windows=(4, 4))),
        ("model_patches", "wan2.1_t2v_14B_moga_routers.safetensors", {}, make_config()),
    ):
        merged = checkpoint.merge_routers(weights, router_weights(config.groups))
        comfy.add_model(folder, name, merged, {"moga": config.to_json()})


def _install_picture() -> None:
    """The one that ComfyUI brings in its own input folder."""
    import folder_paths
    from PIL import Image

    folder = Path(folder_paths.get_input_directory())
    folder.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((80, 60), 80).convert("RGB").save(folder / PICTURE)


def in_fp8(weights: dict) -> dict:
    """As files of fp8 models have it: what is multiplied with, not norms and biases."""
    fp8 = torch.float8_e4m3fn
    return {key: w.to(fp8) if w.ndim == 2 else w for key, w in weights.items()}


def small(prompt: dict, **changes: Any) -> dict:
    """The prompt with few pixels and two steps, and other widgets changed by name.

    Of two samplers each gets one of the steps.
    """
    changes = {"width": 64, "height": 48, "steps": 2, **changes}
    for node in prompt.values():
        inputs = node["inputs"]
        for name, value in changes.items():
            if not isinstance(inputs.get(name, []), list):  # a link stays
                inputs[name] = value
        for name in ("start_at_step", "end_at_step"):
            if 0 < inputs.get(name, 0) < 1000:
                inputs[name] = 1
    return prompt


def write_gguf(path: Path, weights: dict) -> None:
    """A GGUF of Wan, its matrices in Q8_0."""
    import gguf

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "wan")
    for key, weight in weights.items():
        kind = gguf.GGMLQuantizationType.Q8_0 if weight.ndim == 2 else None
        kind = kind or gguf.GGMLQuantizationType.F32
        packed = gguf.quants.quantize(weight.float().numpy(), kind)
        writer.add_tensor(key, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
