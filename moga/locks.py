"""Locks between processes, which the system drops when their process ends, however that ends."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from .errors import MogaError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_FIRST = 1 << 30  # the byte that stands for place 0: Windows lets nobody read what is locked
_BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class LockError(MogaError, OSError):
    """The disk knows no locks, as some network file systems do not."""


class Lock:
    """Numbered places, each of which one process at a time can have, in every folder one file.

    Locks of POSIX, which belong to a process: one that it started does not go on holding them.
    They end with the first Lock on the file that the process closes, so use one at a time.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises OSError."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        self._taken: set[int] = set()  # which Windows would refuse to give a second time

    def take(self, place: int = 0) -> bool:
        """Take a place, unless another process has it. Raises LockError."""
        if place in self._taken:
            return True
        try:
            if fcntl is not None:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _FIRST + place)
            else:
                import msvcrt

                os.lseek(self._file, _FIRST + place, os.SEEK_SET)
                msvcrt.locking(self._file, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise LockError(error.errno, os.strerror(error.errno or 0)) from error
        self._taken.add(place)
        return True

    def read(self) -> str:
        """What the file says."""
        os.lseek(self._file, 0, os.SEEK_SET)
        return os.read(self._file, 1 << 16).decode("utf-8", "replace")

    def write(self, text: str) -> None:
        """Let the file say something else. Raises OSError."""
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, text.encode())

    def close(self) -> None:
        """Give back all places."""
        os.close(self._file)
