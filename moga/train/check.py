"""What can be judged before anything is computed: that the files of a training belong together."""

from __future__ import annotations

import difflib
import importlib.util
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from accelerate import init_empty_weights
from diffusers import WanTransformer3DModel
from torch import nn

from ..checkpoint import config_in
from ..errors import MogaError
from ..hosts.diffusers import check_together, router_shapes
from ..kernels import AUTO, require
from ..shots import ShotList
from ..shots.script import located
from ..tensor_file import TensorFile
from ..video.ffmpeg import find_ffmpeg, hidden_window
from .cache.spec import check_multiple
from .folders import unwritable
from .model_files import ModelFiles, model_files, there
from .optimizers import check_optimizer
from .read_settings import SettingsError
from .settings import LORA_TARGETS, Settings

Found = TypeVar("Found")


def check(settings: Settings) -> int:
    """Hold the settings and the headers of all files against each other.

    Returns the pixels of a token, along width and height.
    Raises SettingsError: a line for everything that is wrong, each with what to change.
    """
    problems = [*_wrong_inputs(settings), *_wrong_places(settings), *_wrong_choices(settings)]
    files = model_files(settings)
    transformer, unlike_model = _tried(lambda: files.transformer)
    _, unlike_routers = _tried(lambda: _check_groups(settings, files))
    vae, unlike_vae = _tried(lambda: files.vae)
    text, unlike_text = _tried(lambda: files.text_encoder)
    problems += [*unlike_model, *unlike_routers, *unlike_vae, *unlike_text]
    if transformer and vae:
        problems += _wrong(lambda: check_together(transformer, vae))
        pixels = vae.stride * transformer.config["patch_size"][1]
        for name in ("width", "height"):
            size = getattr(settings.data, name)
            problems += _wrong(partial(check_multiple, f"data.{name}", size, pixels))
        problems += _wrong(lambda: _check_tokens(settings, pixels))
    if transformer:
        problems += _wrong(lambda: _check_lora(settings, transformer.config["num_layers"]))
        problems += _wrong(lambda: _check_heads(settings, transformer.config))
    if transformer and text:
        problems += _wrong(lambda: check_together(transformer, text_encoder=text))
    if problems:
        raise SettingsError("\n".join(dict.fromkeys(problems)))
    return pixels


def _tried(find: Callable[[], Found], before: str = "") -> tuple[Found | None, list[str]]:
    """What `find` gives, and in words what was wrong with it, if anything."""
    try:
        return find(), []
    except MogaError as error:
        return None, [f"{before}{error}"]


def _wrong(judge: Callable[[], object], before: str = "") -> list[str]:
    """What stops `judge`, in words."""
    return _tried(judge, before)[1]


def _wrong_inputs(settings: Settings) -> Iterator[str]:
    """Clips, and scripts of films."""
    data, scripts = settings.data, settings.validation.scripts
    for name, path in (("data.rows", data.rows), ("data.validation_rows", data.validation_rows)):
        if path is not None:
            yield from _wrong(partial(there, name, path))
    for number, path in enumerate(scripts):
        yield from _wrong(partial(_check_script, f"validation.scripts.{number}", path, data.fps))
    for script in scripts:
        same = [path for path in scripts if path.stem == script.stem]
        if len(same) > 1:
            yield (
                f"validation.scripts has {' and '.join(map(str, same))}, whose films would have "
                "one name; rename one."
            )


def _wrong_places(settings: Settings) -> Iterator[str]:
    """Folders that are written to, and the program that reads clips."""
    cache, folder = settings.data.cache, settings.save.folder
    yield from _wrong(lambda: _may_be_folder("data.cache", cache, whole=True))
    yield from _wrong(lambda: _may_be_folder("save.folder", folder))
    yield from _wrong(_ffmpeg_runs)


def _wrong_choices(settings: Settings) -> Iterator[str]:
    """Attention, and what is chosen among packages that may be there."""
    for stage in settings.stages:
        yield from _wrong(partial(settings.moga.config, stage), f"stage {stage.name!r}: ")
    if settings.backend != AUTO:
        yield from _wrong(lambda: require(settings.backend))
    yield from _wrong(lambda: check_optimizer(settings.optimizer))
    for tracker in settings.log.trackers:
        if importlib.util.find_spec(tracker) is None:
            yield f"log.trackers names {tracker!r}; install it, or leave it out."


def _check_script(name: str, path: Path, fps: float) -> None:
    with located(name):
        there(name, path)
        ShotList.read(path, fps)


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
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise SettingsError(
            "clips are read by ffmpeg, which imageio-ffmpeg brings and is not installed; run "
            "`pip install imageio-ffmpeg`."
        )
    try:
        command = [find_ffmpeg(), "-version"]
        subprocess.run(command, check=True, capture_output=True, **hidden_window())
    except (ImportError, OSError, subprocess.CalledProcessError) as error:
        why = "there is no program" if isinstance(error, ImportError) else error
        raise SettingsError(
            f"clips are read by ffmpeg, which does not run ({why}); run `pip install "
            "--force-reinstall imageio-ffmpeg`, or let IMAGEIO_FFMPEG_EXE name a program that does."
        ) from None


def _check_groups(settings: Settings, files: ModelFiles) -> None:
    """Routers pass from stage to stage unless a stage asks for another number of groups.

    Raises SettingsError, CheckpointError.
    """
    if settings.model.attention == "dense" or "routed" not in settings.moga.branches:
        return
    groups = None
    if files.routers is not None:
        groups = _groups_of(files.routers)
        if settings.stages[0].groups in (None, groups):
            _check_merge(settings, files.routers)
    for stage in settings.stages:
        wanted = stage.groups or settings.moga.groups
        if groups not in (None, wanted) and stage.groups is None:
            raise SettingsError(
                f"stage {stage.name!r} gets routers of {groups} groups and moga.groups is "
                f"{wanted}; set moga.groups to {groups}, or give the stage its groups, which makes "
                "new routers."
            )
        groups = wanted


def _check_merge(settings: Settings, file: TensorFile) -> None:
    """Raise SettingsError for routers that were trained with another merge of the branches."""
    saved, asked = config_in(file.metadata), settings.moga.combine
    if saved is not None and saved.combine != asked:
        raise SettingsError(
            f"model.routers is {file.name}, which was trained with combine {saved.combine!r}, and "
            f"moga.combine is {asked!r}; set it to {saved.combine!r}, or model.routers to 'random'."
        )


def _groups_of(file: TensorFile) -> int:
    """The number of groups that all routers of a file have. Raises SettingsError."""
    shapes = [shape for router in router_shapes(file).values() for shape in router.values()]
    sizes = {shape[0] if shape else 0 for shape in shapes}
    if len(sizes) > 1:
        raise SettingsError(
            f"model.routers is {file.name}, whose routers differ in their number of groups "
            f"({', '.join(map(str, sorted(sizes)))}); use a whole file of routers."
        )
    return sizes.pop()


def _check_heads(settings: Settings, config: Mapping[str, Any]) -> None:
    """Raise SettingsError where a process that shares a clip would have no head to attend with."""
    sequence, heads = settings.parallel.sequence, config["num_attention_heads"]
    if sequence > heads:
        raise SettingsError(
            f"parallel.sequence is {sequence}, but the model has {heads} attention "
            f"{'head' if heads == 1 else 'heads'}, and each process needs one; give {heads} or "
            "fewer."
        )


def _check_tokens(settings: Settings, pixels: int) -> None:
    """Raise SettingsError where the shortest clip, of one frame, has no token for a process."""
    data, sequence = settings.data, settings.parallel.sequence
    tokens = (data.width // pixels) * (data.height // pixels)
    if sequence > max(tokens, 1):
        raise SettingsError(
            f"parallel.sequence is {sequence}, but a frame of {data.width}x{data.height} has "
            f"{tokens} tokens, and each process needs one; give {tokens} or fewer."
        )


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
