"""The harness itself: that what it boots and builds is a working ComfyUI."""

import pytest
import torch
from harness import tiny


def text_to_latent(comfy, unet_name: str) -> dict:
    """KSampler on a loaded model, with random text."""
    generator = torch.Generator().manual_seed(1)
    positive, negative = (torch.randn(1, 512, 4096, generator=generator) for _ in "+-")
    return {
        "model": {
            "class_type": "UNETLoader",
            "inputs": {"unet_name": unet_name, "weight_dtype": "default"},
        },
        "positive": comfy.put([[positive, {}]]),
        "negative": comfy.put([[negative, {}]]),
        "empty": {
            "class_type": "EmptyHunyuanLatentVideo",
            "inputs": {"width": 64, "height": 48, "length": 9, "batch_size": 1},
        },
        "sampler": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["model", 0],
                "positive": ["positive", 0],
                "negative": ["negative", 0],
                "latent_image": ["empty", 0],
                "seed": 5,
                "steps": 2,
                "cfg": 3.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1.0,
            },
        },
        "latent": {"class_type": "TestCapture", "inputs": {"value": ["sampler", 0]}},
    }


def test_boot(comfy):
    """Which also loads the pack, with all that is optional to it hidden."""
    assert comfy.version >= (0, 3, 64)
    assert comfy.nodes["KSampler"] and comfy.nodes["SamplerCustomAdvanced"]
    assert comfy.module("moga").__name__.endswith(".moga")


def test_ksampler_on_a_tiny_wan(comfy):
    name = comfy.add_model("diffusion_models", "tiny_t2v.safetensors", tiny.wan())
    prompt = text_to_latent(comfy, name)
    first, again = (comfy.run(prompt).captured["latent"]["samples"] for _ in "12")
    assert first.shape == (1, 16, 3, 6, 8)
    assert torch.equal(first, again)
    # The same weights, noise and sampling in every version.
    assert first.double().abs().sum().item() == pytest.approx(5940.04, rel=1e-4)


KINDS = {
    "t2v": ("WAN21", "WanModel"),
    "i2v": ("WAN21", "WanModel"),
    "i2v_2.2": ("WAN21", "WanModel"),
    "ti2v": ("WAN22", "WanModel"),
    "fun": ("WAN21", "WanModel"),
    "vace": ("WAN21_Vace", "VaceWanModel"),
    "vace_i2v": ("WAN21_Vace", "VaceWanModel"),
    "scail": ("WAN21_SCAIL", "SCAILWanModel"),
    "scail2": ("WAN21_SCAIL2", "SCAIL2WanModel"),
    "animate": ("WAN22_Animate", "AnimateWanModel"),
}


@pytest.mark.parametrize("kind", tiny.WAN)
def test_every_wan_kind_samples(comfy, kind):
    if not tiny.there(kind):
        pytest.skip("this ComfyUI has no such model")
    name = comfy.add_model("diffusion_models", f"tiny_{kind}.safetensors", tiny.wan(kind))
    prompt = text_to_latent(comfy, name)
    if kind == "ti2v":
        prompt["empty"] = comfy.put({"samples": torch.zeros(1, 48, 3, 6, 8)})
    samples = comfy.run(prompt).captured["latent"]["samples"]
    assert samples.isfinite().all() and samples.std() > 0.1
    model = comfy.call("UNETLoader", unet_name=name)[0].model
    assert (type(model).__name__, type(model.diffusion_model).__name__) == KINDS[kind]


@pytest.mark.parametrize(("kind", "channels", "scale"), [("2.1", 16, 8), ("2.2", 48, 16)])
def test_vae_file(comfy, kind, channels, scale):
    name = comfy.add_model("vae", f"tiny_{kind}.safetensors", tiny.vae(kind))
    with tiny.small_models():
        (vae,) = comfy.call("VAELoader", vae_name=name)
    latent = {"samples": torch.randn(1, channels, 3, 4, 6)}
    (images,) = comfy.call("VAEDecode", vae=vae, samples=latent)
    assert images.shape == (9, 4 * scale, 6 * scale, 3) and images.std() > 0.05
    (back,) = comfy.call("VAEEncode", vae=vae, pixels=images)
    assert back["samples"].shape == latent["samples"].shape


def test_text_encoder_file(comfy):
    name = comfy.add_model("text_encoders", "tiny.safetensors", tiny.text_encoder())
    with tiny.small_models():
        (clip,) = comfy.call("CLIPLoader", clip_name=name, type="wan")
    texts = ["A woman walks.", "Ein Kätzchen \u732b \U0001f63a", ""]
    a, b, empty = (comfy.call("CLIPTextEncode", clip=clip, text=t)[0][0][0] for t in texts)
    assert a.shape == b.shape == empty.shape == (1, 512, 4096)
    assert not torch.equal(a, b) and a.std() > 0.01
    assert not a[0, 400:].any()  # padding is zeroed
    (weighted,) = comfy.call("CLIPTextEncode", clip=clip, text="A (woman:1.5) walks.")
    assert not torch.equal(weighted[0][0], a)
