"""The stages one after another over all films, by a pool of processes or by Ray."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from .pool import Processes, run_in_threads
from .records import Source
from .sources import printable
from .stages import Stage
from .store import Store, StoreError
from .work import Outcome, Task


@dataclass
class Summary:
    """What a run did. ran: films by stage. dropped: name and reason."""

    ran: dict[str, int] = field(default_factory=dict)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Engine:
    """Where stages run. jobs: films at a time; None: as many as there are cores. ray: an address,
    "local", or None for processes of this machine."""

    jobs: int | None = None
    ray: str | None = None

    def run(self, stages: Sequence[Stage], store: Store) -> Summary:
        """Run stages on all films that they were not run on. What is done stays done, whatever ends
        this. Raises StoreError where an earlier stage is missing."""
        if self.ray is not None:
            from .on_ray import connect

            connect(self.ray)
        summary = Summary()
        processes = Processes(self.jobs or os.cpu_count() or 1)
        try:
            for stage in stages:
                if stage.where == "dataset":
                    stage.run(store.films(), store.settings, store.folder)
                    continue
                tasks = self._tasks(stage, store)
                for outcome in _shown(stage, tasks, self._run(stage, tasks, processes)):
                    summary.ran[stage.name] = summary.ran.get(stage.name, 0) + 1
                    if outcome.failed:
                        summary.failed.append((outcome.source.name, outcome.failed))
        except BaseException:
            processes.stop()
            raise
        processes.close()
        over_films = [stage for stage in stages if stage.where != "dataset"]
        for source in store.sources() if over_films else ():
            film = store.film(over_films[-1], source)
            if film is not None and not film.source.kept:
                summary.dropped.append((source.name, _why(film.source)))
        return summary

    def _tasks(self, stage: Stage, store: Store) -> list[Task]:
        waiting = []
        for source in store.sources():
            if not source.kept:
                continue
            film = store.film_before(stage, source)
            if film is None:
                continue
            if film.source.kept and store.film(stage, source) is None:
                waiting.append(film.source)
        cores = os.cpu_count() or 1
        threads = max(1, cores // max(1, min(self._at_once(stage), len(waiting))))
        # The longest first, so that none is begun when all others have ended.
        waiting.sort(key=lambda source: (-source.frames, source.name))
        return [Task(store, stage.name, source, threads) for source in waiting]

    def _at_once(self, stage: Stage) -> int:
        if stage.where == "threads":
            return 8
        return self.jobs or os.cpu_count() or 1

    def _run(self, stage: Stage, tasks: Sequence[Task], processes: Processes) -> Iterable[Outcome]:
        if not tasks:
            return ()
        if stage.where == "threads":
            return run_in_threads(tasks, self._at_once(stage))
        if self.ray is not None:
            from .on_ray import run_on_ray

            return run_on_ray(tasks)
        return processes.run(tasks)


def _shown(stage: Stage, tasks: Sequence[Task], outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """The outcomes, under a bar in seconds of film where these are known."""
    if not tasks:
        return
    length = {task.source.id: float(task.source.seconds) for task in tasks}
    timed = all(length.values())
    total = round(sum(length.values())) if timed else len(tasks)
    unit = "s" if timed else "film"
    with tqdm(total=total, desc=stage.name, unit=unit, disable=None) as bar:
        for outcome in outcomes:
            bar.update(length[outcome.source.id] if timed else 1)
            if outcome.dropped or outcome.failed:
                why = outcome.dropped or outcome.failed.strip().splitlines()[-1]
                bar.write(f"{printable(outcome.source.name)}: {why}", file=sys.stderr)
            yield outcome


def require_before(stage: Stage, store: Store) -> None:
    """Raise StoreError unless the stages before one were run."""
    from .stages import before

    earlier = before(stage)
    sources = [source for source in store.sources() if source.kept]
    if earlier and sources and all(store.film_before(stage, source) is None for source in sources):
        raise StoreError(
            f"{stage.name} goes on from what {earlier[-1].name} finds, which was not run on "
            f"{store.folder}; run it first, or build."
        )


def _why(source: Source) -> str:
    return next(d.reason for d in reversed(source.decisions) if not d.kept)
