"""MoGA inside ComfyUI's Wan: swapped `forward`s that live while the model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

import comfy.model_patcher
import torch
from comfy.patcher_extension import PatcherInjection
from torch import Tensor, nn

from ...config import MoGAConfig
from .calls import CallDescriber, Teller
from .cross_attention import cross_attention
from .keys import KEY
from .routers import RouterSet, RouterStack
from .self_attention import SelfAttention, Watch, precise_positions
from .settings import Settings
from .swaps import restore, swap

_FORWARD = "forward"


class Hooks:
    """MoGA on one model: what describes each call to the blocks, and what stands in for them.

    tell: takes a line on what is sampled, whenever it changes. watch: is shown every block's
        self-attention as it is about to run.
    """

    def __init__(
        self,
        settings: Settings,
        routers: RouterSet | None,
        tell: Callable[[str], None] | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.settings = settings
        self.routers = routers
        self._watch = watch
        self._teller = Teller(tell)
        self.describe_call = CallDescriber(settings, self.config, self._teller)

    @property
    def config(self) -> MoGAConfig | None:
        """Of the routers; None where self-attention stays dense."""
        return None if self.routers is None else self.routers.config

    def injection(self) -> PatcherInjection:
        """Swap the forwards in when the model is loaded and out when it is not.

        ComfyUI may eject first and may inject a model of its own making: both do what is needed
        on the model of the patcher they are given, and nothing when that is done already.
        """
        return PatcherInjection(inject=self._inject, eject=_eject)

    def _inject(self, patcher: comfy.model_patcher.ModelPatcher) -> None:
        _eject(patcher)
        dit = patcher.model.diffusion_model
        if self.routers is not None or self._watch is not None:
            self._swap_self_attention(dit, self._stack(patcher))
        if self.routers is not None:
            swap(dit, "rope_encode", precise_positions)
        for block in _blocks(dit):
            attention = block.cross_attn
            swap(attention, _FORWARD, partial(cross_attention, attention))
            if self.settings.ffn_chunks > 1:
                swap(block.ffn, _FORWARD, partial(_in_chunks, chunks=self.settings.ffn_chunks))

    def _swap_self_attention(self, dit: nn.Module, stack: RouterStack | None) -> None:
        stand_ins = SelfAttention(self.config, self.settings.backend, self._teller)
        route = None if stack is None else torch.compiler.disable(stack.route)
        for index, block in enumerate(dit.blocks):
            make = partial(
                stand_ins.stand_in,
                block.self_attn,
                route=None if route is None else partial(route, index),
                dense=self.routers is None or index in self.settings.dense_blocks,
                watch=None if self._watch is None else partial(self._watch, index),
            )
            swap(block.self_attn, _FORWARD, make)

    def _stack(self, patcher: comfy.model_patcher.ModelPatcher) -> RouterStack | None:
        """The router weights that belong to this patcher: a clone on another GPU has its own."""
        if self.routers is None or "routed" not in self.routers.config.branches:
            return None
        return patcher.get_additional_models_with_key(KEY)[0].model


def _eject(patcher: comfy.model_patcher.ModelPatcher) -> None:
    for module in patcher.model.diffusion_model.modules():
        restore(module)


def _blocks(dit: nn.Module) -> Iterator[nn.Module]:
    """Every block that reads text, VACE's own too."""
    return chain(dit.blocks, getattr(dit, "vace_blocks", ()))


def _in_chunks(feed_forward: Callable[[Tensor], Tensor], chunks: int) -> Callable[[Tensor], Tensor]:
    """Tokens don't see each other in a feed-forward: the same for some of x (B, L, C) at a time."""

    def forward(x: Tensor) -> Tensor:
        return torch.cat([feed_forward(part) for part in x.chunk(chunks, dim=1)], dim=1)

    return forward
