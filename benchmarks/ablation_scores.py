"""Measures one model of benchmarks/ablation.py: its losses, and the films that it makes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

FRAMES, SHOTS, SIZE, FPS = 61, 3, (160, 96), 16
HELD_OUT = 2_000_000  # first seed of the films
TEXT_TOKENS = 48
_BATCH = 16


@dataclass(frozen=True)
class Asked:
    """What to measure. run: a finished training's folder. models: of VAE and text encoder."""

    run: Path
    models: Path
    films: int


def measured(asked: Asked) -> dict[str, Any]:
    """All numbers of one model, by the names of the report's columns."""
    rows = [json.loads(line) for line in (asked.run / "log.jsonl").read_text().splitlines()]
    losses = [row["validation"] for row in rows if "validation" in row]
    found: dict[str, Any] = {"validation": round(losses[-1], 5), "losses": losses}
    late = [row for row in rows if row.get("load_max")][-10:]
    for name in ("load_max", "load_min", "load_entropy", "gate"):
        if late:
            found[name] = round(float(np.mean([row[name] for row in late])), 4)
    return {**found, "sparsity": sparsity(asked.run), **films(asked)}


def sparsity(run: Path) -> float:
    """1 - density of the self-attention of the finished model in a training's folder."""
    from moga.checkpoint import config_in, read_header
    from moga.data.storyboard import storyboard
    from moga.flops import density
    from moga.layout import VideoLayout
    from moga.shots import ShotList

    config = config_in(read_header(run / "model.safetensors").metadata)
    if config is None:
        return 0.0
    shots = ShotList.parse(storyboard(0, shots=SHOTS, frames=FRAMES, even=True).script(), FPS)
    width, height = SIZE
    layout = VideoLayout(shots.latent_frames, height // 16, width // 16, shots.latent_starts)
    return round(1 - density(layout, config), 4)


def films(asked: Asked) -> dict[str, Any]:
    """Sample films of held-out characters, and read who is in them.

    "seen" is what each shot of each film shows, so that scores can be computed anew.
    """
    import torch
    from PIL import Image

    from moga.data.storyboard import storyboard
    from moga.data.storyboard.evaluate import read_film
    from moga.hosts.diffusers import decode_frames
    from moga.shots import ShotList

    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe = _pipeline(asked, device)
    drawn = {"shots": SHOTS, "frames": FRAMES, "even": True, "named": "shape", "held_out": True}
    stories = [storyboard(HELD_OUT + i, **drawn) for i in range(asked.films)]
    seen, pictures = [], []
    for first in range(0, len(stories), _BATCH):
        batch = stories[first : first + _BATCH]
        shots = [ShotList.parse(story.script(), FPS) for story in batch]
        for latent, story in zip(_sampled(pipe, shots, first), batch, strict=True):
            frames: list[np.ndarray] = []
            decode_frames(pipe.vae, latent[None], lambda part, to=frames: to.append(part.numpy()))
            film = np.concatenate(frames)
            seen.append(read_film(film, story.frame_starts))
            ends = (*story.frame_starts[1:], len(film))
            pictures.append(np.concatenate([film[end - 3] for end in ends], 1))
    rows = [np.concatenate(pictures[i : i + 2], 1) for i in range(0, min(12, len(pictures) - 1), 2)]
    Image.fromarray(np.concatenate(rows or pictures, 0)).save(asked.run / "films.png")
    read = [[(one.shape, one.colour, one.texture) for one in film] for film in seen]
    return {**scores(seen, [story.character.shape for story in stories]), "seen": read}


def _pipeline(asked: Asked, device: str) -> Any:
    import torch
    from diffusers import WanPipeline

    from moga.hosts.diffusers import (
        enable_moga,
        load_text_encoder,
        load_vae,
        load_wan,
        moga_config,
    )
    from moga.hosts.diffusers.pipeline import make_scheduler

    dit = load_wan(asked.run / "model.safetensors").to(device)
    if moga_config(dit) is None:
        enable_moga(dit, None)
    vae = load_vae(asked.models / "vae.safetensors", dtype=torch.float32).to(device)
    encoder, tokenizer = load_text_encoder(
        asked.models / "text_encoder.safetensors", dtype=torch.float32
    )
    pipe = WanPipeline(tokenizer, encoder.to(device), vae, make_scheduler("unipc", 3.0), dit)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _sampled(pipe: Any, shots: Sequence[Any], seed: int) -> Any:
    """Latents (B, C, t, h, w) of films with equal cuts; film i starts from noise `seed + i`."""
    import torch

    from moga.hosts.diffusers import ShotCall

    def encoded(text: str) -> Any:
        words = {"do_classifier_free_guidance": False, "max_sequence_length": TEXT_TOKENS}
        return pipe.encode_prompt(text, **words)[0][0]

    prompt = torch.stack([torch.cat([encoded(text) for text in one.texts]) for one in shots])
    return pipe(
        prompt_embeds=prompt,
        negative_prompt_embeds=torch.cat([encoded("")] * SHOTS).expand_as(prompt),
        attention_kwargs={"moga": ShotCall.of(shots[0], TEXT_TOKENS)},
        num_frames=FRAMES,
        height=SIZE[1],
        width=SIZE[0],
        num_inference_steps=20,
        guidance_scale=2.0,
        generator=[torch.Generator().manual_seed(seed + i) for i in range(len(shots))],
        output_type="latent",
    ).frames.float()


def scores(seen: Sequence[Sequence[Any]], shapes: Sequence[str]) -> dict[str, float]:
    """Shares of films and shots, and agreement between shots beyond chance.

    seen: what each shot of each film shows. shapes: what each film's text asks for.
    """
    every = [one for film in seen for one in film]
    asked = [shape for film, shape in zip(seen, shapes, strict=True) for _ in film]
    right = [one.shape == shape for one, shape in zip(every, asked, strict=True)]
    whole = [f[0].character is not None and len({o.character for o in f}) == 1 for f in seen]
    found = {
        "shape": float(np.mean(right)),
        "identity": float(np.mean(whole)),
        "colour": kappa([[one.colour for one in film] for film in seen]),
        "texture": kappa([[one.texture for one in film] for film in seen]),
    }
    return {name: round(value, 4) for name, value in found.items()}


def kappa(films: Sequence[Sequence[str | None]]) -> float:
    """How much more often two shots of one film agree than two shots of different films.

    1: always within a film; 0: no more than by chance; NaN where nothing can be compared. None is
    a shot in which nothing was recognised. A model that draws everything in red has no identity.
    """
    known = [[word for word in film if word is not None] for film in films]
    within = [a == b for film in known for a, b in combinations(film, 2)]
    across = [a == b for x, y in combinations(known, 2) for a, b in product(x, y)]
    if not within or not across or np.mean(across) == 1:
        return float("nan")
    return float((np.mean(within) - np.mean(across)) / (1 - np.mean(across)))
