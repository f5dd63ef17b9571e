"""The page itself: one HTML file, its pictures beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from ....files import written_whole
from ..captions.memory import Memory
from ..common_crop import whole_of
from ..records import Film, Sample, Shot
from ..rows import validation_sources
from ..settings import Settings
from ..sources import printable
from .figures import Histogram, histogram, last_drop, reasons, sample_seconds, steps
from .thumbnails import Thumbnail, sample_strips, shot_picture

NAME = "report.html"
_DROPPED_SHOWN = 24  # shots of a film that are dropped, with a picture
_OPEN = 12  # films whose samples are open from the beginning


def write_report(films: Iterable[Film], settings: Settings, folder: Path) -> None:
    """Write the page, and its pictures where they are not there yet. folder: the dataset.

    Raises OSError.
    """
    from jinja2 import Environment, StrictUndefined

    films = list(films)
    with_samples = (film.source.id for film in films if film.source.kept and film.samples)
    how = settings.report
    held = validation_sources(with_samples, how.validation, how.seed)
    with ThreadPoolExecutor() as pool:  # each waits for an ffmpeg
        shown = list(pool.map(partial(_film, settings=settings, folder=folder, held=held), films))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"span": span, "bytes": _bytes}
    text = files(__package__).joinpath("page.html.jinja").read_text("utf-8")
    page = environment.from_string(text).render(
        name=printable(folder.resolve().name),
        films=shown,
        open=len(films) <= _OPEN,
        steps=steps(films),
        reasons=reasons(films),
        histograms=[h for h in _histograms(films, settings) if h.bins],
        totals=_totals(films, held, settings, folder),
        settings=_changed(settings),
    )
    with written_whole(folder / NAME) as partial_file:
        partial_file.write_text(page, encoding="utf-8", errors="replace")


def span(seconds: float) -> str:
    """A time for reading: 4.2 s, 3:07 min, 1:02:03 h."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d} h"


def _bytes(count: int) -> str:
    from ....files import readable

    return readable(count)


def _totals(
    films: Sequence[Film], held: frozenset[str], settings: Settings, folder: Path
) -> dict[str, Any]:
    good = [film for film in films if film.source.kept]
    samples = [(film, sample) for film in good for sample in film.samples]
    parts = [shot for _, sample in samples for shot in sample.shots]
    spent, how = Memory(folder).spent(), settings.caption
    return {
        "films": len(films),
        "kept_films": sum(bool(film.samples) for film in good),
        "found": sum(float(film.source.seconds) for film in films),
        "seconds": sum(sample_seconds(sample) for _, sample in samples),
        "samples": len(samples),
        "validation": sum(film.source.id in held for film, _ in samples),
        "parts": len(parts),
        "several": sum(len(sample.shots) > 1 for _, sample in samples),
        "captioned": sum(bool(shot.caption) for shot in parts),
        "by": how.by,
        "model": how.model,
        "spent": spent,
        "cost": spent.cost(how.price_in, how.price_out),
        "classical": sum(film.source.learned == "never" for film in good),
    }


def _film(film: Film, settings: Settings, folder: Path, held: frozenset[str]) -> dict[str, Any]:
    source, width = film.source, settings.report.width
    why = last_drop(source.decisions)
    good = source.kept
    dropped = [shot for shot in film.shots if not shot.kept]
    marked = next((shot for shot in film.shots if shot.crop or shot.texts), None)
    return {
        "id": source.id,
        "name": printable(source.name),
        "path": printable(source.path),
        "source": source,
        "kept": good,
        "reason": "" if good or why is None else why.reason,
        "strip": list(_timeline(film)),
        "split": "validation" if source.id in held else "train",
        "samples": [_sample(film, s, settings, folder) for s in film.samples] if good else [],
        "overview": shot_picture(source, marked, folder, width) if good and marked else None,
        "dropped": [
            {
                **_times(film, shot),
                "reason": getattr(last_drop(shot.decisions), "reason", ""),
                "stage": getattr(last_drop(shot.decisions), "stage", ""),
                "scores": shot.scores,
                "picture": shot_picture(source, shot, folder, width)
                if n < _DROPPED_SHOWN
                else None,
            }
            for n, shot in enumerate(dropped)
        ]
        if good
        else [],
    }


def _times(film: Film, shot: Shot) -> dict[str, float | int]:
    fps = film.source.fps
    return {
        "number": shot.index + 1,
        "start": float(shot.start / fps),
        "seconds": float(shot.frames / fps),
    }


def _timeline(film: Film) -> Iterator[dict[str, Any]]:
    """Shots and transitions as shares of the film."""
    frames = max(1, film.source.frames)
    used = {part.shot for sample in film.samples for part in sample.shots}
    for shot in film.shots:
        why = last_drop(shot.decisions)
        kind = "used" if shot.id in used else "kept" if shot.kept else "dropped"
        told = f"shot {shot.index + 1}, {span(float(shot.frames / film.source.fps))}"
        yield {
            "kind": kind,
            "left": 100 * shot.start / frames,
            "width": 100 * shot.frames / frames,
            "title": told if why is None else f"{told}: {why.reason}",
        }
        if shot.after.kind == "transition":
            yield {
                "kind": "transition",
                "left": 100 * shot.after.first / frames,
                "width": 100 * (shot.after.last - shot.after.first) / frames,
                "title": f"transition of {shot.after.last - shot.after.first} frames",
            }


def _sample(film: Film, sample: Sample, settings: Settings, folder: Path) -> dict[str, Any]:
    how, source = settings.report, film.source
    strips = sample_strips(sample, source, folder, how.width, how.thumbnails)
    box = sample.crop
    whole = whole_of(source)
    share = box.width * box.height / (whole.width * whole.height) if box else 1.0
    ends = [*(shot.first for shot in sample.shots[1:]), sample.frames]
    return {
        "id": sample.id,
        "record": sample,
        "seconds": sample_seconds(sample),
        "start": float(sample.start),
        "crop": box,
        "share": share,
        "video": "" if sample.virtual else sample.video,
        "notes": [one.reason for one in sample.decisions if one.reason],
        "shots": [
            _part(film, shot.shot, float((end - shot.first) / sample.fps), shot.caption, strip)
            for shot, end, strip in zip(sample.shots, ends, strips, strict=True)
        ],
    }


def _part(
    film: Film, id: str, seconds: float, caption: str, strip: Thumbnail | None
) -> dict[str, Any]:
    shot = next(shot for shot in film.shots if shot.id == id)
    return {
        "number": shot.index + 1,
        "seconds": seconds,
        "caption": caption,
        "strip": strip,
        "scores": shot.scores,
        "notes": [one.reason for one in shot.decisions if one.stage == "caption" and one.reason],
    }


def _histograms(films: Sequence[Film], settings: Settings) -> Iterator[Histogram]:
    shots = [(film, shot) for film in films if film.source.kept for shot in film.shots]
    lengths = [(float(shot.frames / film.source.fps), shot.kept) for film, shot in shots]
    yield histogram("Length of shots", "s", lengths, settings.split.seconds_least)
    for title, unit, name, limit in (
        ("Clarity", "", "clarity", settings.score.clarity_least),
        ("Motion", "grey levels a frame", "motion", settings.score.still),
        ("Black", "share of pixels", "dark", settings.score.dark_most),
        ("Crop", "share of the picture", "crop_share", settings.crop.share_least),
    ):
        values = [(shot.scores[name], shot.kept) for _, shot in shots if name in shot.scores]
        yield histogram(title, unit, values, limit)
    samples = [s for film in films if film.source.kept for s in film.samples]
    yield histogram("Length of samples", "s", [(sample_seconds(s), True) for s in samples])


def _changed(settings: Settings) -> list[tuple[str, Any]]:
    """Settings that are not the defaults."""
    ours, found = Settings().model_dump(mode="json"), []
    for section, values in settings.model_dump(mode="json").items():
        if not isinstance(values, dict):
            found += [(section, values)] if values else []
            continue
        for name, value in values.items():
            if value != ours[section][name]:
                found.append((f"{section}.{name}", value))
    return found
