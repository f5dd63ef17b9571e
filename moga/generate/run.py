"""Carrying out a plan: load, sample, save the latents, decode into the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from torch import Tensor
from tqdm import tqdm

from ..checkpoint import DTYPES
from ..hosts.diffusers import (
    build_pipeline,
    check_latents,
    decode_frames,
    enable_moga,
    make_scheduler,
    shot_inputs,
)
from ..pictures.contact_sheet import ContactSheet
from ..vae.decode import broken_frames
from ..video.writer import VideoError, VideoWriter
from .options import DENSE, Options, UsageError
from .places import LatentsLostError, RunError, save_latents, words_of
from .plan import Plan


def run(plan: Plan) -> Path:
    """Make the film. Returns its path. Whatever goes wrong later, the latents are saved first.

    Raises UsageError, and RunError for what cannot be seen before.
    """
    device = device_of(plan.options)
    try:
        return _run(plan, device)
    except torch.OutOfMemoryError:
        raise RunError(
            f"{device} ran out of memory; give --offload model or group, a smaller --size or "
            "shorter shots."
        ) from None


def device_of(options: Options) -> torch.device:
    """Where it runs. Raises UsageError for offloading from a CPU."""
    device = choose_device(options.device)
    if options.offload != "none" and device.type == "cpu":
        raise UsageError("--offload moves models to a GPU and back, but --device is cpu; leave it.")
    return device


def _run(plan: Plan, device: torch.device) -> Path:
    options, pipe = plan.options, load(plan, device)
    lost = None
    latents = plan.latents
    if latents is None:
        latents = sample(pipe, plan)
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


def sample(pipe: Any, plan: Plan) -> Tensor:
    """The latents (1, C, t, h, w) in float32 on the CPU.

    Raises RunError at the first step whose values aren't numbers.
    """
    options, inputs = plan.options, film_inputs(pipe, plan)
    if len(plan.models.transformers) > 1:
        inputs["guidance_scale_2"] = options.cfg if options.cfg_low is None else options.cfg_low
    pipe.set_progress_bar_config(desc="sampling", unit="step")
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


def film_inputs(pipe: Any, plan: Plan) -> dict[str, Any]:
    """What the pipeline is called with for the plan's shots, and its first frame if it has one."""
    options = plan.options
    text: dict[str, Any] = {"negative_prompt": options.negative}
    if plan.embeddings is not None:
        given = plan.embeddings
        text = {"embeddings": given.prompt, "negative_embeddings": given.negative}
    inputs = shot_inputs(pipe, plan.shots, **text)
    if plan.picture is not None:
        inputs["image"] = plan.picture.image
    return inputs


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
        raise RunError(
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


def choose_device(name: str) -> torch.device:
    """The device of that name. Raises UsageError for one that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UsageError(
            f"--device is {name!r}, which this PyTorch cannot use; give cpu, or leave it out."
        ) from None
    return device


def load(plan: Plan, device: torch.device) -> Any:
    """The pipeline of a plan on its device, or ready to be moved there."""
    options = plan.options
    pipe = _decoder(plan) if plan.models.pipeline is None else _whole(plan)
    if options.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif options.offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    elif options.offload == "group":
        pipe.enable_group_offload(onload_device=device, offload_type="block_level",
                                  num_blocks_per_group=1)  # fmt: skip
    else:
        pipe.to(device)
    return pipe


def _decoder(plan: Plan) -> WanPipeline:
    """The VAE alone: decoding has the memory to itself."""
    vae = plan.models.vae.load(DTYPES[plan.options.dtype])
    nothing = dict.fromkeys(("tokenizer", "text_encoder", "transformer", "scheduler"))
    return WanPipeline(vae=vae, **nothing)


def _whole(plan: Plan) -> Any:
    options = plan.options
    pipe = build_pipeline(
        plan.models.pipeline,
        from_image=options.image is not None,
        boundary=options.boundary,
        scheduler=make_scheduler(options.scheduler, options.shift),
        dtype=DTYPES[options.dtype],
        backend=options.backend,
    )
    if options.attention == DENSE:
        for transformer in filter(None, (pipe.transformer, pipe.transformer_2)):
            enable_moga(transformer, None)
    return pipe


def settings_of(plan: Plan) -> dict[str, Any]:
    """What the film was made from, for the header of the latents."""
    options = plan.options
    given = {name: value for name, value in vars(options).items() if value not in (None, ())}
    return {**json.loads(json.dumps(given, default=str)), "shots": plan.shots.to_text()}
