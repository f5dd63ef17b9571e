"""One film by several processes: each shares in every forward, the main one speaks and writes."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from ..hosts.diffusers import guide_in_halves, share_sequence
from ..parallel.processes import Processes
from .loading import film_inputs, load, telling_of_memory
from .options import UsageError
from .plan import Plan


def begin(plan: Plan, device: torch.device, processes: Processes) -> tuple[Any, dict[str, Any]]:
    """The pipeline in every process, sharing its work; and what it is called with.

    Text is encoded by the main process alone, which then gives the encoder's memory back.
    """
    with processes.agreed():
        if not torch.accelerator.device_count():
            raise UsageError("several processes need a GPU each, and this machine has none.")
        with telling_of_memory(device):
            pipe = load(plan if processes.main else _without_text(plan), device)
    inputs = None
    with processes.agreed():
        if processes.main:
            with telling_of_memory(device):
                made = film_inputs(pipe, plan)
            inputs = {name: _moved(value, "cpu") for name, value in made.items()}
            pipe.text_encoder = None
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    inputs = processes.from_main(inputs)
    inputs = {name: _moved(value, device) for name, value in inputs.items()}
    with processes.agreed():
        _share(pipe, plan, device, inputs.get("negative_prompt_embeds"))
    return pipe, inputs


def _share(pipe: Any, plan: Plan, device: torch.device, negative: Tensor | None) -> None:
    sharing = plan.sharing
    mesh = init_device_mesh(
        device.type,
        (2 if sharing.halves else 1, 1, sharing.ranks),
        mesh_dim_names=("guidance", "ring", "ulysses"),
    )
    for transformer in filter(None, (pipe.transformer, pipe.transformer_2)):
        share_sequence(transformer, mesh, plan.layout.tokens)
        if sharing.halves:
            guide_in_halves(transformer, mesh["guidance"].get_group(), negative)
    # NCCL opens connections when they are first used, and takes memory for them: better now, and
    # what keeps it from that is told before anything is sampled.
    for name in ("guidance", "ulysses"):
        dist.all_reduce(torch.zeros(1, device=device), group=mesh[name].get_group())
    dist.all_reduce(torch.zeros(1, device=device))


def _without_text(plan: Plan) -> Plan:
    pipeline = replace(plan.models.pipeline, text_encoder=None)
    return replace(plan, models=replace(plan.models, pipeline=pipeline))


def _moved(value: Any, device: Any) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
