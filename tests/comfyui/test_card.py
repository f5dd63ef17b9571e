"""What a card would suffer from, as far as a CPU can show it: waits, and what stays on it."""

import gc
import traceback
from collections import Counter

import pytest
import torch
from harness import tiny
from harness.scene import Scene, tokens
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode


@pytest.fixture
def scene(comfy):
    yield Scene(comfy, tiny.wan())
    comfy.forget()


class Waits(TorchFunctionMode):
    """Counts what makes the host wait for a card: reading tensors, and sizes that hang on them."""

    NAMES = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__",
             "nonzero", "masked_select", "unique", "equal", "allclose")  # fmt: skip

    def __init__(self):
        super().__init__()
        self.ours = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in self.NAMES:
            for frame in reversed(traceback.extract_stack()):
                if "/moga/" in frame.filename:
                    self.ours[name, frame.name] += 1
                    break
                if "/comfy/" in frame.filename:
                    break
        return function(*args, **(kwargs or {}))


def test_the_host_waits_once_a_layer_at_most(scene):
    """Where a kernel needs sizes of groups, as PyTorch's dense one does, and for nothing else."""
    shots = scene.shots()
    positive = scene.schedule(shots, *(tokens(seed, 16) for seed in (3, 4, 5)))
    model = scene.apply(scene.load(), scene.routers(), shots=shots)
    scene.sample(model, positive)  # tables of the layout are made and kept
    with Waits() as waits:
        scene.sample(model, positive, steps=3)
    layers = 3 * 2 * 2  # steps x positive and negative apart x blocks
    assert waits.ours == {("tolist", "slices"): layers}


@pytest.mark.parametrize("last", ["moga", "stock"])
def test_unloading_leaves_no_tables(scene, comfy, last):
    """Of the layouts that were sampled; also where the model went on without MoGA."""
    import comfy.model_management as mm

    model = scene.load()
    with_moga = scene.apply(model, scene.routers())
    scene.sample(model)
    mm.unload_all_models()
    comfy.module("moga.attention.tables").forget_tables()  # of other tests
    before = whole_numbers()
    scene.sample(with_moga)
    assert whole_numbers() > before  # kept for the next sampling
    if last == "stock":
        scene.sample(model)
    mm.unload_all_models()
    assert whole_numbers() == before


def whole_numbers():
    """How many tensors of them live, as tables are."""
    gc.collect()
    kinds = (torch.int32, torch.int64, torch.uint8)
    return sum(isinstance(t, torch.Tensor) and t.dtype in kinds for t in gc.get_objects())


def test_tables_stay_from_sampling_to_sampling(scene, comfy):
    packing = comfy.module("moga.attention.packing")
    model = scene.apply(scene.load(), scene.routers())
    scene.sample(model)
    made = packing._static.cache_info().misses
    scene.sample(model)
    scene.sample(model.clone())
    assert packing._static.cache_info().misses == made


@pytest.mark.parametrize("attention", ["moga", "dense", "stock"])
def test_an_interrupt_stops_inside_a_step(scene, comfy, attention):
    """Pressed as the first block begins: the second is not entered, compiled or not."""
    import comfy.model_management as mm

    if attention == "stock" and comfy.version < (0, 20):
        pytest.skip("this ComfyUI looks once a step only")
    model = scene.load()
    blocks = model.model.diffusion_model.blocks
    if attention != "stock":
        routers = scene.routers() if attention == "moga" else None
        model = scene.apply(model, routers, attention=attention)
    expected, entered = scene.sample(model), []

    def press(block, args):
        entered.append(block)
        mm.interrupt_current_processing()

    hooks = [block.register_forward_pre_hook(press) for block in blocks]
    with pytest.raises(mm.InterruptProcessingException):
        scene.sample(model)
    for hook in hooks:
        hook.remove()
    assert len(entered) == 1
    assert torch.equal(scene.sample(model), expected)


def test_routing_and_packing_stay_on_a_card_and_never_wait(comfy):
    """On a card that PyTorch imagines: reading a tensor is an error, and so are mixed devices."""
    packing = comfy.module("moga.attention.packing")
    config = comfy.module("moga.config").MoGAConfig(groups=20, windows=(4, 4), combine="mean")
    layout = comfy.module("moga.layout").VideoLayout(21, 30, 52, (0, 5, 12))
    stack = comfy.module("moga.hosts.comfyui.routers").RouterStack(256, 20, 2, "cpu")
    forget = comfy.module("moga.attention.tables").forget_tables
    forget()
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(2, layout.tokens, 256, dtype=torch.bfloat16, device="cuda")
        routing = stack.route(1, x)  # whose weights are still elsewhere
        packed = packing.packings(routing, layout, config, 2, x.device)
        packed |= {"groups": packing.by_group(routing.group, config.groups)}
        made = [routing.gate, routing.group]
        for one in packed.values():
            made += [one.queries, one.keys, one.place, one.segments.cu_q, one.segments.tiles.first]
    forget()
    assert {t.device.type for t in made if t is not None} == {"cuda"}
    assert routing.gate.dtype == torch.float32
