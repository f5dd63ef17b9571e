"""What the stages of a training share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from .cache.spec import CacheSpec
from .checkpoints import Checkpoints
from .journal import Journal, numbers
from .settings import Settings
from .validation import Film


@dataclass(frozen=True)
class Training:
    """A training on its way.

    bound: what its checkpoints are bound to. metadata: written into every file of weights.
    """

    settings: Settings
    accelerator: Accelerator
    spec: CacheSpec
    checkpoints: Checkpoints
    journal: Journal
    films: list[Film]
    bound: dict[str, Any]
    metadata: dict[str, str]

    @property
    def folder(self) -> Path:
        return self.settings.save.folder

    def result(self, index: int) -> Path:
        """The model that stage number `index` leaves to the next, in float32."""
        name = self.settings.stages[index].name
        return self.folder / "stages" / f"{index:02d}-{name}.safetensors"

    def adapter(self, index: int) -> Path:
        """The LoRA of all stages up to number `index`, where there is one."""
        return self.result(index).with_suffix(".lora.safetensors")

    def log(self, row: dict[str, Any]) -> None:
        """Write a row to the log, and its numbers to the trackers. Raises TrainingError."""
        if self.accelerator.is_main_process:
            self.journal.add(row)
        past = sum(stage.steps for stage in self.settings.stages[: row["stage"]])
        self.accelerator.log(numbers(row), step=past + row["step"])
