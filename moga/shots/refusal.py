"""How a script is refused: one sentence, and where in the script."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import MogaError


class ShotScriptError(MogaError, ValueError):
    """A script, shot or frame rate that cannot be used: one plain sentence that names the fix.

    `line` and `column`, from 1, are where in the script; None where no one place is at fault.
    """

    def __init__(self, message: str, line: int | None = None, column: int | None = None):
        super().__init__(message)
        self.line, self.column = line, column


@contextmanager
def located(where: str, line: int | None = None) -> Iterator[None]:
    """Put `where` before the message of any `ShotScriptError` raised inside, and say `line`."""
    try:
        yield
    except ShotScriptError as error:
        raise ShotScriptError(f"{where}: {error}", error.line or line, error.column) from None
