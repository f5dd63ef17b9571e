"""The sound of a video, as plain samples."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Audio:
    """`samples` are float32 (channels, samples) in [-1, 1], `rate` of them a second."""

    samples: np.ndarray
    rate: int

    def __post_init__(self) -> None:
        if 0 in self.samples.shape:
            raise ValueError(
                f"audio has the shape {self.samples.shape}: it is empty; give a sound, or leave "
                "audio out."
            )
        if self.samples.ndim != 2:
            raise ValueError(
                f"audio has the shape {self.samples.shape}; give samples as (channels, samples)."
            )
        if not 1 <= self.rate <= 768_000:
            raise ValueError(f"audio has {self.rate} samples a second; give a rate such as 44100.")
        if not np.isfinite(self.samples).all():
            raise ValueError("audio has values that aren't numbers (NaN or infinite).")

    def cut(self, start: Fraction, seconds: Fraction) -> Audio | None:
        """What sounds in `seconds` from `start` on; None when the sound is over by then."""
        first, end = round(start * self.rate), round((start + seconds) * self.rate)
        samples = self.samples[:, first:end]
        return Audio(samples, self.rate) if samples.size else None

    def write_raw(self, path: Path) -> list[str]:
        """Write the bare samples. Returns the options by which ffmpeg reads them."""
        with open(path, "wb") as file:
            file.write(np.ascontiguousarray(self.samples.T, dtype="<f4"))
        channels = str(len(self.samples))
        return ["-f", "f32le", "-ar", str(self.rate), "-ac", channels, "-i", f"file:{path}"]
