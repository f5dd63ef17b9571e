"""Carrying out a plan: load, sample what is to be looked at, look, and write what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import Routers
from ..diagnostics import Inspection, Observer, drawn_frames
from ..files import written_whole
from ..generate.loading import device_of, film_inputs, load
from ..generate.places import RunError, save_latents
from ..generate.run import sample, settings_of
from ..hosts.diffusers import decode_frames, run_at_levels, watch_attention
from ..layout import VideoLayout
from ..pictures.kept import KeptFrames
from ..pictures.routing import Frame, draw_routing, frame_label
from ..routing import random_routers
from ..wan import first_video_frame
from .plan import Plan


def run(plan: Plan) -> str:
    """Inspect, and write picture, table and numbers. Returns the table.

    Raises RunError, NotFiniteError and UnsuitableError.
    """
    device = device_of(plan.options.film)
    try:
        return _run(plan, device)
    except torch.OutOfMemoryError:
        raise RunError(
            f"{device} ran out of memory; give --offload model or group, fewer --queries, a "
            "smaller --size or shorter shots."
        ) from None


def _run(plan: Plan, device: torch.device) -> str:
    pipe, latents = load(plan.film, device), plan.latents
    if latents is None:
        latents = sample(pipe, plan.film, film_inputs(pipe, plan.film))
        save_latents(plan.options.film, latents, settings_of(plan.film))
        print(f"saved {plan.options.film.latents_out}, which --latents inspects again", flush=True)
    observer = Observer(plan.request, plan.config, _routers(plan))
    with watch_attention(pipe.transformer, observer.see):
        run_at_levels(
            pipe,
            film_inputs(pipe, plan.film),
            latents,
            plan.request.levels,
            observer.begin,
            size=(plan.film.options.height, plan.film.options.width),
            seed=plan.request.seed,
        )
    found = observer.result()
    table = _write_numbers(plan, found)
    frames = _frames(plan, pipe, latents, found.layout)
    with written_whole(plan.options.files[0]) as partial:
        draw_routing(found, plan.title, plan.about, frames).save(partial, format="PNG")
    return table


def _routers(plan: Plan) -> Routers:
    model = plan.film.models.first
    if plan.options.what_if is None:
        return model.routers  # as they were read: those in the model may be away on a device
    blocks = model.config["num_layers"]
    return random_routers(model.width, plan.config.groups, blocks, plan.request.seed)


def _frames(plan: Plan, pipe: Any, latents: Tensor, layout: VideoLayout) -> list[Frame]:
    """The frames whose groups are drawn; the VAE is causal, so those after are not decoded."""
    drawn, shots = drawn_frames(layout), plan.film.shots
    pixels = _pixels(pipe, latents, drawn)
    owner = [sum(start <= frame for start in layout.shots) - 1 for frame in drawn]
    return [
        Frame(frame_label(shot, frame, shots.fps), pixels[frame])
        for shot, frame in zip(owner, drawn, strict=True)
    ]


def _pixels(pipe: Any, latents: Tensor, frames: list[int]) -> Mapping[int, np.ndarray]:
    kept = KeptFrames(map(first_video_frame, frames))
    part = latents[:, :, : max(frames) + 1]
    decode_frames(
        pipe.vae, part, lambda chunk: kept.add(chunk.numpy()), device=pipe._execution_device
    )
    pipe.maybe_free_model_hooks()
    return {frame: kept.found[first_video_frame(frame)] for frame in frames}


def _write_numbers(plan: Plan, found: Inspection) -> str:
    """What the picture can't take along if it fails. Returns the table."""
    _, table, numbers = plan.options.files
    text = found.text([plan.title, plan.about, ""])
    about = {
        "model": plan.film.models.first.name,
        "random_routers": plan.options.what_if is not None,
    }
    for path, words in ((table, text), (numbers, found.to_json(about))):
        with written_whole(path) as partial:
            partial.write_text(f"{words}\n", encoding="utf-8")
    return text
