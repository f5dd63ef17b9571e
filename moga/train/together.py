"""What one process does for all of a launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

T = TypeVar("T")


def for_all(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """What the main process finds, or raises, in every process. All have to call it."""
    found: list[object] = [None, None]
    if accelerator.is_main_process:
        try:
            found[0] = work()
        except Exception as error:
            found[1] = error
    result, error = broadcast_object_list(found)
    if error is not None:
        raise error
    return result
