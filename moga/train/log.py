"""The numbers of a training: log.jsonl, which a resumed training continues, and trackers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..files import written_whole
from .errors import writing
from .settings import Settings


class Log:
    """One row for each logged step: `stage`, `step` within it, and numbers by their names.

    A resumed training drops the rows of steps that it will do again.
    """

    def __init__(self, path: Path, settings: Settings, accelerator: Accelerator) -> None:
        self.path, self._every, self._accelerator = path, settings.log.every, accelerator
        self._steps = [stage.steps for stage in settings.stages]

    def due(self, step: int, last: int) -> bool:
        """Whether a step is logged, of a stage that ends with step `last`."""
        return step % self._every == 0 or step == last

    def rows(self) -> list[dict[str, Any]]:
        """All complete rows."""
        if not self.path.is_file():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:  # cut off by a crash
                break
        return rows

    def cut(self, stage: int, step: int) -> None:
        """Keep what was logged up to `step` steps of stage number `stage`.

        Raises TrainingError where it cannot be written.
        """
        kept = [row for row in self.rows() if (row["stage"], row["step"]) <= (stage, step)]
        with writing(self.path), written_whole(self.path) as partial:
            partial.write_text("".join(map(_line, kept)), encoding="utf-8")

    def add(self, row: Mapping[str, Any]) -> None:
        """Log a row in the file and the trackers. All processes call it, one writes.

        Raises TrainingError where it cannot be written.
        """
        if self._accelerator.is_main_process:
            with writing(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(_line(row))
        past = sum(self._steps[: row["stage"]])
        self._accelerator.log(_numbers(row), step=past + row["step"])


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """A row as trackers take it: a list becomes one number per layer."""
    numbers: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, list):
            numbers |= {f"{name}/{layer:02d}": one for layer, one in enumerate(value)}
        elif isinstance(value, (int, float)) and name not in ("stage", "step"):
            numbers[name] = value
    return numbers


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"
