"""The folder of a training: every path that it writes or reads there.

What is in a checkpoint is of `checkpoints`, what is in a cache of `cache`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .settings import Settings

# What killed runs leave: things get a name of their own when they are whole.
_UNFINISHED = (".log.jsonl.*.part", "log.part", ".*.safetensors.*.part", "stages/.*.part",
               "checkpoints/.*.part", "films/[0-9][0-9]-*.partial*")  # fmt: skip


@dataclass(frozen=True)
class Workspace:
    """folder: `save.folder`. stages: their names, in order."""

    folder: Path
    stages: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> Workspace:
        return cls(settings.save.folder, tuple(stage.name for stage in settings.stages))

    @property
    def lock(self) -> Path:
        """Held by the training that runs, and says which."""
        return self.folder / ".training.lock"

    @property
    def settings(self) -> Path:
        """What ran last: settings, versions, device."""
        return self.folder / "settings.json"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        """A folder."""
        return self.folder / "checkpoints"

    @property
    def evaluating(self) -> Path:
        """What is evaluated just now; there as long as that takes."""
        return self.folder / "looking.json"

    def film(self, stage: int, step: int, name: str) -> Path:
        """What the model shows of a script after `step` steps of a stage."""
        return self.folder / "films" / f"{stage:02d}-{step:08d}-{name}.mp4"

    def stage_model(self, stage: int) -> Path:
        """The model that a stage leaves to the next, in float32."""
        return self.folder / "stages" / f"{stage:02d}-{self.stages[stage]}.safetensors"

    def stage_adapter(self, stage: int) -> Path:
        """The LoRA of all stages up to this one, where there is one."""
        return self.stage_model(stage).with_suffix(".lora.safetensors")

    @property
    def model(self) -> Path:
        """What people use: the whole model."""
        return self.folder / "model.safetensors"

    def checkpoint_model(self, stage: int, step: int) -> Path:
        """The whole model as it was after `step` steps of a stage."""
        return self.folder / f"model-{stage:02d}-{step:08d}.safetensors"

    @property
    def routers(self) -> Path:
        return self.folder / "routers.safetensors"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter.safetensors"

    def unfinished(self) -> Iterator[Path]:
        """What runs that were killed left half written."""
        for pattern in _UNFINISHED:
            yield from self.folder.glob(pattern)
