"""Folders as diffusers saves them: a pipeline with a folder for each model, or one model alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ...checkpoint import CheckpointError
from ...shotscript import shorten

# What a config.json has to say of these where it names them; the rest is for diffusers to judge.
_WHOLE_NUMBERS = (
    *("num_attention_heads", "attention_head_dim", "num_layers", "in_channels", "out_channels"),
    *("text_dim", "freq_dim", "ffn_dim", "z_dim", "scale_factor_spatial", "d_model"),
)
_MAY_BE_NONE = ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len")


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


def load(loader: Any, folder: Path, **options: Any) -> Any:
    """A model through its class's `from_pretrained`, whole or not at all; nothing is downloaded.

    Raises CheckpointError, as diffusers and transformers raise whatever they trip over, and begin
    with random weights where a folder lacks some.
    """
    try:
        found, told = loader.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
        )
    except Exception as error:
        raise damaged(folder, error) from error
    if missing := sorted(told["missing_keys"]):
        raise CheckpointError(
            f"{folder} lacks {len(missing)} weights, such as {missing[0]}; copy all of it again."
        )
    return found


def damaged(folder: Path, error: Exception) -> CheckpointError:
    """The error for a folder that could not be loaded."""
    why = shorten(str(error), 200).rstrip(".")
    return CheckpointError(f"{folder} cannot be loaded ({why}); copy all of it again.")


def _is_size(value: object) -> bool:
    return type(value) is int and 0 < value < 2**31


def _wrong(path: Path, name: str, value: object) -> CheckpointError:
    found = shorten(repr(value), 60)
    return CheckpointError(f"{path} has {name} as {found}; copy the whole folder again.")
