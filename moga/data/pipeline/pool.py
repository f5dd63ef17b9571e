"""Tasks in processes of one machine, each lost process blamed on the film it worked on."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Any

from .stages import named
from .work import Outcome, Task, drop, work

_LOST = (
    "the process that worked on it was ended by the system, as it does when memory runs out; look "
    "at the film, or give fewer --jobs."
)


class Processes:
    """A pool of `jobs` processes, which are started when there is work and serve all stages."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._pool: ProcessPoolExecutor | None = None

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Outcomes as they come. What `work` raises ends it."""
        left = list(reversed(tasks))
        while left:
            suspects: list[Task] = []
            self._pool = self._pool or _started(self._jobs)
            yield from _as_they_end(self._pool, left, self._jobs, suspects)
            if suspects:
                self.close()
            for task in suspects:  # one of them did it: each again, alone
                yield _alone(task)

    def close(self) -> None:
        """End the processes, when the tasks under way have ended."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _started(jobs: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
    return ProcessPoolExecutor(jobs, context, initializer=_begin)


def _alone(task: Task) -> Outcome:
    with _started(1) as pool:
        try:
            return pool.submit(work, task).result()
        except BrokenProcessPool:
            film = drop(task.store.film_before(named(task.stage), task.source), task.stage, _LOST)
            task.store.put(named(task.stage), film)
            return Outcome(task.source, _LOST)


def run_in_threads(tasks: Sequence[Task], jobs: int) -> Iterator[Outcome]:
    """Outcomes as they come, of tasks that mostly wait."""
    pool = ThreadPoolExecutor(jobs)
    try:
        yield from _as_they_end(pool, list(reversed(tasks)), jobs, [])
    finally:
        pool.shutdown(cancel_futures=True)


def _as_they_end(pool: Any, left: list[Task], jobs: int, suspects: list[Task]) -> Iterator[Outcome]:
    running: dict[Future, Task] = {}
    while left or running:
        try:
            while left and len(running) < jobs:
                running[pool.submit(work, left[-1])] = left[-1]
                left.pop()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                outcome = future.result()
                del running[future]
                yield outcome
        except BrokenProcessPool:
            suspects += running.values()
            return


def _begin() -> None:
    """End with the first process, even where that was killed; and leave interrupts to it."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
