"""What a training reads: its clips, and the cache that they are in."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..checkpoint import DTYPES
from ..data.rows import Examined, examine, read_rows
from .cache.missing import Missing, find_missing
from .cache.spec import CacheSpec
from .model_files import model_files
from .settings import Settings
from .texts import check_texts
from .validation import script_texts


@dataclass(frozen=True)
class Inputs:
    """Clips to train and to validate on, whose videos and texts can be used, and texts of films."""

    rows: list[Examined]
    validation_rows: list[Examined]
    film_texts: list[str]

    @property
    def all_rows(self) -> list[Examined]:
        return self.rows + self.validation_rows

    def missing_in(self, spec: CacheSpec) -> Missing:
        """What a cache lacks of them."""
        return find_missing(spec, self.all_rows, self.film_texts)


def read_inputs(settings: Settings) -> Inputs:
    """Look at every video, without decoding it, and at every text.

    Raises RowsError, SettingsError for texts of films.
    """
    data = settings.data
    rows, validation_rows = (
        examine(read_rows(path), fps=data.fps) if path else []
        for path in (data.rows, data.validation_rows)
    )
    check_texts(settings, rows + validation_rows)
    return Inputs(rows, validation_rows, script_texts(settings))


def cache_spec(settings: Settings, device: torch.device | str) -> CacheSpec:
    """The cache that a training reads."""
    data, models = settings.data, model_files(settings)
    return CacheSpec(
        folder=data.cache,
        vae=models.vae,
        text_encoder=models.text_encoder,
        width=data.width,
        height=data.height,
        fps=data.fps,
        lengths=settings.lengths,
        dtype=DTYPES[data.dtype],
        device=str(device),
    )
