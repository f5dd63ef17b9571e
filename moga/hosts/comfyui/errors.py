"""How what is wrong reaches people, whoever raises it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_OURS = f"{__package__.rpartition('.hosts.')[0]}."


def plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Raise this pack's errors as ValueError, around a function that ComfyUI calls.

    ComfyUI shows the type of an error before its words, and ours with the path of the pack.
    """

    @functools.wraps(function)
    def run(*values: Any, **inputs: Any) -> Any:
        try:
            return function(*values, **inputs)
        except Exception as error:
            if type(error).__module__.startswith(_OURS):
                raise ValueError(str(error)) from error
            raise

    return run
