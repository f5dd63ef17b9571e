"""What cores later than 0.33 have; skipped where the core under test has it not."""

import sys
from types import SimpleNamespace

import pytest
import torch
from harness import tiny
from harness.scene import Scene, close, differs, tokens


@pytest.fixture
def scene(comfy):
    yield Scene(comfy, tiny.wan())
    comfy.forget()


@pytest.mark.parametrize("order", ["theirs first", "ours first"])
@pytest.mark.parametrize("blocks", [frozenset(), frozenset({1})])
def test_model_sparse_attention(scene, comfy, caplog, monkeypatch, order, blocks):
    """Core's node, which puts its override on top again at every step.

    It is asked in dense blocks and in cross-attention, and declines what is not on a GPU.
    """
    if "BlockSparseAttention" not in comfy.nodes:
        pytest.skip("this ComfyUI has no Model Sparse Attention node")
    node = sys.modules[comfy.nodes["BlockSparseAttention"].__module__]
    declines, asked = node._ineligible, []
    monkeypatch.setattr(
        node, "_ineligible", lambda q, k, *a: asked.append(k.shape[1]) or declines(q, k, *a)
    )

    def theirs(model):
        settings = {"start_percent": 0.0, "min_tokens": 0}
        method = {"selection": "sol-attn", "tau": 1.3}
        return comfy.call("BlockSparseAttention", model=model, selection=method, **settings)[0]

    def ours(model):
        return scene.apply(model, scene.routers(), dense_blocks=blocks)

    model = scene.load()
    stock = scene.sample(model)
    expected = scene.sample(ours(model))
    both = ours(theirs(model)) if order == "theirs first" else theirs(ours(model))
    for _ in range(2):  # the second time for what may have piled up in the first
        asked.clear()
        with caplog.at_level("INFO"):
            assert torch.equal(scene.sample(both), expected)
        # Two steps: of a MoGA block's own attention they hear nothing.
        assert (asked.count(75), asked.count(512)) == (2 * len(blocks), 2 * 2)
    said = "(make_attention_override of nodes_sparse_attention) runs in dense layers"
    assert said in caplog.text
    assert torch.equal(scene.sample(theirs(model)), stock)
    assert torch.equal(scene.sample(model), stock)


def test_a_kernel_that_the_files_config_chooses(scene, monkeypatch):
    """Core reads it from the file into each attention; dense blocks keep it under MoGA."""
    from comfy.ldm.modules import attention as core

    if not hasattr(core, "ComfyAttention"):
        pytest.skip("this ComfyUI has no ComfyAttention")
    calls = []

    @core.wrap_attn
    def kernel(q, k, v, heads, *args, **kwargs):
        calls.append(q.shape[1])
        return core.attention_basic(q, k, v, heads, *args, **kwargs)

    # The kernel itself needs a GPU: in its place the plainest one, that counts.
    monkeypatch.setattr(core, "COMFY_KITCHEN_INT8_ATTENTION_IS_AVAILABLE", True)
    monkeypatch.setattr(core.comfy_kitchen, "int8_attention_is_available", lambda *a: True)
    monkeypatch.setattr(core, "attention_comfy_kitchen_int8", kernel)
    config = torch.tensor(list(b'{"attention": "comfy_kitchen_int8"}'), dtype=torch.uint8)
    expected = scene.sample(scene.apply(scene.load(), scene.routers(), dense_blocks={1}))
    for index in range(2):
        for name in ("self_attn", "cross_attn"):
            scene.weights[f"blocks.{index}.{name}.comfy_attention.config"] = config
    stock = scene.sample(scene.load())
    assert calls == [75] * 8  # 2 steps x 2 blocks x self- and cross-attention
    calls.clear()
    close(scene.sample(scene.apply(scene.load(), scene.everything(), dense_blocks={1})), stock)
    # One self-attention is MoGA's; all the others are still the kernel's.
    assert calls == [75] * 6
    close(scene.sample(scene.apply(scene.load(), scene.routers(), dense_blocks={1})), expected)


def test_vace_on_an_image_to_video_model(comfy):
    """Its blocks read text alone, while the model's own read the image's tokens before it."""
    if not tiny.there("vace_i2v"):
        pytest.skip("this ComfyUI has no VACE with an image input")
    scene = Scene(comfy, tiny.wan("vace_i2v"))
    make = torch.Generator().manual_seed(3)
    image = SimpleNamespace(penultimate_hidden_states=torch.randn(1, 257, 1280, generator=make))

    def seen(conditioning):
        return [[text, {**extra, "clip_vision_output": image}] for text, extra in conditioning]

    negative = seen(scene.negative)
    stock = scene.sample(scene.load(), seen(scene.positive), negative)
    differs(stock, scene.sample(scene.load()))
    everything = scene.apply(scene.load(), scene.everything())
    close(scene.sample(everything, seen(scene.positive), negative), stock)
    shots = scene.shots("[5f] same\n[4f] same\n[8f] same")
    model = scene.apply(scene.load(), attention="dense", shots=shots)
    texts = []
    block = model.model.diffusion_model.vace_blocks[0].cross_attn
    handle = block.k.register_forward_hook(lambda m, args, out: texts.append(args[0].shape[1]))
    found = scene.sample(model, seen(scene.schedule(shots, tokens(11))), negative)
    handle.remove()
    close(found, scene.sample(scene.load(), seen([[tokens(11), {}]]), negative))
    assert set(texts) == {512}
    comfy.forget()
