"""Core's MultiGPU CFG Split: the two calls of guidance on two devices.

Two names of the CPU are two devices to ComfyUI, which gives each a model, a thread and its half of
the calls.
"""

import pytest
import torch
from harness import tiny
from harness.scene import Scene, close, differs, tokens


@pytest.fixture
def scene(comfy):
    yield Scene(comfy, tiny.wan())
    comfy.forget()


def split(model, monkeypatch):
    """What core's node does with a model, on a machine with two devices."""
    multigpu = pytest.importorskip("comfy.multigpu", reason="this ComfyUI splits no guidance")
    import comfy.model_management as management

    here = [torch.device("cpu"), torch.device("cpu", 1)]
    monkeypatch.setattr(management, "get_all_torch_devices", lambda exclude_current=False: here)
    made = multigpu.create_multigpu_deepclones(model, 2)
    assert len(made.get_additional_models_with_key("multigpu")) == 1
    return made


@pytest.mark.parametrize("order", ["before", "after"])
def test_guidance_split_over_devices(scene, monkeypatch, order):
    def load():
        model = scene.load()
        model.cached_patcher_init = (load, ())  # as the loaders of core and ours set it
        return model

    shots, routers = scene.shots(), scene.routers()
    positive = scene.schedule(shots, tokens(11), tokens(12), tokens(13))
    expected = scene.sample(scene.apply(load(), routers, shots=shots), positive)
    model = load()
    if order == "before":
        model = split(model, monkeypatch)
    model = scene.apply(model, routers, shots=shots)
    if order == "after":
        model = split(model, monkeypatch)
    made = scene.sample(model, positive)
    close(made, expected)
    differs(made, scene.sample(split(load(), monkeypatch)))
    close(scene.sample(split(load(), monkeypatch)), scene.sample(load()))  # without MoGA
