"""MoGA on a model that other packs change as well, in the ways that they are known to."""

import functools

import pytest
import torch
from harness import tiny
from harness.scene import Scene, close, differs, tokens


@pytest.fixture
def scene(comfy):
    yield Scene(comfy, tiny.wan())
    comfy.forget()


def gate_forwards(model, takes):
    """As Sol-Attn does: a hook before each block wraps whatever foreign forward stands on its
    self-attention, and leaves the wrapper there. Calls that `takes` get the stock forward."""

    def hook(block, args):
        attention = block.self_attn
        forward = vars(attention).get("forward")
        if forward is None or getattr(forward, "gated", False):
            return
        if getattr(forward, "_uses_optimized_attention", False):
            return  # it reaches the attention override by itself
        if getattr(forward, "__func__", None) is type(attention).forward:
            return

        @functools.wraps(forward)
        def gated(*values, **options):
            stock = type(attention).forward
            return stock(attention, *values, **options) if takes() else forward(*values, **options)

        gated.gated = True
        attention.forward = gated

    blocks = model.model.diffusion_model.blocks
    return [block.register_forward_pre_hook(hook) for block in blocks]


def test_a_pack_that_takes_over_foreign_forwards_leaves_ours(scene):
    model = scene.load()
    stock = scene.sample(model)
    expected = scene.sample(scene.apply(model, scene.routers()))
    gate_forwards(model, takes=lambda: True)
    assert torch.equal(scene.sample(scene.apply(model, scene.routers())), expected)
    assert torch.equal(scene.sample(model), stock)


def test_what_wraps_our_forward_for_good_is_gone_with_it(scene):
    """A wrapper that does not ask: it keeps our stand-in alive, and stays on the module."""
    model = scene.load()
    stock = scene.sample(model)
    first = scene.apply(model, scene.routers())
    expected = scene.sample(first)
    kept = []

    def hook(block, args):
        forward = vars(block.self_attn).get("forward")
        if forward is not None and forward not in kept:
            wrapper = lambda *values, **options: forward(*values, **options)  # noqa: E731
            kept.append(wrapper)
            block.self_attn.forward = wrapper

    for block in model.model.diffusion_model.blocks:
        block.register_forward_pre_hook(hook)
    assert torch.equal(scene.sample(first), expected)
    assert kept
    assert torch.equal(scene.sample(model), stock)
    assert torch.equal(scene.sample(scene.apply(model, attention="dense")), stock)
    other = scene.routers(scene.Config(groups=2))
    fresh = scene.sample(scene.apply(scene.load(), other))
    assert torch.equal(scene.sample(scene.apply(model, other)), fresh)


def test_a_forward_that_was_copied_while_moga_stood_there_is_inert_later(scene):
    """As an object patch whose node ran while the model was still loaded with MoGA."""
    model = scene.load()
    stock = scene.sample(model)
    with_moga = scene.apply(model, scene.routers())
    differs(scene.sample(with_moga), stock)
    patched = model.clone()
    for index in range(2):
        name = f"diffusion_model.blocks.{index}.self_attn.forward"
        forward = model.get_model_object(name)
        assert "stand_in" in forward.__qualname__  # ours, and it will be kept
        patched.add_object_patch(name, forward)
    assert torch.equal(scene.sample(patched), stock)
    other = scene.routers(scene.Config(groups=2))
    fresh = scene.sample(scene.apply(scene.load(), other))
    assert torch.equal(scene.sample(scene.apply(patched, other)), fresh)


def test_reordered_tokens_are_refused_before_the_first_step(scene, monkeypatch):
    from comfy.ldm.wan.model import WanModel

    monkeypatch.setattr(WanModel, "forward_orig", None)  # a step would fail otherwise
    model = scene.load()
    model.model_options["transformer_options"]["sol_morton"] = True
    for applied in (scene.apply(model, scene.routers()), scene.apply(model, attention="dense")):
        with pytest.raises(ValueError, match=r"morton on, .* turn morton off"):
            scene.sample(applied)


@pytest.mark.parametrize(
    "module", ["KJNodes.nodes.sage", "/packs-1.2/sage", "C:\\packs-1.2\\sage", "sage"]
)
def test_what_does_not_run_in_moga_layers_is_said_once(scene, caplog, module):
    """ComfyUI calls a pack of one file by its path."""

    def sage_attention(func, *args, **kwargs):
        return func(*args, **kwargs)

    sage_attention.__module__ = module
    model = scene.load()
    model.model_options["transformer_options"]["optimized_attention_override"] = sage_attention
    with caplog.at_level("INFO"):
        scene.sample(scene.apply(model, scene.routers()))
    (said,) = [r.message for r in caplog.records if "attention backends" in r.message]
    assert "routed sdpa, windows sdpa, frames sdpa" in said
    assert said.endswith(
        "; the attention of another node (test_what_does_not_run_in_moga_layers_is_said_once of "
        "sage) runs in dense layers and cross-attention only"
    )


@pytest.fixture
def containers(monkeypatch):
    """Wan's attention is handed containers, as from ComfyUI 0.34 on; a list of those handed."""
    from comfy.ldm.modules import attention as core
    from comfy.ldm.wan import model as wan

    if not hasattr(core, "AttentionTensorContainer"):
        pytest.skip("this ComfyUI has no AttentionTensorContainer")
    kind, real, handed = core.AttentionTensorContainer, wan.optimized_attention, []

    def with_containers(q, k, v, *args, **kwargs):
        handed.append([t if isinstance(t, kind) else kind(t) for t in (q, k, v)])
        return real(*handed[-1], *args, **kwargs)

    monkeypatch.setattr(wan, "optimized_attention", with_containers)
    return handed


@pytest.mark.parametrize("outer", [None, "of tensors", "of containers"])
def test_attention_that_is_handed_containers(scene, containers, outer):
    """In a block with MoGA and in a dense one, under another node's override of either kind."""
    model, calls = scene.load(), []

    def override(func, q, k, v, heads, *args, **kwargs):
        calls.append("of tensors")
        return func(q, k, v, heads, *args, **kwargs)

    def of_containers(q, k, v, heads, *args, **kwargs):
        from comfy.ldm.modules.attention import optimized_attention

        calls.append("of containers")
        return optimized_attention(q, k, v, heads, *args, **kwargs)

    settings = {"dense_blocks": frozenset({1})}
    expected = scene.sample(scene.apply(model, scene.routers(), **settings))
    del containers[:]
    if outer is not None:
        if outer == "of containers":
            override.container_function = of_containers
        model.model_options["transformer_options"]["optimized_attention_override"] = override
    close(scene.sample(scene.apply(model, scene.routers(), **settings)), expected)
    assert containers and all(one.tensor is None for three in containers for one in three)
    assert set(calls) == ({outer} if outer else set())


@pytest.mark.parametrize("handed", ["tensors", "containers"])
def test_a_kernel_that_the_file_prefers_serves_what_stays_dense(scene, request, handed):
    """From ComfyUI 0.34 on a checkpoint chooses kernels by layer; an override would lose that."""
    if handed == "containers":
        request.getfixturevalue("containers")
    model, calls = scene.load(), []

    class Preferred(torch.nn.Module):
        def function(self, q, k, v, heads, *args, **kwargs):
            from comfy.ldm.modules.attention import attention_basic

            calls.append(heads)
            return attention_basic(q, k, v, heads, *args, **kwargs)

    settings = {"dense_blocks": frozenset({1})}
    expected = scene.sample(scene.apply(model, scene.routers(), **settings))
    for block in model.model.diffusion_model.blocks:
        block.self_attn.comfy_attention = Preferred()
    close(scene.sample(scene.apply(model, scene.routers(), **settings)), expected)
    assert calls == [2] * 2  # one block, two steps


def test_conditioning_of_shots_on_a_model_without_apply_moga_is_refused(scene, monkeypatch):
    from comfy.ldm.wan.model import WanModel

    shots = scene.shots()
    positive = scene.schedule(shots, tokens(11), tokens(12), tokens(13))
    model = scene.load()
    with_moga = scene.apply(model, attention="dense", shots=shots)
    assert scene.sample(with_moga, positive).isfinite().all()
    monkeypatch.setattr(WanModel, "forward_orig", None)  # a step would fail otherwise
    for where in ({"positive": positive}, {"negative": positive}):
        with pytest.raises(ValueError) as error:
            scene.sample(model, **where)
        assert type(error.value) is ValueError
        assert "texts of 3 shots, but the model that samples it has no Apply MoGA" in str(
            error.value
        )
        assert "connect the schedule's shots to it" in str(error.value)
        assert "encode one prompt with CLIP Text Encode instead" in str(error.value)


def test_all_that_is_raised_in_sampling_is_a_plain_sentence(scene, monkeypatch):
    """Before the steps and inside one: not with the path of the pack as its type."""
    shots, others = scene.shots(), scene.shots("[9f] one\n[4f] two\n[4f] three")
    positive = scene.schedule(others, tokens(11), tokens(12), tokens(13))
    model = scene.load()
    with pytest.raises(ValueError) as error:
        scene.sample(scene.apply(model, attention="dense", shots=shots), positive)
    assert type(error.value) is ValueError and "with cuts at" in str(error.value)
    host = scene.comfy.module("moga.hosts.comfyui.self_attention")
    kernels = scene.comfy.module("moga.kernels")

    def fails(*args, **kwargs):
        raise kernels.BackendError("the card is gone")

    monkeypatch.setattr(host, "moga_attention", fails)
    with pytest.raises(ValueError) as error:
        scene.sample(scene.apply(model, scene.routers()))
    assert type(error.value) is ValueError and str(error.value) == "the card is gone"


def test_the_5b_model_says_that_it_wants_24_fps(comfy):
    scene = Scene(comfy, tiny.wan("ti2v"), channels=48)
    for fps, said in ((16, True), (24, False)):
        told, shots = [], scene.ShotList.parse("[5f] one\n[12f] two", fps)
        settings = scene.host.Settings(shots=shots)
        model = scene.host.apply_moga(scene.load(), settings, scene.routers(), tell=told.append)
        scene.sample(model)
        for line in (scene.host.summary(model), *told):
            assert line.endswith("set fps to 24: this model was made for it, and the shots are at "
                                 "16") is said  # fmt: skip
        assert told
    comfy.forget()
