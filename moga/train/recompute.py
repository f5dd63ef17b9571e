"""Blocks that are computed again in the backward pass, and where their inputs wait for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint


def recomputed(block: Callable[..., Any], *inputs: Any) -> Any:
    """What block(*inputs) gives; of it only the inputs are kept for the backward pass."""
    made = checkpoint(block, *inputs, use_reentrant=False)
    # Autocast keeps its copy of each trained weight for further uses, to the end of the forward:
    # as much as a whole model in half precision, of blocks that are done.
    torch.clear_autocast_cache()
    return made


def offloaded(block: Callable[..., Any], *inputs: Any) -> Any:
    """The same, with the inputs in host memory meanwhile, pinned where there is a GPU."""
    with save_on_cpu(pin_memory=torch.cuda.is_available()):
        return recomputed(block, *inputs)


CHECKPOINTING: dict[bool | str, Callable[..., Any]] = {True: recomputed, "offload": offloaded}
"""By the setting `optimizer.checkpointing`."""
