"""Carrying out a plan: load, sample, save the latents, decode into the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..hosts.diffusers import check_latents, decode_frames
from ..parallel.processes import Processes, leave
from ..pictures.contact_sheet import ContactSheet
from ..vae.decode import broken_frames
from ..video.writer import VideoError, VideoWriter
from .loading import device_of, film_inputs, load, telling_of_memory
from .places import LatentsLostError, NotNumbersError, RunError, save_latents, words_of
from .plan import Plan
from .together import begin


def run(plan: Plan, processes: Processes | None = None) -> Path | None:
    """Make the film. Returns its path. Whatever goes wrong later, the latents are saved first.

    processes: of which this is one; the path is the main one's, and only it decodes and writes.
    Raises UsageError, and RunError for what cannot be seen before.
    """
    device = device_of(plan.options)
    if processes is not None and device.type == "cuda":
        device = torch.device("cuda", processes.local_rank)
    with telling_of_memory(device):
        return _run(plan, device, processes)


def _run(plan: Plan, device: torch.device, processes: Processes | None) -> Path | None:
    options, lost, latents = plan.options, None, plan.latents
    if processes is not None:
        pipe, inputs = begin(plan, device, processes)
        latents = sample(pipe, plan, inputs, quiet=not processes.main)
        leave()  # what happens to the others concerns nobody from here on
        if not processes.main:
            return None
    else:
        pipe = load(plan, device)
        if latents is None:
            latents = sample(pipe, plan, film_inputs(pipe, plan))
    if plan.latents is None:
        try:
            save_latents(options, latents, settings_of(plan))
            kept = f"saved {options.latents_out}, which --latents decodes with just the VAE"
            print(kept, flush=True)
        except LatentsLostError as error:
            lost = error  # then the film is all that there can be
    try:
        decode(pipe, plan, latents)
    except (RunError, VideoError, OSError) as error:
        if lost is None:
            raise
        raise RunError(f"{lost}, and the film could not be made: {error}") from error
    if lost is not None:
        raise RunError(f"{options.out} is written, but {lost}; make room for the latents.")
    return options.out


def sample(pipe: Any, plan: Plan, inputs: dict[str, Any], *, quiet: bool = False) -> Tensor:
    """The latents (1, C, t, h, w) in float32 on the CPU.

    inputs: of `film_inputs`. Raises NotNumbersError at the first step whose values aren't numbers.
    """
    options = plan.options
    if len(plan.models.transformers) > 1:
        inputs = {**inputs}
        inputs["guidance_scale_2"] = options.cfg if options.cfg_low is None else options.cfg_low
    pipe.set_progress_bar_config(desc="sampling", unit="step", disable=quiet)
    with _no_tf32():
        latents = pipe(
            **inputs,
            height=options.height,
            width=options.width,
            num_inference_steps=options.steps,
            guidance_scale=options.cfg,
            # On the CPU, so that a seed means the same noise on every device.
            generator=torch.Generator("cpu").manual_seed(options.seed),
            output_type="latent",
            callback_on_step_end=_Watch(plan),
            callback_on_step_end_tensor_inputs=["latents"],
        ).frames
    return latents.float().cpu()


@contextmanager
def _no_tf32() -> Iterator[None]:
    """Within it float32 is float32, also in the convolution that patches are made by.

    As PyTorch comes, cuDNN rounds what that reads to TF32, where a last bit becomes a thousandth:
    processes that share a film then differ by so much that tokens change groups.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


class _Watch:
    """Looks at the latents after each step: one that isn't a number makes all of the film black."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __call__(self, pipe: Any, step: int, time: Tensor, values: dict[str, Any]) -> dict:
        broken = broken_frames(values["latents"])
        if not broken:
            return values
        models, options = self.plan.models.transformers, self.plan.options
        times = pipe.scheduler.config.num_train_timesteps
        low = len(models) > 1 and time < pipe.config.boundary_ratio * times
        image = ", or the VAE that encoded the image," if self.plan.picture is not None else ""
        other = "" if options.dtype == "fp32" else "try --dtype fp32, or "
        raise NotNumbersError(
            f"{models[low].name}{image} gave values that aren't numbers (NaN or infinite) in step "
            f"{step + 1} of {options.steps}, from latent frame {broken[0]} on; {other}download the "
            "file again."
        )


def decode(pipe: Any, plan: Plan, latents: Tensor) -> None:
    """Latents into the video file, and the contact sheet if one is wanted."""
    options, shots = plan.options, plan.shots
    size = check_latents(pipe.vae, latents)
    sheet = ContactSheet(shots) if options.contact_sheet else None
    bar = tqdm(total=size.frames, desc="decoding", unit="frame")
    with VideoWriter(options.out, size.width, size.height, shots.fps) as video, bar:

        def keep(frames: Tensor) -> None:
            video.write(frames.numpy())
            bar.update(len(frames))
            if sheet is not None:
                sheet.add(frames.numpy())

        try:
            decode_frames(pipe.vae, latents, keep, device=pipe._execution_device)
        except ValueError as error:  # frames that aren't numbers
            raise RunError(str(error)) from error
    pipe.maybe_free_model_hooks()
    if sheet is not None:
        try:
            sheet.save(options.contact_sheet)
        except OSError as error:
            raise RunError(
                f"{options.out} is written, but --contact-sheet {options.contact_sheet} could not "
                f"be ({words_of(error)})."
            ) from None


def settings_of(plan: Plan) -> dict[str, Any]:
    """What the film was made from, for the header of the latents."""
    options = plan.options
    given = {name: value for name, value in vars(options).items() if value not in (None, ())}
    return {**json.loads(json.dumps(given, default=str)), "shots": plan.shots.to_text()}
