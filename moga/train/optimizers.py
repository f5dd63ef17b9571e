"""Optimizers by name."""

from __future__ import annotations

from typing import Any

import torch

from .read_settings import SettingsError
from .settings import Optimizer


def check_optimizer(wanted: Optimizer) -> None:
    """Raise SettingsError for an optimizer whose package is missing."""
    if wanted.kind == "adamw8bit":
        _bitsandbytes()


def make_optimizer(wanted: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer for parameter groups that have their learning rates."""
    words: dict[str, Any] = {"betas": wanted.betas, "weight_decay": wanted.weight_decay}
    if wanted.kind == "adamw8bit":
        return _bitsandbytes().optim.AdamW8bit(groups, **words)
    return torch.optim.AdamW(groups, fused=torch.cuda.is_available(), **words)


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError:
        raise SettingsError(
            "optimizer.kind is 'adamw8bit', which needs bitsandbytes; install it, or use 'adamw'."
        ) from None
    return bitsandbytes
