"""Wan's VAE from files, and decode in a stream that is decode as a whole, bit for bit."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from moga.checkpoint import CheckpointError
from moga.hosts.diffusers import decode_frames, load_vae
from moga.hosts.diffusers.vae import encode_frames
from moga.hosts.diffusers.vae_names import vae_names
from moga.vae.decode import NotFiniteError, to_uint8

KINDS = ("2.1", "2.2")
CHANNELS = {"2.1": 16, "2.2": 48}


def whole(vae, latents):
    """Frames (T, H, W, 3) as the pipeline makes them, before they are rounded."""
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    video = vae.decode(latents / (1 / std) + mean, return_dict=False)[0]
    return video[0].permute(1, 2, 3, 0)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_is_the_whole_bit_for_bit(tiny, kind, frames):
    vae = tiny.vae(kind)
    latents = torch.randn(1, CHANNELS[kind], frames, 2, 3)
    chunks = []
    size = decode_frames(vae, latents, chunks.append)
    expected = to_uint8(whole(vae, latents) / 2 + 0.5)
    assert (size.frames, size.height, size.width) == tuple(expected.shape[:3])
    assert [len(chunk) for chunk in chunks] == [1] + [4] * (frames - 1)
    assert torch.equal(torch.cat(chunks), expected)
    assert "forward" not in vars(vae.decoder)
    assert torch.equal(whole(vae, latents), whole(vae, latents))


@torch.no_grad()
def test_a_stream_that_is_cut_off_leaves_the_vae_as_it_was(tiny):
    vae, latents = tiny.vae(), torch.randn(1, 16, 3, 2, 2)
    expected = whole(vae, latents)

    def stop(frames):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_frames(vae, latents, stop)
    assert torch.equal(whole(vae, latents), expected)


@torch.no_grad()
def test_an_offloaded_vae(tiny):
    """Its weights are not where it computes."""
    from accelerate import cpu_offload

    vae, latents = tiny.vae(), torch.randn(1, 16, 3, 2, 2)
    expected, found = [], []
    decode_frames(vae, latents, expected.append)
    cpu_offload(vae, torch.device("cpu"))
    assert next(vae.parameters()).device.type == "meta"
    decode_frames(vae, latents, found.append, device=torch.device("cpu"))
    assert torch.equal(torch.cat(found), torch.cat(expected))


def test_what_does_not_fit(tiny):
    vae = tiny.vae()
    for shape in ((1, 48, 2, 2, 2), (2, 16, 2, 2, 2), (16, 2, 2, 2)):
        with pytest.raises(ValueError, match="use the VAE that belongs to the model"):
            decode_frames(vae, torch.zeros(shape), print)
    vae.enable_tiling()
    with pytest.raises(ValueError, match="disable_tiling"):
        decode_frames(vae, torch.zeros(1, 16, 2, 2, 2), print)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_not_numbers_are_refused_by_their_frame(tiny, value):
    latents = torch.zeros(1, 16, 5, 2, 2)
    latents[0, 3, 2:, 1, 1] = value
    with pytest.raises(NotFiniteError, match=r"^latents has values .* from latent frame 2 on"):
        decode_frames(tiny.vae(), latents, print)


@pytest.mark.parametrize("kind", KINDS)
def test_frames_that_are_not_numbers_are_refused_by_their_number(tiny, kind):
    vae, calls, seen = tiny.vae(kind), [], []
    forward = vae.decoder.forward

    def break_third(*args, **kwargs):
        calls.append(1)
        frames = forward(*args, **kwargs)
        if len(calls) == 3:
            frames[:, :, 1] = torch.nan
        return frames

    vae.decoder.forward = break_third
    with pytest.raises(NotFiniteError, match=r"^vae gives values .* from video frame 6 on"):
        decode_frames(vae, torch.randn(1, CHANNELS[kind], 5, 2, 2), seen.append)
    assert sum(map(len, seen)) <= 9


def test_files_and_folders(tiny, model_files, tmp_path):
    vae = tiny.vae()
    vae.save_pretrained(tmp_path / "vae")
    for path in (model_files("vae"), tmp_path, tmp_path / "vae"):
        loaded = load_vae(path).state_dict()
        assert all(torch.equal(loaded[name], t) for name, t in vae.state_dict().items())
    wide = load_vae(model_files("vae22"), dtype=torch.bfloat16)
    assert wide.dtype == torch.bfloat16 and wide.config.patch_size == 2
    assert len(wide.config.latents_mean) == len(wide.config.latents_std) == 48


@pytest.mark.parametrize("kind", KINDS)
def test_files_in_wans_own_names(tiny, tmp_path, kind):
    """The reverse of vae_names, worked out by hand here."""
    vae = tiny.vae(kind)
    original = {original_name(name, kind): t for name, t in vae.state_dict().items()}
    assert len(original) == len(vae.state_dict())
    assert set(vae_names({k: tuple(t.shape) for k, t in original.items()}).values()) == set(
        vae.state_dict()
    )
    save_file(original, tmp_path / "vae.safetensors")
    loaded = load_vae(tmp_path / "vae.safetensors").state_dict()
    assert all(torch.equal(loaded[name], t) for name, t in vae.state_dict().items())


def original_name(name, kind):
    for pattern, original in (
        *((rf"\.{new}\.", f".residual.{at}.") for at, new in enumerate(_PARTS) if new),
        (r"(post_)?quant_conv", lambda m: "conv2" if m[1] else "conv1"),
        (r"(\w+)\.conv_in", r"\1.conv1"),
        (r"(\w+)\.norm_out", r"\1.head.0"),
        (r"(\w+)\.conv_out", r"\1.head.2"),
        (r"(\w+)\.mid_block\.attentions\.0", r"\1.middle.1"),
        (r"(\w+)\.mid_block\.resnets\.(\d)", lambda m: f"{m[1]}.middle.{2 * int(m[2])}"),
        *(_STAGES if kind == "2.2" else _LISTS),
        (r"conv_shortcut", "shortcut"),
    ):
        name = re.sub(pattern, original, name)
    return name


_PARTS = ("norm1", None, "conv1", "norm2", None, None, "conv2")
_LISTS = (
    (r"encoder\.down_blocks\.(\d+)", r"encoder.downsamples.\1"),
    (r"decoder\.up_blocks\.(\d)\.resnets\.(\d)",
     lambda m: f"decoder.upsamples.{4 * int(m[1]) + int(m[2])}"),
    (r"decoder\.up_blocks\.(\d)\.upsamplers\.0",
     lambda m: f"decoder.upsamples.{4 * int(m[1]) + 3}"),
)  # fmt: skip
_STAGES = (
    (r"(en|de)coder\.(down|up)_blocks\.(\d)\.resnets\.(\d)", r"\1coder.\2samples.\3.\2samples.\4"),
    (r"encoder\.down_blocks\.(\d)\.downsampler", r"encoder.downsamples.\1.downsamples.2"),
    (r"decoder\.up_blocks\.(\d)\.upsampler", r"decoder.upsamples.\1.upsamples.3"),
)


def test_other_files_are_named(model_files, tmp_path):
    with pytest.raises(CheckpointError, match="not a VAE of Wan, it looks like a Wan transformer"):
        load_vae(model_files("t2v"))
    tensors = load_file(model_files("vae"))
    tensors.pop("decoder.conv_in.bias")
    save_file(tensors, tmp_path / "cut.safetensors")
    with pytest.raises(CheckpointError, match=r"does not fit Wan's VAE: it lacks 1 weights"):
        load_vae(tmp_path / "cut.safetensors")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load_vae(tmp_path)


# Encode


def make_frames(count, height=32, width=48):
    make = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, height, width, 3), generator=make, dtype=torch.uint8)


@torch.no_grad()
def encode_whole(vae, frames):
    """The mean as `vae.encode` gives it, (1, C, t, h, w)."""
    video = (frames.permute(3, 0, 1, 2)[None].float() / 127.5 - 1).to(vae.dtype)
    return vae.encode(video).latent_dist.mode()


def latent_statistics(vae):
    return (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 5, 13])
@pytest.mark.parametrize("kind", KINDS)
def test_encoding_a_stream_is_encoding_the_whole_bit_for_bit(tiny, kind, count, dtype):
    vae, frames = tiny.vae(kind).to(dtype), make_frames(count)
    mean, std = latent_statistics(vae)
    expected = (encode_whole(vae, frames).float() - mean) * (1 / std)
    assert expected.std() > 0.01
    for size in (1, 3, 100):
        found = encode_frames(vae, frames.split(size), count)
        assert found.dtype == torch.float32 and torch.equal(found, expected), size
    assert "forward" not in vars(vae.encoder)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_decode_frames_undoes_the_normalisation_of_encode_frames(tiny, kind):
    """To float rounding, which may carry a value over the edge of its 1/255."""
    vae, frames = tiny.vae(kind), make_frames(9)
    expected = vae.decode(encode_whole(vae, frames), return_dict=False)[0]
    expected = to_uint8(expected[0].permute(1, 2, 3, 0) / 2 + 0.5)
    assert expected.float().std() > 1
    found = []
    decode_frames(vae, encode_frames(vae, frames.split(4), 9), found.append)
    assert (torch.cat(found).int() - expected.int()).abs().max() <= 1


def test_what_cannot_be_encoded(tiny):
    vae, frames = tiny.vae(), make_frames(9)
    expected = encode_whole(vae, frames)
    for count in (0, 4, 6):
        with pytest.raises(ValueError, match=rf"^frames is {count}; .* cut the video"):
            encode_frames(vae, frames.split(2), count)
    with pytest.raises(ValueError, match="ended 4 too soon"):
        encode_frames(vae, frames.split(3), 13)
    assert torch.equal(encode_whole(vae, frames), expected)
    vae.enable_tiling()
    with pytest.raises(ValueError, match="disable_tiling"):
        encode_frames(vae, frames.split(2), 9)
