"""What one process does for all of a launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import distributed as dist

from .errors import everywhere

T = TypeVar("T")


def for_all(
    accelerator: Accelerator, work: Callable[[], T], waiting: dist.ProcessGroup | None = None
) -> T:
    """What the main process returns, or raises, in every process. All have to call it.

    waiting: a group whose patience lasts for work that takes hours; None for what takes minutes.
    """
    outcome: list[object] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except Exception as error:
            outcome[1] = everywhere(error)
    if waiting is not None:
        dist.broadcast_object_list(outcome, src=0, group=waiting)
    else:
        broadcast_object_list(outcome)
    result, error = outcome
    if error is not None:
        accelerator.wait_for_everyone()  # one that left would break what others still connect
        raise error
    return result


def wait_for_main(accelerator: Accelerator, waiting: dist.ProcessGroup | None) -> None:
    """Until the main process gets here too, which does alone what may take long."""
    for_all(accelerator, lambda: None, waiting)
