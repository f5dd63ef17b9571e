"""What each part of MoGA does, on storyboards: small models of Wan's architecture, equal steps.

    python benchmarks/ablation.py --work work --out benchmarks/results/ablation

The texts say the character's shape and never its colour or texture, so that these can only stay
the same from shot to shot if shots see each other. VAE and text encoder are those of the demo
(recipes/demo_model). Measured on films of held-out characters, sampled with the same noise:

    validation   velocity loss on held-out clips, at fixed noise
    shape        shots whose character is recognised and has the shape that the text asks for
    identity     films whose shots all show one and the same recognised character
    colour, texture   how much more often two recognised shots of one film agree in it than two of
                 different films: 1 always, 0 no more than by chance
    sparsity     of self-attention, 1 - density
    load         largest and smallest group's share of tokens, mean over layers, and its entropy

Then MoGA is put into each dense model, with random routers: its loss before the first step beside
the dense one, and how far it is from the dense model that was trained on as long.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ablation_scores import FPS, FRAMES, SHOTS, SIZE, TEXT_TOKENS, Asked, measured
from report_markdown import write

ROOT = Path(__file__).resolve().parents[1]
DENSE = "dense"
MEAN = ("--moga.combine", "mean")  # the paper's merge; without it, one softmax
VARIANTS: dict[str, list[str]] = {
    DENSE: ["--model.attention", "dense"],
    "union, M=4": [],
    "union, M=16": ["--moga.groups", "16"],
    "mean, M=4": [*MEAN],
    "mean, M=16": [*MEAN, "--moga.groups", "16"],
    "mean, M=2": [*MEAN, "--moga.groups", "2"],
    "mean, M=8": [*MEAN, "--moga.groups", "8"],
    "mean, routed only": [*MEAN, "--moga.branches", '["routed"]'],
    "mean, static only": [*MEAN, "--moga.branches", '["windows", "frames"]'],
    "mean, static only, no key across a cut": [
        *MEAN,
        *("--moga.branches", '["windows", "frames"]'),
        *("--moga.boundary_frames", "0"),
    ],
    "mean, no balance loss": [*MEAN, "--objective.balance", "0"],
}
# Going on from a dense model: the stages, and settings of it. The first is the control.
STARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    DENSE: (("full",), ("--model.attention", "dense")),
    "union, M=4": (("full",), ()),
    "mean, M=4": (("full",), MEAN),
    "mean, M=4, routers first": (("routers", "full"), MEAN),
    "union, M=16": (("full",), ("--moga.groups", "16")),
    "mean, M=16": (("full",), (*MEAN, "--moga.groups", "16")),
}
# Learning rates of that: one for a model that may move far, one that stays close to its weights.
RATES = {
    "2e-4 constant": {"lr": 2e-4, "schedule": "constant_with_warmup"},
    "6e-5 cosine": {"lr": 6e-5, "schedule": "cosine"},
}
CONFIG = """
workers = 1
[data]
rows = "clips/rows.jsonl"
validation_rows = "held_out/rows.jsonl"
cache = "cache"
vae = "{models}/vae.safetensors"
text_encoder = "{models}/text_encoder.safetensors"
width = {width}
height = {height}
fps = {fps}
dtype = "fp32"
text_tokens = {text_tokens}
[moga]
groups = 4
[objective]
shift = 3.0
[optimizer]
betas = [0.9, 0.98]
warmup = {warmup}
ema = {ema}
schedule = "{schedule}"
checkpointing = false
[validation]
loss_every = {loss_every}
loss_clips = 24
[save]
every = 500
keep_last = 1
dtype = "fp32"
[log]
every = 20
"""
SCRATCH = """
[model.scratch]
heads = 2
layers = 4
ffn = 768
text = 128
"""
STAGE = """
[[stages]]
name = "{name}"
train = "{train}"
steps = {steps}
seconds = 3.9
lr = {lr}
batch = {batch}
"""


def main() -> None:
    options = read_options()
    if options.child:
        print(json.dumps(measured(Asked(options.child, options.models, options.films))))
        return
    work = options.work.absolute()
    prepare(work, options)
    jobs = [(name, seed) for seed in range(options.seeds) for name in options.variants]
    dense = [seed for name, seed in jobs if name == DENSE]
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = [pool.submit(one, work, *job, options) for job in jobs]
        pictures = [run.result() for run in runs]
        ways = [(how, rate, seed) for seed in dense for rate in RATES for how in STARTS]
        starts = [pool.submit(start, work, *way, options) for way in ways]
        beginnings = [run.result() for run in starts]
    machine = {"command": command_line(), **about(), "films": options.films}
    text = report(machine, pictures, beginnings)
    print(text)
    if options.out:
        write(Path(f"{options.out}.md"), text)
        data = json.dumps({**machine, "runs": pictures, "starts": beginnings}, indent=1) + "\n"
        Path(f"{options.out}.json").write_text(data, encoding="utf-8")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for everything")
    parser.add_argument("--models", type=Path, default=ROOT / "recipes" / "demo_model")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--start-steps", type=int, default=400, help="with MoGA in a dense model")
    parser.add_argument("--batch", type=int, default=16, help="clips of a step")
    parser.add_argument("--clips", type=int, default=1200)
    parser.add_argument("--films", type=int, default=64, help="sampled from each model")
    parser.add_argument("--jobs", type=int, default=7, help="trainings at a time")
    parser.add_argument("--words", default="", help="further settings for moga.train")
    parser.add_argument("--out", help="write OUT.md and OUT.json")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def command_line() -> str:
    kept, skip = [], False
    for word in sys.argv[1:]:
        if not skip and word not in ("--work", "--out", "--models"):
            kept.append(word)
        skip = word in ("--work", "--out", "--models")
    return " ".join(["python benchmarks/ablation.py --work work", *kept])


def prepare(work: Path, options: argparse.Namespace) -> None:
    """Draw the clips, encode them once for all trainings."""
    work.mkdir(parents=True, exist_ok=True)
    training = config(options, warmup=200, ema=0.998, schedule="cosine", loss_every=500)
    stage = STAGE.format(name="ablation", train="full", steps=options.steps, lr=8e-4,
                         batch=options.batch)  # fmt: skip
    (work / "config.toml").write_text(training + SCRATCH + stage)
    drawn = ["--frames", str(FRAMES), "--shots", str(SHOTS), "--even", "--named", "shape"]
    for name, words in (
        ("clips", ["--count", str(options.clips)]),
        ("held_out", ["--count", "24", "--held-out", "--seed", "1000000"]),
    ):
        begin(work / name, [*drawn, *words])
        if not (work / name / "rows.jsonl").exists():
            run("-m", "moga.data.storyboard", work / name, *drawn, *words)
    run("-m", "moga.train", work / "config.toml", "--cache-only", "--jobs", options.jobs)


def config(options: argparse.Namespace, **words: object) -> str:
    width, height = SIZE
    sizes = {"width": width, "height": height, "fps": FPS, "text_tokens": TEXT_TOKENS}
    return CONFIG.format(models=options.models.absolute(), **sizes, **words)


def folder(work: Path, name: str, seed: int) -> Path:
    return work / "".join(c if c.isalnum() else "-" for c in f"{name}-{seed}")


def defined(options: argparse.Namespace) -> dict[str, Any]:
    """What a model and its numbers depend on, beside its variant and seed."""
    names = ("steps", "batch", "clips", "films", "words")
    found = {name: getattr(options, name) for name in names}
    models = ("vae", "text_encoder")
    return {**found, **{name: contents(options.models / f"{name}.safetensors") for name in models}}


def contents(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def begin(out: Path, about: object) -> None:
    """Make a folder for results that depend on `about`; those of something else are removed."""
    text, note = json.dumps(about), out / "defined.json"
    if out.exists() and not (note.exists() and note.read_text() == text):
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    note.write_text(text)


def one(work: Path, name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train a variant and measure it. One that was measured with these options is kept."""
    out = folder(work, name, seed)
    begin(out, defined(options))
    kept = out / "measured.json"
    if not kept.exists():
        words = ["--seed", seed, "--save.folder", out, *VARIANTS[name], *options.words.split()]
        run("-m", "moga.train", work / "config.toml", *words)
        child = [__file__, "--work", work, "--child", out, "--films", options.films]
        found = json.loads(run(*child, "--models", options.models).splitlines()[-1])
        kept.write_text(json.dumps(found))
    return {"variant": name, "seed": seed, **json.loads(kept.read_text())}


def start(
    work: Path, how: str, rate: str, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Go on from a dense model, as STARTS and RATES say."""
    (stages, words), model = STARTS[how], folder(work, DENSE, seed)
    steps, given = options.start_steps // len(stages), RATES[rate]
    text = config(options, warmup=20, ema=0, schedule=given["schedule"], loss_every=20)
    text += f'[model]\nfile = "{model / "model.safetensors"}"\n'
    stage = {"steps": steps, "lr": given["lr"], "batch": options.batch}
    text += "".join(STAGE.format(name=t, train=t, **stage) for t in stages)
    out = folder(work, f"start-{how}-{rate}", seed)
    weights = contents(model / "model.safetensors")
    begin(out, {**defined(options), "start_steps": options.start_steps, "dense": weights})
    path = out.with_suffix(".toml")
    path.write_text(text)
    more = ["--seed", seed, "--save.folder", out, *words, *options.words.split()]
    run("-m", "moga.train", path, *more)
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "validation" in row]
    curve = [(row["stage"] * steps + row["step"], row["validation"]) for row in rows]
    return {"start": how, "rate": rate, "seed": seed, "losses": curve}


def run(*words: object) -> str:
    command = [sys.executable, *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"this failed: {' '.join(command)}\n{result.stderr[-3000:]}")
    return result.stdout


# --- the report ----------------------------------------------------------------------------------


def about() -> dict[str, str]:
    import platform

    import diffusers
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    return {"machine": device, "versions": f"{versions}, Python {platform.python_version()}"}


def report(
    machine: dict[str, Any], runs: list[dict[str, Any]], starts: list[dict[str, Any]]
) -> str:
    """Mean over seeds, with the spread from smallest to largest."""
    columns = ("validation", "shape", "identity", "colour", "texture", "sparsity", "load_max",
               "load_min", "load_entropy", "gate")  # fmt: skip
    lines = ["# Ablation on storyboards", "", *(f"- {k}: {v}" for k, v in machine.items()), ""]
    lines.append("| variant | seeds | " + " | ".join(columns).replace("_", " ") + " |")
    lines.append("|" + " --- |" * (len(columns) + 2))
    for name in dict.fromkeys(run["variant"] for run in runs):
        mine = [run for run in runs if run["variant"] == name]
        cells = [cell([run[c] for run in mine if c in run]) for c in columns]
        lines.append(f"| {name} | {len(mine)} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, *beginnings(starts), ""])


def beginnings(starts: list[dict[str, Any]]) -> list[str]:
    """A table for each learning rate: losses over that of the dense model as it was."""
    lines = []
    for rate in dict.fromkeys(row["rate"] for row in starts):
        rows = [row for row in starts if row["rate"] == rate]
        steps = [step for step, _ in rows[0]["losses"]]
        steps = [steps[round(i * (len(steps) - 1) / 5)] for i in range(6)]
        lines += [
            "",
            f"Going on from the dense model, learning rate {rate}, loss over its own:",
            "",
        ]
        lines.append("| start | seed | " + " | ".join(f"step {step}" for step in steps) + " |")
        lines.append("|" + " --- |" * (len(steps) + 2))
        for row in rows:
            losses, control = dict(row["losses"]), _control(rows, row["seed"])
            cells = [f"{losses[step] / control:.3f}" for step in steps]
            lines.append("| " + " | ".join([row["start"], str(row["seed"]), *cells]) + " |")
    return lines


def _control(rows: list[dict[str, Any]], seed: int) -> float:
    """The dense model's loss before it goes on."""
    (row,) = (row for row in rows if row["start"] == DENSE and row["seed"] == seed)
    return row["losses"][0][1]


def cell(values: list[float]) -> str:
    values = [value for value in values if not np.isnan(value)]
    if not values:
        return "-"
    low, high = min(values), max(values)
    mean = f"{np.mean(values):.3f}"
    return mean if low == high else f"{mean} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
