"""What `moga.train` leaves goes into ComfyUI's loaders: a model, routers, and an adapter."""

import pytest
import torch
from harness.scene import Scene, close, differs


@pytest.fixture
def trained(comfy, tmp_path):
    """A transformer as a stage that trains a LoRA has it, in the files that the trainer writes."""
    pytest.importorskip("diffusers")
    peft = pytest.importorskip("peft")
    from diffusers import WanTransformer3DModel

    from moga.config import MoGAConfig
    from moga.hosts.diffusers import enable_moga, wan_state_dict
    from moga.train import export
    from moga.train.model import ADAPTER

    with torch.random.fork_rng():
        torch.manual_seed(0)
        dit = WanTransformer3DModel(num_attention_heads=2, num_layers=2, ffn_dim=512)
        base = wan_state_dict(dit)
        enable_moga(dit, MoGAConfig(), "random")
        targets = ["to_q", "to_out.0", "ffn.net.0.proj"]
        dit.add_adapter(peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets), ADAPTER)
        for name, parameter in dit.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
    state, scale, config = dit.state_dict(), 8 / 4, MoGAConfig()
    routers = export.router_state(state)
    adapter = {**routers, **export.lora_state(state, scale)}
    header = {"moga": config.to_json()}
    whole = export.model_state(state, scale)
    comfy.add_model("diffusion_models", "trained.safetensors", whole, header)
    comfy.add_model("diffusion_models", "base.safetensors", base)
    for folder in ("model_patches", "loras"):
        comfy.add_model(folder, "adapter.safetensors", adapter, header)
    yield Scene(comfy, base)
    comfy.forget()


def test_adapter_on_the_base_is_the_trained_model(comfy, trained):
    (whole,) = comfy.call("MoGALoadDiffusionModel", unet_name="trained.safetensors")
    (base,) = comfy.call("MoGALoadDiffusionModel", unet_name="base.safetensors")
    (routers,) = comfy.call("MoGALoadRouters", file="adapter.safetensors")
    (adapted,) = comfy.call(
        "LoraLoaderModelOnly", model=base, lora_name="adapter.safetensors", strength_model=1.0
    )
    expected = trained.sample(trained.apply(whole))
    found, without = (trained.sample(trained.apply(model, routers)) for model in (adapted, base))
    close(found, expected, 1e-4)
    differs(without, expected)
