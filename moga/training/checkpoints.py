"""Checkpoints of a training: written whole or not at all, found again, and thinned out."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

# RuntimeErrors that no disk raises.
_ELSEWHERE: tuple[type[Exception], ...] = (torch.OutOfMemoryError,)
if torch.distributed.is_available():
    _ELSEWHERE += (torch.distributed.DistError,)

_NAME = re.compile(r"(\d{2})-(\d{8})")
PROGRESS = "progress.json"


class TrainingError(RuntimeError):
    """A training that cannot go on; the message says why, and what is safe."""


@dataclass(frozen=True)
class Progress:
    """Where a training stands: `step` steps of stage number `stage` are done.

    settings: what it is bound to, see `resume.bound_to`.
    """

    stage: int
    step: int
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.stage:02d}-{self.step:08d}"


class Checkpoints:
    """The folder of a training's checkpoints."""

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder, self.keep_last = folder, keep_last

    def all(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))

    def latest(self) -> tuple[Path, Progress] | None:
        """The newest checkpoint and where it stands. Raises TrainingError for a damaged one."""
        if not (paths := self.all()):
            return None
        try:
            data = json.loads((paths[-1] / PROGRESS).read_text(encoding="utf-8"))
            return paths[-1], Progress(**data)
        except (OSError, ValueError, TypeError) as error:
            raise TrainingError(
                f"the checkpoint {paths[-1]} is damaged ({error}); delete it to go on from the one "
                "before."
            ) from error

    def part(self, progress: Progress) -> Path:
        """The folder that a checkpoint grows in until it is complete."""
        return self.folder / f".{progress.name}.part"

    def begin(self, progress: Progress, size: int) -> Path:
        """Make room for a checkpoint of `size` bytes. Raises TrainingError when there is none."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(".*.part"):
            shutil.rmtree(left)
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise TrainingError(
                f"the disk of {self.folder} has {free / 1e9:.2f} GB free and a checkpoint takes "
                f"{size / 1e9:.2f} GB; make room and start again{self.safe()}."
            )
        part = self.part(progress)
        part.mkdir()
        return part

    def complete(self, progress: Progress) -> Path:
        """Give a checkpoint that is written its name, and drop the oldest ones."""
        part, path = self.part(progress), self.folder / progress.name
        (part / PROGRESS).write_text(json.dumps(vars(progress), indent=1), encoding="utf-8")
        for file in filter(Path.is_file, part.rglob("*")):
            with file.open("rb+") as written:
                os.fsync(written.fileno())  # its name must not outlive a power cut without it
        if path.exists():
            shutil.rmtree(path)
        part.rename(path)
        for old in self.all()[: -self.keep_last]:
            shutil.rmtree(old)
        return path

    def guarded(self, progress: Progress, write: Callable[[Path], None]) -> None:
        """Run `write` on the growing folder; what goes wrong there leaves no trace but a sentence.

        Raises TrainingError for what a disk does; errors of the GPU or the network pass through.
        """
        part = self.part(progress)
        try:
            write(part)
        except _ELSEWHERE:
            raise
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(part, ignore_errors=True)
            raise TrainingError(
                f"the checkpoint of step {progress.step} could not be written to {self.folder} "
                f"({error}); make room and start again{self.safe()}."
            ) from error

    def safe(self) -> str:
        """What a message may add: from where the training would go on."""
        found = self.latest()
        return f", it goes on from step {found[1].step}" if found else ", from the beginning"
