"""Folders as diffusers saves them: a pipeline with a folder for each model, or one model alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...checkpoint import CheckpointError
from ...shotscript import shorten
from ...tensors import read_tensors
from .weights import WeightFile

# What a config.json has to say of these where it names them; the rest is for diffusers to judge.
_WHOLE_NUMBERS = (
    *("num_attention_heads", "attention_head_dim", "num_layers", "in_channels", "out_channels"),
    *("text_dim", "freq_dim", "ffn_dim", "z_dim", "scale_factor_spatial", "d_model"),
)
_NAMES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
_MAY_BE_NONE = ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len")
# The largest number that is built from, by how its name begins: more would take hours and all
# memory before anything is held against the weights.
_MOST = {"num_": 1024, "rope_max_seq_len": 2**16, "attention_head_dim": 2**16, "": 2**24}


def part(folder: Path, name: str) -> Path | None:
    """The folder of a model inside that of a pipeline; None where there is none."""
    return folder / name if os.path.isfile(folder / name / "config.json") else None


def model(folder: Path, name: str) -> Path:
    """The folder of a model, inside that of a pipeline or by itself. Raises CheckpointError."""
    found = part(folder, name) or folder
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


def read_config(folder: Path, kind: str | None = None) -> Config:
    """The settings of a model, of its own folder.

    kind: the class that the folder has to be of, as it names it.
    Raises CheckpointError for a file that holds no such settings.
    """
    path = folder / "config.json"
    config = Config(path, read_object(path))
    if kind is not None and config.get("_class_name") != kind:
        found = shorten(str(config.get("_class_name")), 60)
        raise CheckpointError(
            f"{folder} holds a {found}, not a {kind}; choose a model of Wan 2.1 or 2.2."
        )
    for name, value in config.items():
        most = next(most for start, most in _MOST.items() if name.startswith(start))
        if isinstance(value, int | float) and not value <= most:
            raise _wrong(path, name, value)
    for name in (*_WHOLE_NUMBERS, *_MAY_BE_NONE):
        value = config.get(name, 1)
        if not (_is_size(value) or (value is None and name in _MAY_BE_NONE)):
            raise _wrong(path, name, value)
    patch = config.get("patch_size")  # of a VAE, one number or none
    sizes = patch if isinstance(patch, list) else [1 if patch is None else patch]
    if len(sizes) not in (1, 3) or not all(map(_is_size, sizes)):
        raise _wrong(path, "patch_size", patch)
    return config


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


def weights(folder: Path) -> WeightFile:
    """The headers of a model's weights, in one file or several, as one. Raises CheckpointError."""
    index = next(folder.glob("*.safetensors.index.json"), None)
    if index is None:
        names = [name for name in _NAMES if os.path.isfile(folder / name)][:1]
    else:
        files = read_object(index).get("weight_map")
        names = sorted(set(map(str, files.values()))) if isinstance(files, dict) else []
    found = Shards.joined(folder, [WeightFile.open(folder / name) for name in names])
    if not found.shapes:
        raise CheckpointError(f"{folder} holds no .safetensors weights; copy all of it.")
    return found


@dataclass(frozen=True)
class Shards(WeightFile):
    """The weights of a folder. places: the file of each key."""

    places: dict[str, Path]

    @classmethod
    def joined(cls, folder: Path, files: list[WeightFile]) -> Shards:
        shapes: dict[str, tuple[int, ...]] = {}
        dtypes: dict[str, str] = {}
        places: dict[str, Path] = {}
        for file in files:
            shapes |= file.shapes
            dtypes |= file.dtypes
            places |= dict.fromkeys(file.shapes, file.path)
        return cls(folder, shapes, dtypes, {}, places)

    @property
    def name(self) -> str:
        return str(self.path)

    def read(self, keys: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """The tensors of `keys`, file by file."""
        wanted = set(keys)
        for path in dict.fromkeys(self.places.values()):
            yield from read_tensors(path, [k for k in wanted if self.places[k] == path])


def damaged(folder: Path, error: Exception) -> CheckpointError:
    """The error for a folder that could not be loaded."""
    why = shorten(str(error), 200).rstrip(".")
    return CheckpointError(f"{folder} cannot be loaded ({why}); copy all of it again.")


def _is_size(value: object) -> bool:
    return type(value) is int and value > 0


def _wrong(path: Path, name: str, value: object) -> CheckpointError:
    found = shorten(repr(value), 60)
    return CheckpointError(f"{path} has {name} as {found}; copy the whole folder again.")
