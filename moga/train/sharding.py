"""Weights split over processes (FSDP2), where accelerate was told to.

Numbers are those of one process: weights stay float32 and are cast by autocast, as elsewhere in
this trainer, and never by FSDP, whose policy would round the routers too.
"""

from __future__ import annotations

import os

from accelerate import Accelerator
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    parse_flag_from_env,
)
from torch import nn

from .errors import everywhere
from .read_settings import SettingsError

_VERSION, _WRAP = "FSDP_VERSION", "FSDP_AUTO_WRAP_POLICY"


def sharding() -> FullyShardedDataParallelPlugin | None:
    """What accelerate's environment says about FSDP; block by block if it does not say how.

    Raises SettingsError for FSDP 1.
    """
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return None
    if (version := os.environ.get(_VERSION, "1")) != "2":
        raise everywhere(
            SettingsError(
                f"accelerate is set to FSDP version {version}; this trainer splits weights with "
                "version 2 only: accelerate launch --use_fsdp --fsdp_version 2 ..."
            )
        )
    from torch.distributed.fsdp import MixedPrecisionPolicy

    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy=os.environ.get(_WRAP, "TRANSFORMER_BASED_WRAP"),
        mixed_precision_policy=MixedPrecisionPolicy(),
        cpu_ram_efficient_loading=False,  # every process has read the model, and Wan has a weight
        # outside its layers, which accelerate's loading stops at
    )


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether every process holds a part of each weight only."""
    return accelerator.distributed_type == DistributedType.FSDP


def forget_gathered(model: nn.Module) -> None:
    """After the weights were changed in place: drop what was gathered of them before.

    FSDP2 keeps some weights whole between a forward without gradients and the next one, which would
    run with them as they were. Does nothing to a model that is not split.
    """
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()
