"""The stage: each shot gets its caption, and each sample what its shots share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from ....video.excerpt import Excerpt
from ....video.reader import VideoReadError, read_frames
from ..decode import fitted, upright
from ..facts import FilmError
from ..plan import plan
from ..records import Decision, Film, Sample, Shot, Source
from ..settings import Caption, Settings
from ..stopping import go_on
from .answers import AnswerError, caption_in, check_language, shared_in
from .endpoint import Endpoint, EndpointError
from .memory import Memory
from .prompts import check_prompts, global_prompt, shot_prompt
from .sidecars import find_sidecar, read_sidecar

T = TypeVar("T")


def check_captions(settings: Settings) -> None:
    """What can fail is tried before hours of work. Raises EndpointError, PromptError."""
    how = settings.caption
    if how.by == "none" and how.required:
        raise EndpointError(
            "caption.required is on and caption.by is none, so every shot would be dropped; set "
            "caption.by to endpoint or sidecar, or leave caption.required off."
        )
    if how.by != "endpoint":
        return
    for name in ("url", "model"):
        if not getattr(how, name):
            raise EndpointError(
                f"caption.{name} is empty and caption.by is endpoint; give one, or set caption.by "
                "to none."
            )
    check_prompts(how)
    check_language(how)
    _endpoint(how).check()


def caption(film: Film, settings: Settings, folder: Path) -> Film:
    """The film with captions, and with its samples. folder: the dataset.

    Raises FilmError for a film or a file beside it that cannot be read, EndpointError.
    """
    how = settings.caption
    if how.by == "none":
        return plan(film, settings)
    if how.by == "sidecar":
        return _by_sidecar(film, settings)
    memory = Memory(folder)
    film = _required(replace(film, shots=_seen(film, how, memory)), how)
    film = plan(film, settings)
    if how.make_global:
        film = replace(film, samples=_shared(film, how, memory))
    return film


def sample_frames(source: Source, shot: Shot, count: int, side: int) -> np.ndarray:
    """Frames of a shot at even distances, cropped: uint8 (count, height, width, 3) in RGB.

    side: pixels of the longer side, at most.
    """
    box = shot.crop
    shown = replace(source, width=box.width, height=box.height) if box else source
    width, height = fitted(shown, side)
    times = [(shot.start + shot.frames * (i + 0.5) / count) / source.fps for i in range(count)]
    rate = float(source.fps)
    excerpt = Excerpt(
        tuple((time, time + 1 / rate) for time in map(float, times)),
        box and (box.x, box.y, box.width, box.height),
    )
    frames = read_frames(
        Path(source.path),
        fps=rate,
        width=width,
        height=height,
        excerpt=excerpt,
        before=upright(source),
    )
    try:
        return np.concatenate(list(frames))
    except VideoReadError as error:
        raise FilmError(str(error)) from None


@cache
def _endpoint(how: Caption) -> Endpoint:
    """One for all films, as its limits are for all of them."""
    return Endpoint(how)


def _seen(film: Film, how: Caption, memory: Memory) -> tuple[Shot, ...]:
    return _at_once(how.concurrency, partial(_captioned, film, how, memory), film.shots)


def _captioned(film: Film, how: Caption, memory: Memory, shot: Shot) -> Shot:
    if not shot.kept:
        return shot
    go_on()
    frames = sample_frames(film.source, shot, min(how.frames, shot.frames), how.side)
    prompt = shot_prompt(
        how,
        film=Path(film.source.name).stem.encode("utf-8", "replace").decode(),
        frames=len(frames),
        seconds=float(shot.frames / film.source.fps),
        shot=shot.index + 1,
        shots=len(film.shots),
    )
    try:
        text = _endpoint(how).ask(prompt, frames, partial(caption_in, settings=how), memory)
    except AnswerError as error:
        return _noted(shot, Decision("caption", True, f"no caption: {error}"))
    told = Decision("caption", True, f"captioned by {how.model}")
    return _noted(replace(shot, caption=text, caption_source=how.model), told)


def _shared(film: Film, how: Caption, memory: Memory) -> tuple[Sample, ...]:
    return _at_once(how.concurrency, partial(_with_global, film, how, memory), film.samples)


def _with_global(film: Film, how: Caption, memory: Memory, sample: Sample) -> Sample:
    captions = [shot.caption for shot in sample.shots]
    if len(captions) < 2 or not all(captions):
        return sample
    ends = [*(shot.first for shot in sample.shots[1:]), sample.frames]
    seconds = [
        float((end - shot.first) / sample.fps) for shot, end in zip(sample.shots, ends, strict=True)
    ]
    prompt = global_prompt(how, film=film.source.id, captions=captions, seconds=seconds)
    judge = partial(shared_in, count=len(captions), settings=how)
    try:
        shared = _endpoint(how).ask(prompt, None, judge, memory)
    except AnswerError as error:
        told = Decision("caption", True, f"no global caption, each shot keeps its own: {error}")
        return replace(sample, decisions=(*sample.decisions, told))
    shots = tuple(
        replace(shot, caption=text)
        for shot, text in zip(sample.shots, shared.captions, strict=True)
    )
    return replace(sample, shots=shots, global_caption=shared.text)


def _by_sidecar(film: Film, settings: Settings) -> Film:
    path = find_sidecar(Path(film.source.path))
    if path is None:
        told = Decision("caption", True, "no file with captions lies beside the film")
        shots = tuple(_noted(shot, told) if shot.kept else shot for shot in film.shots)
        return plan(_required(replace(film, shots=shots), settings.caption), settings)
    found, fps = read_sidecar(path), film.source.fps

    def said() -> Iterator[Shot]:
        for shot in film.shots:
            text = found.between(float(shot.start / fps), float(shot.end / fps))
            yield replace(shot, caption=text, caption_source="sidecar") if text else shot

    shots = tuple(said())
    needed = (
        settings.caption
        if not found.text
        else settings.caption.model_copy(update={"required": False})
    )
    film = plan(_required(replace(film, shots=shots), needed), settings)
    samples = (replace(sample, global_caption=found.text) for sample in film.samples)
    return replace(film, samples=tuple(samples))


def _required(film: Film, how: Caption) -> Film:
    """The film without the shots that have no caption, where one is asked for."""
    if not how.required:
        return film
    why = Decision("caption", False, "it has no caption, and caption.required is on")
    shots = (
        replace(_noted(shot, why), kept=False) if shot.kept and not shot.caption else shot
        for shot in film.shots
    )
    return replace(film, shots=tuple(shots))


def _at_once(threads: int, do: Callable[[T], T], records: Sequence[T]) -> tuple[T, ...]:
    pool = ThreadPoolExecutor(threads)
    try:
        return tuple(pool.map(do, records))
    finally:
        pool.shutdown(cancel_futures=True)  # the first failure ends the rest


def _noted(shot: Shot, told: Decision) -> Shot:
    return replace(shot, decisions=(*shot.decisions, told))
