"""The numbers of a training: log.jsonl, which a resumed training continues, and trackers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import written_whole
from .checkpoints import writing


class Journal:
    """log.jsonl in the folder of a training: one row for each logged step.

    A resumed training drops the rows of steps that it will do again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

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
        """Log a row. Raises TrainingError where it cannot be written."""
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(_line(row))


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """A row as trackers take it: a list becomes one number per layer."""
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, list):
            found |= {f"{name}/{layer:02d}": one for layer, one in enumerate(value)}
        elif isinstance(value, (int, float)) and name not in ("stage", "step"):
            found[name] = value
    return found


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"
