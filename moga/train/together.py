"""What one process does for all of a launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

T = TypeVar("T")


def for_all(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """What the main process returns, or raises, in every process. All have to call it."""
    outcome: list[object] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except Exception as error:
            outcome[1] = error
    result, error = broadcast_object_list(outcome)
    if error is not None:
        raise error
    return result
