"""The stages in their order, and which settings each is made with.

A stage over films is a function (film, settings of that film, place) -> film, run in any process;
one over the whole dataset is a function (films, settings, folder) -> None. Neither keeps anything
between calls but models, so that a stage may stop and go on anywhere. A stage that finds a film
unusable raises a FilmError: it is then dropped, with these words for a reason. Any other error
ends the run, with what is done kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .records import Film
from .settings import Settings


@dataclass(frozen=True)
class Place:
    """Where a stage runs. folder: the dataset. threads: that this process may use."""

    folder: Path
    threads: int = 1


@dataclass(frozen=True)
class Stage:
    """A stage. sections: of the settings, or single ones of a section, that change what it makes.
    version: of its code, one more whenever the same settings give something else.

    where: "processes" (each film in any process), "threads" (films in threads of the first
    process, for what waits on a network), or "dataset" (once, over all films). check: asked before
    any work, raises a MogaError for settings that the stage cannot do with.
    """

    name: str
    run: Callable[..., Any]
    sections: tuple[str, ...]
    what: str
    where: Literal["processes", "threads", "dataset"] = "processes"
    version: int = 1
    check: Callable[[Settings], None] | None = None


def _probe(film: Film, settings: Settings, place: Place) -> Film:
    from .probe import probe

    return probe(film, settings)


def _split(film: Film, settings: Settings, place: Place) -> Film:
    from .split import split

    return split(film, settings, place.threads)


def _score(film: Film, settings: Settings, place: Place) -> Film:
    from .score import score

    return score(film, settings, place.threads)


def _crop(film: Film, settings: Settings, place: Place) -> Film:
    from .crop import crop

    return crop(film, settings)


def _check_probe(settings: Settings) -> None:
    from .checks import check_probe

    check_probe(settings)


def _check_split(settings: Settings) -> None:
    from .checks import check_split

    check_split(settings)


def _check_score(settings: Settings) -> None:
    from .checks import check_score

    check_score(settings)


def _check_captions(settings: Settings) -> None:
    from .captions.stage import check_captions

    check_captions(settings)


def _caption(film: Film, settings: Settings, place: Place) -> Film:
    from .captions.stage import caption

    return caption(film, settings, place.folder)


def _merge(film: Film, settings: Settings, place: Place) -> Film:
    from .clips import merge

    return merge(film, settings, place.folder)


def _rows(films: Iterable[Film], settings: Settings, folder: Path) -> None:
    from .rows import write_rows

    write_rows(films, settings, folder)


def _report(films: Iterable[Film], settings: Settings, folder: Path) -> None:
    from .report.page import write_report

    write_report(films, settings, folder)


STAGES = (
    Stage("probe", _probe, ("probe",), "what each file is, and whether it is good enough",
          check=_check_probe),
    Stage("split", _split, ("split",), "shots, by two cut detectors", check=_check_split),
    Stage("score", _score, ("score", "text"), "motion, clarity, exposure and text of each shot",
          check=_check_score),
    Stage("crop", _crop, ("crop", "merge.width", "merge.height"),
          "the largest clean rectangle of each shot"),
    Stage("caption", _caption, ("caption", "merge"), "words for each shot, and for all of a sample",
          where="threads", check=_check_captions),
    Stage("merge", _merge, ("merge",), "clips of adjacent shots, up to a minute long"),
    # Made anew each time, so that their settings bind nothing.
    Stage("rows", _rows, (), "rows.jsonl and validation_rows.jsonl", where="dataset"),
    Stage("report", _report, (), "report.html: what became of every film", where="dataset"),
)  # fmt: skip


def named(name: str) -> Stage:
    """The stage of that name."""
    return next(stage for stage in STAGES if stage.name == name)


def before(stage: Stage) -> tuple[Stage, ...]:
    """The stages over films that come before one."""
    earlier = STAGES[: STAGES.index(stage)]
    return tuple(other for other in earlier if other.where != "dataset")
