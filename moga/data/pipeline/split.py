"""The stage that finds shots: one decode of the film, small, for all detectors and for motion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from .boundaries import Evidence, doubtful, find_boundaries
from .decode import fitted, stream
from .detectors import Gradual, Sharp
from .measures import grey
from .records import Boundary, Decision, Film, Shot, Source
from .settings import Settings, Split

_SIDE = 256  # pixels of the longer side that all but the learned detector see
_TINY = (48, 27)


def split(film: Film, settings: Settings, threads: int = 1) -> Film:
    """The film with its shots, those that are too short dropped.

    Memory is one window of small frames and a few numbers a frame. Raises FilmError where the
    decoder meets errors.
    """
    watched = _Watched(film.source, settings.split, threads)
    for frames in stream(film.source, *fitted(film.source, _SIDE), threads):
        watched.take(frames)
    evidence = watched.evidence()
    found = find_boundaries(evidence, settings.split)
    source = replace(
        film.source, frames=len(watched.motion), learned=settings.split.learned,
        scores={**film.source.scores, "learned_share": round(float(evidence.looked.mean()), 4)},
    )  # fmt: skip
    shots = _shots(source, found, watched.motion, settings.split)
    return replace(film, source=source, shots=tuple(shots))


class _Watched:
    """All that is kept of the frames on their way through."""

    def __init__(self, source: Source, settings: Split, threads: int) -> None:
        self._settings = settings
        self._sharp, self._gradual = Sharp(settings, source.fps), Gradual()
        self._learned = None
        self._before: np.ndarray | None = None
        self._motion: list[np.ndarray] = []
        if settings.learned != "never":
            import torch

            from .learned import Learned, load

            torch.set_num_threads(threads)
            network = load(settings.weights, settings.precision)
            wanted = self._doubtful if settings.learned == "doubt" else None
            self._learned = Learned(network, wanted)

    def take(self, frames: np.ndarray) -> None:
        import cv2

        self._sharp.take(frames)
        tiny = np.stack([cv2.resize(f, _TINY, interpolation=cv2.INTER_AREA) for f in frames])
        self._gradual.take(tiny)
        self._motion.append(self._changes(grey(frames)))
        if self._learned is not None:
            self._learned.take(tiny[..., ::-1])

    def _changes(self, pictures: np.ndarray) -> np.ndarray:
        """Mean difference of each picture from the one before, in grey levels."""
        before = pictures[:1] if self._before is None else self._before[None]
        self._before = pictures[-1].copy()
        old = np.concatenate([before, pictures[:-1]])
        change = np.maximum(old, pictures) - np.minimum(old, pictures)
        return change.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)

    def _doubtful(self, start: int, end: int) -> bool:
        gradual = self._gradual.scores
        nothing = np.zeros(len(gradual), np.float32)
        seen = Evidence(self._sharp.cuts(), gradual, nothing, nothing, nothing > 0)
        return doubtful(seen, self._settings, start, end)

    @property
    def motion(self) -> np.ndarray:
        return np.concatenate(self._motion)

    def evidence(self) -> Evidence:
        gradual = self._gradual.scores
        one = many = np.zeros(len(gradual), np.float32)
        looked = np.zeros(len(gradual), bool)
        if self._learned is not None:
            one, many, looked = self._learned.finish()
        return Evidence(self._sharp.cuts(), gradual, one, many, looked)


def _shots(
    source: Source, boundaries: Sequence[Boundary], motion: np.ndarray, settings: Split
) -> Iterator[Shot]:
    ends = Boundary("start", 0, 0), Boundary("end", source.frames, source.frames)
    all_of_them = [ends[0], *boundaries, ends[1]]
    for index, (before, after) in enumerate(pairwise(all_of_them)):
        start = before.last + (settings.margin if before.kind == "transition" else 0)
        end = after.first - (settings.margin if after.kind == "transition" else 0)
        if end < start:  # nothing is left between two transitions
            start = end = before.last
        seconds = float((end - start) / source.fps)
        # The first frame differs from another shot's.
        inside = motion[start + 1 : end]
        shot = Shot(
            f"{source.id}-{index:04d}", source.id, index, start, end, before, after,
            scores={"motion": round(float(inside.mean()), 4) if len(inside) else 0.0},
        )  # fmt: skip
        if seconds < settings.seconds_least or end <= start:
            reason = f"lasts {seconds:.2f} s, less than {settings.seconds_least:g} s"
            why = Decision("split", False, reason, "seconds", seconds, settings.seconds_least)
            shot = replace(shot, decisions=(why,), kept=False)
        yield shot
