"""Answers that were paid for, each kept under a hash of all that was asked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....files import written_whole

FOLDER = "captions"


@dataclass(frozen=True)
class Spent:
    """Calls that were answered, and the tokens sent and answered in them."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.calls + other.calls,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
        )

    def cost(self, price_in: float, price_out: float) -> float:
        """prices: of a million tokens."""
        return (self.tokens_in * price_in + self.tokens_out * price_out) / 1e6


@dataclass(frozen=True)
class Remembered:
    """The last answer to a question, and what it took with all that were turned down."""

    answer: str
    spent: Spent


def question(model: str, prompt: str, frames: np.ndarray | None = None) -> str:
    """The hash of a question. frames: uint8 (T, H, W, 3), by their pixels."""
    made = hashlib.sha256(json.dumps([model, prompt]).encode())
    if frames is not None:
        made.update(repr(frames.shape).encode())
        made.update(np.ascontiguousarray(frames))
    return made.hexdigest()[:40]


class Memory:
    """A folder of answers. What is damaged counts as not there, and is asked for again."""

    def __init__(self, dataset: Path) -> None:
        self._folder = dataset / FOLDER

    def recall(self, key: str) -> Remembered | None:
        """The answer to a question, if there is one."""
        try:
            return _read(json.loads(self._path(key).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def keep(self, key: str, answer: str, spent: Spent) -> None:
        """Remember an answer, with what was spent on the question so far. Raises OSError."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        before = self.recall(key)
        total = spent + (before.spent if before else Spent())
        with written_whole(path) as partial:
            text = json.dumps({"answer": answer, "spent": asdict(total)})
            partial.write_text(text + "\n", encoding="utf-8")

    def spent(self) -> Spent:
        """What all answers took."""
        total = Spent()
        for path in self._folder.glob("??/*.json"):
            if found := self.recall(path.stem):
                total += found.spent
        return total

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def _read(data: dict[str, Any]) -> Remembered:
    return Remembered(str(data["answer"]), Spent(**data["spent"]))
