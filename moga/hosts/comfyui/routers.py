"""Routers as ComfyUI keeps a model: a patcher of their own, loaded and offloaded with the DiT."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.patcher_extension import CallbacksMP
from torch import Tensor, nn

from ...attention.tables import forget_tables
from ...checkpoint import Routers, check_routers, read_routers
from ...config import MoGAConfig
from ...routing import Routing, route
from .keys import KEY


class RouterStack(nn.Module):
    """One router per block of the model, weights in float32."""

    def __init__(self, dim: int, groups: int, blocks: int, device: torch.device) -> None:
        super().__init__()
        linear = comfy.ops.manual_cast.Linear
        self.blocks = nn.ModuleList(
            linear(dim, groups, device=device, dtype=torch.float32) for _ in range(blocks)
        )

    def route(self, index: int, x: Tensor) -> Routing:
        """Route the input x (B, L, C) of block `index`."""
        return route(x, self.blocks[index])


class RouterSet:
    """Routers as a node hands them on: their settings, and a patcher that keeps the weights.

    source: the file they came from, for messages. patcher: None for settings without a "routed"
    branch, which need no routers and fit any model. weights: of every block, on the CPU.
    """

    def __init__(self, routers: Routers, config: MoGAConfig, source: str) -> None:
        self.config = config
        self.source = source
        self.weights = routers
        self.patcher = None
        if routers:
            self.blocks = len(routers)
            self.dim = routers[0]["weight"].shape[1]
            self.patcher = _patcher(routers, config, self.blocks, self.dim)


def load_routers(path: str, source: str) -> RouterSet:
    """Read a router file, or the routers of a merged checkpoint.

    Raises CheckpointError, ConfigError.
    """
    routers, config = read_routers(path, source)
    check_alone(routers, config, source)
    return RouterSet(routers, config, source)


def check_alone(routers: Routers, config: MoGAConfig | None, source: str) -> None:
    """Raise CheckpointError unless these are whole routers, for a model of whatever sizes."""
    widths = {weight.shape[-1] for weight in _weights(routers) if weight.ndim == 2}
    dim, blocks = min(widths, default=0), max(routers, default=-1) + 1
    check_routers(routers, config, source=source, dim=dim, blocks=blocks)


def _weights(routers: Routers) -> list[Tensor]:
    return [router["weight"] for router in routers.values() if "weight" in router]


def unloaded(patcher: comfy.model_patcher.ModelPatcher, unpatch_all: bool = True) -> None:
    """The model leaves the card, and so do the tables of layouts: all that MoGA keeps there.

    Without unpatch_all it only makes room for a clone of it, as at the start of every sampling.
    """
    if unpatch_all:
        forget_tables()


def _patcher(
    routers: Routers, config: MoGAConfig, blocks: int, dim: int
) -> comfy.model_patcher.ModelPatcher:
    weights = {
        f"blocks.{index}.{name}": tensor.float()
        for index, router in routers.items()
        for name, tensor in router.items()
    }

    def build(disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
        offload = comfy.model_management.unet_offload_device()
        stack = RouterStack(dim, config.groups, blocks, offload)
        patcher = _patcher_class(disable_dynamic)(
            stack,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=offload,
        )
        dynamic = getattr(patcher, "is_dynamic", lambda: False)()
        stack.load_state_dict(weights, assign=dynamic)
        patcher.cached_patcher_init = (build, ())  # how ComfyUI rebuilds it on another device
        patcher.add_callback_with_key(CallbacksMP.ON_DETACH, KEY, unloaded)
        return patcher

    return build()


def _patcher_class(disable_dynamic: bool) -> Callable[..., comfy.model_patcher.ModelPatcher]:
    plain = comfy.model_patcher.ModelPatcher
    # Looked up now: ComfyUI rebinds CoreModelPatcher at start.
    return plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)
