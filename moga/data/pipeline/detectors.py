"""Cut detectors that take a film's frames as they are decoded, each frame once.

`Sharp` is PySceneDetect's adaptive and content detectors: jumps in colour from one frame to the
next. `Gradual` compares what lies before and after a frame in colour histograms, for fades and
dissolves, and tells where the sharp ones leave doubt. The learned one is in `learned.py`.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from .settings import Split

REACH = 10  # frames before and after, that Gradual compares
_BINS = 8  # of each colour


class Sharp:
    """PySceneDetect on one frame after another. Frame sizes must stay the same."""

    def __init__(self, settings: Split, fps: Fraction) -> None:
        from scenedetect.detectors import AdaptiveDetector

        # It is asked for every cut, however near: what is too short is for later to say.
        self._adaptive = AdaptiveDetector(adaptive_threshold=settings.adaptive, min_scene_len=1)
        self._content, self._fps = settings.content, float(fps)
        self._count, self._cuts = 0, set()
        self._scores: list[np.float32] = []

    def take(self, frames: np.ndarray) -> None:
        """frames: uint8 (T, H, W, 3) in BGR."""
        from scenedetect import FrameTimecode

        for frame in frames:
            time = FrameTimecode(self._count, self._fps)
            self._cuts |= {cut.frame_num for cut in self._adaptive.process_frame(time, frame)}
            self._scores.append(np.float32(self._adaptive._frame_score or 0.0))
            self._count += 1

    @property
    def scores(self) -> np.ndarray:
        """How much each frame differs from the one before, float32 (T,)."""
        return np.array(self._scores, np.float32)

    def cuts(self) -> dict[int, float]:
        """First frames of new shots, with their scores."""
        scores = self.scores
        high = {int(n) for n in np.flatnonzero(scores >= self._content)}
        # Of a run of high scores, those that no neighbour tops.
        peaks = {n for n in high if scores[n] >= scores[max(0, n - 2) : n + 3].max()}
        return {n: float(scores[n]) for n in sorted(self._cuts | peaks) if 0 < n < len(scores)}


class Gradual:
    """Distance between the colours REACH frames before and after each frame, 0 to 1."""

    def __init__(self) -> None:
        self._held: list[np.ndarray] = []
        self._scores: list[np.float32] = []

    def take(self, frames: np.ndarray) -> None:
        """frames: uint8 (T, H, W, 3), small."""
        for frame in frames:
            bins = (frame >> 5).reshape(-1, 3).astype(np.int32)
            index = (bins[:, 0] * _BINS + bins[:, 1]) * _BINS + bins[:, 2]
            self._held.append(np.sqrt(np.bincount(index, minlength=_BINS**3) / len(index)))
            if len(self._held) > 2 * REACH:
                self._add(self._held[0], self._held[-1])
                self._held.pop(0)

    def _add(self, before: np.ndarray, after: np.ndarray) -> None:
        self._scores.append(np.float32(np.sqrt(max(0.0, 1.0 - float(before @ after)))))

    @property
    def scores(self) -> np.ndarray:
        """float32 (T,) of the frames so far, 0 for the first and the last REACH."""
        count = len(self._scores) + len(self._held)
        found = np.zeros(count, np.float32)
        start = min(REACH, count)
        found[start : start + len(self._scores)] = self._scores[: count - start]
        return found
