"""Tasks on a Ray cluster, by Ray Data: it schedules, and the workers keep the records.

All machines have to see the dataset's folder and the films under the same paths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...toml_settings import SettingsError
from .work import Outcome, Task, work


def connect(address: str) -> None:
    """Start Ray on this machine ("local"), or join the cluster at an address.

    Raises SettingsError, ImportError where Ray is not installed.
    """
    import logging

    import ray

    given = {} if address == "local" else {"address": address}
    try:
        ray.init(**given, ignore_reinit_error=True, include_dashboard=False, log_to_driver=False,
                 logging_level=logging.ERROR)  # fmt: skip
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = str(error).strip().splitlines()[0]
        raise SettingsError(
            f"--ray is {address}, which Ray cannot join ({said}); give local, or the address of a "
            "cluster that runs."
        ) from None


def run_on_ray(tasks: Sequence[Task]) -> Iterator[Outcome]:
    """Outcomes as they come."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    rows = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=len(tasks))
    done = rows.map(_row, num_cpus=max(1, tasks[0].threads))
    try:
        for row in done.iter_rows():
            yield row["outcome"]
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from None


def _cause(error: Exception) -> BaseException:
    """What `work` raised, under what Ray puts around it."""
    inner: BaseException = error
    while (deeper := getattr(inner, "cause", None) or inner.__cause__) is not None:
        inner = deeper
    return inner


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {"outcome": work(row["task"])}
