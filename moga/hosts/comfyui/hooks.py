"""MoGA inside ComfyUI's Wan: swapped `forward`s that live while the model is loaded.

A self-attention's own forward still does all of its work (projections with their LoRA and
quantisation, norms, RoPE, patches, output); it is called with an attention override that lives for
that one call and puts MoGA where dense attention would run, so that no other node can displace it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import comfy.ldm.wan.model
import comfy.model_patcher
import torch
from comfy.patcher_extension import PatcherInjection
from torch import Tensor, nn

from ...attention import layer_backends, moga_attention
from ...attention.text import Span, joined, shot_parts
from ...config import MoGAConfig
from ...kernels import select
from ...layout import VideoLayout
from ...routing import Routing
from .geometry import Grid, call_grid, readings
from .override import OVERRIDE, attention_override
from .routers import RouterSet, RouterStack
from .settings import Settings
from .status import latent_summary
from .swaps import restore, swap

KEY = "moga"
TEXT_CONDITION = "moga_shots"
_FORWARD = "forward"


@dataclass(frozen=True)
class Call:
    """One call of the DiT, as the swapped forwards see it (in transformer_options).

    dense_reason: why self-attention stays dense in this call, or None.
    spans: text tokens of each shot, or None where the conditioning has no shots.
    """

    grid: Grid | None
    dense_reason: str | None
    spans: tuple[Span, ...] | None


class Hooks:
    """MoGA on one model: the swapped forwards, and a wrapper that describes each call to them.

    tell: takes a line on what is sampled, whenever it changes.
    scheduled: whether what is sampled has texts of the shots; None before anything was.
    """

    def __init__(
        self,
        settings: Settings,
        routers: RouterSet | None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.settings = settings
        self.routers = routers
        self.scheduled: bool | None = None
        self._tell, self._told = tell, ""
        self._said: set[str] = set()

    @property
    def config(self) -> MoGAConfig | None:
        """Of the routers; None where self-attention stays dense."""
        return None if self.routers is None else self.routers.config

    def say_once(self, message: str) -> None:
        """Log a message unless it was logged before."""
        if message not in self._said:
            self._said.add(message)
            logging.info("MoGA: %s", message)

    # --- once per call of the DiT (APPLY_MODEL wrapper, outside whatever torch.compile compiles) --

    def describe_call(self, executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Leave a Call in the transformer options of this call of the model, then run it."""
        names = ("x", "t", "c_concat", "c_crossattn", "control", "transformer_options")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        text = kwargs.pop(TEXT_CONDITION, None)
        options = given["transformer_options"]
        model = executor.class_obj
        dit = model.diffusion_model
        grid = call_grid(
            dit,
            given["x"],
            options,
            self.settings.shots,
            time_dim_concat=given.get("time_dim_concat"),
            reference_latent=given.get("reference_latent"),
        )
        spans = None if text is None else text.spans
        reason = self._dense_reason(grid, options, model.model_sampling)
        if reason is None or (self.config is None and grid is not None):
            self._say_sampled(dit, grid.layout)
        options[KEY] = Call(grid, reason, spans)
        return executor(*args, **kwargs)

    def _say_sampled(self, dit: nn.Module, layout: VideoLayout) -> None:
        line = latent_summary(self.settings, self.config, dit, layout, self.scheduled)
        self.say_once(line)
        if self._tell is not None and line != self._told:
            self._told = line
            self._tell(line)

    def _dense_reason(
        self, grid: Grid | None, options: dict[str, Any], sampling: Any
    ) -> str | None:
        """sampling: of the model as it runs, which nodes after this one may have changed."""
        if grid is None:
            return "the tokens of this call form no video grid"
        if grid.layout.tokens < self.settings.min_tokens:
            return f"{grid.layout.tokens} tokens are fewer than min_tokens"
        percents = (self.settings.start_percent, self.settings.end_percent)
        sigma = options.get("sigmas")
        if percents == (0.0, 1.0) or sigma is None:
            return None
        first, last = (float(sampling.percent_to_sigma(percent)) for percent in percents)
        if not last <= float(sigma[0]) <= first:
            return "this step lies outside start_percent and end_percent"
        return None

    # --- in every block --------------------------------------------------------------------------

    def self_attention(
        self,
        index: int,
        module: nn.Module,
        previous: Callable[..., Tensor],
        stack: RouterStack | None,
    ) -> Callable[..., Tensor]:
        """What stands in for `previous`, the forward of block `index`'s self-attention `module`."""
        always_dense = index in self.settings.dense_blocks
        route = None if stack is None else torch.compiler.disable(stack.route)

        def forward(
            x: Tensor, freqs: Tensor, transformer_options: dict[str, Any] | None = None, **kw: Any
        ) -> Tensor:
            options = transformer_options or {}
            outer = options.get(OVERRIDE)
            call: Call | None = options.get(KEY)
            attend = None
            if not always_dense and call is not None and self._sparse(call, x):
                routing = None if route is None else route(index, x)
                attend = partial(self._attend, routing, call.grid.layout, outer)
            override = attention_override(attend, x.shape[1], outer, module, self.say_once)
            return previous(x, freqs, transformer_options={**options, OVERRIDE: override}, **kw)

        return forward

    def _sparse(self, call: Call, x: Tensor) -> bool:
        reason = call.dense_reason
        if reason is None and x.shape[1] != call.grid.layout.tokens:
            reason = f"{x.shape[1]} tokens do not match the grid's {call.grid.layout.tokens}"
        if reason is not None:
            self.say_once(f"dense attention, because {reason}")
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
        config, name = self.config, self.settings.backend
        used = layer_backends(q, layout, config, name)
        _, why = select(name, q, lse=config.combine == "lse")
        said = ", ".join(f"{branch} {backend.name}" for branch, backend in used.items())
        self.say_once(f"attention backends: {said} ({why}){_not_called(outer)}")
        return moga_attention(q, k, v, routing, layout, config, backend=name)

    def cross_attention(
        self, module: nn.Module, previous: Callable[..., Tensor]
    ) -> Callable[..., Tensor]:
        """What stands in for `previous`, the forward of a block's cross-attention."""
        reads_image = isinstance(module, comfy.ldm.wan.model.WanI2VCrossAttention)

        def forward(x: Tensor, context: Tensor, *args: Any, **kw: Any) -> Tensor:
            call: Call | None = kw.get("transformer_options", {}).get(KEY)
            if call is None or call.spans is None or call.grid is None:
                return previous(x, context, *args, **kw)
            image = (kw.get("context_img_len") or 0) if reads_image else 0
            read = readings(call.grid, call.spans, x.shape[1], context.shape[1], image)
            outs = []
            for part, text in shot_parts(x, context, read):
                # Called from here, not in a function of its own: so all blocks share what
                # torch.compile makes of it.
                outs.append(previous(part, text, *args, **kw))
            return joined(outs)

        return forward

    # --- while the model is loaded ---------------------------------------------------------------

    def injection(self) -> PatcherInjection:
        """Swap the forwards in when the model is loaded and out when it is not.

        ComfyUI may eject first and may inject a model of its own making: both do what is needed
        on the model of the patcher they are given, and nothing when that is done already.
        """
        return PatcherInjection(inject=self._inject, eject=self._eject)

    def _inject(self, patcher: comfy.model_patcher.ModelPatcher) -> None:
        self._eject(patcher)
        dit = patcher.model.diffusion_model
        if self.routers is not None:
            stack = self._stack(patcher)
            for index, block in enumerate(dit.blocks):
                attention = block.self_attn
                make = partial(self.self_attention, index, attention, stack=stack)
                swap(attention, _FORWARD, make)
            swap(dit, "rope_encode", _precise)
        for block in _blocks(dit):
            attention = block.cross_attn
            swap(attention, _FORWARD, partial(self.cross_attention, attention))
            if self.settings.ffn_chunks > 1:
                swap(block.ffn, _FORWARD, partial(_in_chunks, chunks=self.settings.ffn_chunks))

    def _eject(self, patcher: comfy.model_patcher.ModelPatcher) -> None:
        for module in patcher.model.diffusion_model.modules():
            restore(module)

    def _stack(self, patcher: comfy.model_patcher.ModelPatcher) -> RouterStack | None:
        """The router weights that belong to this patcher: a clone on another GPU has its own."""
        if "routed" not in self.routers.config.branches:
            return None
        return patcher.get_additional_models_with_key(KEY)[0].model


def _blocks(dit: nn.Module) -> Iterator[nn.Module]:
    """Every block that reads text, VACE's own too."""
    return chain(dit.blocks, getattr(dit, "vace_blocks", ()))


def _in_chunks(feed_forward: Callable[[Tensor], Tensor], chunks: int) -> Callable[[Tensor], Tensor]:
    """Tokens don't see each other in a feed-forward: the same for some of x (B, L, C) at a time."""

    def forward(x: Tensor) -> Tensor:
        return torch.cat([feed_forward(part) for part in x.chunk(chunks, dim=1)], dim=1)

    return forward


def _precise(rope_encode: Callable[..., Tensor]) -> Callable[..., Tensor]:
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
    return (
        f"; the attention of another node ({name} of {outer.__module__.rpartition('.')[2]}) runs "
        "in dense layers and cross-attention only"
    )
