"""The router as a module of a diffusers transformer.

Letters: B batch, L visual tokens, C model width, M groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...routing import Routing, route


class BlockRouter(nn.Module):
    """A TokenRouter that stays in float32 whatever happens to the model around it.

    Not an nn.Linear on purpose: what treats every Linear alike (storage in 8 bits, quantisation,
    LoRA on "all-linear") leaves it alone. Casting the model to bfloat16 moves it, but does not
    round its weights: tokens near a border between groups would change sides.
    """

    def __init__(self, weights: Mapping[str, Tensor], device: torch.device) -> None:
        super().__init__()
        for name in ("weight", "bias"):
            tensor = weights[name].detach().to(device, torch.float32, copy=True)
            self.register_parameter(name, nn.Parameter(tensor))

    def forward(self, x: Tensor) -> Routing:
        """Route x (B, L, C), the tensor that q, k and v are projected from."""
        return route(x, lambda part: F.linear(part, self.weight, self.bias))

    def extra_repr(self) -> str:
        groups, dim = self.weight.shape
        return f"dim={dim}, groups={groups}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def keep_type(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_type, recurse)


def weights_of(router: nn.Module) -> dict[str, Tensor]:
    """Weight (M, C) and bias (M,), detached; the trained copy where peft keeps one."""
    while not isinstance(router, BlockRouter):
        router = router.modules_to_save[router.active_adapters[0]]
    return {"weight": router.weight.detach(), "bias": router.bias.detach()}
