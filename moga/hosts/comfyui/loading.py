"""Loading a diffusion model whose file holds MoGA routers too."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils

from ...checkpoint import CheckpointError, check_routers, read_routers, split_routers
from ...shots.script import shorten
from .routers import RouterSet, check_alone
from .wan import wan_model

ATTACHMENT = "moga"


def load_diffusion_model(
    path: str, model_options: dict[str, Any], disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """A model as core's loader makes it, carrying the routers of its file as an attachment.

    A model of static branches alone carries its settings. A file without either loads too; its
    model is dense, and can take routers from elsewhere.
    Raises CheckpointError and ConfigError, before anything large is read where the header and the
    routers allow.
    """
    source = Path(path).name
    routers, config = read_routers(path, source)
    if routers:
        check_alone(routers, config, source)
    tensors, metadata = _core(
        source, comfy.utils.load_torch_file, path, safe_load=True, return_metadata=True
    )
    base = split_routers(tensors, source=source)[0]
    del tensors
    build = comfy.sd.load_diffusion_model_state_dict
    options = _supported(build, metadata=metadata, disable_dynamic=disable_dynamic)
    model = _core(source, build, base, model_options=model_options, **options)
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


def _core(source: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call ComfyUI's loader, which raises whatever it trips over in a file that is not right."""
    mm = comfy.model_management
    try:
        return function(*args, **kwargs)
    except (mm.InterruptProcessingException, mm.OOM_EXCEPTION):
        raise
    except Exception as error:
        why = shorten(f"{type(error).__name__}: {error}", 200).rstrip(".")
        raise CheckpointError(
            f"{source} cannot be loaded by this ComfyUI ({why}); choose a whole file of a Wan 2.1 "
            "or 2.2 model."
        ) from error


def carried_routers(model: comfy.model_patcher.ModelPatcher) -> RouterSet | None:
    """The routers that `load_diffusion_model` attached to this model or its original."""
    return model.get_attachment(ATTACHMENT)


def _supported(function: Any, **options: Any) -> dict[str, Any]:
    """The options that this ComfyUI's function knows; 0.3.64 has neither."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in known}
