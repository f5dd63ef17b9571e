"""The stages in their order, and which settings each is made with.

A stage over films is a function (film, settings of that film, place) -> film, run in any process;
one over the whole dataset is a function (films, settings, folder) -> None. Neither keeps anything
between calls but models, so that a stage may stop and go on anywhere. A stage that finds a film
unusable raises a MogaError: it is then dropped, with these words for a reason. What is no film's
fault, an OSError or a StoppedError, stops the run, which goes on when it is started again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import MogaError
from .records import Film
from .settings import Settings


class StoppedError(MogaError, RuntimeError):
    """What keeps a stage from going on with any film, such as an endpoint that is down."""


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
    process, for what waits on a network), or "dataset" (once, over all films). check: what can be
    tried before hours of work; it raises a MogaError.
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


def _check_captions(settings: Settings) -> None:
    from .captions.stage import check_captions

    check_captions(settings)


def _caption(film: Film, settings: Settings, place: Place) -> Film:
    from .captions.stage import caption

    return caption(film, settings, place.folder)


def _merge(film: Film, settings: Settings, place: Place) -> Film:
    from .clips import merge

    return merge(film, settings, place.folder)


STAGES = (
    Stage("probe", _probe, ("probe",), "what each file is, and whether it is good enough"),
    Stage("split", _split, ("split",), "shots, by two cut detectors"),
    Stage("score", _score, ("score", "text"), "motion, clarity, exposure and text of each shot"),
    Stage("crop", _crop, ("crop",), "the largest clean rectangle of each shot"),
    Stage(
        *("caption", _caption, ("caption", "merge"), "words for each shot, and for each sample"),
        where="threads",
        check=_check_captions,
    ),
    Stage("merge", _merge, ("merge",), "adjacent shots as clips of up to a minute"),
)


def named(name: str, stages: Iterable[Stage] = STAGES) -> Stage:
    """The stage of that name."""
    return next(stage for stage in stages if stage.name == name)
