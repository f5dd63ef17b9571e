"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .read_settings import SettingsError
from .settings import Optimizer
from .sharding import sharding


def check_optimizer(wanted: Optimizer) -> None:
    """Raise SettingsError for an optimizer that can't work here, or whose package is missing."""
    if wanted.kind != "adamw8bit":
        return
    if sharding() is not None:  # bitsandbytes #1633: it reads where nothing is
        raise SettingsError(
            "optimizer.kind is 'adamw8bit', which can't work on weights that FSDP splits; use "
            "'adamw', or launch without --use_fsdp."
        )
    _bitsandbytes()


def make_optimizer(wanted: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer for parameter groups that have their learning rates."""
    words: dict[str, Any] = {"betas": wanted.betas, "weight_decay": wanted.weight_decay}
    if wanted.kind == "adamw8bit":
        return _bitsandbytes().optim.AdamW8bit(groups, **words)
    return torch.optim.AdamW(groups, fused=torch.cuda.is_available(), **words)


def names_of(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]) -> list[str]:
    """The names of an optimizer's parameters, in the order that its state_dict counts them in."""
    names = {id(parameter): name for name, parameter in named.items()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def state_of(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Any]:
    """What an optimizer remembers: "weight.key" to a tensor, or a number."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{name}.{key}": value
        for name, weight in zip(names, weights, strict=True)
        for key, value in optimizer.state.get(weight, {}).items()
    }


def set_state(optimizer: torch.optim.Optimizer, names: list[str], state: Mapping[str, Any]) -> None:
    """Let an optimizer remember what `state_of` gave. Learning rates stay as they are."""
    index = {name: number for number, name in enumerate(names)}
    held: dict[int, dict[str, Any]] = {}
    for name, value in state.items():
        weight, _, key = name.rpartition(".")
        held.setdefault(index[weight], {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": held, "param_groups": groups})


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError:
        raise SettingsError(
            "optimizer.kind is 'adamw8bit', which needs bitsandbytes; install it, or use 'adamw'."
        ) from None
    return bitsandbytes
