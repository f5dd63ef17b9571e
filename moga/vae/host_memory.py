"""Memory of the host that a long computation has freed, given back to the system."""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable

EVERY = 2.0  # seconds


class GivesBack:
    """Gives freed memory back from time to time.

    A convolution on the CPU takes and frees blocks of up to 32 MB that GNU's C library keeps for
    later. Whenever a small block is put into the middle of a free one, the next large one fits no
    more and is taken from the system anew: in a long video that makes gigabytes, in use by nobody.
    """

    def __init__(self) -> None:
        self._last = time.monotonic()

    def look(self) -> None:
        """Give back what is free, if it is time to."""
        if time.monotonic() - self._last >= EVERY:
            give_back()
            self._last = time.monotonic()


def give_back() -> None:
    """Give back what is free; other C libraries than GNU's do so themselves, or can't."""
    _trim()(0)


@functools.cache
def _trim() -> Callable[[int], object]:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl and macOS; Windows has no CDLL(None)
        return lambda keep: None
