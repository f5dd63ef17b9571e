"""Putting MoGA on a ComfyUI MODEL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_patcher
import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import nn

from ...checkpoint import CheckpointError
from ...kernels import select
from ...shots import ShotList
from .conditioning import check_and_even
from .errors import as_value_error
from .hooks import Hooks
from .keys import APPLIED, KEY
from .loading import carried_routers
from .routers import RouterSet, unloaded
from .self_attention import Watch
from .settings import DENSE, Settings
from .wan import UnsupportedModelError, most_leading_frames, wan_model

_WRAPPERS = (WrappersMP.OUTER_SAMPLE, WrappersMP.APPLY_MODEL)


def apply_moga(
    model: comfy.model_patcher.ModelPatcher,
    settings: Settings,
    routers: RouterSet | None = None,
    *,
    tell: Callable[[str], None] | None = None,
    watch: Watch | None = None,
) -> comfy.model_patcher.ModelPatcher:
    """A clone of the model with MoGA on it; the model itself is left as it is.

    routers: used instead of those that the model carries. MoGA applied before is replaced.
    tell: takes a line like `summary`'s for what is sampled, whenever it changes. watch: is shown
        every block's self-attention as it is about to run.
    Raises UnsupportedModelError, CheckpointError or BackendError.
    """
    dit = wan_model(model)
    used = None
    if settings.attention != DENSE:
        used = routers or carried_routers(model)
        check_fit(used, dit.dim, len(dit.blocks))
        _check_backend(model, dit, settings.backend, used)
    patched = model.clone()
    remove_moga(patched)
    hooks = Hooks(settings, used, tell, watch)
    if used is not None and used.patcher is not None:
        patched.set_additional_models(KEY, [used.patcher.clone()])
    patched.set_attachments(APPLIED, hooks)
    patched.set_injections(KEY, [hooks.injection()])
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, hooks.describe_call)
    patched.add_wrapper_with_key(
        WrappersMP.OUTER_SAMPLE, KEY, _around_sampling(hooks, most_leading_frames(dit))
    )
    patched.add_callback_with_key(CallbacksMP.ON_DETACH, KEY, unloaded)
    return patched


def apply_shots(
    model: comfy.model_patcher.ModelPatcher,
    shots: ShotList | None,
    ffn_chunks: int = 1,
    *,
    tell: Callable[[str], None] | None = None,
) -> comfy.model_patcher.ModelPatcher:
    """A clone of the model whose shots read their own text, and which is dense as ever.

    Raises UnsupportedModelError, also for a model with MoGA on it, which this would take off.
    """
    applied = model.get_attachment(APPLIED)
    if applied is not None and applied.config is not None:
        raise UnsupportedModelError(
            "model comes from Apply MoGA, which gives each shot its own text too; connect shots "
            "there and take Apply Shot Prompts out."
        )
    return apply_moga(model, Settings(shots, DENSE, ffn_chunks=ffn_chunks), tell=tell)


def remove_moga(model: comfy.model_patcher.ModelPatcher) -> None:
    """Take an earlier `apply_moga` off this clone."""
    for wrapper in _WRAPPERS:
        model.remove_wrappers_with_key(wrapper, KEY)
    model.remove_callbacks_with_key(CallbacksMP.ON_DETACH, KEY)
    model.remove_injections(KEY)
    model.remove_additional_models(KEY)
    model.remove_attachments(APPLIED)


def check_fit(routers: RouterSet | None, dim: int, blocks: int) -> None:
    """Raise CheckpointError unless there are routers, of a model of that many blocks and width."""
    if routers is None:
        raise CheckpointError(
            "model carries no MoGA routers (core's loaders and Model Save drop them): load the "
            "file with Load MoGA Diffusion Model, connect Load MoGA Routers to routers, or put "
            "Apply Shot Prompts in the place of Apply MoGA, which needs none."
        )
    if routers.patcher is not None and (routers.dim, routers.blocks) != (dim, blocks):
        raise CheckpointError(
            f"routers from {routers.source} are for {routers.blocks} blocks of width "
            f"{routers.dim}, the model has {blocks} of width {dim}; use routers that were made "
            "for this model."
        )


def _check_backend(
    model: comfy.model_patcher.ModelPatcher, dit: nn.Module, name: str, routers: RouterSet
) -> None:
    """Raise BackendError now, not in the first step, where the backend cannot run this model."""
    dtype = model.get_model_object("manual_cast_dtype") or model.model.get_dtype()
    width = dit.dim // dit.num_heads
    probe = torch.empty(0, dit.num_heads, width, device=model.load_device, dtype=dtype)
    select(name, probe, lse=routers.config.combine == "union")


def _refuse_reordering(model_options: dict[str, Any]) -> None:
    """Raise UnsupportedModelError where another pack permutes the tokens between blocks."""
    if model_options.get("transformer_options", {}).get("sol_morton"):
        raise UnsupportedModelError(
            "Patch Sol-Attn has morton on, which puts the tokens into another order, while shots "
            "and windows are runs of tokens in theirs; turn morton off, or take Apply MoGA (or "
            "Apply Shot Prompts) out."
        )


def _around_sampling(hooks: Hooks, most_leading: float) -> Callable[..., torch.Tensor]:
    @as_value_error  # whatever is raised in the steps, too
    def wrapper(executor: Any, noise: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        frames = noise.shape[2] if noise.ndim == 5 else 1  # (B, C, T, H, W)
        guider = executor.class_obj
        _refuse_reordering(guider.model_options)
        scheduled = check_and_even(guider.conds, hooks.settings, frames, most_leading)
        hooks.describe_call.scheduled = scheduled
        return executor(noise, *args, **kwargs)

    return wrapper
