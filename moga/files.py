"""Files that are there whole or not at all, and disks that have room for them."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import MogaError

_NAME_BYTES = 255  # of a file, on all common disks


class NoSpaceError(MogaError, OSError):
    """A disk that has too little room; the message says how much it has and how much is needed."""


@contextmanager
def written_whole(path: Path, word: str | None = None) -> Iterator[Path]:
    """A new file beside `path` to write into, which takes its name when the block ends well.

    word: for the temporary name, where it has to tell who writes. Raises OSError.
    """
    with partial_file(path, word) as partial:
        yield partial
        os.replace(partial, path)


@contextmanager
def partial_file(path: Path, word: str | None = None) -> Iterator[Path]:
    """A new file beside `path` to write into; what is still there at the end is removed.

    Raises OSError where none can be made.
    """
    ending = f".{word or secrets.token_hex(4)}.part"
    # A name may be as long as the disk takes: then it is cut off here.
    room = _NAME_BYTES - len(ending) - 1
    kept = path.name.encode()[:room].decode(errors="ignore")
    partial = path.with_name(f".{kept}{ending}")
    partial.touch(exist_ok=word is not None)  # by the word nobody else writes there
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def require_space(folder: Path, needed: float, what: str, fix: str) -> None:
    """Raise NoSpaceError unless the disk of `folder`, which need not be there yet, has room.

    needed: bytes. what: that takes them. fix: what the user may do.
    """
    folder = folder.absolute()
    place = next(path for path in (folder, *folder.parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise NoSpaceError(
            f"the disk of {folder} has {readable(free)} free and {what} takes about "
            f"{readable(needed)}; {fix}."
        )


def readable(size: float) -> str:
    """Bytes for reading, such as 3.2 GB."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
