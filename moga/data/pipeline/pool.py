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


def run_in_processes(tasks: Sequence[Task], jobs: int) -> Iterator[Outcome]:
    """Outcomes as they come. What `work` raises ends it, when the tasks under way have ended."""
    left = list(reversed(tasks))
    while left:
        suspects: list[Task] = []
        yield from _until_lost(left, jobs, suspects)
        for task in suspects:  # one of them did it: each again, alone
            again: list[Task] = []
            yield from _until_lost([task], 1, again)
            if again:
                yield _blame(task)


def run_in_threads(tasks: Sequence[Task], jobs: int) -> Iterator[Outcome]:
    """Outcomes as they come, of tasks that mostly wait."""
    pool = ThreadPoolExecutor(jobs)
    try:
        yield from _as_they_end(pool, list(reversed(tasks)), jobs, [])
    finally:
        pool.shutdown(cancel_futures=True)


def _until_lost(left: list[Task], jobs: int, suspects: list[Task]) -> Iterator[Outcome]:
    """Take tasks from the end of `left`; those under way when a process is lost are suspects."""
    context = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
    pool = ProcessPoolExecutor(jobs, context, initializer=_begin)
    try:
        yield from _as_they_end(pool, left, jobs, suspects)
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


def _blame(task: Task) -> Outcome:
    stage = named(task.stage)
    film = drop(task.store.film_before(stage, task.source), task.stage, _LOST)
    task.store.put(stage, film)
    return Outcome(task.source, _LOST)


def _begin() -> None:
    """End with the first process, even where that was killed; and leave interrupts to it."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
