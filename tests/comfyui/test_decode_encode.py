"""The streamed encode against ComfyUI's own VAE.encode."""

import pytest
import torch
from harness import tiny


@pytest.fixture(scope="module", params=["2.1", "2.2"])
def wan(request, comfy):
    return make_vae(request.param)


def make_vae(kind, dtype=None):
    from comfy.sd import VAE

    with tiny.small_models():
        return VAE(sd=tiny.vae(kind), dtype=dtype)


def make_frames(count, height=32, width=48):
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(count))


@torch.inference_mode()
def core_encode(vae, frames):
    return vae.encode(frames)


@torch.inference_mode()
def encode(comfy, vae, chunks, frames):
    return comfy.module("moga.hosts.comfyui.vae").encode_frames(vae, chunks, frames)["samples"]


@pytest.mark.parametrize("count", [1, 5, 9, 13, 17, 21, 33])
def test_latent_is_that_of_vae_encode(comfy, wan, count):
    frames = make_frames(count)
    expected = core_encode(wan, frames)
    assert expected.shape[2] == (count + 3) // 4 and expected.std() > 0.01
    for size in (1, 3, 100):
        assert torch.equal(encode(comfy, wan, frames.split(size), count), expected), size


def test_half_precision_vae_is_exact_too(comfy):
    vae, frames = make_vae("2.1", torch.bfloat16), make_frames(9)
    assert torch.equal(encode(comfy, vae, frames.split(2), 9), core_encode(vae, frames))


def test_frames_are_cropped_as_core_crops_them(comfy, wan):
    frames = make_frames(5, height=45, width=71)
    assert torch.equal(encode(comfy, wan, frames.split(2), 5), core_encode(wan, frames))


def test_frames_are_taken_as_they_are_needed(comfy, wan):
    # Wan 2.1 takes 1, then 2 or 4 at a time; the first chunk is looked at for its size.
    encoder, taken, most = wan.first_stage_model.encoder, 0, 0
    forward = encoder.forward

    def chunks():
        nonlocal taken
        for frame in make_frames(33).split(1):
            taken += 1
            yield frame

    def encoded(part, *args, **kwargs):
        nonlocal most, taken
        most, taken = max(most, taken), 0
        return forward(part, *args, **kwargs)

    encoder.forward = encoded
    try:
        encode(comfy, wan, chunks(), 33)
    finally:
        del encoder.forward
    assert most <= 4


def test_too_few_frames_are_refused_and_the_vae_is_as_before(comfy, wan):
    frames = make_frames(9)
    expected = core_encode(wan, frames)
    with pytest.raises(ValueError, match=r"ended \d too soon"):
        encode(comfy, wan, frames.split(3), 13)
    with pytest.raises(ValueError, match="frames are none"):
        encode(comfy, wan, [], 13)
    assert "forward" not in vars(wan.first_stage_model.encoder)
    assert torch.equal(core_encode(wan, frames), expected)


def test_vae_of_another_kind_is_named(comfy):
    from comfy.sd import VAE
    from comfy.taesd.taesd import TAESD

    vae = VAE(sd=TAESD(latent_channels=4).state_dict())
    with pytest.raises(ValueError, match=r"^vae is TAESD, .* Wan 2\.1 or Wan 2\.2"):
        encode(comfy, vae, make_frames(5).split(2), 5)
