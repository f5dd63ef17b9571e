"""How many pixels a VAE packs into channels: by its class, or by what it says itself."""

import pytest
import torch
from harness import tiny


@pytest.fixture(scope="module")
def vae(comfy):
    from comfy.sd import VAE

    with tiny.small_models():
        return VAE(sd=tiny.vae("2.2"))


def streamed(comfy, vae, latent):
    host, chunks = comfy.module("moga.hosts.comfyui.vae"), []
    host.decode_frames(vae, host.plan_decode(vae, {"samples": latent}), chunks.append)
    return torch.cat(chunks)


@pytest.mark.parametrize("own", [None, 2, 1])
def test_a_vae_that_says_its_patch_size_is_believed(comfy, vae, monkeypatch, own):
    """As newer cores have it: decode() takes the number from the model, and so does the stream."""
    import comfy.ldm.wan.vae2_2 as core

    model, unpatchify = vae.first_stage_model, core.unpatchify
    monkeypatch.setattr(model, "patch_size", own, raising=False)
    monkeypatch.setattr(core, "unpatchify", lambda x, patch_size: unpatchify(x, own or patch_size))
    latent = torch.randn(1, 48, 3, 2, 3, generator=torch.Generator().manual_seed(0))
    found = streamed(comfy, vae, latent)
    whole = vae.process_output(model.decode(latent.to(vae.vae_dtype)).float())[0].movedim(0, -1)
    assert found.shape[-1] == (12 if own == 1 else 3)
    assert torch.equal(found, whole)
