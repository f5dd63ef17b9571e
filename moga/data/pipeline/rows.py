"""The rows that the trainer reads, and which films only the validation sees."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...files import written_whole
from .clips import excerpt_of
from .records import Film, Sample, Source
from .settings import Settings

TRAIN, VALIDATION = "rows.jsonl", "validation_rows.jsonl"


def write_rows(films: Iterable[Film], settings: Settings, folder: Path) -> None:
    """Write both files, in the order of the films; none where it would hold no rows."""
    lines = {
        film.source.id: [json.dumps(row_of(sample, film.source)) for sample in film.samples]
        for film in films
        if film.source.kept and film.samples
    }
    held = validation_sources(lines, settings.report.validation, settings.report.seed)
    for name, validates in ((TRAIN, False), (VALIDATION, True)):
        chosen = [line for id in lines if (id in held) == validates for line in lines[id]]
        if chosen:
            with written_whole(folder / name) as partial:
                partial.write_text("\n".join(chosen) + "\n", encoding="utf-8")
        else:
            (folder / name).unlink(missing_ok=True)


def row_of(sample: Sample, source: Source) -> Mapping[str, Any]:
    """A row as `moga.data.rows` reads it."""
    row: dict[str, Any] = {"video": sample.video}
    if sample.virtual:
        excerpt = excerpt_of(sample, source)
        row["spans"] = [list(span) for span in excerpt.spans]
        if excerpt.crop:
            row["crop"] = list(excerpt.crop)
    if sample.global_caption:
        row["global"] = sample.global_caption
    row["shots"] = [
        {"start": float(shot.first / sample.fps), "caption": shot.caption or None}
        for shot in sample.shots
    ]
    return row


def validation_sources(sources: Iterable[str], share: float, seed: int) -> frozenset[str]:
    """The ids of the sources that are kept for the validation.

    Each is decided by its id and the seed alone, so that a new film moves no other one; only where
    that leaves none to validate on, or none to train on, one is moved.
    """
    drawn = {id: _draw(id, seed) for id in sorted(set(sources))}
    held = {id for id, number in drawn.items() if number < share}
    if share and not held and len(drawn) > 1:
        held = {min(drawn, key=drawn.__getitem__)}
    if share < 1 and drawn and len(held) == len(drawn):
        held.remove(max(drawn, key=drawn.__getitem__))
    return frozenset(held)


def _draw(id: str, seed: int) -> float:
    """A number from 0 up to 1 that a source has."""
    digest = hashlib.sha256(f"{seed} {id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
