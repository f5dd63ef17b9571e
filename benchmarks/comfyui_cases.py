"""The cases of comfyui.py: each a function of a booted ComfyUI that returns a row of JSON.

Cases with small models go through the shipped workflows and ComfyUI's executor, those of a real
size through its loader and sampler nodes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = ("multishot_any_wan", "moga_t2v_multishot")
SCRIPT = "global: A fox.\n[13f] It wakes.\n[12f] It runs.\n[16f] It sleeps."
SMALL = {"width": 320, "height": 192, "steps": 4}
FP32 = ("--fp32-unet", "--fp32-vae", "--fp32-text-enc")


@dataclass(frozen=True)
class Case:
    """run: takes the ComfyUI, booted with these arguments, and a folder for tensors.

    beside_cpu: run it on the CPU as well and compare the tensors that both leave.
    """

    run: Callable[[Any, Path], dict]
    arguments: tuple[str, ...] = ()
    beside_cpu: bool = False


# --- the shipped workflows with small models -----------------------------------------------------


def prompts(comfy: Any, **changes: Any) -> dict[str, dict]:
    """The shipped workflows as prompts, small, with the sampled latent captured by "latent"."""
    from harness.graph import api_prompt
    from harness.workflow import install_models, small

    install_models(comfy)
    found = {}
    for name in WORKFLOWS:
        workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
        prompt = small(api_prompt(workflow, comfy.nodes), script=SCRIPT, **SMALL, **changes)
        (sampler,) = [key for key, node in prompt.items() if node["class_type"] == "KSampler"]
        capture = {"class_type": "TestCapture", "inputs": {"value": [sampler, 0]}}
        found[name] = {**prompt, "latent": capture}
    return found


def run_graph(comfy: Any, prompt: dict) -> tuple[torch.Tensor, dict]:
    """The latent that was sampled, and facts about the video that was written."""
    import av

    result = comfy.run(prompt)
    latent = result.captured["latent"]["samples"]
    (node,) = [key for key, n in prompt.items() if n["class_type"] == "MoGADecodeToVideo"]
    saved = result[node]["images"][0]
    with av.open(str(comfy.output_dir / saved["subfolder"] / saved["filename"])) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    facts = {
        "finite": bool(latent.isfinite().all()),
        "frames": len(frames),
        "spread of pixels": round(float(sum(f.std() for f in frames) / len(frames)), 2),
    }
    return latent.float().cpu(), facts


def graphs(**changes: Any) -> Callable[[Any, Path], dict]:
    """Both shipped graphs to a video on the card."""

    def run(comfy: Any, folder: Path) -> dict:
        from harness import tiny
        from safetensors.torch import save_file

        rows = {}
        with tiny.small_models():
            for name, prompt in prompts(comfy, **changes).items():
                latent, rows[name] = run_graph(comfy, prompt)
                save_file({"latent": latent.contiguous()}, folder / f"{name}.safetensors")
        return rows

    return run


def unload_between(comfy: Any, folder: Path) -> dict:
    """A forced unload between two runs: the same latent, and nothing left on the card."""
    import comfy.model_management as mm
    from harness import tiny

    rows = {}
    with tiny.small_models():
        for name, prompt in prompts(comfy).items():
            first, _ = run_graph(comfy, prompt)
            mm.unload_all_models()
            before = allocated()
            second, _ = run_graph(comfy, prompt)
            mm.unload_all_models()
            rows[name] = {
                "same latent": torch.equal(first, second),
                "bytes left": allocated() - before,
            }
    return rows


def interrupted(comfy: Any, folder: Path) -> dict:
    """Interrupt inside the second step, then run again: the latent of an undisturbed run."""
    import comfy.model_management as mm
    from harness import tiny

    rows = {}
    with tiny.small_models():
        for name, prompt in prompts(comfy).items():
            expected, _ = run_graph(comfy, prompt)
            mm.unload_all_models()
            calls, real = [], torch.nn.functional.silu

            def stop(*args: Any, calls: list = calls, real: Any = real, **kwargs: Any) -> Any:
                calls.append(0)
                if len(calls) == 20:
                    mm.interrupt_current_processing()
                return real(*args, **kwargs)

            torch.nn.functional.silu = stop
            try:
                result = comfy.run(prompt, check=False)
            finally:
                torch.nn.functional.silu = real
            again, _ = run_graph(comfy, prompt)
            rows[name] = {"stopped by": str(result.error), "same": torch.equal(again, expected)}
    return rows


# --- a model of a real size ----------------------------------------------------------------------


def wan_weights(device: str, **sizes: int) -> dict[str, torch.Tensor]:
    """Random weights of a Wan of these sizes, bfloat16, on the CPU."""
    from comfy.ldm.wan.model import WanModel
    from comfy.ops import disable_weight_init

    with torch.device("meta"):
        model = WanModel(model_type="t2v", operations=disable_weight_init, **sizes)
    make = torch.Generator(device).manual_seed(0)
    found = {}
    for key, like in model.state_dict().items():
        noise = torch.randn(like.shape, generator=make, device=device)
        if like.ndim == 1 and key.endswith("weight"):
            weight = 1 + 0.1 * noise
        elif like.ndim == 1 or "modulation" in key:
            weight = 0.1 * noise
        else:
            weight = noise / like[0].numel() ** 0.5
        found[key] = weight.to(torch.bfloat16).cpu()
    return found


WAN_1_3B = {"dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30, "text_dim": 4096}
TINY = {"dim": 256, "ffn_dim": 512, "num_heads": 2, "num_layers": 2, "text_dim": 4096}


def real_size(dtype: str | None = None, frames: int = 81) -> Callable[[Any, Path], dict]:
    """Stock, dense with shots, and MoGA on a 1.3B-shaped model: seconds a step and peak memory."""

    def run(comfy: Any, folder: Path) -> dict:
        import comfy.model_management as mm
        from harness.scene import Scene, router_weights, tokens

        on_card = mm.get_torch_device().type == "cuda"
        sizes = WAN_1_3B if on_card else TINY
        rows_of_latent = (60, 104) if on_card else (6, 10)
        latent_frames = (frames + 3) // 4 if on_card else 5
        scene = Scene(comfy, wan_weights("cuda" if on_card else "cpu", **sizes))
        scene.latent = {"samples": torch.zeros(1, 16, latent_frames, *rows_of_latent)}
        options = {} if dtype is None else {"dtype": getattr(torch, dtype)}
        model = scene.load(**options)
        count = 4 * latent_frames - 3
        lengths = (1 + 4 * ((count - 1) // 12), *[4 * ((count - 1) // 12)] * 2)
        lengths = (count - sum(lengths[1:]), *lengths[1:])
        shots = scene.shots("\n".join(f"[{n}f] shot {i}" for i, n in enumerate(lengths)))
        words = scene.schedule(shots, *(tokens(11 + i) for i in range(3)))
        dim, blocks = sizes["dim"], sizes["num_layers"]
        groups = scene.Config().groups
        routers = scene.host.RouterSet(
            {i: {k: v / dim**0.5 if k == "weight" else v for k, v in r.items()}
             for i, r in router_weights(groups, dim, blocks).items()},
            scene.Config(), "random",
        )  # fmt: skip
        everything = scene.routers(
            scene.Config(groups=1, gate=False, branches=("routed",)), dim=dim, blocks=blocks
        )
        variants = {
            "stock": (model, None),
            "dense, 3 shots": (scene.apply(model, attention="dense", shots=shots), words),
            "MoGA, 3 shots": (scene.apply(model, routers, shots=shots), words),
            "one group, no gate": (scene.apply(model, everything), None),
        }
        results, rows = {}, {}
        for name, (variant, positive) in variants.items():
            scene.sample(variant, positive, steps=1)
            reset_peak()
            start = time.perf_counter()
            results[name] = scene.sample(variant, positive, steps=2)
            rows[name] = {
                "seconds a step": round((time.perf_counter() - start) / 2, 3),
                "peak GB": peak_gb(),
                "finite": bool(results[name].isfinite().all()),
            }
        error = (results["one group, no gate"] - results["stock"]).norm()
        rows["one group, no gate"]["off stock"] = float(error / results["stock"].norm())
        mm.unload_all_models()
        return rows

    return run


def allocated() -> int:
    if not torch.cuda.is_available():
        return 0
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_gb() -> float:
    return round(torch.cuda.max_memory_allocated() / 1e9, 2) if torch.cuda.is_available() else 0.0


CASES = {
    "graphs fp32": Case(graphs(), FP32, beside_cpu=True),
    "graphs fp16": Case(graphs(), ("--fp16-unet",)),
    "graphs bf16": Case(graphs(), ("--bf16-unet",)),
    "graphs fp8": Case(graphs(weight_dtype="fp8_e4m3fn"), ("--bf16-unet",)),
    "unload": Case(unload_between, ("--bf16-unet",)),
    "interrupt": Case(interrupted, ("--bf16-unet",)),
    "1.3B fp16": Case(real_size(), ("--fp16-unet",)),
    "1.3B bf16": Case(real_size(), ("--bf16-unet",)),
    "1.3B fp8": Case(real_size("float8_e4m3fn"), ("--bf16-unet",)),
}
