"""Block numbers as people write them: "0, 1, 28-29"."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .config import ConfigError

_PART = re.compile(r"(\d{1,6})(?:\s*-\s*(\d{1,6}))?", re.ASCII)


def parse_blocks(text: str, blocks: int, name: str = "dense_blocks") -> frozenset[int]:
    """Block indices from "0, 1, 47-49", for a model of that many blocks; empty text is none.

    name: of the setting, for messages. Raises ConfigError.
    """
    chosen: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _PART.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last >= blocks:
            raise ConfigError(
                f"{name} has {part!r}; give block numbers from 0 to {blocks - 1} with commas "
                f"between them, such as 0, {blocks - 1}."
            )
        chosen.update(range(first, last + 1))
    return frozenset(chosen)


def blocks_text(blocks: Iterable[int]) -> str:
    """Block indices as `parse_blocks` reads them; "" for none."""
    runs: list[list[int]] = []
    for block in sorted(set(blocks)):
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
