"""What can be judged before anything is computed: that the files of a training belong together."""

from __future__ import annotations

import difflib
import importlib.util
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from diffusers import WanTransformer3DModel
from torch import nn

from ..checkpoint import CheckpointError
from ..config import ConfigError
from ..hosts.diffusers import folders
from ..hosts.diffusers.pipeline import check_text_width, check_vae, takes_image
from ..hosts.diffusers.text_encoder import open_text_encoder, text_encoder_folder, umt5_config
from ..hosts.diffusers.transformer import open_routers, open_wan, router_shapes, wan_config
from ..kernels import AUTO, BackendError, require
from ..shots import ShotList
from ..shots.script import ShotScriptError, located
from ..video.ffmpeg import find_ffmpeg, hidden_window
from ..wan import CHANNELS, SPATIAL_STRIDE
from .cache.spec import CacheError, check_multiple, vae_settings
from .folders import unwritable
from .optimizers import check_optimizer
from .read_settings import SettingsError
from .settings import LORA_TARGETS, Settings

_WRONG = (BackendError, CacheError, CheckpointError, ConfigError, SettingsError, ShotScriptError)


def check(settings: Settings) -> int:
    """Hold the settings and the headers of all files against each other.

    Returns the pixels of a token, along width and height.
    Raises SettingsError: a line for everything that is wrong, each with what to change.
    """
    data, problems = settings.data, _Problems()
    for name, path in (("data.rows", data.rows), ("data.validation_rows", data.validation_rows)):
        with problems.kept():
            if path is not None:
                _there(name, path)
    for number, path in enumerate(settings.validation.scripts):
        name = f"validation.scripts.{number}"
        with problems.kept(), located(name):
            _there(name, path)
            ShotList.read(path, data.fps)
    for script in settings.validation.scripts:
        same = [path for path in settings.validation.scripts if path.stem == script.stem]
        if len(same) > 1:
            problems.append(
                f"validation.scripts has {' and '.join(map(str, same))}, whose films would have "
                "one name; rename one."
            )
    with problems.kept():
        _may_be_folder("data.cache", data.cache, whole=True)
    with problems.kept():
        _may_be_folder("save.folder", settings.save.folder)
    with problems.kept():
        _ffmpeg_runs()
    for stage in settings.stages:
        with problems.kept(f"stage {stage.name!r}: "):
            settings.moga.config(stage)
    with problems.kept():
        if settings.backend != AUTO:
            require(settings.backend)
    with problems.kept():
        check_optimizer(settings.optimizer)
    for tracker in settings.log.trackers:
        if importlib.util.find_spec(tracker) is None:
            problems.append(f"log.trackers names {tracker!r}; install it, or leave it out.")
    config = vae = width = None
    with problems.kept():
        config = _transformer(settings)
    with problems.kept():
        _check_groups(settings)
    with problems.kept():
        _there("data.vae", data.vae, folder=True)
        vae = vae_settings(data.vae)
    with problems.kept():
        _there("data.text_encoder", data.text_encoder, folder=True)
        width = _text_width(data.text_encoder)
    if config and vae:
        with problems.kept():
            check_vae(vae.get("z_dim", CHANNELS), config["out_channels"])
        pixels = vae.get("scale_factor_spatial", SPATIAL_STRIDE) * config["patch_size"][1]
        for name in ("width", "height"):
            with problems.kept():
                check_multiple(f"data.{name}", getattr(data, name), pixels)
    if config:
        with problems.kept():
            _check_lora(settings, config["num_layers"])
    if config and width:
        with problems.kept():
            check_text_width(width, config["text_dim"])
    if problems:
        raise SettingsError("\n".join(dict.fromkeys(problems)))
    return pixels


class _Problems(list[str]):
    """What is wrong, in words."""

    @contextmanager
    def kept(self, before: str = "") -> Iterator[None]:
        """Note what stops the block, and go on after it."""
        try:
            yield
        except _WRONG as error:
            self.append(f"{before}{error}")


def _there(name: str, path: Path, *, folder: bool = False) -> None:
    if not (path.is_file() or (folder and path.is_dir())):
        raise SettingsError(f"{name} is {path}, which is not there; check the path.")


def _may_be_folder(name: str, path: Path, *, whole: bool = False) -> None:
    """whole: a folder that is there may have all that is needed, and is not judged here."""
    found = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not found.is_dir():
        raise SettingsError(f"{name} is {path}, but {found} is a file; choose another folder.")
    if not (whole and found == path) and (why := unwritable(path)):
        raise SettingsError(
            f"{name} is {path}, which cannot be written ({why}); choose another folder."
        )


def _ffmpeg_runs() -> None:
    try:
        command = [find_ffmpeg(), "-version"]
        subprocess.run(command, check=True, capture_output=True, **hidden_window())
    except ImportError:
        raise SettingsError(
            "clips are read by ffmpeg, which imageio-ffmpeg brings and is not installed; run "
            "`pip install imageio-ffmpeg`."
        ) from None
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        raise SettingsError(
            f"clips are read by ffmpeg, which does not run ({error}); run `pip install "
            "--force-reinstall imageio-ffmpeg`, or let IMAGEIO_FFMPEG_EXE name a program that does."
        ) from None


def _check_groups(settings: Settings) -> None:
    """Routers pass from stage to stage unless a stage asks for another number of groups.

    Raises SettingsError, CheckpointError.
    """
    if settings.model.attention == "dense" or "routed" not in settings.moga.branches:
        return
    groups = None
    if settings.model.routers not in ("random", "file"):
        _there("model.routers", settings.model.routers)
        file = open_routers(settings.model.routers)
        groups = next(iter(router_shapes(file).values()))["weight"][0]
    for stage in settings.stages:
        wanted = stage.groups or settings.moga.groups
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
        return {
            "num_layers": model.scratch.layers,
            "out_channels": model.scratch.channels,
            "text_dim": model.scratch.text,
            "patch_size": (1, 2, 2),
        }
    _there("model.file", model.file, folder=True)
    if model.routers == "file" and (model.file.is_dir() or not router_shapes(open_wan(model.file))):
        raise SettingsError(
            f"model.routers is 'file', but {model.file.name} holds no routers; give a router file, "
            "or 'random'."
        )
    if model.file.is_dir():
        config = folders.read_config(folders.model(model.file, "transformer"))
    else:
        config = wan_config(open_wan(model.file))
    if takes_image(config):
        raise SettingsError(
            f"model.file is {model.file.name}, which begins with an image; this trainer knows "
            "text-to-video models, so choose one of those."
        )
    return config


def _check_lora(settings: Settings, layers: int) -> None:
    """Raise SettingsError for a target that names no linear layer, which peft would pass over."""
    if all(stage.train != "lora" for stage in settings.stages):
        return
    with init_empty_weights():
        dit = WanTransformer3DModel(num_layers=layers)
    linear = [name for name, module in dit.named_modules() if isinstance(module, nn.Linear)]
    for target in settings.lora.targets:
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            near = difflib.get_close_matches(target, LORA_TARGETS, 1, 0)[0]
            raise SettingsError(
                f"lora.targets has {target!r}, which no linear layer of the model is named; did "
                f"you mean {near!r}?"
            )


def _text_width(path: Path) -> int:
    if path.is_dir():
        return folders.read_config(text_encoder_folder(path))["d_model"]
    return umt5_config(open_text_encoder(path).shapes)["d_model"]
