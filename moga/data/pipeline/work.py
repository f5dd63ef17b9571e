"""One stage on one film, in whichever process: read, run, kept."""

from __future__ import annotations

import errno
import traceback
from dataclasses import dataclass, replace

from ...errors import MogaError, sentence
from .decisions import dropped
from .facts import FilmError
from .records import Film, Source
from .stages import Place, named
from .store import Store

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


@dataclass(frozen=True)
class Task:
    """A stage to be run on a film. threads: that it may use."""

    store: Store
    stage: str
    source: Source
    threads: int = 1


@dataclass(frozen=True)
class Outcome:
    """What came of a task. dropped: why the film goes no further, "" where it does. failed: the
    traceback of an error that nobody foresaw; nothing is kept then, so that it is tried again."""

    source: Source
    dropped: str = ""
    failed: str = ""


def work(task: Task) -> Outcome:
    """Run a task and keep its record. Raises MogaError and OSError where no task would go well."""
    stage, store = named(task.stage), task.store
    film = store.film_before(stage, task.source)
    settings = store.settings.of(task.source.name)
    try:
        film = stage.run(film, settings, Place(store.folder, task.threads))
    except FilmError as error:
        film = drop(film, task.stage, str(error))
    except Exception as error:
        whose = isinstance(error, MogaError) or not isinstance(error, OSError)
        if whose and sentence(error) is not None:
            raise
        if isinstance(error, OSError) and error.errno in _FULL:
            raise
        return Outcome(task.source, failed=traceback.format_exc())
    store.put(stage, film)
    source = film.source
    reasons = [d.reason for d in source.decisions if not d.kept]
    return Outcome(task.source, "" if source.kept else reasons[-1])


def drop(film: Film, stage: str, reason: str) -> Film:
    """The film, dropped."""
    return replace(film, source=dropped(film.source, stage, reason))
