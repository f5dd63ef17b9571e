"""Some frames of all that pass by."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


class KeptFrames:
    """Keeps the frames that are wanted by number. found: those that have passed, by number."""

    def __init__(self, wanted: Iterable[int]) -> None:
        self.found: dict[int, np.ndarray] = {}
        self._wanted, self._seen = frozenset(wanted), 0

    def add(self, frames: np.ndarray) -> None:
        """The next frames, uint8 (T, H, W, 3)."""
        for frame in frames:
            if self._seen in self._wanted:
                self.found[self._seen] = frame
            self._seen += 1
