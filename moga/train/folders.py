"""Whether a folder can be written, and by this training alone."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..locks import Lock, LockError
from .errors import TrainingError
from .workspace import Workspace


def unwritable(folder: Path) -> str | None:
    """Why nothing can be made in a folder, which need not be there yet; None where it can."""
    try:
        nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=nearest):
            return None
    except OSError as error:
        return error.strerror or str(error)


@contextmanager
def alone_in(workspace: Workspace) -> Iterator[None]:
    """Keep other trainings out of a folder, and begin with what is whole in it.

    Raises TrainingError where another one is, and for a folder that cannot be written.
    """
    folder = workspace.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(workspace.lock)
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
        for left in workspace.unfinished():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
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


def _holder(text: str) -> str:
    """What the lock's file says of the training that holds it; nothing where it says nothing."""
    with suppress(ValueError, KeyError, TypeError):
        holder = json.loads(text)
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(holder["at"]))
        return f", process {holder['process']} on {holder['host']} since {since}"
    return ""
