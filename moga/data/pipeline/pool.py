"""Tasks in processes of one machine, each lost process blamed on the film it worked on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
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
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Any

from .stages import named
from .stopping import STOPPED
from .work import Outcome, Task, drop, work

_MOST = 61 if sys.platform == "win32" else 1 << 16  # processes that Windows can wait for
_LOST = (
    "the process that worked on it was ended by the system, as it does when memory runs out; look "
    "at the film, or give fewer --jobs."
)


class Processes:
    """A pool of `jobs` processes, which are started when there is work and serve all stages."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._pool: ProcessPoolExecutor | None = None
        self._context = multiprocessing.get_context("spawn")  # torch's threads survive no fork
        # Nothing is ever sent: closing one end ends the processes at the other.
        self._end, self._leash = self._context.Pipe(duplex=False)

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Outcomes as they come. What `work` raises ends it."""
        left = list(reversed(tasks))
        while left:
            suspects: list[Task] = []
            self._pool = self._pool or self._started(self._jobs)
            yield from _as_they_end(self._pool, left, self._jobs, suspects)
            if left or suspects:  # it broke, and what broke with no task under way has no suspects
                self.close()
            for task in suspects:  # one of them did it: each again, alone
                yield self._alone(task)

    def stop(self) -> None:
        """End the processes at once; what they were at is not kept."""
        self._leash.close()
        self.close()

    def close(self) -> None:
        """End the processes, when the tasks under way have ended."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _started(self, jobs: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(min(jobs, _MOST), self._context, _begin, (self._end,))

    def _alone(self, task: Task) -> Outcome:
        with self._started(1) as pool:
            try:
                return pool.submit(work, task).result()
            except BrokenProcessPool:
                stage = named(task.stage)
                film = drop(task.store.film_before(stage, task.source), task.stage, _LOST)
                task.store.put(stage, film)
                return Outcome(task.source, _LOST)


def run_in_threads(tasks: Sequence[Task], jobs: int) -> Iterator[Outcome]:
    """Outcomes as they come, of tasks that mostly wait."""
    pool = ThreadPoolExecutor(jobs)
    STOPPED.clear()
    try:
        yield from _as_they_end(pool, list(reversed(tasks)), jobs, [])
    except BaseException:
        STOPPED.set()
        raise
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


def _begin(end: Connection) -> None:
    """End when told to, or when the first process does, even where that was killed; and leave
    interrupts to it, for ffmpeg too, which would take one for the end of a film."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setsid"):
        os.setsid()
    parent = multiprocessing.parent_process()

    def follow() -> None:
        wait_for([parent.sentinel, end])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
