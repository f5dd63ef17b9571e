"""The folders that trainings write to: who may, and what killed ones left in them."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .checkpoints import TrainingError
from .locks import Lock, LockError

# Of their own, as a folder may be both.
LOCK, CACHE_LOCK = ".training.lock", ".cache.lock"
# What grows under these names gets another one when it is whole.
_LEFT = (".log.jsonl.*.part", ".*.safetensors.*.part", "stages/.*.part", "checkpoints/.*.part",
         "films/[0-9][0-9]-*.partial*")  # fmt: skip
_PART = re.compile(r"\..+\.([0-9a-z]+)\.part")
_SLOTS = 1024


def unwritable(folder: Path) -> str | None:
    """Why nothing can be made in a folder, which need not be there yet; None where it can."""
    try:
        found = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=found):
            return None
    except OSError as error:
        return error.strerror or str(error)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other trainings out of a folder, and begin with what is whole in it.

    Raises TrainingError where another one is, and for a folder that cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(folder / LOCK)
    except OSError as error:
        raise TrainingError(
            f"save.folder is {folder}, which cannot be written ({error.strerror}); choose another "
            "folder."
        ) from None
    try:
        if not lock.take():
            raise TrainingError(
                f"another training runs in {folder}{_holder(lock.read())}; let it end, or give "
                "another save.folder."
            )
        lock.write(json.dumps({"process": os.getpid(), "host": platform.node(), "at": time.time()}))
        _clear(folder)
    except LockError as error:
        print(
            f"the disk of {folder} has no locks ({error.strerror}), so a second training there "
            "would not be noticed; start one at a time.",
            flush=True,
        )
    except OSError as error:
        lock.close()
        raise TrainingError(
            f"{error.filename or folder} cannot be written ({error.strerror}); give this user the "
            "right to, or another save.folder."
        ) from None
    except BaseException:
        lock.close()
        raise
    try:
        yield
    finally:
        lock.close()


@contextmanager
def writing_cache(folder: Path) -> Iterator[str]:
    """A word for the names of files that this process is writing into a cache.

    No other process has it, so what bears the word of one that ended can be removed, and is. The
    folder holds `latents` and `texts`. Raises OSError.
    """
    try:
        lock = Lock(folder / CACHE_LOCK)
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
        for part in (*folder.glob("latents/.*.part"), *folder.glob("texts/.*.part")):
            word = found[1] if (found := _PART.fullmatch(part.name)) else ""
            slot = int(word) if word.isdecimal() and int(word) < _SLOTS else None
            if slot is None or lock.take(slot):
                part.unlink(missing_ok=True)
        return str(own)
    except (LockError, StopIteration):
        return uuid.uuid4().hex  # nothing is removed, then


def _clear(folder: Path) -> None:
    for pattern in _LEFT:
        for left in folder.glob(pattern):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def _holder(text: str) -> str:
    with suppress(ValueError, KeyError, TypeError):
        said = json.loads(text)
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(said["at"]))
        return f", process {said['process']} on {said['host']} since {since}"
    return ""
