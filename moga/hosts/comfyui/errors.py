"""How what is wrong reaches people, whoever raises it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ...errors import MogaError


def as_value_error(function: Callable[..., Any]) -> Callable[..., Any]:
    """Raise this pack's errors as ValueError, around a function that ComfyUI calls.

    ComfyUI shows the type of an error before its words, and ours with the path of the pack.
    """

    @functools.wraps(function)
    def run(*values: Any, **inputs: Any) -> Any:
        try:
            return function(*values, **inputs)
        except MogaError as error:
            raise ValueError(str(error)) from error

    return run
