"""Tiny models with seeded random weights, in the files that ComfyUI's own loaders take.

Only call these after the boot: the shapes come from the classes of the ComfyUI under test. The
weights of one name are the same in every version.
"""

import contextlib
import inspect
import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from .tokenizer import tokenizer

# Inner sizes that core fixes by the kind of model. All that other models see stays as it is.
SMALL_T5 = {"num_layers": 2, "num_heads": 2, "d_kv": 16, "d_ff": 64, "vocab_size": 512}
SMALL_VAE = {"dim": 8, "num_res_blocks": 1}
SMALL_VAE22 = {**SMALL_VAE, "dec_dim": 8}

WAN = {
    "t2v": {"model_type": "t2v"},
    "i2v": {"model_type": "i2v", "in_dim": 36},  # Wan 2.1 I2V: CLIP image tokens, mask and image
    "i2v_2.2": {"model_type": "t2v", "in_dim": 36},  # Wan 2.2 I2V: mask and image only
    "ti2v": {"model_type": "t2v", "in_dim": 48, "out_dim": 48},  # Wan 2.2 TI2V-5B
    "fun": {
        "model_type": "i2v",
        "in_dim": 48,
        "in_dim_ref_conv": 16,
    },  # Fun-Control: reference latent
    "vace": {"vace_layers": 2, "vace_in_dim": 96},
    # VACE on an image-to-video base; from 0.39 on
    "vace_i2v": {"vace_layers": 2, "vace_in_dim": 96, "in_dim": 36, "vace_image_input": True},
    "scail": {"in_dim": 20},  # SCAIL: reference and pose frames; not in 0.3.64
    "scail2": {"in_dim": 20},  # not in 0.20.1
    "animate": {"in_dim": 36, "num_layers": 5},  # Wan 2.2 Animate: five for each face adapter
}
CLASSES = {
    **{"vace": "VaceWanModel", "vace_i2v": "VaceWanModel", "animate": "AnimateWanModel"},
    **{"scail": "SCAILWanModel", "scail2": "SCAIL2WanModel"},
}


def wan(
    kind: str = "t2v", *, seed: int = 0, dim: int = 256, layers: int = 2, **config: Any
) -> dict:
    """State dict of a Wan model, one of ``WAN``, in original key names and fp32.

    Heads are 128 wide as in every Wan. ``config`` goes to ComfyUI's class.
    """
    sizes = {"dim": dim, "num_heads": dim // 128, "ffn_dim": 2 * dim, "num_layers": layers}
    config = {**sizes, **WAN[kind], **config}
    return random_weights(_class(kind)(**config, operations=torch.nn), seed)


def there(kind: str) -> bool:
    """Whether this ComfyUI has that kind of Wan."""
    made = _class(kind)
    wanted = "vace_image_input" if kind == "vace_i2v" else "dim"
    return made is not None and wanted in inspect.signature(made).parameters


def _class(kind: str) -> Any:
    import comfy.ldm.wan.model as others
    import comfy.ldm.wan.model_animate as animate

    return getattr(animate if kind == "animate" else others, CLASSES.get(kind, "WanModel"), None)


def lora(weights: dict, *, seed: int = 0, rank: int = 4) -> dict:
    """State dict of a LoRA on the self-attention of a Wan state dict, in ComfyUI's key names."""
    pairs = {}
    for key, weight in weights.items():
        if ".self_attn." in key and weight.ndim == 2:
            name = f"diffusion_model.{key.removesuffix('.weight')}"
            for half, shape in (("A", (rank, weight.shape[1])), ("B", (weight.shape[0], rank))):
                full = f"{name}.lora_{half}.weight"
                pairs[full] = random_weight(full, torch.empty(shape), seed)
    return pairs


def vae(kind: str = "2.1", *, seed: int = 0) -> dict:
    """State dict of a Wan "2.1" or "2.2" VAE, to be loaded within :func:`small_models`."""
    import comfy.ldm.wan.vae
    import comfy.ldm.wan.vae2_2

    config = {"dim_mult": [1, 2, 4, 4], "temperal_downsample": [False, True, True]}
    if kind == "2.1":
        model = comfy.ldm.wan.vae.WanVAE(z_dim=16, **config, **SMALL_VAE)
    else:
        model = comfy.ldm.wan.vae2_2.WanVAE(z_dim=48, **config, **SMALL_VAE22)
    return random_weights(model, seed)


def text_encoder(*, seed: int = 0) -> dict:
    """State dict of a umT5 with tokenizer, 4096 wide, to be loaded within :func:`small_models`."""
    import comfy.text_encoders.t5

    config = {
        **{"d_model": 4096, "dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True},
        **{"model_type": "umt5", **SMALL_T5},
    }
    t5 = comfy.text_encoders.t5.T5(config, torch.float32, "cpu", torch.nn)
    weights = random_weights(t5, seed)
    weights["spiece_model"] = torch.frombuffer(
        bytearray(tokenizer(SMALL_T5["vocab_size"])), dtype=torch.uint8
    )
    # By the shape of this one, core sees a T5-XXL: either the first number or the last.
    weights["encoder.block.23.layer.1.DenseReluDense.wi_1.weight"] = torch.zeros(10240, 0, 4096)
    return weights


@contextlib.contextmanager
def small_models() -> Iterator[None]:
    """Within it core's loaders build text encoders and Wan VAEs in the sizes used here.

    Core tells the kind of model from the file and then takes the sizes for granted; the real ones
    have billions of parameters. Nothing but the sizes is changed.
    """
    import comfy.ldm.wan.vae
    import comfy.ldm.wan.vae2_2
    import comfy.text_encoders.t5

    t5 = comfy.text_encoders.t5
    with pytest.MonkeyPatch.context() as patch:
        resize(patch, comfy.ldm.wan.vae, "WanVAE", lambda **config: config | SMALL_VAE)
        resize(patch, comfy.ldm.wan.vae2_2, "WanVAE", lambda **config: config | SMALL_VAE22)
        resize(patch, t5, "T5", lambda config, *rest: (config | SMALL_T5, *rest))
        yield


def resize(patch: pytest.MonkeyPatch, module: ModuleType, name: str, change: Any) -> None:
    """Replace a class of ``module`` by itself with other arguments."""
    real = getattr(module, name)

    class Small(real):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            changed = change(*args, **kwargs)
            if isinstance(changed, dict):
                super().__init__(**changed)
            else:
                super().__init__(*changed)

    Small.__name__ = Small.__qualname__ = name
    patch.setattr(module, name, Small)


def random_weights(model: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Random values for all of a model's weights, of a size that keeps activations near one."""
    return {key: random_weight(key, w, seed) for key, w in model.state_dict().items()}


def random_weight(key: str, like: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()) + seed)
    noise = torch.randn(like.shape, generator=generator)
    if key.endswith("gamma") or (like.ndim == 1 and key.endswith("weight")):  # a norm's scale
        return 1 + 0.1 * noise
    if like.ndim == 1 or "modulation" in key:
        return 0.1 * noise
    return noise / like[0].numel() ** 0.5
