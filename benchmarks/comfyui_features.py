"""Case 5: what people use beside MoGA; right, and clean afterwards.

Right is: MoGA under which attention is dense gives what stock gives with the same feature.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from comfyui_measure import apart, left_after_unload
from comfyui_scene import Bench


def features(bench: Bench, way: str) -> dict[str, Any]:
    import comfy.model_management as mm

    before = left_after_unload(mm)
    row = _FEATURES[way](bench)
    return {**row, "left bytes": left_after_unload(mm) - before}


def _beside_stock(bench: Bench, put: Callable[[Any], Any], model: Any = None) -> dict[str, Any]:
    """put: the feature, on a MODEL."""
    model = bench.model if model is None else model
    return bench.compare(put(bench.scene.apply(model, bench.everything())), put(model))


def _lora(bench: Bench) -> dict[str, Any]:
    from comfyui_scene import weights
    from harness import tiny

    plain = weights(bench.shape.config(), "bf16")
    name = bench.comfy.add_model("loras", "random.safetensors", tiny.lora(plain))
    fp8 = bench.scene
    fp8.weights = plain
    model = fp8.load(dtype=torch.float8_e4m3fn)
    fp8.weights = {}
    return _beside_stock(
        bench,
        lambda m: bench.comfy.call("LoraLoaderModelOnly", model=m, lora_name=name)[0],
        model,
    )


def _gguf(bench: Bench) -> dict[str, Any]:
    """Q8_0 of a tiny model, through ComfyUI-GGUF, where that and the gguf package are found."""
    import importlib.util

    import folder_paths
    from find_comfyui import find_pack
    from harness import tiny
    from harness.workflow import write_gguf

    pack = find_pack("ComfyUI-GGUF")
    if pack is None or importlib.util.find_spec("gguf") is None:
        return {"skipped": "no ComfyUI-GGUF in custom_nodes or ~/comfy/packs, or no gguf package"}
    bench.comfy.add_pack(pack)
    path = Path(folder_paths.get_folder_paths("diffusion_models")[0]) / "tiny.gguf"
    write_gguf(path, tiny.wan())
    folder_paths.filename_list_cache.clear()
    (model,) = bench.comfy.call("UnetLoaderGGUF", unet_name=path.name)
    scene = bench.scene
    routers = scene.routers(scene.Config(groups=1, gate=False, branches=("routed",)))
    return bench.compare(scene.apply(model, routers), model)


def _easycache(bench: Bench) -> dict[str, Any]:
    settings = {"reuse_threshold": 0.2, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    return _beside_stock(bench, lambda m: bench.comfy.call("EasyCache", model=m, **settings)[0])


def _context_windows(bench: Bench) -> dict[str, Any]:
    settings = {
        "context_length": 4 * (bench.latent.shape[2] // 2) + 1,
        "context_overlap": 4,
        "context_schedule": "standard_static",
        "fuse_method": "pyramid",
    }
    return _beside_stock(
        bench, lambda m: bench.comfy.call("WanContextWindowsManual", model=m, **settings)[0]
    )


def _experts(bench: Bench) -> dict[str, Any]:
    """KSampler Advanced on one and then the other, as Wan 2.2's graph has them."""
    models = [bench.model, bench.new_model(seed=1)]
    both = [[m, bench.scene.apply(m, bench.everything())] for m in models]
    stock, moga = (_in_turn(bench, [pair[i] for pair in both]) for i in range(2))
    return {"apart": apart(moga, stock), "finite": bool(moga.isfinite().all())}


def _in_turn(bench: Bench, models: list) -> torch.Tensor:
    latent, scene = bench.scene.latent, bench.scene
    for turn, model in enumerate(models):
        (latent,) = bench.comfy.call(
            "KSamplerAdvanced",
            model=model,
            add_noise="disable" if turn else "enable",
            noise_seed=3,
            steps=2,
            cfg=4.0,
            sampler_name="euler",
            scheduler="simple",
            positive=scene.positive,
            negative=scene.negative,
            latent_image=latent,
            start_at_step=turn,
            end_at_step=turn + 1,
            return_with_leftover_noise="disable" if turn else "enable",
        )
    return latent["samples"]


def _interrupt(bench: Bench) -> dict[str, Any]:
    """Pressed in the middle of the second step, in stock and with MoGA."""
    shots = bench.shots()
    moga = bench.scene.apply(bench.model, bench.routers(5), shots=shots)
    return {
        "stock": _pressed(bench, bench.model, None),
        "moga-5": _pressed(bench, moga, bench.text(shots)),
    }


def _pressed(bench: Bench, model: Any, positive: list | None) -> dict[str, Any]:
    """How many blocks and seconds the sampler went on for, and whether all is right after it."""
    import comfy.model_management as mm

    expected = bench.scene.sample(model, positive, steps=2)
    blocks = model.model.diffusion_model.blocks
    entered, pressed = [], []

    def watch(index: int) -> None:
        entered.append(index)
        # Conditioned apart, positive and negative are two calls a step.
        if entered.count(0) >= calls + 1 and index == len(blocks) // 2 and not pressed:
            pressed.append((len(entered), time.perf_counter()))
            mm.interrupt_current_processing()

    hooks = [
        block.register_forward_pre_hook(lambda *_, index=i: watch(index))
        for i, block in enumerate(blocks)
    ]
    try:
        calls = 10**9
        bench.scene.sample(model, positive, steps=1)
        calls = entered.count(0)
        entered.clear()
        stopped = _stops(bench, model, positive)
        seconds = time.perf_counter() - pressed[0][1]
    finally:
        for hook in hooks:
            hook.remove()
        mm.interrupt_current_processing(False)
    again = bench.scene.sample(model, positive, steps=2)
    return {
        "stopped": stopped,
        "blocks entered after": len(entered) - pressed[0][0],
        "seconds after": round(seconds, 3),
        "same again": torch.equal(again, expected),
    }


def _stops(bench: Bench, model: Any, positive: list | None) -> bool:
    import comfy.model_management as mm

    try:
        bench.scene.sample(model, positive, steps=3)
    except mm.InterruptProcessingException:
        return True
    return False


_FEATURES = {
    "lora on fp8": _lora,
    "gguf": _gguf,
    "easycache": _easycache,
    "two experts": _experts,
    "context windows": _context_windows,
    "interrupt": _interrupt,
}
