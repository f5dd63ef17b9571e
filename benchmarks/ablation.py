"""What each part of MoGA does, on storyboards: small models of Wan's architecture, equal steps.

    python benchmarks/ablation.py --work work --out benchmarks/results/ablation

The texts say the character's shape and never its colour or texture, so that these can only stay
the same from shot to shot if shots see each other. VAE and text encoder are those of the demo
(examples/demo_model). Measured on films of held-out characters, sampled with the same noise:

    validation   velocity loss on held-out clips, at fixed noise
    shape        shots whose character is recognised and has the shape that the text asks for
    identity     films whose shots all show one and the same recognised character
    colour, texture   pairs of shots in which that attribute is the same, of those recognised
    sparsity     of self-attention, 1 - density
    load         largest and smallest group's share of tokens, mean over layers, and its entropy
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
FRAMES, SHOTS, SIZE, FPS = 61, 3, (160, 96), 16
HELD_OUT = 2_000_000  # first seed of the films
VARIANTS: dict[str, list[str]] = {
    "dense": ["--model.attention", "dense"],
    "MoGA, M=4": [],
    "routed only": ["--moga.branches", '["routed"]'],
    "static only": ["--moga.branches", '["windows", "frames"]'],
    "no balance loss": ["--objective.balance", "0"],
    "MoGA, M=2": ["--moga.groups", "2"],
    "MoGA, M=8": ["--moga.groups", "8"],
}
CONFIG = """
workers = 1
[data]
rows = "clips/rows.jsonl"
validation_rows = "held_out/rows.jsonl"
cache = "cache"
vae = "{models}/vae.safetensors"
text_encoder = "{models}/text_encoder.safetensors"
width = 160
height = 96
fps = 16
dtype = "fp32"
text_tokens = 48
[model.scratch]
heads = 2
layers = 4
ffn = 768
text = 128
[moga]
groups = 4
[objective]
shift = 3.0
[optimizer]
betas = [0.9, 0.98]
warmup = 200
ema = 0.998
checkpointing = false
[validation]
loss_every = 500
loss_clips = 24
[save]
every = 500
keep_last = 1
dtype = "fp32"
[log]
every = 20
[[stages]]
name = "ablation"
steps = 2000
seconds = 3.9
lr = 8e-4
batch = 16
"""


def main() -> None:
    options = read_options()
    if options.child:
        print(json.dumps(evaluate(options)))
        return
    work = options.work.absolute()
    prepare(work, options)
    jobs = [(name, seed) for seed in range(options.seeds) for name in options.variants]
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = list(pool.map(lambda job: one(work, *job, options), jobs))
    machine = {"command": command_line(), **about(), "steps": options.steps, "films": options.films}
    text = report(machine, runs, options.variants)
    print(text)
    if options.out:
        Path(f"{options.out}.md").write_text(text, encoding="utf-8")
        data = json.dumps({**machine, "runs": runs}, indent=1) + "\n"
        Path(f"{options.out}.json").write_text(data, encoding="utf-8")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for everything")
    parser.add_argument("--models", type=Path, default=ROOT / "examples" / "demo_model")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--clips", type=int, default=1200)
    parser.add_argument("--films", type=int, default=48, help="sampled from each model")
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
    (work / "config.toml").write_text(CONFIG.format(models=options.models.absolute()))
    drawn = ["--frames", str(FRAMES), "--shots", str(SHOTS), "--even", "--named", "shape"]
    for name, words in (
        ("clips", ["--count", str(options.clips)]),
        ("held_out", ["--count", "24", "--held-out", "--seed", "1000000"]),
    ):
        if not (work / name / "rows.jsonl").exists():
            run("-m", "moga.data.storyboard", work / name, *drawn, *words)
    lines = (work / "clips" / "rows.jsonl").read_text().splitlines(keepends=True)
    parts = [work / "clips" / f"part-{job}.jsonl" for job in range(options.jobs)]
    for job, part in enumerate(parts):
        part.write_text("".join(lines[job :: options.jobs]))
    train = ["-m", "moga.train", work / "config.toml", "--cache-only", "--data.rows"]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda part: run(*train, part), parts))


def one(work: Path, name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train a variant and measure it."""
    folder = work / "".join(c if c.isalnum() else "-" for c in f"{name}-{seed}")
    words = ["--seed", seed, "--save.folder", folder, "--stages.0.steps", options.steps]
    start = time.monotonic()
    run("-m", "moga.train", work / "config.toml", *words, *VARIANTS[name], *options.words.split())
    minutes = (time.monotonic() - start) / 60
    child = [__file__, "--work", work, "--child", folder, "--films", options.films]
    child += ["--models", options.models]
    found = json.loads(run(*child).splitlines()[-1])
    return {"variant": name, "seed": seed, **found, "minutes": round(minutes, 2)}


def run(*words: object) -> str:
    command = [sys.executable, *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"this failed: {' '.join(command)}\n{result.stderr[-3000:]}")
    return result.stdout


# --- measuring one model -------------------------------------------------------------------------


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    rows = [json.loads(line) for line in (options.child / "log.jsonl").read_text().splitlines()]
    losses = [row["validation"] for row in rows if "validation" in row]
    found: dict[str, Any] = {"validation": round(losses[-1], 5), "losses": losses}
    late = [row for row in rows if row.get("load_max")][-10:]
    for name in ("load_max", "load_min", "load_entropy", "gate"):
        if late:
            found[name] = round(float(np.mean([row[name] for row in late])), 4)
    return {**found, "sparsity": sparsity(options.child), **films(options)}


def sparsity(folder: Path) -> float:
    from moga.checkpoint import config_in, read_header
    from moga.data.storyboard import storyboard
    from moga.flops import density
    from moga.layout import VideoLayout
    from moga.shots import ShotList

    config = config_in(read_header(folder / "model.safetensors").metadata)
    if config is None:
        return 0.0
    shots = ShotList.parse(storyboard(0, shots=SHOTS, frames=FRAMES, even=True).script(), FPS)
    width, height = SIZE
    layout = VideoLayout(shots.latent_frames, height // 16, width // 16, shots.latent_starts)
    return round(1 - density(layout, config), 4)


def films(options: argparse.Namespace) -> dict[str, Any]:
    """Sample films of held-out characters, and read who is in them."""
    import torch
    from diffusers import WanPipeline
    from PIL import Image

    from moga.data.pixels import read_film
    from moga.data.storyboard import storyboard
    from moga.hosts.diffusers import (
        ShotCall,
        decode_frames,
        enable_moga,
        load_text_encoder,
        load_vae,
        load_wan,
        moga_config,
    )
    from moga.hosts.diffusers.pipeline import make_scheduler
    from moga.shots import ShotList

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dit = load_wan(options.child / "model.safetensors").to(device)
    if moga_config(dit) is None:
        enable_moga(dit, None)
    vae = load_vae(options.models / "vae.safetensors", dtype=torch.float32).to(device)
    encoder, tokenizer = load_text_encoder(
        options.models / "text_encoder.safetensors", dtype=torch.float32
    )
    pipe = WanPipeline(tokenizer, encoder.to(device), vae, make_scheduler("unipc", 3.0), dit)
    pipe.set_progress_bar_config(disable=True)
    drawn = {"shots": SHOTS, "frames": FRAMES, "even": True, "named": "shape", "held_out": True}
    stories = [storyboard(HELD_OUT + i, **drawn) for i in range(options.films)]
    shots = [ShotList.parse(story.script(), FPS) for story in stories]
    tokens, seen = 48, []
    encoded = {text: _encode(pipe, text, tokens) for s in shots for text in (*s.texts, "")}
    pictures = []
    for first in range(0, len(stories), 16):
        batch = shots[first : first + 16]
        prompt = torch.stack([torch.cat([encoded[t] for t in s.texts]) for s in batch])
        blank = torch.cat([encoded[""]] * SHOTS).expand_as(prompt)
        latents = pipe(
            prompt_embeds=prompt,
            negative_prompt_embeds=blank,
            attention_kwargs={"moga": ShotCall.of(batch[0], tokens)},
            num_frames=FRAMES,
            height=SIZE[1],
            width=SIZE[0],
            num_inference_steps=20,
            guidance_scale=2.0,
            generator=[torch.Generator().manual_seed(first + i) for i in range(len(batch))],
            output_type="latent",
        ).frames.float()
        for latent, story in zip(latents, batch, strict=True):
            frames: list[np.ndarray] = []
            decode_frames(vae, latent[None], lambda part, keep=frames: keep.append(part.numpy()))
            film = np.concatenate(frames)
            seen.append(read_film(film, story.frame_starts))
            ends = (*story.frame_starts[1:], len(film))
            pictures.append(np.concatenate([film[end - 3] for end in ends], 1))
    rows = [np.concatenate(pictures[i : i + 2], 1) for i in range(0, min(12, len(pictures) - 1), 2)]
    sheet = np.concatenate(rows or pictures, 0)
    Image.fromarray(sheet).save(options.child / "films.png")
    return scores(seen, [story.character.shape for story in stories])


def _encode(pipe: Any, text: str, tokens: int) -> Any:
    """(tokens, width)"""
    return pipe.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=tokens)[
        0
    ][0]


def scores(seen: list[list[Any]], shapes: list[str]) -> dict[str, float]:
    every = [one for film in seen for one in film]
    asked = [shape for film, shape in zip(seen, shapes, strict=True) for _ in film]
    right = [one.shape == shape for one, shape in zip(every, asked, strict=True)]
    whole = [f[0].character is not None and len({o.character for o in f}) == 1 for f in seen]
    pairs = [pair for film in seen for pair in combinations(film, 2)]
    known = [(a, b) for a, b in pairs if a.shape is not None and b.shape is not None]
    found = {"shape": float(np.mean(right)), "identity": float(np.mean(whole))}
    for name in ("colour", "texture"):
        alike = [getattr(a, name) == getattr(b, name) for a, b in known]
        found[name] = float(np.mean(alike)) if alike else float("nan")
    return {name: round(value, 4) for name, value in found.items()}


# --- the report ----------------------------------------------------------------------------------


def about() -> dict[str, str]:
    import platform

    import diffusers
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    return {"machine": device, "versions": f"{versions}, Python {platform.python_version()}"}


def report(machine: dict[str, Any], runs: list[dict[str, Any]], variants: list[str]) -> str:
    """Mean over seeds, with the spread from smallest to largest."""
    columns = ("validation", "shape", "identity", "colour", "texture", "sparsity", "load_max",
               "load_min", "load_entropy", "gate")  # fmt: skip
    lines = ["# Ablation on storyboards", "", *(f"- {k}: {v}" for k, v in machine.items()), ""]
    lines.append("| variant | " + " | ".join(columns).replace("_", " ") + " |")
    lines.append("|" + " --- |" * (len(columns) + 1))
    for name in variants:
        mine = [run for run in runs if run["variant"] == name]
        cells = [cell([run[c] for run in mine if c in run]) for c in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def cell(values: list[float]) -> str:
    if not values:
        return "-"
    low, high = min(values), max(values)
    mean = f"{np.mean(values):.3f}"
    return mean if low == high else f"{mean} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
