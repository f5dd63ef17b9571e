"""The files that a stage leaves: to the next stage, or to people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..checkpoint import DTYPES
from ..config import MoGAConfig
from .checkpoints import TrainingError
from .export import joined, lora_state, model_state, router_state, write_model
from .settings import Settings
from .training import Training


def metadata(settings: Settings, revision: str) -> dict[str, str]:
    """What every file of weights says about its making."""
    text = json.dumps({"revision": revision, "settings": settings.model_dump(mode="json")})
    return {"moga_training": text}


def write_results(
    training: Training, index: int, state: Mapping[str, Tensor], config: MoGAConfig | None
) -> None:
    """Write what stage number `index` has made of the model.

    state: of the whole model, in diffusers' names. After the last stage it becomes
    `model.safetensors`, `routers.safetensors` and, where it says all of the difference to the model
    that the training began with, `adapter.safetensors`.
    Raises TrainingError when there is no room.
    """
    settings = training.settings
    scale = settings.lora.alpha / settings.lora.rank
    whole, routers = model_state(state, scale), router_state(state)
    lora = _lora(training, index, lora_state(state, scale))

    def leave(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_model(path, tensors, config, dtype, training.metadata)
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"{path} could not be written ({error}); make room and start again"
                f"{training.checkpoints.safe()}."
            ) from error

    if index < len(settings.stages) - 1:
        leave(training.result(index), whole, torch.float32)
        if lora:
            leave(training.adapter(index), lora, torch.float32)
        return
    dtype = DTYPES[settings.save.dtype]
    leave(training.folder / "model.safetensors", whole, dtype)
    if routers:
        leave(training.folder / "routers.safetensors", routers, dtype)
    if lora:
        leave(training.folder / "adapter.safetensors", {**routers, **lora}, dtype)


def _lora(training: Training, index: int, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The LoRA of all stages together; empty where a stage trained the whole model."""
    stages = training.settings.stages[: index + 1]
    if whole := next((stage.name for stage in stages if stage.train == "full"), None):
        if own:
            print(
                f"{stages[-1].name}: leaves no adapter.safetensors, because stage {whole!r} trains "
                "the whole model; use model.safetensors",
                flush=True,
            )
        return {}
    before = training.adapter(index - 1) if index else None
    return joined(load_file(before), own) if before and before.exists() else own
