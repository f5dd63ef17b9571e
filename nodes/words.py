"""How what is wrong reaches people."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_OURS = f"{__package__.rpartition('.')[0]}.moga."


def plainly(execute: Callable[..., Any]) -> Callable[..., Any]:
    """Raise this pack's errors as ValueError.

    ComfyUI shows the type of an error before its words, and ours with the path of the pack.
    """

    @functools.wraps(execute)
    def run(*values: Any, **inputs: Any) -> Any:
        try:
            return execute(*values, **inputs)
        except Exception as error:
            if type(error).__module__.startswith(_OURS):
                raise ValueError(str(error)) from error
            raise

    return run
