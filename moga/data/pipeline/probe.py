"""The stage that says what each file is, and whether the film is good enough to go on with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .decisions import Limit, judged
from .facts import examine
from .keyframes import some_pictures
from .measures import grey, summary
from .records import Film, Source
from .settings import Probe, Settings


def probe(film: Film, settings: Settings) -> Film:
    """The film with its facts and scores; dropped where a threshold says so.

    Raises FilmError for what cannot be read or holds no pictures.
    """
    source = examine(film.source, settings.probe.fps_most)
    source = judged(source, "probe", _shape(source, settings.probe))
    if not source.kept:
        return replace(film, source=source)
    pictures = some_pictures(source, settings.probe.frames)
    scores = summary(grey(pictures), settings.probe.black)
    if settings.probe.aesthetic is not None:
        from .aesthetic import aesthetic

        scores["aesthetic"] = aesthetic(pictures, settings.probe.aesthetic)
    source = replace(source, scores=scores)
    return replace(film, source=judged(source, "probe", _quality(source, settings.probe)))


def _shape(source: Source, settings: Probe) -> Iterator[Limit]:
    yield Limit("seconds", float(source.seconds), least=settings.seconds_least,
                words="lasts {value:.2f} s, less than {limit:g} s")  # fmt: skip
    yield Limit("side", min(source.width, source.height), least=settings.side_least,
                words="is {value:g} pixels at its shorter side, less than {limit:g}")  # fmt: skip
    yield Limit("side", max(source.width, source.height), most=settings.side_most,
                words="is {value:g} pixels at its longer side, more than {limit:g}")  # fmt: skip


def _quality(source: Source, settings: Probe) -> Iterator[Limit]:
    scores = source.scores
    yield Limit("clarity", scores["clarity"], least=settings.clarity_least,
                words="is soft: clarity {value:.3f}, less than {limit:g}")  # fmt: skip
    yield Limit("dark", scores["dark"], most=settings.dark_most,
                words="is dark: {value:.0%} of it is black, more than {limit:.0%}")  # fmt: skip
    yield Limit("bright", scores["bright"], most=settings.bright_most,
                words="is overexposed: {value:.0%} is white, more than {limit:.0%}")  # fmt: skip
    yield Limit("borders", scores["borders"], most=settings.borders_most,
                words="has borders over {value:.0%} of it, more than {limit:.0%}")  # fmt: skip
    if "aesthetic" in scores:
        yield Limit("aesthetic", scores["aesthetic"], least=settings.aesthetic_least,
                    words="is rated {value:.2f}, less than {limit:g}")  # fmt: skip
