"""The stage that measures shots: clarity, exposure, stillness, and text that stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from .decisions import Limit, dropped, judged
from .decode import sampled
from .facts import FilmError
from .measures import even_frames, grey, summary
from .records import Film, Shot, Source
from .settings import Score, Settings
from .text import lasting_edges, persistent, read_boxes


def score(film: Film, settings: Settings, threads: int = 1) -> Film:
    """The film with scores and texts of its shots; those beyond the limits are dropped.

    Of each shot that is still kept, `text.frames` frames are decoded.
    """
    shots = [
        _scored(shot, film.source, settings, threads) if shot.kept else shot for shot in film.shots
    ]
    return replace(film, shots=tuple(shots))


def _scored(shot: Shot, source: Source, settings: Settings, threads: int) -> Shot:
    wanted = even_frames(shot.start, shot.end, settings.text.frames)
    try:
        pictures = sampled(source, wanted, threads)
    except FilmError as error:
        return dropped(shot, "score", str(error))
    scores = {**shot.scores, **summary(grey(pictures), settings.probe.black)}
    if settings.probe.aesthetic is not None:
        from .aesthetic import aesthetic

        scores["aesthetic"] = aesthetic(pictures, settings.probe.aesthetic)
    scores["still"] = float(scores["motion"] < settings.score.still)
    texts = ()
    scores["text_read"] = float(_worth_reading(pictures, settings))
    if scores["text_read"]:
        boxes = [read_boxes(picture, settings.text, threads) for picture in pictures]
        texts = persistent(boxes, settings.text, (source.width, source.height))
    shot = replace(shot, scores=scores, texts=texts)
    return judged(shot, "score", _limits(shot, settings.score))


def _worth_reading(pictures: np.ndarray, settings: Settings) -> bool:
    if settings.text.when == "doubt":
        return lasting_edges(grey(pictures)) >= settings.text.edges
    return settings.text.when == "always"


def _limits(shot: Shot, settings: Score) -> Iterator[Limit]:
    scores = shot.scores
    yield Limit("clarity", scores["clarity"], least=settings.clarity_least,
                words="is soft: clarity {value:.3f}, less than {limit:g}")  # fmt: skip
    yield Limit("dark", scores["dark"], most=settings.dark_most,
                words="is dark: {value:.0%} of it is black, more than {limit:.0%}")  # fmt: skip
    yield Limit("bright", scores["bright"], most=settings.bright_most,
                words="is overexposed: {value:.0%} is white, more than {limit:.0%}")  # fmt: skip
    if settings.drop_still:
        yield Limit("motion", scores["motion"], least=settings.still,
                    words="is still: {value:.2f} grey levels a frame, under {limit:g}")  # fmt: skip
    if "aesthetic" in scores:
        yield Limit("aesthetic", scores["aesthetic"], least=settings.aesthetic_least,
                    words="is rated {value:.2f}, less than {limit:g}")  # fmt: skip
