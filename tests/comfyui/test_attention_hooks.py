"""MoGA in a Wan's self-attention: what must not change, does not; what must, does."""

import pytest
import torch
from harness import tiny
from harness.scene import Scene, close, differs, tokens


@pytest.fixture
def scene(comfy):
    yield Scene(comfy, tiny.wan())
    comfy.forget()


@pytest.fixture
def stock(scene):
    return scene.sample(scene.load())


def test_one_group_without_gate_is_stock(scene, stock):
    close(scene.sample(scene.apply(scene.load(), scene.everything())), stock)


def test_moga_changes_the_result(scene, stock):
    differs(scene.sample(scene.apply(scene.load(), scene.routers())), stock)


def test_every_setting_of_the_config_reaches_the_layer(scene):
    model = scene.load()
    results = [
        scene.sample(scene.apply(model, scene.routers(scene.Config(**values))))
        for values in (
            {},
            {"groups": 2},
            {"windows": (1, 1)},
            {"window_frames": 2},
            {"gate": False},
            {"combine": "lse"},
            {"branches": ("windows", "frames")},
        )
    ]
    for i, one in enumerate(results):
        for other in results[:i]:
            differs(one, other)


def test_what_is_sampled_is_told_whenever_its_size_changes(scene, caplog):
    flops = scene.comfy.module("moga.flops")
    layout = scene.comfy.module("moga.layout").VideoLayout
    told, shots = [], scene.shots()
    settings = scene.host.Settings(shots=shots, dense_blocks=frozenset({1}))
    model = scene.host.apply_moga(scene.load(), settings, scene.routers(), tell=told.append)
    words = scene.schedule(shots, *(tokens(seed, 16) for seed in (3, 4, 5)))
    with caplog.at_level("INFO"):
        for height in (6, 6, 8, 6):
            scene.sample(model, words, latent_image={"samples": torch.zeros(1, 16, 5, height, 10)})
    assert len(told) == 3 and told[2] == told[0] and "1 of 2 blocks" in told[0]
    sizes = flops.ModelShape(2, 256, 512, 512)
    for line, rows in zip(told[:2], (3, 4), strict=True):
        grid = layout(5, rows, 5, shots.latent_starts)
        share, gain = (
            flops.density(grid, scene.Config()),
            flops.expected_speedup(grid, scene.Config(), sizes, dense_layers=1),
        )
        assert f"density {share:.3f} and at most {gain:.1f} x dense speed" in line
        assert f"for {25 * rows} tokens (5 x {rows} x 5); 3 shots read their own text" in line
        assert sum(line in record.message for record in caplog.records) == 1
    backends = [r.message for r in caplog.records if "attention backends" in r.message]
    assert len(backends) == 1
    assert "routed sdpa, windows sdpa, frames sdpa (flash3: " in backends[0]


@pytest.mark.parametrize(("kind", "grid"), [("t2v", (21, 30, 52)), ("ti2v", (21, 15, 26))])
def test_what_is_expected_before_a_latent_is_known(comfy, kind, grid):
    """Of 81 frames of 832x480, in the tokens that the model makes of them."""
    scene = Scene(comfy, tiny.wan(kind), channels=48 if kind == "ti2v" else 16)
    density = comfy.module("moga.flops").density
    layout = comfy.module("moga.layout").VideoLayout(*grid, (0,))
    line = comfy.module("moga.hosts.comfyui.status").summary(
        scene.apply(scene.load(), scene.routers())
    )
    assert f"density {density(layout, scene.Config()):.3f}" in line and "81 frames" in line
    comfy.forget()


@pytest.mark.parametrize("attention", ["moga", "dense"])
def test_the_line_says_which_text_shots_read(scene, caplog, attention):
    told, shots = [], scene.shots()
    settings = scene.host.Settings(shots=shots, attention=attention)
    model = scene.host.apply_moga(scene.load(), settings, scene.routers(), tell=told.append)
    assert scene.host.summary(model).endswith("; 3 shots")
    warning = "shots are connected, but no conditioning comes from the schedule"
    scene.sample(model)
    assert told[0].endswith("; 3 shots read the whole prompt") and warning in caplog.text
    caplog.clear()
    # The negative runs as a call of its own, and has no texts of the shots.
    scene.sample(model, scene.schedule(shots, *(tokens(seed, 16) for seed in (3, 4, 5))))
    assert told[1].endswith("; 3 shots read their own text") and warning not in caplog.text
    assert len(told) == 2


def test_cores_memory_estimate_holds_a_moga_layer(scene):
    """Input, shortcut, q, k and v, and the most that MoGA adds to them, 8 more.

    So nothing is added to it: that would only push weights off the card.
    """
    model = scene.apply(scene.load(), scene.routers()).model
    row = model.diffusion_model.dim * model.get_dtype().itemsize
    for frames, height, width in ((21, 60, 104), (120, 60, 104), (361, 60, 104)):
        held = 13 * row * frames * height * width // 4
        assert model.memory_required((1, 16, frames, height, width)) > held


@pytest.mark.parametrize("order", ["apply first", "sampling first"])
def test_percents_are_of_the_schedule_that_is_sampled(scene, comfy, monkeypatch, order):
    """Model sampling may change after the node: shift 1 puts 50 % at sigma 0.5, Wan's 8 at 0.89."""
    host, layers = scene.comfy.module("moga.hosts.comfyui.self_attention"), []
    real = host.moga_attention
    monkeypatch.setattr(host, "moga_attention", lambda *a, **k: layers.append(0) or real(*a, **k))

    def shifted(model):
        return comfy.call("ModelSamplingSD3", model=model, shift=1.0)[0]

    def applied(model):
        return scene.apply(model, scene.routers(), start_percent=0.5)

    first, last = (applied, shifted) if order == "apply first" else (shifted, applied)
    scene.sample(last(first(scene.load())), steps=4)  # at sigmas 1, 0.75, 0.5 and 0.25
    assert len(layers) == 2 * 2  # in two blocks


def test_taking_the_node_away_restores_stock_bit_for_bit(scene, stock):
    model = scene.load()
    scene.sample(scene.apply(model, scene.routers()))
    assert torch.equal(scene.sample(model), stock)
    dit = model.model.diffusion_model
    assert "rope_encode" not in vars(dit)
    for block in dit.blocks:
        assert "forward" not in vars(block.self_attn) and "forward" not in vars(block.cross_attn)


def test_a_clone_of_a_loaded_model(scene, stock):
    model = scene.load()
    with_moga = scene.apply(model, scene.routers())
    expected = scene.sample(with_moga)
    assert torch.equal(scene.sample(with_moga.clone()), expected)
    assert torch.equal(scene.sample(model.clone()), stock)
    assert torch.equal(scene.sample(with_moga), expected)


def test_applying_twice_keeps_the_last(scene):
    model = scene.load()
    first = scene.apply(model, scene.routers())
    second = scene.apply(first, scene.routers(scene.Config(groups=2)))
    once = scene.apply(scene.load(), scene.routers(scene.Config(groups=2)))
    assert torch.equal(scene.sample(second), scene.sample(once))


def test_dense_blocks_and_min_tokens_and_percents_keep_stock(scene, stock):
    model, routers = scene.load(), scene.routers()
    all_blocks = frozenset({0, 1})
    assert torch.equal(scene.sample(scene.apply(model, routers, dense_blocks=all_blocks)), stock)
    assert torch.equal(scene.sample(scene.apply(model, routers, min_tokens=76)), stock)
    differs(scene.sample(scene.apply(model, routers, min_tokens=75)), stock)
    differs(scene.sample(scene.apply(model, routers, dense_blocks=frozenset({0}))), stock)
    # Two steps: sigma 1 at 0 %, and the second somewhat below the middle.
    late = scene.sample(scene.apply(model, routers, start_percent=0.2))
    early = scene.sample(scene.apply(model, routers, end_percent=0.2))
    whole = scene.sample(scene.apply(model, routers))
    for one, other in ((late, stock), (early, stock), (late, whole), (early, whole)):
        differs(one, other, 1e-6)


def test_feed_forward_in_chunks_is_the_same_in_smaller_parts(scene, stock):
    chunks, seen = 4, []
    model = scene.apply(scene.load(), attention="dense", ffn_chunks=chunks)
    first = model.model.diffusion_model.blocks[0].ffn[0]
    watch = first.register_forward_hook(lambda _, args, out: seen.append(out.shape[1]))
    close(scene.sample(model), stock)
    watch.remove()
    assert set(seen) == {19, 18} and len(seen) % chunks == 0  # of 75 tokens
    assert torch.equal(scene.sample(scene.load()), stock)
    clean = scene.apply(model, attention="dense")
    assert torch.equal(scene.sample(clean), stock)
    assert "forward" not in vars(model.model.diffusion_model.blocks[0].ffn)


def test_lora_still_lands(scene, stock):
    make = torch.Generator().manual_seed(4)
    lora = {}
    for block in range(2):
        for name in ("self_attn.q", "self_attn.o", "cross_attn.v", "ffn.0"):
            out = 512 if name == "ffn.0" else 256
            key = f"diffusion_model.blocks.{block}.{name}"
            lora[f"{key}.lora_A.weight"] = torch.randn(4, 256, generator=make) / 8
            lora[f"{key}.lora_B.weight"] = torch.randn(out, 4, generator=make) / 8
    name = scene.comfy.add_model("loras", "tiny_lora.safetensors", lora)

    def loaded(model):
        loader = scene.comfy.call("LoraLoaderModelOnly", model=model, lora_name=name)
        return loader[0]

    expected = scene.sample(loaded(scene.load()))
    differs(expected, stock)
    model = scene.load()
    close(scene.sample(scene.apply(loaded(model), scene.everything())), expected)
    close(scene.sample(loaded(scene.apply(model, scene.everything()))), expected)


def recorder(calls, previous=None):
    """An attention override as other packs write them, chaining to what was there."""

    def override(func, q, k, v, heads, *args, **kwargs):
        calls.append(tuple(q.shape))
        if previous is not None:
            return previous(func, q, k, v, heads, *args, **kwargs)
        return func(q, k, v, heads, *args, **kwargs)

    return override


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_beside_another_attention_override(scene, stock, first):
    calls = []

    def theirs(model):
        model = model.clone()
        options = model.model_options["transformer_options"]
        options["optimized_attention_override"] = recorder(calls)
        return model

    def ours(model):
        return scene.apply(model, scene.routers(), dense_blocks=frozenset({1}))

    model = scene.load()
    both = ours(theirs(model)) if first == "theirs" else theirs(ours(model))
    close(scene.sample(both), scene.sample(ours(scene.load())))
    # 75 video tokens: the dense block's self-attention goes through theirs, the other's does not;
    # the cross-attention of both does.
    assert len(calls) == 2 * 3  # steps x (1 self-attention + 2 cross-attentions)


def test_attn1_patch_sees_our_output(scene, comfy):
    if comfy.version < (0, 19):
        pytest.skip("this ComfyUI has no attn1_patch in Wan")
    seen = []

    def patch(args):
        seen.append(tuple(args["q"].shape))
        return args["x"] * 0.5

    model = scene.load()
    plain = scene.apply(model, scene.routers())
    expected = scene.sample(plain)
    patched = plain.clone()
    patched.set_model_attn1_patch(patch)
    differs(scene.sample(patched), expected)
    assert set(seen) == {(2, 75, 2, 128)} and len(seen) == 2 * 2


def test_model_attention_backend(scene, comfy):
    if "ModelAttentionBackend" not in comfy.nodes:
        pytest.skip("this ComfyUI has no ModelAttentionBackend node")
    model, routers = scene.load(), scene.routers()
    expected = scene.sample(scene.apply(model, routers))

    def backend(m):
        return comfy.call("ModelAttentionBackend", model=m, attention="pytorch")[0]

    close(scene.sample(backend(scene.apply(model, routers))), expected)
    close(scene.sample(scene.apply(backend(model), routers)), expected)


def test_another_forward_patch_is_kept_and_called(scene):
    """As KJNodes does it: an object patch over self_attn.forward."""
    model, calls = scene.load(), []
    original = model.model.diffusion_model.blocks[0].self_attn.forward

    def theirs(x, freqs, transformer_options):
        calls.append(x.shape[1])
        return original(x, freqs, transformer_options=transformer_options)

    patched = model.clone()
    patched.add_object_patch("diffusion_model.blocks.0.self_attn.forward", theirs)
    expected = scene.sample(scene.apply(scene.load(), scene.routers()))
    assert torch.equal(scene.sample(scene.apply(patched, scene.routers())), expected)
    assert calls == [75] * 2
    after = scene.apply(model, scene.routers())
    after.add_object_patch("diffusion_model.blocks.0.self_attn.forward", theirs)
    assert torch.equal(scene.sample(after), expected)
    assert calls == [75] * 4


def test_fp8_base(scene):
    model = scene.load(dtype=torch.float8_e4m3fn)
    assert model.model.diffusion_model.blocks[0].self_attn.q.weight.dtype == torch.float8_e4m3fn
    expected = scene.sample(model)
    close(scene.sample(scene.apply(model, scene.everything())), expected)
    differs(scene.sample(scene.apply(model, scene.routers())), expected)


def test_routers_are_kept_in_float32_and_loaded_with_the_model(scene):
    from comfy import model_management

    model = scene.apply(scene.load(), scene.routers())
    scene.sample(model)
    (patcher,) = model.get_additional_models_with_key("moga")
    assert {p.dtype for p in patcher.model.parameters()} == {torch.float32}
    loaded = [m.model.model for m in model_management.current_loaded_models if m.model]
    assert patcher.model in loaded


def test_361_latent_frames_keep_361_positions_in_bfloat16(scene):
    model = scene.apply(scene.load(), scene.routers())
    dit = model.model.diffusion_model

    def positions():
        freqs = dit.rope_encode(361, 2, 2, device="cpu", dtype=torch.bfloat16)
        return len(torch.unique(freqs[0, :, 0].flatten(1), dim=0))

    assert positions() == 309  # the trap
    model.inject_model()
    try:
        assert positions() == 361
    finally:
        model.eject_model()
    assert positions() == 309
