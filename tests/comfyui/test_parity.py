"""Both hosts on the same file: ComfyUI's Wan and diffusers' Wan give the same velocity."""

from types import SimpleNamespace

import pytest
import torch
from harness import tiny
from harness.scene import Scene, differs, router_weights, tokens

TOLERANCE = 2e-5
SCRIPT = "[5f] one\n[4f] two\n[8f] three"  # latent frames 2, 1 and 2
KINDS = {"t2v": 16, "i2v": 16, "i2v_2.2": 16, "ti2v": 48}  # latent channels


@pytest.fixture
def diffusers_host(comfy):
    """After ComfyUI: it wants to be the first to set up torch."""
    pytest.importorskip("diffusers")
    pytest.importorskip("accelerate")
    import moga.hosts.diffusers as host

    return host


@pytest.fixture
def pair(comfy, tmp_path, diffusers_host):
    def make(kind, **config):
        return Pair(comfy, diffusers_host, tmp_path / "merged.safetensors", kind, **config)

    yield make
    comfy.forget()


def fresh_weights(host, kind):
    """As a training from scratch begins: activations of the size that trained models have."""
    from diffusers import WanTransformer3DModel

    sizes = {
        "t2v": {},
        "i2v": {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 256},
        "i2v_2.2": {"in_channels": 36},
        "ti2v": {"in_channels": 48, "out_channels": 48},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = WanTransformer3DModel(
            num_attention_heads=2, num_layers=2, ffn_dim=512, **sizes[kind]
        )
    return host.wan_state_dict(model)


class Pair:
    """One merged file, and what each host makes of a call that ComfyUI's sampler makes."""

    def __init__(self, comfy, host, path, kind, **config):
        self.scene = Scene(comfy, fresh_weights(host, kind), KINDS[kind])
        self.kind, self.path, self.host = kind, path, host
        checkpoint = comfy.module("moga.checkpoint")
        routers = router_weights(config.get("groups", 5))
        merged = checkpoint.merge_routers(self.scene.weights, routers)
        checkpoint.write(path, merged, self.scene.Config(**config))
        make = torch.Generator().manual_seed(3)
        latent = torch.randn(1, KINDS[kind], 5, 6, 10, generator=make)
        self.scene.latent = {"samples": latent}
        self.extras = self.image(make) if kind.startswith("i2v") else {}

    def image(self, make):
        """What core's WanImageToVideo leaves in the conditioning."""
        extras = {
            "concat_latent_image": torch.randn(1, 16, 5, 6, 10, generator=make),
            "concat_mask": torch.ones(1, 1, 5, 6, 10),
        }
        extras["concat_mask"][:, :, 0] = 0
        if self.kind == "i2v":
            seen = torch.randn(1, 257, 1280, generator=make)
            extras["clip_vision_output"] = SimpleNamespace(penultimate_hidden_states=seen)
        return extras

    def calls(self, *, moga, shots=None, loras=()):
        """Every call of the transformer in a short sampling, as (arguments, velocity).

        loras: names and strengths for ComfyUI's own loader.
        """
        scene, host = self.scene, self.scene.host
        model = host.load_diffusion_model(str(self.path), {})
        for name, strength in loras:
            (model,) = scene.comfy.call(
                "LoraLoaderModelOnly", model=model, lora_name=name, strength_model=strength
            )
        if moga or shots:
            attention = "moga" if moga else "dense"
            model = scene.apply(model, shots=shots, attention=attention)
        positive = scene.positive
        if shots:
            positive = scene.schedule(shots, tokens(11), tokens(12), tokens(13))
        positive, negative = (
            [[t, {**d, **self.extras}] for t, d in cond] for cond in (positive, scene.negative)
        )
        made = []

        def keep(module, args, kwargs, out):
            made.append((dict(zip(("x", "timestep", "context"), args, strict=False)) | kwargs, out))

        handle = model.model.diffusion_model.register_forward_hook(keep, with_kwargs=True)
        try:
            scene.sample(model, positive, negative)
        finally:
            handle.remove()
        assert made
        return made

    @torch.no_grad()
    def same(self, transformer, calls, moga=None):
        """The greatest difference between ComfyUI's velocities and diffusers'."""
        worst = 0.0
        for given, velocity in calls:
            seen = given.get("clip_fea")
            timestep = given["timestep"].float()
            if timestep.ndim > 1:  # ComfyUI has one per latent frame, diffusers one per token
                timestep = timestep.reshape(len(timestep), -1).repeat_interleave(15, dim=1)
            found = transformer(
                given["x"].float().clone(),
                timestep,
                given["context"].float().clone(),
                encoder_hidden_states_image=None if seen is None else seen.float().clone(),
                attention_kwargs=None if moga is None else {"moga": moga},
            ).sample
            assert velocity.isfinite().all() and velocity.abs().mean() > 0.3
            worst = max(worst, (found - velocity).abs().max().item())
        return worst


@pytest.mark.parametrize("kind", KINDS)
def test_plain_wan_when_moga_is_off(pair, kind):
    both = pair(kind)
    transformer = both.host.load_wan(both.path)
    calls = both.calls(moga=False)
    assert both.same(transformer, calls, both.host.ShotCall(dense=True)) < TOLERANCE
    both.host.disable_moga(transformer)
    assert both.same(transformer, calls) < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_moga_and_shots(pair, kind):
    both = pair(kind)
    shots = both.scene.shots(SCRIPT)
    transformer = both.host.load_wan(both.path)
    calls = both.calls(moga=True, shots=shots)
    call = both.host.ShotCall.of(shots, 512)
    assert both.same(transformer, calls, call) < TOLERANCE
    # It is the shots and the groups that are alike, not a model that does not care.
    shifted = both.host.ShotCall((0, 1, 4), call.frames, call.spans)
    assert both.same(transformer, calls, shifted) > 1e-3
    dense = both.host.ShotCall(call.starts, call.frames, call.spans, dense=True)
    assert both.same(transformer, calls, dense) > 1e-3


@pytest.mark.parametrize("config", [
    {"combine": "mean"},
    {"groups": 3, "gate": False},
    {"windows": (1, 2), "window_frames": 2, "boundary_frames": 1},
    {"branches": ("windows", "frames")},
], ids=str)  # fmt: skip
def test_other_settings(pair, config):
    both = pair("t2v", **config)
    shots = both.scene.shots(SCRIPT)
    transformer = both.host.load_wan(both.path)
    calls = both.calls(moga=True, shots=shots)
    assert both.same(transformer, calls, both.host.ShotCall.of(shots, 512)) < TOLERANCE


def lora_tensors(weights, seed, name_of):
    """A LoRA on some layers, with alpha, norms and biases, as step-distilled ones have them."""
    make, tensors = torch.Generator().manual_seed(seed), {}
    for module in ("self_attn.q", "self_attn.o", "cross_attn.k", "ffn.0"):
        weight, name = weights[f"blocks.1.{module}.weight"], name_of(f"blocks.1.{module}")
        down = torch.randn(4, weight.shape[1], generator=make) / 8
        tensors[f"{name}.lora_down.weight"] = down
        up = torch.randn(weight.shape[0], 4, generator=make) / 16
        tensors[f"{name}.lora_up.weight"] = up
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
        tensors[f"{name}.diff_b"] = torch.randn(len(weight), generator=make) / 16
    for module in ("self_attn.norm_q", "norm3"):
        weight, name = weights[f"blocks.0.{module}.weight"], name_of(f"blocks.0.{module}")
        tensors[f"{name}.diff"] = torch.randn(weight.shape, generator=make) / 8
    return tensors


def test_loras_of_comfyui_and_a_trainings_adapter(pair):
    """The same files through core's loader and ours: two ways to name, and routers in one."""
    both = pair("t2v")
    comfy, weights, shots = both.scene.comfy, both.scene.weights, both.scene.shots(SCRIPT)
    checkpoint = comfy.module("moga.checkpoint")
    names = (
        lambda module: f"diffusion_model.{module}",
        lambda module: f"lora_unet_{module.replace('.', '_')}",
    )
    loras, files = [], []
    for seed, (name_of, weight) in enumerate(zip(names, (0.7, -1.0), strict=True)):
        file = comfy.add_model("loras", f"{seed}.safetensors", lora_tensors(weights, seed, name_of))
        loras.append((file, weight))
        files.append(both.host.LoraFile(comfy.models_dir / "loras" / file, weight))
    calls, call = both.calls(moga=True, shots=shots, loras=loras), both.host.ShotCall.of(shots, 512)
    assert both.same(both.host.load_wan(both.path, loras=files), calls, call) < TOLERANCE
    for fewer in ([], files[:1], files[1:]):
        assert both.same(both.host.load_wan(both.path, loras=fewer), calls, call) > 1e-3
    # The model's routers, in the file of the first LoRA beside a model without them.
    adapter, plain = (
        both.path.with_name("adapter.safetensors"),
        both.path.with_name("p.safetensors"),
    )
    routers = checkpoint.merge_routers({}, router_weights(5))
    tensors = lora_tensors(weights, 0, names[0])
    checkpoint.write(adapter, {**routers, **tensors}, both.scene.Config())
    checkpoint.write(plain, weights, None)
    files[0] = files[0]._replace(path=adapter)
    assert both.same(both.host.load_wan(plain, loras=files), calls, call) < TOLERANCE


def test_a_text_per_shot_alone(pair):
    both = pair("t2v")
    shots = both.scene.shots(SCRIPT)
    transformer = both.host.load_wan(both.path)
    both.host.enable_moga(transformer, None)
    calls = both.calls(moga=False, shots=shots)
    assert both.same(transformer, calls, both.host.ShotCall.of(shots, 512)) < TOLERANCE


def test_a_time_for_every_frame(pair):
    both = pair("ti2v")
    mask = torch.ones(1, 1, 5, 6, 10)
    mask[:, :, 0] = 0
    both.scene.latent["noise_mask"] = mask
    shots = both.scene.shots(SCRIPT)
    calls = both.calls(moga=True, shots=shots)
    assert all(given["timestep"].ndim > 1 for given, _ in calls)
    transformer = both.host.load_wan(both.path)
    assert both.same(transformer, calls, both.host.ShotCall.of(shots, 512)) < TOLERANCE


@pytest.mark.parametrize("kind", ["2.1", "2.2"])
@torch.no_grad()
def test_the_vae(comfy, tmp_path, diffusers_host, kind):
    """Encode and decode of ComfyUI's own class, read by the other host from its file."""
    import comfy.ldm.wan.vae as vae21
    import comfy.ldm.wan.vae2_2 as vae22
    from safetensors.torch import save_file

    stages = {"temperal_downsample": [False, True, True]}
    if kind == "2.1":
        theirs = vae21.WanVAE(dim=8, z_dim=16, **stages)
    else:
        theirs = vae22.WanVAE(dim=8, dec_dim=8, z_dim=48, **stages)
    theirs.load_state_dict(tiny.random_weights(theirs, 0))
    save_file(theirs.state_dict(), tmp_path / "vae.safetensors")
    ours = diffusers_host.load_vae(tmp_path / "vae.safetensors")
    make = torch.Generator().manual_seed(5)
    latent = torch.randn(1, ours.config.z_dim, 3, 2, 3, generator=make)
    expected, found = theirs.decode(latent), ours.decode(latent).sample
    if isinstance(expected, list):
        expected = torch.cat(expected, dim=2)
    assert (found - expected.clamp(-1, 1)).abs().max() < TOLERANCE
    differs(found, torch.zeros_like(found))
    video = torch.rand(1, 3, 9, 32, 48, generator=make) * 2 - 1
    encoded = ours.encode(video).latent_dist.mode()
    assert (encoded - theirs.encode(video)).abs().max() < TOLERANCE * encoded.abs().max()
