"""The attention override of one self-attention: MoGA, or what would run without it.

It is there in every call, dense ones too: compile nodes drop the guards on transformer_options, so
a trace that once found no override would go past MoGA ever after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.ldm.modules.attention as core
import torch
from torch import Tensor, nn

OVERRIDE = "optimized_attention_override"  # where ComfyUI looks for one

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v and the result (B, L, N, D)


def attention_override(
    attend: Attend | None,
    tokens: int,
    outer: Callable[..., Tensor] | None,
    module: nn.Module,
    say: Callable[[str], None],
    watch: Callable[[Tensor, Tensor, Tensor], None] | None = None,
) -> Callable[..., Tensor]:
    """An override that calls `attend`, and passes on what is dense.

    attend: None where this call is dense. tokens: that it takes; what comes with others, or with a
        mask, is passed on and said.
    outer: the override that was on the hook before; it serves what is dense.
    module: the attention that asks, whose file may prefer a kernel (ComfyUI 0.34 and later).
    watch: shown q, k and v (B, L, N, D) of so many tokens before anything runs.
    """
    preferred = getattr(getattr(module, "comfy_attention", None), "function", None)

    def fits(q: Tensor, k: Tensor, kw: dict[str, Any]) -> bool:
        return q.shape[2 if kw.get("skip_reshape") else 1] == tokens and k.shape == q.shape

    def show(q: Tensor, k: Tensor, v: Tensor, heads: int, kw: dict[str, Any]) -> None:
        if watch is not None and fits(q, k, kw):
            watch(*_split(q, k, v, heads, kw))

    def takes(q: Tensor, k: Tensor, kw: dict[str, Any]) -> bool:
        if attend is None:
            return False
        if not fits(q, k, kw) or kw.get("mask") is not None:
            say("dense attention, because another node changed q, k or the mask")
            return False
        return True

    def override(func: Callable[..., Tensor], q, k, v, heads: int, *args: Any, **kw: Any) -> Tensor:
        """q, k, v (B, L, N * D), or (B, N, L, D) with skip_reshape; returns (B, L, N * D)."""
        show(q, k, v, heads, kw)
        if takes(q, k, kw):
            return _run(attend, q, k, v, heads, kw)
        if outer is not None:
            return outer(func, q, k, v, heads, *args, **kw)
        return (preferred or func)(q, k, v, heads, *args, **kw)

    def of_containers(q: Any, k: Any, v: Any, heads: int, *args: Any, **kw: Any) -> Tensor:
        """The same of containers, which what is dense may empty as early as it can."""
        show(q.peek(), k.peek(), v.peek(), heads, kw)
        if takes(q.peek(), k.peek(), kw):
            return _run(attend, q.take(), k.take(), v.take(), heads, kw)
        if outer is None:
            return (preferred or core.optimized_attention)(q, k, v, heads, *args, **kw)
        if hasattr(outer, "container_function"):
            return outer.container_function(q, k, v, heads, *args, **kw)
        plain = core.optimized_attention.__wrapped__
        return outer(plain, q.take(), k.take(), v.take(), heads, *args, **kw)

    override = torch.compiler.disable(override)
    override.container_function = torch.compiler.disable(of_containers)
    return override


def _run(attend: Attend, q: Tensor, k: Tensor, v: Tensor, heads: int, kw: dict[str, Any]) -> Tensor:
    out = attend(*_split(q, k, v, heads, kw))
    return out.transpose(1, 2) if kw.get("skip_output_reshape", False) else out.flatten(2)


def _split(q: Tensor, k: Tensor, v: Tensor, heads: int, kw: dict[str, Any]) -> tuple[Tensor, ...]:
    """(B, L, N, D) of each."""
    split = _from_headed if kw.get("skip_reshape", False) else _from_flat
    return tuple(split(t, heads) for t in (q, k, v))


def _from_flat(t: Tensor, heads: int) -> Tensor:
    return t.unflatten(-1, (heads, -1))


def _from_headed(t: Tensor, heads: int) -> Tensor:
    return t.transpose(1, 2)
