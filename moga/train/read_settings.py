"""The settings of a training, from a TOML file and `--section.key value` words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..toml_settings import SettingsError, read_toml, settled
from .settings import Settings

__all__ = ["SettingsError", "read_settings"]
PATHS = ("data.rows", "data.validation_rows", "data.cache", "data.vae", "data.text_encoder",
         "model.file", "save.folder")  # fmt: skip


def read_settings(path: Path, words: Sequence[str] = ()) -> Settings:
    """The settings of a TOML file, changed by `words` such as ["--stages.0.steps", "10"].

    Paths in the file are relative to it, those among the words to the working folder.
    Raises SettingsError.
    """
    data = read_toml(path)
    _resolve(data, path.absolute().parent)
    return settled(Settings, data, words)


def _resolve(data: dict[str, Any], folder: Path) -> None:
    """Make the paths of the file absolute, those that it leaves to their defaults too."""
    for section, key, default in (("data", "cache", "cache"), ("save", "folder", "training")):
        if isinstance(table := data.setdefault(section, {}), dict):
            table.setdefault(key, default)
    for dotted in PATHS:
        section, key = dotted.split(".")
        table = data.get(section)
        if isinstance(table, dict) and isinstance(table.get(key), str):
            table[key] = str(folder / table[key])
    routers = data.get("model", {}).get("routers") if isinstance(data.get("model"), dict) else None
    if isinstance(routers, str) and routers not in ("random", "file"):
        data["model"]["routers"] = str(folder / routers)
    table = data.get("validation")
    if isinstance(table, dict) and isinstance(table.get("scripts"), list):
        table["scripts"] = [str(folder / str(script)) for script in table["scripts"]]
