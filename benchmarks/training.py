"""What a step of a recipe costs at its real size, with random weights: seconds, memory, hours.

    python benchmarks/training.py --work work --json training.json recipes/train_wan_1.3b_80gb.toml

Each stage by itself, until `--steps` steps are logged; then it is ended, before it writes anything.
On several cards of one machine, with weights split over them, and a clip shared as the recipe says:

    python benchmarks/training.py --work work --json training-4.json --processes 4 \\
        recipes/train_wan_14b_lora_4x80gb.toml
    python benchmarks/training.py --work work --json training-4.json --processes 4 --host-weights \\
        recipes/train_wan_14b_4x80gb.toml

Clips are storyboards, VAE and text encoder those of the demo (recipes/demo_model): latents have
Wan's size, and texts are 512 tokens as Wan's, of a narrower encoder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from measuring import machine

from moga.toml_settings import tomllib

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "recipes" / "demo_model"
SIZES = {"1.3b": (12, 30, 8960), "14b": (40, 40, 13824), "tiny": (2, 2, 256)}
TEXT = 128  # width of the demo's text encoder
RESERVED = 1.0  # GiB of a card that the driver, CUDA and a desktop take


def main() -> None:
    options = read_options()
    if options.child:
        sys.exit(limited(options.recipe, options.memory))
    options.work.mkdir(parents=True, exist_ok=True)
    recipe = tomllib.loads(options.recipe.read_text(encoding="utf-8"))
    size = options.size or next(s for s in SIZES if s in options.recipe.stem)
    model, clips = random_model(options.work, size), films(options.work, recipe, options)
    runs = []
    for stage in recipe["stages"]:
        if options.stages and stage["name"] not in options.stages:
            continue
        found = measured(recipe, stage, model, clips, options)
        runs.append({"recipe": options.recipe.name, "size": size, **found})
        print(json.dumps(runs[-1]), flush=True)
        if options.json:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            text = json.dumps({"machine": machine(device), "runs": runs}, indent=1)
            options.json.write_text(text + "\n", encoding="utf-8")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--work", type=Path, help="folder for everything")
    parser.add_argument("--stages", nargs="+", help="by name (default: all)")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--size", choices=SIZES, help="of the model (default: by the file's name)")
    parser.add_argument("--frame", help="WxH instead of the recipe's")
    parser.add_argument("--processes", type=int, default=1, help="one for each card")
    parser.add_argument("--sequence", type=int, help="processes to a clip, instead of the recipe's")
    parser.add_argument(
        "--host-weights", action="store_true", help="split weights wait in the host's memory"
    )
    parser.add_argument("--memory", type=float, help="GiB of the card to be imitated")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps < 3:
        parser.error(f"--steps is {options.steps}; give 3 or more, as the first two are left out.")
    return options


def limited(config: Path, memory: float | None) -> int:
    """Train, with no more memory than a card of `memory` GiB has."""
    if memory is not None and torch.cuda.is_available():
        whole = torch.cuda.get_device_properties(0).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(min(1.0, (memory - RESERVED) / whole))
    from moga.train.cli import main as train

    return train([str(config)])


def random_model(work: Path, size: str) -> Path:
    """A diffusers folder of bfloat16 weights, drawn where it is quickest."""
    from diffusers import WanTransformer3DModel
    from safetensors.torch import save_file

    out = work / f"model-{size}"
    if (out / "config.json").exists():
        return out
    heads, layers, feed_forward = SIZES[size]
    sizes = {"num_attention_heads": heads, "num_layers": layers, "ffn_dim": feed_forward}
    with torch.device("meta"):
        dit = WanTransformer3DModel(
            attention_head_dim=128, text_dim=TEXT, in_channels=16, out_channels=16, **sizes
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = {}
    for name, tensor in dit.state_dict().items():
        drawn = torch.empty(tensor.shape, dtype=torch.bfloat16, device=device)
        norm = "norm" in name and name.endswith("weight")
        weights[name] = (drawn.fill_(1) if norm else drawn.normal_(0, 0.02)).cpu()
    out.mkdir(exist_ok=True)
    save_file(weights, out / "diffusion_pytorch_model.safetensors")
    (out / "config.json").write_text(
        json.dumps({"_class_name": "WanTransformer3DModel", **dict(dit.config)})
    )
    return out


def films(work: Path, recipe: dict[str, Any], options: argparse.Namespace) -> Path:
    """Two clips as long as the longest stage wants them."""
    data = recipe["data"]
    seconds = max(stage["seconds"] for stage in recipe["stages"])
    frames = round(seconds * data["fps"]) // 4 * 4 + 1
    size = options.frame or f"{data['width']}x{data['height']}"
    out = work / f"clips-{size}-{frames}"
    if not (out / "rows.jsonl").exists():
        words = ["--count", "2", "--shots", "6", "--frames", frames, "--size", size]
        words += ["--fps", data["fps"], "--even"]
        command = [sys.executable, "-m", "moga.data.storyboard", out, *words]
        subprocess.run([str(word) for word in command], check=True, cwd=ROOT)
    return out / "rows.jsonl"


def measured(
    recipe: dict[str, Any],
    stage: dict[str, Any],
    model: Path,
    clips: Path,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Run one stage until its steps are logged."""
    folder = options.work.absolute() / "training"
    shutil.rmtree(folder, ignore_errors=True)
    files = {"rows": clips, "vae": MODELS / "vae.safetensors", "cache": options.work / "cache"}
    files["text_encoder"] = MODELS / "text_encoder.safetensors"
    data = {**recipe["data"], **{name: str(path.absolute()) for name, path in files.items()}}
    sequence = options.sequence or recipe.get("parallel", {}).get("sequence", 1)
    if options.frame:
        data["width"], data["height"] = (int(n) for n in options.frame.split("x"))
    own = {
        "data": data,
        "model": {**recipe["model"], "file": str(model.absolute())},
        "save": {"folder": str(folder), "every": 10**6},
        "log": {},
        "parallel": {**recipe.get("parallel", {}), "sequence": sequence},
        "stages": [{**stage, "steps": 10**6}],
    }
    config = options.work / "training.toml"
    config.write_text(toml({**recipe, **own}), encoding="utf-8")
    limit = [] if options.memory is None else ["--memory", str(options.memory)]
    command = [*launcher(options), __file__, "--child", *limit, str(config)]
    rows, words = steps_of(command, folder / "log.jsonl", options.steps)
    found = {"stage": stage["name"], "seconds": stage["seconds"], "memory": options.memory}
    found |= {"processes": options.processes, "sequence": sequence}
    if len(rows) < options.steps:
        return {**found, "failed": words[-600:]}
    steady = statistics.median(row["seconds"] for row in rows[2:])
    found |= {"first_step_s": rows[0]["seconds"], "step_s": round(steady, 3)}
    found |= {"peak_gb": max(row.get("peak_gb", 0) for row in rows)}
    return {**found, "steps": stage["steps"], "hours": round(steady * stage["steps"] / 3600, 1)}


def launcher(options: argparse.Namespace) -> list[str]:
    """What starts a Python file once for every card."""
    if options.processes == 1:
        return [sys.executable]
    words = ["--num_processes", str(options.processes), "--num_machines", "1"]
    words += ["--mixed_precision", "no", "--dynamo_backend", "no"]  # the recipe says how
    words += ["--use_fsdp", "--fsdp_version", "2"]
    if options.host_weights:  # where AdamW works too
        threads = max(1, (os.cpu_count() or 1) // options.processes // 2)
        words += ["--fsdp_offload_params", "true", "--num_cpu_threads_per_process", str(threads)]
    return [sys.executable, "-m", "accelerate.commands.launch", *words]


def steps_of(command: list[str], log: Path, steps: int) -> tuple[list[dict[str, Any]], str]:
    """The rows of that many steps, and what the training said; it is ended after them."""
    said = log.parent.parent / "said.txt"
    with said.open("w") as words:
        child = subprocess.Popen(command, stdout=words, stderr=words, cwd=ROOT)
        rows: list[dict[str, Any]] = []
        while child.poll() is None and len(rows) < steps:
            time.sleep(0.5)
            lines = log.read_text().splitlines() if log.exists() else []
            rows = [json.loads(line) for line in lines if line.endswith("}")]
            rows = [row for row in rows if "loss" in row]
        child.terminate()  # a launcher ends what it started
        try:
            child.wait(90)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    return rows, said.read_text(errors="replace")


def toml(settings: dict[str, Any]) -> str:
    """Tables of plain values, whose JSON is TOML."""
    lines = []
    plain = {key: value for key, value in settings.items() if not isinstance(value, (dict, list))}
    lines += [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for name, table in settings.items():
        for one in table if isinstance(table, list) else [table] * isinstance(table, dict):
            lines.append(f"[[{name}]]" if isinstance(table, list) else f"[{name}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in one.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
