"""MoGA under torch.compile, through ComfyUI's own node: nothing of a call stays in the graph.

The node drops every guard on transformer_options, so whatever a trace reads there is baked in.
"""

import logging
import shutil

import pytest
import torch
from harness import tiny
from harness.scene import Scene, close, differs, tokens

CUTS, MOVED = (5, 4, 8), (9, 4, 4)  # frames of each shot: as many shots, as long a video


@pytest.fixture
def scene(comfy, monkeypatch):
    # Its structured trace would be written out for pytest's log, several times as slow.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "handlers", [])
    torch._dynamo.reset()
    yield Scene(comfy, tiny.wan())
    comfy.forget()
    torch._dynamo.reset()


def compiled(scene, model, backend="eager"):
    """eager: traced and guarded as with inductor, but not lowered."""
    return scene.comfy.call("TorchCompileModel", model=model, backend=backend)[0]


def both(scene, order, model, backend="eager", **settings):
    """Apply MoGA and the compile node, in one order."""
    if order == "moga first":
        return compiled(scene, scene.apply(model, scene.routers(), **settings), backend)
    return scene.apply(compiled(scene, model, backend), scene.routers(), **settings)


def script(scene, lengths, count=512):
    """Shots of so many frames, and their conditioning, `count` tokens each."""
    shots = scene.shots("\n".join(f"[{n}f] shot {i}" for i, n in enumerate(lengths)))
    return shots, scene.schedule(shots, *(tokens(11 + i, count) for i in range(len(lengths))))


@pytest.mark.parametrize("order", ["moga first", "compile first"])
def test_nothing_of_an_earlier_call_is_baked_in(scene, order):
    """One loaded model, run after run, as a user changes widgets in between."""
    model, steps = scene.load(), []
    for lengths, settings, apart in (
        (CUTS, {}, False),
        (MOVED, {}, False),
        (CUTS, {"end_percent": 0.2}, False),
        (CUTS, {"dense_blocks": frozenset({1})}, False),
        (CUTS, {"min_tokens": 76}, False),
        (CUTS, {"ffn_chunks": 3}, False),
        (CUTS, {}, True),  # a negative by itself, with as many tokens as the three shots
        (MOVED, {}, False),
    ):
        shots, positive = script(scene, lengths, 16 if apart else 512)
        inputs = {"positive": positive, "negative": [[tokens(2, 48), {}]] if apart else None}
        settings = {"shots": shots, **settings}
        expected = scene.sample(scene.apply(model, scene.routers(), **settings), **inputs)
        found = scene.sample(both(scene, order, model, **settings), **inputs)
        close(found, expected, 1e-6)
        steps.append(expected)
    differs(steps[0], steps[1])
    assert torch.equal(steps[1], steps[-1])


@pytest.mark.parametrize("order", ["moga first", "compile first"])
def test_stock_and_text_alone_between_runs_with_moga(scene, order):
    model = scene.load()
    shots, positive = script(scene, CUTS)
    stock = scene.sample(model)
    text = scene.sample(scene.apply(model, attention="dense", shots=shots), positive)
    moga = scene.sample(scene.apply(model, scene.routers(), shots=shots), positive)
    for _ in range(2):
        close(scene.sample(compiled(scene, model)), stock, 1e-6)
        close(scene.sample(both(scene, order, model, shots=shots), positive), moga, 1e-6)
        dense = both(scene, order, model, shots=shots, attention="dense")
        close(scene.sample(dense, positive), text, 1e-6)


@pytest.mark.parametrize("order", ["moga first", "compile first"])
def test_another_override_serves_the_dense_block(scene, order):
    model, seen, settings = scene.load(), [], {"dense_blocks": frozenset({0})}
    for factor in (1.0, 0.5):

        def override(func, q, k, v, heads, *args, factor=factor, **kwargs):
            seen.append(factor)
            return func(q, k, v, heads, *args, **kwargs) * factor

        other = model.clone()
        other.model_options["transformer_options"]["optimized_attention_override"] = override
        expected = scene.sample(scene.apply(other, scene.routers(), **settings))
        torch._dynamo.reset()  # cross-attention keeps the other's override, as it does in core
        close(scene.sample(both(scene, order, other, **settings)), expected, 1e-6)
    assert set(seen) == {1.0, 0.5}


@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
def test_inductor(scene):
    """What the node's own backend makes of it; to rounding."""
    model = scene.load()
    for lengths in (CUTS, MOVED):
        shots, positive = script(scene, lengths)
        inputs = {"positive": positive, "steps": 1, "cfg": 1.0}
        expected = scene.sample(scene.apply(model, scene.routers(), shots=shots), **inputs)
        model_with_both = both(scene, "moga first", model, "inductor", shots=shots)
        close(scene.sample(model_with_both, **inputs), expected, 1e-4)
