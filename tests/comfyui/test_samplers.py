"""MoGA under ComfyUI's samplers and beside the nodes that change how a model is called."""

import pytest
import torch
from harness import tiny
from harness.scene import STEPS, Scene, close, differs, tokens


@pytest.fixture
def scene(comfy):
    yield Scene(comfy, tiny.wan())
    comfy.forget()


def shot_model(scene, **settings):
    """MoGA with three shots on a model, and the conditioning of their schedule."""
    shots = scene.shots()
    model = scene.apply(scene.load(), scene.routers(), shots=shots, **settings)
    return model, scene.schedule(shots, tokens(11), tokens(12), tokens(13))


def test_ksampler_advanced(scene, comfy):
    model, positive = shot_model(scene)
    expected = scene.sample(model, positive)
    inputs = {
        "model": model,
        "add_noise": "enable",
        "noise_seed": 2,
        "steps": STEPS,
        "cfg": 4.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "positive": positive,
        "negative": scene.negative,
        "latent_image": scene.latent,
        "start_at_step": 0,
        "end_at_step": 1000,
        "return_with_leftover_noise": "disable",
    }
    assert torch.equal(comfy.call("KSamplerAdvanced", **inputs)[0]["samples"], expected)


def test_sampler_custom_advanced(scene, comfy):
    model, positive = shot_model(scene)
    expected = scene.sample(model, positive)
    (guider,) = comfy.call(
        "CFGGuider", model=model, positive=positive, negative=scene.negative, cfg=4.0
    )
    (sigmas,) = comfy.call(
        "BasicScheduler", model=model, scheduler="simple", steps=STEPS, denoise=1.0
    )
    found = comfy.call(
        "SamplerCustomAdvanced",
        noise=comfy.call("RandomNoise", noise_seed=2)[0],
        guider=guider,
        sampler=comfy.call("KSamplerSelect", sampler_name="euler")[0],
        sigmas=sigmas,
        latent_image=scene.latent,
    )
    assert torch.equal(found[0]["samples"], expected)


def test_two_experts_share_one_schedule(scene, comfy):
    """Wan 2.2: a high-noise model for the first steps, a low-noise one for the rest."""
    shots = scene.shots()
    positive = scene.schedule(shots, tokens(11), tokens(12), tokens(13))
    routers = scene.routers()
    high = scene.apply(scene.load(), routers, shots=shots)
    low_scene = Scene(comfy, tiny.wan(seed=7))
    low = low_scene.apply(low_scene.load(), low_scene.routers(), shots=shots)
    common = {
        "steps": 4,
        "cfg": 4.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "positive": positive,
        "negative": scene.negative,
    }

    def run(first, second):
        half = comfy.call(
            "KSamplerAdvanced",
            model=first,
            add_noise="enable",
            noise_seed=2,
            latent_image=scene.latent,
            start_at_step=0,
            end_at_step=2,
            return_with_leftover_noise="enable",
            **common,
        )[0]
        return comfy.call(
            "KSamplerAdvanced",
            model=second,
            add_noise="disable",
            noise_seed=2,
            latent_image=half,
            start_at_step=2,
            end_at_step=1000,
            return_with_leftover_noise="disable",
            **common,
        )[0]["samples"]

    both = run(high, low)
    differs(both, run(high, high))
    differs(both, run(low, low))
    assert torch.equal(run(high, low), both)


def count_calls(monkeypatch, scene):
    """Batch sizes of the calls of the DiT from here on."""
    from comfy.ldm.wan.model import WanModel

    batches, real = [], WanModel.forward_orig

    def forward_orig(self, x, *args, **kwargs):
        batches.append(x.shape[0])
        return real(self, x, *args, **kwargs)

    monkeypatch.setattr(WanModel, "forward_orig", forward_orig)
    return batches


def test_positive_and_negative_stay_one_call(scene, monkeypatch):
    model, positive = shot_model(scene)
    batches = count_calls(monkeypatch, scene)
    scene.sample(model, positive)
    assert batches == [2] * STEPS


def test_evening_out_token_counts_is_exact(scene, monkeypatch):
    """One call for both gives what two calls give: forced apart by a longer negative."""
    shots = scene.shots()
    model = scene.apply(scene.load(), scene.routers(), shots=shots)
    positive = scene.schedule(shots, tokens(11), tokens(12), tokens(13))
    evened = scene.sample(model, positive)
    host = scene.comfy.module("moga.hosts.comfyui.conditioning")
    monkeypatch.setattr(host, "_even", lambda *args: None)
    batches = count_calls(monkeypatch, scene)
    close(scene.sample(model, positive), evened)
    assert batches == [1, 1] * STEPS


def test_captions_of_other_lengths_run_apart_and_say_so(scene, monkeypatch, caplog):
    shots = scene.shots()
    model = scene.apply(scene.load(), scene.routers(), shots=shots)
    positive = scene.schedule(shots, tokens(11), tokens(12, 600), tokens(13))
    batches = count_calls(monkeypatch, scene)
    with caplog.at_level("INFO"):
        assert scene.sample(model, positive).isfinite().all()
    assert batches == [1, 1] * STEPS
    assert "negative conditioning runs as a call of its own" in caplog.text


def test_easycache(scene, comfy):
    model, positive = shot_model(scene)
    expected = scene.sample(model, positive, steps=6)

    def cached(threshold):
        (out,) = comfy.call(
            "EasyCache",
            model=model,
            reuse_threshold=threshold,
            start_percent=0.0,
            end_percent=1.0,
            verbose=False,
        )
        return scene.sample(out, positive, steps=6)

    close(cached(0.0), expected)
    assert cached(5.0).isfinite().all()


def test_skip_layer_guidance(scene, comfy):
    model, positive = shot_model(scene)
    expected = scene.sample(model, positive)

    def guided(scale):
        (out,) = comfy.call(
            "SkipLayerGuidanceDiT",
            model=model,
            double_layers="1",
            single_layers="",
            scale=scale,
            start_percent=0.0,
            end_percent=1.0,
            rescaling_scale=0.0,
        )
        return scene.sample(out, positive)

    differs(guided(3.0), expected)
    assert torch.equal(guided(3.0), guided(3.0))


def context_windows(comfy, model, length):
    """Context windows of that many frames, four of them shared between neighbours."""
    (out,) = comfy.call(
        "WanContextWindowsManual",
        model=model,
        context_length=length,
        context_overlap=4,
        context_schedule="standard_static",
        fuse_method="pyramid",
    )
    return out


def test_context_windows_with_dense_equivalent(scene, comfy):
    scene.latent = {"samples": torch.zeros(1, 16, 9, 6, 10)}
    model = scene.load()
    expected = scene.sample(context_windows(comfy, model, 17))
    differs(expected, scene.sample(model))
    close(
        scene.sample(context_windows(comfy, scene.apply(model, scene.everything()), 17)), expected
    )


def test_context_windows_give_each_frame_its_own_text(scene, comfy):
    """In every window, changing the text of a shot that the window does not hold does nothing."""
    scene.latent = {"samples": torch.zeros(1, 16, 9, 6, 10)}
    shots = scene.shots("[5f] one\n[8f] two\n[20f] three")
    assert shots.latent_starts == (0, 2, 4) and shots.latent_frames == 9
    geometry = scene.comfy.module("moga.hosts.comfyui.geometry")
    grids, real = [], geometry.call_grid
    calls = scene.comfy.module("moga.hosts.comfyui.calls")

    def call_grid(*args, **kwargs):
        grids.append((list(args[2]["context_window"].index_list), real(*args, **kwargs)))
        return grids[-1][1]

    model = context_windows(comfy, scene.apply(scene.load(), scene.routers(), shots=shots), 17)
    positive = scene.schedule(shots, tokens(11), tokens(12), tokens(13))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "call_grid", call_grid)
        assert scene.sample(model, positive).isfinite().all()
    assert len({tuple(frames) for frames, _ in grids}) > 1
    for frames, grid in grids:
        owners = [
            owner
            for owner, (first, last) in zip(grid.owners, grid.layout.shot_spans, strict=True)
            for _ in range(first, last)
        ]
        expected = [(frame >= 2) + (frame >= 4) for frame in frames]
        assert owners[-len(expected) :] == expected  # a causal anchor may stand before them
