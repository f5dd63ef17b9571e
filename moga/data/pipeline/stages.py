"""The stages in their order, and which settings each is made with.

A stage over films is a function (film, settings of that film, place) -> film, run in any process;
one over the whole dataset is a function (films, settings, folder) -> None. Neither keeps anything
between calls but models, so that a stage may stop and go on anywhere. A stage that finds a film
unusable raises a MogaError: it is then dropped, with these words for a reason.
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
    """A stage. sections: of the settings, that change what it makes. version: of its code, one
    more whenever the same settings give something else.

    where: "processes" (each film in any process), "threads" (films in threads of the first
    process, for what waits on a network), or "dataset" (once, over all films).
    """

    name: str
    run: Callable[..., Any]
    sections: tuple[str, ...]
    what: str
    where: Literal["processes", "threads", "dataset"] = "processes"
    version: int = 1


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


STAGES = (
    Stage("probe", _probe, ("probe",), "what each file is, and whether it is good enough"),
    Stage("split", _split, ("split",), "shots, by two cut detectors"),
    Stage("score", _score, ("score", "text"), "motion, clarity, exposure and text of each shot"),
    Stage("crop", _crop, ("crop",), "the largest clean rectangle of each shot"),
)


def named(name: str, stages: Iterable[Stage] = STAGES) -> Stage:
    """The stage of that name."""
    return next(stage for stage in stages if stage.name == name)
