"""Files that grow in a cache, which several processes may fill: whose they are."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...locks import Lock, LockError

LOCK = ".cache.lock"  # not that of a training, as one folder may be both
_PARTIAL = re.compile(r"\..+\.([0-9a-z]+)\.part")
_SLOTS = 1024


@contextmanager
def writing_cache(folder: Path) -> Iterator[str]:
    """A word for the names of files that this process is writing into a cache.

    No other process has it, so what bears the word of one that ended can be removed, and is. The
    folder holds `latents` and `texts`. Raises OSError.
    """
    try:
        lock = Lock(folder / LOCK)
    except OSError:  # of another user, say; what else cannot be written will tell
        yield uuid.uuid4().hex
        return
    try:
        yield _slot(lock, folder)
    finally:
        lock.close()


def _slot(lock: Lock, folder: Path) -> str:
    try:
        own = next(slot for slot in range(_SLOTS) if lock.take(slot))
        for partial in (*folder.glob("latents/.*.part"), *folder.glob("texts/.*.part")):
            match = _PARTIAL.fullmatch(partial.name)
            word = match[1] if match else ""
            slot = int(word) if word.isdecimal() and int(word) < _SLOTS else None
            if slot is None or lock.take(slot):
                partial.unlink(missing_ok=True)
        return str(own)
    except (LockError, StopIteration):
        return uuid.uuid4().hex  # nothing is removed, then
