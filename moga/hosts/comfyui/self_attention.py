"""What stands in for the self-attention of a block.

Its own forward still does all of its work (projections with their LoRA and quantisation, norms,
RoPE, patches, output); it is called with an attention override that lives for that one call and
puts MoGA where dense attention would run, so that no other node can displace it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...attention import layer_backends, moga_attention
from ...config import MoGAConfig
from ...layout import VideoLayout
from ...routing import Routing
from .calls import Call, Teller
from .geometry import Grid
from .keys import KEY
from .override import OVERRIDE, attention_override

Forward = Callable[..., Tensor]
# Of a block's number, the grid of the call, its input x (B, L, C), and q, k, v (B, L, N, D).
Watch = Callable[[int, Grid, Tensor, Tensor, Tensor, Tensor], None]


class SelfAttention:
    """The stand-ins of a model's self-attentions, which share a configuration and what was said.

    config: of the routers, None where all stay dense. backend: a name of the table of kernels.
    """

    def __init__(self, config: MoGAConfig | None, backend: str, teller: Teller) -> None:
        self._config, self._backend, self._teller = config, backend, teller

    def stand_in(
        self,
        module: nn.Module,
        previous: Forward,
        *,
        route: Callable[[Tensor], Routing] | None,
        dense: bool,
        watch: Callable[..., None] | None = None,
    ) -> Forward:
        """For `previous`, the forward of the self-attention `module`.

        route: the router of this block; None where config has no "routed" branch.
        dense: whether the block stays so. watch: a `Watch` of this block, shown calls whose tokens
            form a grid.
        """

        def forward(
            x: Tensor, freqs: Tensor, transformer_options: dict[str, Any] | None = None, **kw: Any
        ) -> Tensor:
            options = transformer_options or {}
            outer = options.get(OVERRIDE)
            call: Call | None = options.get(KEY)
            attend = None
            if not dense and call is not None and self._sparse(call, x):
                routing = None if route is None else route(x)
                attend = partial(self._attend, routing, call.grid.layout, outer)
            seen = None
            if watch is not None and _on_grid(call, x):
                seen = partial(watch, call.grid, x)
            override = attention_override(
                attend, x.shape[1], outer, module, self._teller.once, seen
            )
            return previous(x, freqs, transformer_options={**options, OVERRIDE: override}, **kw)

        return forward

    def _sparse(self, call: Call, x: Tensor) -> bool:
        reason = call.dense_reason
        if reason is None and not _on_grid(call, x):
            reason = f"{x.shape[1]} tokens do not match the grid's {call.grid.layout.tokens}"
        if reason is not None:
            self._teller.once(f"dense attention, because {reason}")
        return reason is None

    def _attend(
        self,
        routing: Routing | None,
        layout: VideoLayout,
        outer: Callable[..., Tensor] | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
    ) -> Tensor:
        used, why = layer_backends(q, layout, self._config, self._backend)
        said = ", ".join(f"{branch} {backend.name}" for branch, backend in used.items())
        self._teller.once(f"attention backends: {said} ({why}){_not_called(outer)}")
        return moga_attention(q, k, v, routing, layout, self._config, backend=self._backend)


def _on_grid(call: Call | None, x: Tensor) -> bool:
    """Whether the tokens of x are those of the call's grid, no more and no fewer."""
    return call is not None and call.grid is not None and x.shape[1] == call.grid.layout.tokens


def precise_positions(rope_encode: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Positions in float32: bfloat16 rounds time positions above 256 to even ones."""

    def encode(*args: Any, **kwargs: Any) -> Tensor:
        if "dtype" in kwargs:
            kwargs["dtype"] = torch.float32
        return rope_encode(*args, **kwargs)

    return encode


def _not_called(outer: Callable[..., Any] | None) -> str:
    """For the line on backends: another node's override, which serves dense layers only."""
    if outer is None:
        return ""
    name = getattr(outer, "__qualname__", type(outer).__qualname__).split(".")[0]
    # ComfyUI names the module of a pack in one file by its path, whose folders may have dots.
    module = re.split(r"[/\\.]", outer.__module__)[-1]
    return (
        f"; the attention of another node ({name} of {module}) runs in dense layers and "
        "cross-attention only"
    )
