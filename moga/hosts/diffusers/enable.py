"""Putting MoGA on a diffusers transformer, and taking it off."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from ...checkpoint import CheckpointError, Routers, check_routers
from ...config import MoGAConfig
from ...kernels import AUTO, require
from ...parallel import ParallelismError
from ...routing import Routing, random_routers
from .calls import KEY, Call, Recorder, ShotText, Watch, build_call
from .parallel import check_parallelism, shards_of
from .processors import MoGASelfAttention, ShotCrossAttention, call_of
from .router import BlockRouter, weights_of

RANDOM = "random"
_STATE = "_moga"
_FORWARD = (
    "hidden_states",
    "timestep",
    "encoder_hidden_states",
    "encoder_hidden_states_image",
    "return_dict",
    "attention_kwargs",
)
_BLOCK_FORWARD = ("hidden_states", "encoder_hidden_states", "temb", "rotary_emb")
_handover = threading.local()  # from a transformer's pre-hook to its rope, the next thing it calls


def enable_moga(
    transformer: nn.Module,
    config: MoGAConfig | None,
    routers: Routers | str | None = None,
    *,
    backend: str = AUTO,
    seed: int = 0,
) -> None:
    """Run MoGA in every self-attention layer of a `WanTransformer3DModel`, and text shot by shot.

    config: how to attend; None leaves self-attention plain, for per-shot text alone.
    routers: {block: {"weight": (M, C), "bias": (M,)}} as `split_routers` returns them, or "random"
        to begin a training with fresh ones made from `seed`. Not needed where config has no
        "routed" branch.
    backend: a name from moga.kernels.

    Routers become float32 modules `blocks.{i}.attn1.router`: state_dict, optimizers, peft and
    offloading see them. Shots go in per call, see `ShotCall`; a call without them is one shot. MoGA
    enabled before is replaced. diffusers' `enable_parallelism` may come before or after: with its
    Ulysses, the processes of a sequence share the layer too. Raises ValueError
    (CheckpointError for routers, ParallelismError) and BackendError with the transformer as it was.
    """
    dit = unwrap(transformer)
    _check(dit)
    if backend != AUTO:
        require(backend)
    modules = _routers(dit, config, routers, seed) if config is not None else None
    disable_moga(dit)
    state = _State(dit, config)
    for index, block in enumerate(dit.blocks):
        if modules is not None:
            block.attn1.router = modules[index]
        plain = block.attn1.processor
        block.attn1.set_processor(MoGASelfAttention(plain, index, config, backend))
        block.attn2.set_processor(ShotCrossAttention(block.attn2.processor))
        state.handles.append(block.register_forward_pre_hook(_hand_text_on, with_kwargs=True))
    state.handles.append(dit.rope.register_forward_hook(_hand_call_on))
    # Before other pre-hooks: they may not know what to do with a ShotCall.
    state.handles.append(
        dit.register_forward_pre_hook(state.begin_call, with_kwargs=True, prepend=True)
    )
    setattr(dit, _STATE, state)


def disable_moga(transformer: nn.Module) -> None:
    """Take MoGA and its routers off again; what is left is plain diffusers. Harmless without it."""
    dit = unwrap(transformer)
    state: _State | None = vars(dit).pop(_STATE, None)
    if state is None:
        return
    for handle in state.handles:
        handle.remove()
    for block in dit.blocks:
        for attention in (block.attn1, block.attn2):
            plain = getattr(attention.processor, "plain", None)
            if plain is not None:
                attention.set_processor(plain)
        if hasattr(block.attn1, "router"):
            del block.attn1.router


def is_enabled(transformer: nn.Module) -> bool:
    """Whether `enable_moga` was called, be it for per-shot text alone."""
    return _state(transformer) is not None


def moga_config(transformer: nn.Module) -> MoGAConfig | None:
    """The settings that `enable_moga` was given; None where MoGA is off."""
    state = _state(transformer)
    return None if state is None else state.config


def moga_routers(transformer: nn.Module) -> Routers:
    """The routers as `split_routers` returns them, detached; empty where there are none."""
    routers = {
        index: getattr(block.attn1, "router", None)
        for index, block in enumerate(unwrap(transformer).blocks)
    }
    return {index: weights_of(router) for index, router in routers.items() if router is not None}


def router_parameters(transformer: nn.Module) -> list[nn.Parameter]:
    """Weight and bias of every router, in order of the blocks."""
    routers = (module for module in transformer.modules() if isinstance(module, BlockRouter))
    return [parameter for router in routers for parameter in router.parameters()]


@contextmanager
def record_routing(transformer: nn.Module) -> Iterator[list[Routing]]:
    """Yield a list that holds each layer's Routing of the last forward, in order of the layers.

    For the balance loss: its gradient reaches the routers, also under gradient checkpointing with
    use_reentrant=False (diffusers' default); layers that run again in backward add nothing.
    """
    state = _state(transformer)
    if state is None:
        raise ValueError("the transformer has no MoGA to record; call enable_moga first.")
    routings: list[Routing] = []
    outer, state.record = state.record, routings
    try:
        yield routings
    finally:
        state.record = outer


@contextmanager
def watch_attention(transformer: nn.Module, watch: Watch) -> Iterator[None]:
    """Show every block's x, q, k and v to `watch` before it attends, in dense calls too.

    MoGA has to be enabled, be it with config None.
    """
    state = _state(transformer)
    if state is None:
        raise ValueError("the transformer has no MoGA to watch; call enable_moga first.")
    outer, state.watch = state.watch, watch
    try:
        yield
    finally:
        state.watch = outer


def unwrap(transformer: nn.Module) -> nn.Module:
    """The transformer inside what torch.compile or DistributedDataParallel made of it."""
    for name in ("_orig_mod", "module"):
        while name in transformer._modules:
            transformer = transformer._modules[name]
    return transformer


@dataclass
class _State:
    """MoGA on one transformer. What a call works on is not kept here: see calls.py."""

    dit: nn.Module
    config: MoGAConfig | None
    handles: list[Any] = field(default_factory=list)
    record: list[Routing] | None = None
    watch: Watch | None = None

    def begin_call(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Take `moga` out of attention_kwargs, which diffusers would drop, and make the Call."""
        kwargs = {**dict(zip(_FORWARD, args, strict=False)), **kwargs}
        if self.watch is not None and getattr(module, "_parallel_config", None):
            raise ParallelismError(
                "a process that shares its sequence can't show the whole layer; watch attention "
                "without enable_parallelism."
            )
        given = None
        attention_kwargs = kwargs.get("attention_kwargs")
        if attention_kwargs and KEY in attention_kwargs:
            rest = {key: value for key, value in attention_kwargs.items() if key != KEY}
            given, kwargs["attention_kwargs"] = attention_kwargs[KEY], rest or None
        settings = module.config
        _handover.call = build_call(
            given,
            kwargs["hidden_states"],
            kwargs["encoder_hidden_states"],
            settings.patch_size,
            reads_image=settings.added_kv_proj_dim is not None,
            sparse=self.config is not None,
            share=lambda tokens: shards_of(module, tokens),
            recorder=self._recorder(module),
            watch=self.watch,
        )
        return (), kwargs

    def _recorder(self, module: nn.Module) -> Recorder | None:
        if self.record is None:
            return None
        self.record.clear()
        return Recorder(self.record, torch.is_grad_enabled())


def _hand_call_on(
    rope: nn.Module, args: tuple[Any, ...], tables: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Call]:
    call, _handover.call = _handover.call, None
    return (*tables, call)


def _hand_text_on(
    block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Give the block's cross-attention its text with who reads it."""
    given = {**dict(zip(_BLOCK_FORWARD, args, strict=False)), **kwargs}
    call, context = call_of(given["rotary_emb"]), given["encoder_hidden_states"]
    readings = None if call is None else call.readings(context.shape[1])
    if readings is None:
        return None
    given["encoder_hidden_states"] = ShotText(context, readings)
    return tuple(given.values()), {}


def _state(transformer: nn.Module) -> _State | None:
    return vars(unwrap(transformer)).get(_STATE)


def _check(dit: nn.Module) -> None:
    if type(dit) is not WanTransformer3DModel:
        raise ValueError(
            f"transformer is a {type(dit).__name__}; MoGA runs on diffusers' WanTransformer3DModel."
        )
    check_parallelism(dit)
    offloaded = [name for name, module in dit.named_modules() if name and _is_offloaded(module)]
    if offloaded:
        raise ValueError(
            f"transformer is offloaded already ({offloaded[0]} has a hook that moves its weights); "
            "call enable_moga first, so that the routers move along."
        )


def _is_offloaded(module: nn.Module) -> bool:
    hook = getattr(module, "_hf_hook", None)
    hooks = (hook, *getattr(hook, "hooks", ()))
    registry = getattr(module, "_diffusers_hook", None)
    groups = [] if registry is None else [name for name in registry.hooks if "offload" in name]
    return bool(groups) or any(getattr(h, "offload", False) for h in hooks)


def _routers(
    dit: nn.Module, config: MoGAConfig, routers: Routers | str | None, seed: int
) -> list[BlockRouter] | None:
    """One float32 router per block, beside the weights of its layer; None if none are needed."""
    if "routed" not in config.branches:
        return None
    if routers is None:
        raise CheckpointError(
            "config has the branch 'routed', but routers is None; pass the routers of a MoGA file "
            "(split_routers, load_routers), or routers='random' to train from scratch."
        )
    settings = dit.config
    dim = settings.num_attention_heads * settings.attention_head_dim
    devices = [next(block.attn1.parameters()).device for block in dit.blocks]
    if routers == RANDOM:
        routers = random_routers(dim, config.groups, len(dit.blocks), seed)
    if isinstance(routers, str):
        raise ValueError(f"routers is {routers!r}; pass a dict of routers, or 'random'.")
    check_routers(routers, config, source="routers", dim=dim, blocks=len(dit.blocks))
    made = [BlockRouter(routers[index], device) for index, device in enumerate(devices)]
    return [router.train(dit.training) for router in made]
