"""What is written down of how weights were made: versions, revision, settings, device."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib import metadata as packages
from pathlib import Path

import torch
from accelerate import Accelerator

from .errors import writing
from .settings import Settings
from .workspace import Workspace


def metadata(settings: Settings) -> dict[str, str]:
    """What every file of weights says about its making."""
    about = {"revision": _revision(), "settings": settings.model_dump(mode="json")}
    return {"moga_training": json.dumps(about)}


def write_settings(workspace: Workspace, settings: Settings, accelerator: Accelerator) -> None:
    """Write down what is about to run. Raises TrainingError."""
    about = {
        "revision": _revision(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("torch", "diffusers", "accelerate", "peft")},
        "processes": accelerator.num_processes,
        "distributed": accelerator.distributed_type.value,
        "device": _device(accelerator.device),
        "settings": settings.model_dump(mode="json"),
    }
    with writing(workspace.settings):
        workspace.settings.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _revision() -> str:
    """The version of moga, and the git revision where there is one."""
    version = "moga " + (_version("moga") or "from a folder")
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return version
    return f"{version}, git {described.stdout.strip()}"


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _version(package: str) -> str | None:
    try:
        return packages.version(package)
    except packages.PackageNotFoundError:
        return None
