"""How each kind of job runs one of its ways: a function of a Bench and the way, to a row."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from comfyui_measure import Compilations, Watch, apart, left_after_unload, on_card
from comfyui_scene import Bench

Row = dict[str, Any]


def speed(bench: Bench, way: str) -> Row:
    """Cases 1 and 3: one sampling, cfg 4."""
    _, row = bench.measure(*bench.variant(way))
    return row


def experts(bench: Bench, way: str) -> Row:
    """Two models after one another, twice: seconds of each turn, and what is left."""
    import comfy.model_management as mm

    way = way.partition(",")[0]
    before = left_after_unload(mm)
    models = [bench.model, bench.new_model(seed=1)]
    variants = [bench.variant(way, model) for model in models]
    turns, results = [], []
    for turn in range(4):
        model, positive = variants[turn % 2]
        start = time.perf_counter()
        results.append(bench.scene.sample(model, positive, steps=1))
        turns.append(round(time.perf_counter() - start, 2))
    places = [str(_where(model)) for model, _ in variants]
    left = left_after_unload(mm)
    return {
        "turns s": turns,
        "same again": all(torch.equal(a, b) for a, b in zip(results[:2], results[2:], strict=True)),
        "routers on": places,
        "routers after unload on": [str(_where(model)) for model, _ in variants],
        "left bytes": left - before,
    }


def _where(model: Any) -> torch.device | None:
    found = model.get_additional_models_with_key("moga")
    return next(found[0].model.parameters()).device if found else None


def one_group(bench: Bench, way: str) -> Row:
    """MoGA with one group and no gate beside stock, to rounding."""
    return bench.compare(bench.scene.apply(bench.model, bench.everything()), bench.model)


def compiled(bench: Bench, way: str) -> Row:
    """Core's node over a run, the same again, another prompt, and moved cuts."""

    # On a CPU inductor takes minutes; eager is traced and guarded as it is, and not lowered.
    backend = "inductor" if on_card() else "eager"

    def on(model: Any) -> Any:
        return bench.comfy.call("TorchCompileModel", model=model, backend=backend)[0]

    scene, row, times = bench.scene, {"backend": backend}, {}
    for name, moved, seed in (
        ("first", False, 11),
        ("again", False, 11),
        ("other prompt", False, 71),
        ("moved cuts", True, 11),
    ):
        shots = bench.shots(moved=moved)
        positive = None if way == "stock" else bench.text(shots, seed)
        plain = bench.model
        if way != "stock":
            plain = scene.apply(bench.model, bench.routers(5), shots=shots)
        expected, eager = bench.measure(plain, positive, steps=2)
        with Compilations() as made:
            found, timed = bench.measure(on(plain), positive, steps=3)
        row[name] = {"compilations": made.count, "first step s": timed["first step s"]}
        if name in ("first", "again"):
            times["eager step s"], times["step s"] = eager["step s"], timed["step s"]
        row[name]["apart"] = apart(scene.sample(on(plain), positive, steps=2), expected)
        row[name]["finite"] = bool(found.isfinite().all())
    return {**times, **row}


def minute(bench: Bench, way: str) -> Row:
    """Sampling at 24 fps with 12 shots and no cfg, then the film. 30 steps are computed."""
    groups, _, backend = way.removeprefix("moga-").partition(" ")
    shots = bench.shots(12, 24)
    settings = {"shots": shots, "backend": backend, "ffn_chunks": 8}
    model = bench.scene.apply(bench.model, bench.routers(int(groups)), **settings)
    latent, row = bench.measure(model, bench.text(shots), steps=2, cfg=1.0)
    inputs = {"samples": {"samples": latent}, "vae": vae_of(bench), "fps": 24.0}
    start = time.perf_counter()
    with Watch(bench.taken) as film:
        bench.comfy.call("MoGADecodeToVideo", **inputs)
    row["decode and save s"] = round(time.perf_counter() - start, 1)
    row |= {f"film {name}": value for name, value in film.row().items()}
    row["tokens"] = latent[0, 0].numel() // 4
    if row["step s"]:
        row["30 steps with cfg s, computed"] = round(60 * row["step s"])
    return row


def vae_of(bench: Bench) -> Any:
    from decode import random_vae

    return random_vae(8 if bench.job.model == "tiny" else 96)


def graphs(comfy: Any, way: str, folder: Path) -> Row:
    """A shipped workflow with small models, to a video; its latent is left for comparison."""
    import json

    from harness import tiny
    from harness.graph import api_prompt
    from harness.workflow import install_models, small
    from safetensors.torch import save_file

    install_models(comfy)
    root = Path(__file__).resolve().parents[1]
    workflow = json.loads((root / "workflows" / f"{way}.json").read_text(encoding="utf-8"))
    script = "global: A fox.\n[5f] It wakes.\n[4f] It runs.\n[8f] It sleeps."
    prompt = small(api_prompt(workflow, comfy.nodes), script=script, width=128, height=96)
    (sampler,) = [key for key, node in prompt.items() if node["class_type"] == "KSampler"]
    prompt["latent"] = {"class_type": "TestCapture", "inputs": {"value": [sampler, 0]}}
    (film,) = [key for key, n in prompt.items() if n["class_type"] == "MoGADecodeToVideo"]
    with tiny.small_models():
        result = comfy.run(prompt)
    latent = result.captured["latent"]["samples"].float().cpu()
    save_file({"latent": latent.contiguous()}, folder / f"{way}.safetensors")
    return {"finite": bool(latent.isfinite().all()), "film": result[film]["images"][0]["filename"]}


WAYS: dict[str, Callable[[Bench, str], Row]] = {
    "speed": speed,
    "experts": experts,
    "one group": one_group,
    "compile": compiled,
    "minute": minute,
}
