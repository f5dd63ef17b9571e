"""Folders as diffusers saves them: a pipeline with a folder for each model, or one model alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...checkpoint import CheckpointError


def part(folder: Path, name: str) -> Path | None:
    """The folder of a model inside that of a pipeline; None where there is none."""
    return folder / name if (folder / name / "config.json").is_file() else None


def model(folder: Path, name: str) -> Path:
    """The folder of a model, inside that of a pipeline or by itself. Raises CheckpointError."""
    found = part(folder, name) or folder
    if not (found / "config.json").is_file():
        raise CheckpointError(
            f"{found} has no config.json; give a diffusers folder, or one .safetensors file."
        )
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of a model, of its own folder."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))
