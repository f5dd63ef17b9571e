"""Inspect MoGA: what it measures, that it leaves no trace, and what it refuses."""

import numpy as np
import pytest
import torch
from harness import tiny
from harness.scene import Scene, router_weights, tokens
from torch.nn import functional as F

from moga.diagnostics.layer import sample_layer
from moga.routing import random_routers, route

WIDGETS = {
    **{"noise_levels": "0.8, 0.3", "blocks": "", "queries": 4000},
    **{"groups": 5, "windows": 2, "random_seed": 0},
}
HEADS = 2


@pytest.fixture
def make_scene(comfy):
    def make(kind="t2v", channels=16, frames=5):
        made = Scene(comfy, tiny.wan(kind), channels, frames)
        seeded = torch.Generator().manual_seed(3)
        shape = made.latent["samples"].shape
        made.latent = {"samples": torch.randn(shape, generator=seeded)}
        return made

    yield make
    comfy.forget()


@pytest.fixture
def scene(make_scene):
    return make_scene()


def look(scene, model, **inputs):
    """Pressing Run: through validation and the executor."""
    objects = {"model": model, "positive": scene.positive, "latent": scene.latent}
    objects |= {key: value for key, value in inputs.items() if key not in WIDGETS}
    nodes = {key: scene.comfy.put(value) for key, value in objects.items()}
    widgets = {key: inputs.get(key, value) for key, value in WIDGETS.items()}
    links = {key: [key, 0] for key in nodes}
    prompt = {
        **nodes,
        "look": {"class_type": "MoGAInspect", "inputs": {**links, **widgets}},
        "image": {"class_type": "TestCapture", "inputs": {"value": ["look", 0]}},
        "text": {"class_type": "TestCapture", "inputs": {"value": ["look", 1]}},
    }
    return scene.comfy.run(prompt, check=False)


def seen(scene, model, **inputs):
    """The picture (1, H, W, 3) and the report."""
    result = look(scene, model, **inputs)
    assert result.error is None, str(result.error)
    return result.captured["image"], result.captured["text"]


def refusal(scene, model, **inputs):
    """The one sentence."""
    error = look(scene, model, **inputs).error
    assert error is not None and error.node == "look"
    kind, words = error.message.split(": ", 2)[1:]
    assert kind == "ValueError" and "\n" not in words and words.endswith(".")
    return words


def inspect(scene, model, **changes):
    given = {
        **{"levels": "0.8, 0.3", "blocks": "", "queries": 4000, "seed": 0},
        **{"what_if": scene.Config(), **changes},
    }
    with torch.inference_mode():  # as the executor has it
        return scene.host.inspect_model(model, scene.positive, scene.latent, **given)


def rows(text):
    """The table: {block: [numbers]}."""
    table = text.partition("\nblock ")[2].partition("\n\n")[0].splitlines()[1:]
    return {int(block): [float(n) for n in row] for block, *row in map(str.split, table)}


def test_a_model_with_moga(scene):
    image, text = seen(
        scene, scene.apply(scene.load(), scene.routers(), dense_blocks=frozenset({1}))
    )
    assert image.shape[0] == 1 and image.shape[2:] == (1600, 3) and image.dtype == torch.float32
    assert 0 <= float(image.min()) < float(image.max()) <= 1
    assert text.startswith("What routing does: test\n") and "MoGA ran in 1 of 2 blocks" in text
    assert "(all there are, of the 4000 asked for)" in text
    assert list(rows(text)) == [0, 1]


def test_the_node_shows_its_picture_and_its_report(scene):
    result = look(scene, scene.load(), blocks="1")
    (saved,), (text,) = result["look"]["images"], result["look"]["text"]
    assert (scene.comfy.base / "temp" / saved["filename"]).is_file()
    assert text == result.captured["text"] and list(rows(text)) == [1]


@pytest.mark.parametrize("what", ["plain", "fp8", "moga"])
def test_the_numbers_are_those_of_the_layer_as_it_runs(scene, what):
    """x, q, k and v taken elsewhere: by hooks on the modules and by ComfyUI's own override."""
    model = scene.load(**({"dtype": torch.float8_e4m3fn} if what == "fp8" else {}))
    if what == "fp8":
        weight = model.model.diffusion_model.blocks[0].self_attn.q.weight
        assert weight.dtype == torch.float8_e4m3fn
    config, inputs, attended = scene.Config(), {}, []
    weights = random_routers(256, 5, 2, seed=0)
    if what == "moga":
        weights = router_weights(5)
        # Dense outside of its part of sampling: the override below sees q, k and v all the same.
        model = scene.apply(model, scene.routers(), start_percent=0.98)

    def dense(func, q, k, v, heads, *args, **kw):
        if q.shape[1] == k.shape[1] == 75:
            attended.append([t.reshape(-1, 75, HEADS, 128).float() for t in (q, k, v)])
        return func(q, k, v, heads, *args, **kw)

    model = model.clone()
    options = model.model_options["transformer_options"]
    model.model_options["transformer_options"] = {**options, "optimized_attention_override": dense}
    handles = [
        block.self_attn.register_forward_pre_hook(
            lambda module, args, i=i: inputs.setdefault(i, []).append(args[0].float())
        )
        for i, block in enumerate(model.model.diffusion_model.blocks)
    ]
    try:
        found = inspect(scene, model).found
    finally:
        for handle in handles:
            handle.remove()
    assert len(attended) == 4 and [(c.noise, c.block) for c in found.cells] == [
        *((0.8, 0), (0.8, 1), (0.3, 0), (0.3, 1)),
    ]
    everyone = torch.arange(75)
    for call, cell in enumerate(found.cells):
        q, k, v = (t[0] for t in attended[call])
        x = inputs[cell.block][call // 2]
        router = weights[cell.block]
        routing = route(x, lambda part, r=router: F.linear(part, r["weight"], r["bias"]))
        exact = sample_layer(q, k, v, everyone, routing, found.layout, config)
        assert cell.error == pytest.approx(exact.error, rel=1e-3) and cell.error > 1e-3
        assert cell.recall == pytest.approx(float(exact.recall.mean()), rel=1e-3)
        assert cell.density == pytest.approx(float(exact.seen.mean()), rel=1e-3)
        assert list(cell.sizes) == routing.sizes()[0].tolist()


def test_one_group_has_no_error(scene):
    _, text = seen(scene, scene.load(), groups=1)
    for first, second, recall, density, _near, _far, largest in rows(text).values():
        assert (first, second) == (0.0, 0.0) and recall == density == largest == 1.0


def test_nothing_is_left_behind(scene):
    plain = scene.load()
    applied = scene.apply(plain, scene.routers())
    before = scene.sample(plain), scene.sample(applied)
    state = torch.get_rng_state()
    for model in (plain, applied):
        inspect(scene, model)  # the executor may unload models after a prompt
        for module in model.model.diffusion_model.modules():
            assert "forward" not in vars(module) and "_moga_covered" not in vars(module)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(scene.sample(applied), before[1])
    seen(scene, plain)
    assert torch.equal(scene.sample(plain), before[0])
    seen(scene, applied)
    assert torch.equal(scene.sample(applied), before[1])


@pytest.mark.parametrize(
    ("kind", "channels"), [("t2v", 16), ("i2v_2.2", 16), ("ti2v", 48), ("vace", 16)]
)
def test_kinds_of_wan(make_scene, kind, channels):
    scene = make_scene(kind, channels)
    image, text = seen(scene, scene.load())
    assert "What routing would do: random routers of seed 0 (what if)" in text
    assert "dense attention ran" in text
    assert list(rows(text)) == [0, 1]
    assert float(image.std()) > 0.05


def test_routers_that_the_file_carries(scene):
    checkpoint, config = scene.comfy.module("moga.checkpoint"), scene.Config(groups=3)
    merged = checkpoint.merge_routers(scene.weights, router_weights(3))
    name = scene.comfy.add_model(
        "diffusion_models", "merged.safetensors", merged, {"moga": config.to_json()}
    )
    (model,) = scene.comfy.call("MoGALoadDiffusionModel", unet_name=name)
    _, text = seen(scene, model)
    assert "What routing does: merged.safetensors\n3 groups" in text
    _, text = seen(scene, scene.apply(model, attention="dense"))
    assert "What routing would do: merged.safetensors\n3 groups" in text


def test_routers_that_are_connected(scene):
    routers = scene.routers(scene.Config(groups=4))
    _, text = seen(scene, scene.load(), routers=routers)
    assert "What routing does: test\n4 groups" in text and "MoGA ran in 2 of 2 blocks" in text
    # Under Apply MoGA's own dense attention they are measured and not run.
    _, text = seen(scene, scene.apply(scene.load(), attention="dense"), routers=routers)
    assert "What routing would do: test\n4 groups" in text and "dense attention ran" in text


def test_shots_and_their_texts(scene):
    shots = scene.shots()
    positive = scene.schedule(shots, tokens(11), tokens(12), tokens(13))
    _, text = seen(scene, scene.load(), positive=positive, shots=shots)
    assert "75 (5 x 3 x 5), 3 shots" in text
    labels = [frame.label for frame in inspect(scene, scene.load(), shots=shots).frames]
    assert labels == ["shot 1, 0.1 s", "shot 2, 0.3 s", "shot 3, 0.6 s"] or len(labels) == 4
    words = refusal(scene, scene.load(), positive=positive)
    assert words == (
        "positive has the texts of 3 shots, but no shots are connected; connect the shots output "
        "of the same Multi-Shot Prompt Schedule."
    )


@pytest.mark.parametrize("length", [13, 17, 21])
def test_context_windows_are_measured_by_the_first(make_scene, comfy, length):
    scene = make_scene(frames=9)
    shots = scene.shots("[9f] one\n[12f] two\n[12f] three")
    positive = scene.schedule(shots, tokens(11), tokens(12), tokens(13))
    (model,) = comfy.call(
        "WanContextWindowsManual",
        model=scene.load(),
        context_length=length,
        context_overlap=4,
        context_schedule="standard_static",
        fuse_method="pyramid",
    )
    scene.positive = positive
    frames = inspect(scene, model, shots=shots).frames
    starts = {"shot 1": 0, "shot 2": 9 / 16, "shot 3": 21 / 16}
    ends = {"shot 1": 9 / 16, "shot 2": 21 / 16, "shot 3": 33 / 16}
    assert frames[0].label.startswith("shot 1, ")
    for frame in frames:
        shot, at = frame.label.split(", ")
        assert starts[shot] - 0.1 <= float(at.removesuffix(" s")) <= ends[shot] + 0.1
        assert float(at.removesuffix(" s")) <= length / 16 + 0.1


def test_a_vae_of_another_model_is_refused_before_anything_runs(scene, monkeypatch):
    from comfy.sd import VAE

    with tiny.small_models():
        vae = VAE(sd=tiny.vae())
    monkeypatch.setattr(vae, "latent_channels", 48)
    steps = []
    model = scene.load()
    model.set_model_unet_function_wrapper(lambda apply, given: steps.append(1))
    words = refusal(scene, model, vae=vae)
    assert "has 16 channels and vae decodes 48" in words and not steps


def test_the_frames_are_those_of_the_vae(scene):
    from comfy.sd import VAE

    with tiny.small_models():
        vae = VAE(sd=tiny.vae())
    with torch.inference_mode():
        images = vae.decode(scene.latent["samples"])  # (1, T, H, W, 3) or (T, H, W, 3)
    images = images.reshape(-1, *images.shape[-3:])
    frames = inspect(scene, scene.load(), vae=vae).frames
    numbers = [int(frame.label.removeprefix("latent frame ")) for frame in frames]
    assert len(numbers) == 4
    for number, frame in zip(numbers, frames, strict=True):
        expected = images[max(0, 4 * number - 3)].mul(255).round().to(torch.uint8).numpy()
        assert np.array_equal(frame.pixels, expected)


def test_a_guess_of_the_frames_without_a_vae(scene):
    frames = inspect(scene, scene.load()).frames
    assert all(frame.pixels.shape == (6, 10, 3) and frame.pixels.std() > 1 for frame in frames)
    scene.latent = {"samples": torch.zeros(1, 16, 5, 6, 10)}
    looked = inspect(scene, scene.load())
    assert all(frame.pixels is None for frame in looked.frames)
    assert "the latent is empty" in looked.about


def test_a_frame_of_reference_is_named(make_scene):
    scene = make_scene("fun")
    extras = {"reference_latents": [torch.randn(1, 16, 1, 6, 10)]}
    scene.positive = [[t, {**d, **extras}] for t, d in scene.positive]
    frames = inspect(scene, scene.load()).frames
    labels = [frame.label for frame in frames]
    assert all(label.startswith("latent frame") or label == "a reference frame" for label in labels)


BAD = {
    "no such block": ({"blocks": "0, 2"}, "blocks has '2'; give block numbers from 0 to 1"),
    "noise above 1": ({"noise_levels": "0.5, 1.5"}, "noise_levels has '1.5'; give numbers from 0"),
    "noise not a number": ({"noise_levels": "high"}, "noise_levels has 'high'; give numbers"),
    "no noise": ({"noise_levels": " ,"}, "noise_levels has 0 of them; give from 1 to 20"),
    "more groups than tokens": ({"groups": 50}, "the latent has 75 tokens, too few for 50 groups"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_widgets(scene, name):
    inputs, said = BAD[name]
    assert refusal(scene, scene.load(), **inputs).startswith(said)


def latents(*shape, value=None):
    samples = torch.randn(*shape)
    if value is not None:
        samples[:, :, 1] = value
    return {"samples": samples}


BAD_LATENTS = {
    "of another model": (latents(1, 48, 5, 6, 10), "latent has 48 channels and the model works on"),
    "a picture": (latents(1, 16, 6, 10), "latent has the shape (1, 16, 6, 10); connect a video"),
    "not numbers": (latents(1, 16, 5, 6, 10, value=float("nan")), "latent has values that aren't"),
    "one frame": (latents(1, 16, 1, 6, 10), "the latent has 15 tokens in one latent frame, which"),
}


@pytest.mark.parametrize("name", BAD_LATENTS)
def test_bad_latents(scene, name):
    latent, said = BAD_LATENTS[name]
    assert refusal(scene, scene.load(), latent=latent).startswith(said)


def test_routers_of_another_model(scene):
    words = refusal(scene, scene.load(), routers=scene.routers(dim=512))
    assert words.startswith("routers from test are for 2 blocks of width 512, the model has 2 of")
    applied = scene.apply(scene.load(), scene.routers())
    words = refusal(scene, applied, routers=scene.routers())
    assert words.startswith("model has Apply MoGA on it, whose routers differ from those connected")
    words = refusal(scene, applied, shots=scene.shots())
    assert words.startswith("model has Apply MoGA on it, whose shots differ from those connected")


def test_shots_of_another_length(scene):
    words = refusal(scene, scene.load(), shots=scene.shots("[5f] one\n[4f] two"))
    assert words.startswith(
        "the latent has 5 latent frames (17 video frames), but the shots fill 3"
    )


def test_fewer_tokens_than_min_tokens(scene):
    applied = scene.apply(scene.load(), scene.routers(), min_tokens=76)
    words = refusal(scene, applied)
    assert words.startswith("the latent has 75 tokens and min_tokens is 76, so MoGA leaves it")


def test_states_that_are_not_numbers_are_named(scene):
    scene.weights["blocks.1.self_attn.k.weight"] = torch.full((256, 256), float("inf"))
    words = refusal(scene, scene.load())
    assert words.startswith(
        "block 1 has values that aren't numbers (NaN or infinite) in k at noise level 0.8;"
    )


def test_nothing_is_left_behind_where_it_breaks_off(scene):
    """Also while somebody holds the error, and with it the patcher that was made for the look."""
    scene.weights["blocks.1.self_attn.k.weight"] = torch.full((256, 256), float("inf"))
    model = scene.load()
    with pytest.raises(ValueError, match="block 1 has values") as caught:
        inspect(scene, model)
    assert caught.value.__traceback__ is not None
    for module in model.model.diffusion_model.modules():
        assert "forward" not in vars(module) and "_moga_covered" not in vars(module)


def test_a_model_that_is_not_wan(scene, comfy):
    from types import SimpleNamespace

    class Other:
        model = SimpleNamespace(diffusion_model=torch.nn.Linear(1, 1))

    assert refusal(scene, Other()).endswith("not Wan; connect a Wan 2.1 or 2.2 model.")


def test_both_hosts_find_the_same(make_scene, tmp_path):
    """One file, one latent, one noise: what ComfyUI's blocks show is what diffusers' do."""
    pytest.importorskip("diffusers")
    pytest.importorskip("accelerate")
    import moga.hosts.diffusers as diffusers_host
    from moga.diagnostics import Observer, Request

    scene = make_scene()
    checkpoint, config = scene.comfy.module("moga.checkpoint"), scene.Config()
    path = tmp_path / "merged.safetensors"
    weights = router_weights(5)
    checkpoint.write(path, checkpoint.merge_routers(scene.weights, weights), config)
    model = scene.host.load_diffusion_model(str(path), {})
    scene.positive = [[tokens(1), {}]]
    shots = scene.shots()
    theirs = inspect(scene, model, shots=shots).found
    form = model.get_model_object("latent_format")
    clean = form.process_in(scene.latent["samples"])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    transformer = diffusers_host.load_wan(path)
    observer = Observer(
        Request.parse("0.8, 0.3", "", 2, 4000, 0),
        theirs.config,
        diffusers_host.moga_routers(transformer),
    )
    call = diffusers_host.ShotCall((0, 2, 3), 5)
    with torch.no_grad(), diffusers_host.watch_attention(transformer, observer.see):
        for level in (0.8, 0.3):
            observer.begin(level)
            transformer(
                (1 - level) * clean + level * noise,
                torch.tensor([1000 * level]),
                tokens(1),
                attention_kwargs={"moga": call},
            )
    ours = observer.result()
    assert ours.layout.shots == theirs.layout.shots == (0, 2, 3)
    for mine, other in zip(ours.cells, theirs.cells, strict=True):
        for name in ("error", "recall", "density", "near", "far"):
            assert getattr(mine, name) == pytest.approx(getattr(other, name), rel=2e-3), name
        assert sum(abs(a - b) for a, b in zip(mine.sizes, other.sizes, strict=True)) <= 2
