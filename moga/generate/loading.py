"""The pipeline of a plan, on its device; and what it is called with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import WanPipeline

from ..checkpoint import DTYPES
from ..hosts.diffusers import build_pipeline, enable_moga, make_scheduler, shot_inputs
from .options import DENSE, Options, UsageError
from .places import RunError
from .plan import Plan


def device_of(options: Options) -> torch.device:
    """Where it runs. Raises UsageError for offloading from a CPU."""
    device = choose_device(options.device)
    if options.offload != "none" and device.type == "cpu":
        raise UsageError("--offload moves models to a GPU and back, but --device is cpu; leave it.")
    return device


@contextmanager
def telling_of_memory(device: torch.device) -> Iterator[None]:
    """Tell of a device that has too little. Raises RunError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise RunError(
            f"{device} ran out of memory; give --offload model or, to one process, group, a "
            "smaller --size or shorter shots."
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
