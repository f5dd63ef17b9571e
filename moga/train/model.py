"""The transformer that a stage trains, and which of its weights."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig
from torch import nn

from ..checkpoint import CheckpointError, Routers
from ..config import MoGAConfig
from ..hosts.diffusers import (
    enable_moga,
    load_routers,
    load_wan,
    moga_config,
    moga_routers,
    router_parameters,
)
from .model_files import model_files
from .recompute import CHECKPOINTING
from .settings import Lora, Settings, Stage

ADAPTER = "moga"


def build(
    settings: Settings, stage: Stage, earlier: Path | None, frozen: torch.dtype
) -> WanTransformer3DModel:
    """The transformer of a stage, on the CPU, in training mode, with MoGA enabled.

    earlier: the model that the stage before left; None for the first stage.
    frozen: type of weights that the stage does not train; the others are float32.
    Raises CheckpointError for routers that cannot be trained.
    """
    whole = stage.train == "full"
    dit = base_of(settings, earlier, torch.float32 if whole else frozen)
    config = None if settings.model.attention == "dense" else settings.moga.config(stage)
    enable_moga(
        dit,
        config,
        _routers(settings, stage, dit, config, first=earlier is None),
        backend=settings.backend,
        seed=settings.seed,
    )
    dit.requires_grad_(whole)
    if stage.train == "lora":
        _add_lora(dit, settings.lora, settings.seed)
    for parameter in router_parameters(dit):
        parameter.requires_grad_(True)
    if settings.optimizer.checkpointing:
        dit.enable_gradient_checkpointing(CHECKPOINTING[settings.optimizer.checkpointing])
    return dit.train()


def parameter_groups(dit: nn.Module, stage: Stage) -> list[dict[str, object]]:
    """The trained weights for an optimizer; routers have a learning rate of their own."""
    routers = {id(parameter) for parameter in router_parameters(dit)}
    trained = [parameter for parameter in dit.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) not in routers], "lr": stage.lr},
        {"params": [p for p in trained if id(p) in routers], "lr": stage.router_lr or stage.lr},
    ]
    return [group for group in groups if group["params"]]


def base_of(settings: Settings, earlier: Path | None, dtype: torch.dtype) -> WanTransformer3DModel:
    """What a stage begins with: the result of the stage before, or `settings.model`."""
    if earlier is not None:
        return load_wan(earlier, dtype=dtype)
    return model_files(settings).transformer.load(dtype)


def _routers(
    settings: Settings,
    stage: Stage,
    dit: WanTransformer3DModel,
    config: MoGAConfig | None,
    *,
    first: bool,
) -> Routers | str | None:
    if config is None or "routed" not in config.branches:
        return None
    asked = settings.model.routers
    if first and asked == "random":
        return "random"
    if first and asked != "file":
        routers, found = load_routers(model_files(settings).routers)
    else:
        routers, found = moga_routers(dit), moga_config(dit)
    if found is not None and found.groups != config.groups:
        if stage.groups is not None:
            return "random"  # the stage asks for another number of groups
        raise CheckpointError(
            f"the routers have {found.groups} groups and moga.groups is {config.groups}; set it to "
            f"{found.groups}, or model.routers to 'random'."
        )
    if not any(router["weight"].any() for router in routers.values()):
        raise CheckpointError(
            "the routers are all zero, which sends every token to the first group and gives them "
            "no gradient to leave it by; set model.routers to 'random'."
        )
    return routers


def _add_lora(dit: WanTransformer3DModel, lora: Lora, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        dit.add_adapter(
            LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets)),
            adapter_name=ADAPTER,
        )
    for name, parameter in dit.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
