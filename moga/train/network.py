"""The processes of a launch find each other, and what is said where they do not."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import GradientAccumulationPlugin, gather_object
from torch import distributed as dist

from ..parallel.network import (
    NetworkError,
    apart,
    check_address,
    check_gpus,
    check_nccl,
    is_apart,
    unlike,
)
from .errors import everywhere
from .settings import Settings
from .sharding import sharding

# One process fills the cache, and reads all files of a large set, while the others wait.
_PATIENCE = timedelta(days=1)


def join(settings: Settings) -> Accelerator:
    """Find the other processes of this launch, if there are any.

    Raises NetworkError, and SettingsError for what accelerate was told.
    """
    split, timeout = sharding(), timedelta(minutes=settings.parallel.timeout)
    check_network()
    try:
        return Accelerator(
            mixed_precision=settings.optimizer.precision,
            log_with=list(settings.log.trackers) or None,
            project_dir=settings.save.folder,
            step_scheduler_with_optimizer=False,
            fsdp_plugin=split,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timeout)],
            # Gradients that wait for the last forward of a step would lie whole on every card.
            gradient_accumulation_plugin=GradientAccumulationPlugin(
                num_steps=1, sync_each_batch=split is not None
            ),
        )
    except (RuntimeError, ValueError, OSError) as error:
        if launched() == 1 or not is_apart(error):
            raise
        raise apart(error) from error


def check_network() -> None:
    """Raise NetworkError for a launch whose processes can't find or understand each other."""
    if launched() == 1:
        return
    try:
        check_nccl()
        check_gpus()
        check_address()
    except NetworkError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            raise  # one of each machine tells of it
        raise everywhere(error) from None


def waiting_group(accelerator: Accelerator) -> dist.ProcessGroup | None:
    """A group for `together.for_all` whose processes wait for hours; None for one process.

    Raises NetworkError.
    """
    if accelerator.num_processes == 1:
        return None
    try:
        return dist.new_group(backend="gloo", timeout=_PATIENCE)
    except RuntimeError as error:
        raise apart(error) from error


def say_unlike_cards(accelerator: Accelerator) -> None:
    """Tell where the cards of a launch have unlike memory. All processes call it."""
    if accelerator.device.type != "cuda" or accelerator.num_processes == 1:
        return
    card = torch.cuda.get_device_properties(accelerator.device)
    cards = gather_object([(card.name, card.total_memory)])
    if accelerator.is_main_process and (words := unlike(cards)):
        print(words, flush=True)


def launched() -> int:
    """How many processes were launched for this training."""
    return int(os.environ.get("WORLD_SIZE", 1))
