"""Folders as diffusers saves them: a pipeline with a folder for each model, or one model alone."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import ConfigMixin
from torch import Tensor

from ...checkpoint import CheckpointError
from ...shots.script import shorten
from ...tensor_file import TensorFile
from ...wan import CHANNELS
from .weights import open_weights

_WEIGHTS = ("diffusion_pytorch_model.safetensors", "model.safetensors")
# What is read here; the rest is for the classes of diffusers and transformers to judge.
_SIZES = (
    *("num_attention_heads", "attention_head_dim", "num_layers", "in_channels", "out_channels"),
    *("text_dim", "freq_dim", "ffn_dim", "z_dim", "d_model"),
    *("scale_factor_spatial", "scale_factor_temporal"),
)
_SIZES_OR_NONE = ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len")
# The largest number that is built from, by how its name begins: more would take hours and all
# memory before anything is held against the weights.
_MOST = {"num_": 1024, "rope_max_seq_len": 2**16, "attention_head_dim": 2**16, "": 2**24}


def part(folder: Path, name: str) -> Path | None:
    """The folder of a model inside that of a pipeline; None where there is none."""
    return folder / name if os.path.isfile(folder / name / "config.json") else None


def model(folder: Path, name: str, otherwise: str | None = None) -> Path:
    """The folder of a model, inside that of a pipeline or by itself. Raises CheckpointError.

    otherwise: what to use instead of a model by itself, where that will not do.
    """
    found = part(folder, name)
    if found is None and otherwise is not None:
        raise CheckpointError(f"{folder} has no {name}; {otherwise}.")
    found = found or folder
    if not os.path.isfile(found / "config.json"):
        raise CheckpointError(
            f"{found} has no config.json; give a diffusers folder, or one .safetensors file."
        )
    return found


class Config(dict[str, Any]):
    """The settings of a model. A setting that is missing raises CheckpointError."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise CheckpointError(f"{self.path} lacks {key}; copy the whole folder again.")


def read_config(folder: Path, kind: Any = None) -> Config:
    """The settings of a model, of its own folder.

    kind: the class of diffusers that the folder has to be of, or of transformers' settings.
    Raises CheckpointError for a file that holds no such settings.
    """
    path = folder / "config.json"
    config = Config(path, read_object(path))
    defaults = {} if kind is None else _defaults(kind)
    found = config.get("_class_name")
    if kind is not None and issubclass(kind, ConfigMixin) and found != kind.__name__:
        raise CheckpointError(
            f"{folder} holds a {shorten(str(found), 60)}, not a {kind.__name__}; choose a model of "
            "Wan 2.1 or 2.2."
        )
    for name, value in config.items():
        most = next(most for start, most in _MOST.items() if name.startswith(start))
        large = isinstance(value, int | float) and not value <= most
        if large or not (value is None or _fits(value, defaults.get(name))):
            raise _wrong(path, name, value)
    for name in (*_SIZES, *_SIZES_OR_NONE):
        value = config.get(name, 1)
        if not (_is_size(value) or (value is None and name in _SIZES_OR_NONE)):
            raise _wrong(path, name, value)
    patch, channels = config.get("patch_size"), config.get("z_dim", CHANNELS)
    if not (patch is None or isinstance(patch, list) or _is_size(patch)):
        raise _wrong(path, "patch_size", patch)
    lengths = {"patch_size": 3, "latents_mean": channels, "latents_std": channels}
    for name, length in lengths.items():
        value = config.get(name)
        if isinstance(value, list) and len(value) != length:
            raise _wrong(path, name, value)
    return config


def _defaults(kind: Any) -> dict[str, Any]:
    """The settings that a class has where a file names none."""
    if not issubclass(kind, ConfigMixin):
        return kind().to_dict()
    return {name: p.default for name, p in inspect.signature(kind.__init__).parameters.items()}


def _fits(value: object, default: object) -> bool:
    """Whether a setting is of the type that its default has."""
    if isinstance(default, bool | str):
        return type(value) is type(default)
    if isinstance(default, int):
        return type(value) is int and (value > 0 or default < 1)
    if isinstance(default, float):
        return type(value) in (int, float)
    if isinstance(default, list | tuple):
        of = default[0] if default else None
        return isinstance(value, list) and all(_fits(one, of) for one in value)
    return True


def read_object(path: Path) -> dict[str, Any]:
    """What a JSON file holds, which has to be an object. Raises CheckpointError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = shorten(str(error), 100)
        raise CheckpointError(f"{path} is damaged ({why}); copy the folder again.") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds no settings by name; copy the folder again.")
    return data


def weights(folder: Path) -> TensorFile:
    """The headers of a model's weights, in one file or several, as one. Raises CheckpointError."""
    names: list[str] = []
    for name in _WEIGHTS:
        index = folder / f"{name}.index.json"
        if os.path.isfile(folder / name):
            names = [name]
        elif os.path.isfile(index):
            files = read_object(index).get("weight_map")
            names = sorted(set(map(str, files.values()))) if isinstance(files, dict) else []
    found = Shards.joined(folder, [open_weights(folder / name) for name in names])
    if not found.shapes:
        raise CheckpointError(f"{folder} holds no .safetensors weights; copy all of it.")
    return found


@dataclass(frozen=True, eq=False)
class Shards(TensorFile):
    """The weights of a folder. places: the file of each key."""

    places: Mapping[str, TensorFile]

    @classmethod
    def joined(cls, folder: Path, files: list[TensorFile]) -> Shards:
        shapes: dict[str, tuple[int, ...]] = {}
        dtypes: dict[str, str] = {}
        places: dict[str, TensorFile] = {}
        for file in files:
            shapes |= file.shapes
            dtypes |= file.dtypes
            places |= dict.fromkeys(file.shapes, file)
        return cls(folder, shapes, dtypes, {}, places)

    @property
    def name(self) -> str:
        return str(self.path)

    def read(self, keys: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """The tensors of `keys`, file by file."""
        wanted = set(keys)
        for file in dict.fromkeys(self.places.values()):
            within = [key for key, place in self.places.items() if place is file]
            yield from file.read([key for key in within if key in wanted])


def damaged(folder: Path, error: Exception) -> CheckpointError:
    """The error for a folder that could not be loaded."""
    why = shorten(str(error), 200).rstrip(".")
    return CheckpointError(f"{folder} cannot be loaded ({why}); copy all of it again.")


def _is_size(value: object) -> bool:
    return type(value) is int and value > 0


def _wrong(path: Path, name: str, value: object) -> CheckpointError:
    found = shorten(repr(value), 60)
    return CheckpointError(f"{path} has {name} as {found}; copy the whole folder again.")
