"""Loading a diffusion model whose file holds MoGA routers too."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import comfy.model_patcher
import comfy.sd
import comfy.utils

from ...checkpoint import CheckpointError, check_routers, config_in, read_header, split_routers
from .routers import RouterSet
from .wan import wan_model

ATTACHMENT = "moga"


def load_diffusion_model(
    path: str, model_options: dict[str, Any], disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """A model as core's loader makes it, carrying the routers of its file as an attachment.

    A model of static branches alone carries its settings. A file without either loads too; its
    model is dense, and can take routers from elsewhere.
    Raises CheckpointError before anything large is read where the header allows.
    """
    source = Path(path).name
    config_in(read_header(path).metadata)  # refuses a damaged file or newer settings
    tensors, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    base, routers, config = split_routers(tensors, metadata)
    del tensors
    options = _supported(
        comfy.sd.load_diffusion_model_state_dict,
        metadata=metadata,
        disable_dynamic=disable_dynamic,
    )
    model = comfy.sd.load_diffusion_model_state_dict(base, model_options=model_options, **options)
    if model is None:
        raise CheckpointError(
            f"{source} is not a diffusion model that this ComfyUI knows; "
            "choose a Wan 2.1 or 2.2 model."
        )
    model.cached_patcher_init = (load_diffusion_model, (path, model_options))
    if routers:
        dit = wan_model(model)
        check_routers(routers, config, source=source, dim=dit.dim, blocks=len(dit.blocks))
    if routers or (config is not None and "routed" not in config.branches):
        model.set_attachments(ATTACHMENT, RouterSet(routers, config, source))
    return model


def carried_routers(model: comfy.model_patcher.ModelPatcher) -> RouterSet | None:
    """The routers that `load_diffusion_model` attached to this model or its original."""
    return model.get_attachment(ATTACHMENT)


def _supported(function: Any, **options: Any) -> dict[str, Any]:
    """The options that this ComfyUI's function knows; 0.3.64 has neither."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in known}
