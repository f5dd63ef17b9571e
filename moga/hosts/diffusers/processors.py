"""Attention processors: MoGA where plain Wan attends to everything, and text shot by shot.

Each keeps the processor that was there and hands over to it where nothing is to be done, so a call
that MoGA has no part in gives plain Wan's numbers bit for bit; on ranks that share a sequence, to
rounding.

Letters: B batch, L visual tokens, N heads, D head width, C = N * D.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

from ...attention import moga_attention
from ...attention.text import joined, shot_parts
from ...config import MoGAConfig
from ...routing import Routing
from .calls import Call, ShotText


class _Covering:
    """A processor in front of another, which diffusers keeps configuring through it."""

    def __init__(self, plain: Any) -> None:
        self.plain = plain

    @property
    def _attention_backend(self) -> Any:
        return self.plain._attention_backend

    @_attention_backend.setter
    def _attention_backend(self, backend: Any) -> None:
        self.plain._attention_backend = backend

    @property
    def _parallel_config(self) -> Any:
        return self.plain._parallel_config

    @_parallel_config.setter
    def _parallel_config(self, config: Any) -> None:
        self.plain._parallel_config = config


class MoGASelfAttention(_Covering):
    """Self-attention of block `index`: q, k and v as in plain Wan, MoGA in the middle.

    config: None where it is always plain; then the RoPE tables are freed of the call, and who
    watches is shown q, k and v.
    """

    def __init__(self, plain: Any, index: int, config: MoGAConfig | None, backend: str) -> None:
        super().__init__(plain)
        self.index = index
        self.config = config
        self.backend = backend

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Any, ...] | None = None,
    ) -> Tensor:
        """hidden_states (B, L, C) -> (B, L, C); rotary_emb is (cos, sin, call)."""
        call = call_of(rotary_emb)
        tables = None if rotary_emb is None else rotary_emb[:2]
        if call is not None and call.shards is not None:
            out = _attend_over_ranks(self, attn, call, hidden_states, tables).flatten(2, 3)
            return attn.to_out[1](attn.to_out[0](out))
        plain = call is None or call.layout is None
        if plain and (call is None or call.watch is None):
            return self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, tables)
        q, k, v = _q_k_v(attn, hidden_states, tables)
        if call.watch is not None:
            _show(self, call, hidden_states, q, k, v)
        if plain:
            del q, k, v  # it makes its own
            return self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, tables)
        out = _attend(self, attn, call, hidden_states, q, k, v).flatten(2, 3)
        return attn.to_out[1](attn.to_out[0](out))


class ShotCrossAttention(_Covering):
    """Cross-attention that gives each shot its own text, one call of the plain one per shot."""

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | ShotText | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        """hidden_states (B, L, C) -> (B, L, C)."""

        def plain(part: Tensor, context: Tensor | None) -> Tensor:
            return self.plain(attn, part, context, attention_mask, rotary_emb)

        if not isinstance(encoder_hidden_states, ShotText):
            return plain(hidden_states, encoder_hidden_states)
        parts = shot_parts(hidden_states, *encoder_hidden_states)
        return joined([plain(part, text) for part, text in parts])


def call_of(rotary_emb: tuple[Any, ...] | None) -> Call | None:
    """The call that the RoPE tables carry, if they carry one."""
    return rotary_emb[2] if rotary_emb is not None and len(rotary_emb) == 3 else None


@torch.compiler.disable
def _show(processor: MoGASelfAttention, call: Call, *tensors: Tensor) -> None:
    call.watch(processor.index, *tensors)


# Segment lengths are data, so there is nothing for a compiler to specialise on.
@torch.compiler.disable
def _attend(
    processor: MoGASelfAttention,
    attn: nn.Module,
    call: Call,
    x: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
) -> Tensor:
    routing = _route(processor, attn, call, x)
    return moga_attention(
        q, k, v, routing, call.layout, processor.config, backend=processor.backend
    )


# Nor is there a point in compiling around what is on its way.
@torch.compiler.disable
def _attend_over_ranks(
    processor: MoGASelfAttention,
    attn: nn.Module,
    call: Call,
    x: Tensor,
    tables: tuple[Tensor, Tensor],
) -> Tensor:
    # Not every PyTorch has torch.distributed.
    from ...attention.ulysses import over_ranks, ulysses_attention

    if call.layout is None:
        # Not diffusers' own, which has no gradient where ranks don't have alike, and which knows no
        # 12 heads on 8 ranks.
        plain = partial(dispatch_attention_fn, backend=processor._attention_backend)
        return over_ranks(_q_k_v(attn, x, tables), plain, call.shards)
    # First, so that its way is behind the projections.
    routing = _route(processor, attn, call, x)
    return ulysses_attention(
        *(_q_k_v(attn, x, tables), routing, call.layout, processor.config, call.shards),
        backend=processor.backend,
    )


def _route(processor: MoGASelfAttention, attn: nn.Module, call: Call, x: Tensor) -> Routing | None:
    if "routed" not in processor.config.branches:
        return None
    routing: Routing = replace(attn.router(x), across=call.shards)
    if call.recorder is not None:
        call.recorder.add(processor.index, routing)
    return routing


def _q_k_v(attn: nn.Module, x: Tensor, tables: tuple[Tensor, Tensor]) -> Iterator[Tensor]:
    """q, k and v (B, L, N, D) one by one, each made when it is asked for."""
    fused = attn.to_qkv(x).chunk(3, dim=-1) if getattr(attn, "fused_projections", False) else None
    for number, (name, norm) in enumerate((("to_q", "norm_q"), ("to_k", "norm_k"))):
        t = getattr(attn, name)(x) if fused is None else fused[number]
        # Under autocast the norms may give float32, which the fast kernels do not take.
        yield _rotate(getattr(attn, norm)(t).unflatten(2, (attn.heads, -1)), *tables, t.dtype)
    v = attn.to_v(x) if fused is None else fused[2]
    yield v.unflatten(2, (attn.heads, -1))


def _rotate(t: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    """RoPE as diffusers computes it: t (B, L, N, D); cos, sin (1, L, 1, D), each value twice."""
    even, odd = t.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    out = torch.empty_like(t, dtype=dtype)  # filled by halves: no copy of all in the wider type
    out[..., 0::2] = even * cos - odd * sin
    out[..., 1::2] = even * sin + odd * cos
    return out
