"""What can be judged before anything is computed: that the files of a training belong together."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import ConfigError
from ..hosts.diffusers.pipeline import check_text_width, check_vae, takes_image
from ..hosts.diffusers.text_encoder import open_text_encoder, umt5_config
from ..hosts.diffusers.transformer import open_routers, open_wan, router_shapes, wan_config
from ..kernels import AUTO, require
from .cache_spec import vae_settings
from .optimizers import check_optimizer
from .read_settings import SettingsError
from .settings import Settings
from .validation import read_scripts


def check(settings: Settings) -> int:
    """Hold the settings and the headers of all files against each other.

    Returns the pixels of a token, along width and height.
    Raises SettingsError, CheckpointError, ConfigError, BackendError and ShotScriptError, each with
    what to change.
    """
    files = {"data.rows": settings.data.rows, "data.validation_rows": settings.data.validation_rows}
    for number, path in enumerate(settings.validation.scripts):
        files[f"validation.scripts.{number}"] = path
    for name, path in files.items():
        if path is not None and not path.is_file():
            raise SettingsError(f"{name} is {path}, which is not there; check the path.")
    for stage in settings.stages:
        try:
            settings.moga.config(stage)
        except ConfigError as error:
            raise SettingsError(f"stage {stage.name!r}: {error}") from None
    _check_groups(settings)
    if settings.backend != AUTO:
        require(settings.backend)
    check_optimizer(settings.optimizer)
    for tracker in settings.log.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise SettingsError(f"log.trackers names {tracker!r}; install it, or leave it out.")
    config = _transformer(settings)
    vae = vae_settings(settings.data.vae)
    check_vae(vae.get("z_dim", 16), config["out_channels"])
    check_text_width(_text_width(settings.data.text_encoder), config["text_dim"])
    pixels = vae.get("scale_factor_spatial", 8) * config["patch_size"][1]
    _check_size(settings, pixels)
    read_scripts(settings)
    return pixels


def _check_groups(settings: Settings) -> None:
    """Routers pass from stage to stage unless a stage asks for another number of groups."""
    if settings.model.attention == "dense" or "routed" not in settings.moga.branches:
        return
    groups = None
    if settings.model.routers not in ("random", "file"):
        file = open_routers(settings.model.routers)
        groups = next(iter(router_shapes(file).values()))["weight"][0]
    for stage in settings.stages:
        wanted = settings.moga.config(stage).groups
        if groups not in (None, wanted) and stage.groups is None:
            raise SettingsError(
                f"stage {stage.name!r} gets routers of {groups} groups and moga.groups is "
                f"{wanted}; set moga.groups to {groups}, or give the stage its groups, which makes "
                "new routers."
            )
        groups = wanted


def _transformer(settings: Settings) -> Mapping[str, Any]:
    model = settings.model
    if model.scratch is not None:
        if model.routers == "file":
            raise SettingsError(
                "model.routers is 'file', but model.scratch has none; use 'random'."
            )
        channels = model.scratch.channels
        return {"out_channels": channels, "text_dim": model.scratch.text, "patch_size": (1, 2, 2)}
    if model.routers == "file" and (model.file.is_dir() or not router_shapes(open_wan(model.file))):
        raise SettingsError(
            f"model.routers is 'file', but {model.file.name} holds no routers; give a router file, "
            "or 'random'."
        )
    if model.file.is_dir():
        config = _config(model.file, "transformer")
    else:
        config = wan_config(open_wan(model.file))
    if takes_image(config):
        raise SettingsError(
            f"model.file is {model.file.name}, which begins with an image; this trainer knows "
            "text-to-video models, so choose one of those."
        )
    return config


def _text_width(path: Path) -> int:
    if path.is_dir():
        return _config(path, "text_encoder")["d_model"]
    return umt5_config(open_text_encoder(path).shapes)["d_model"]


def _config(folder: Path, part: str) -> Mapping[str, Any]:
    for place in (folder / part, folder):
        if (place / "config.json").is_file():
            return json.loads((place / "config.json").read_text(encoding="utf-8"))
    raise SettingsError(f"{folder} has no {part}; give a diffusers folder or a .safetensors file.")


def _check_size(settings: Settings, multiple: int) -> None:
    for name in ("width", "height"):
        value = getattr(settings.data, name)
        if value % multiple:
            near = max(multiple, round(value / multiple) * multiple)
            raise SettingsError(
                f"data.{name} is {value}; this model needs a multiple of {multiple}, such as "
                f"{near}."
            )
