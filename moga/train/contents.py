"""What files hold, by a digest of all their bytes, each read once for as long as it stays as it is.

A model is told from another one by every bit of every tensor, whatever the file is named and
however large it is. What was read is remembered by what the system says of a file: path, size,
times of its last changes, inode.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

MEMORY = "contents.jsonl"  # in the folder of a cache
_CHUNK = 64 << 20  # bytes that one thread reads at a time
_READ = 1 << 20
_LARGE = 1 << 30  # bytes, from which on reading shows a bar

_State = tuple[str, int, int, int, int]


def digest_of(path: Path) -> str:
    """A digest of all bytes of a file, read by several threads. Raises OSError."""
    size = path.stat().st_size
    starts = range(0, size, _CHUNK)
    if len(starts) < 2:
        return hashlib.sha256(_part(path, 0)).hexdigest()
    whole = hashlib.sha256()
    with ThreadPoolExecutor() as pool, tqdm(
        total=size, desc=path.name, unit="B", unit_scale=True, leave=False,
        disable=None if size >= _LARGE else True,
    ) as bar:  # fmt: skip
        for part in pool.map(lambda start: _part(path, start), starts):
            whole.update(part)
            bar.update(min(_CHUNK, size - bar.n))
    return whole.hexdigest()


class Contents:
    """Digests of files and models.

    memory: the file they are remembered in. It is written by `save` alone, and one that cannot be
    read or written costs time and nothing else.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._known: dict[_State, str] = {}
        self._new: list[_State] = []
        try:
            lines = memory.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return
        for line in lines:
            try:
                *state, digest = json.loads(line)
                self._known[_state(state)] = str(digest)
            except (ValueError, TypeError):  # written by two at once, or cut off
                continue

    def of(self, path: Path) -> str:
        """The digest of a file. Raises OSError."""
        state = _of_system(path)
        if state not in self._known:
            digest = digest_of(path)
            if _of_system(path) != state:
                raise OSError(errno.EBUSY, "it is being written", str(path))
            self._known[state] = digest
            self._new.append(state)
        return self._known[state]

    def of_all(self, paths: Iterable[Path]) -> None:
        """Read files that are not known yet, several at once. One that cannot be read is left."""
        unknown = []
        for path in dict.fromkeys(paths):
            try:
                if _of_system(path) not in self._known:
                    unknown.append(path)
            except OSError:
                continue
        with ThreadPoolExecutor() as pool:
            read = pool.map(self._try, unknown)
            list(tqdm(read, "contents", len(unknown), unit="file", leave=False, disable=None))

    def of_model(self, path: Path, *parts: str) -> str:
        """The digest of a model, wherever it lies: of a file, or of the files of a folder.

        Of a folder, its `parts` that are there count, or else all of it. Raises OSError.
        """
        if not path.is_dir():
            return self.of(path)
        folders = [path / part for part in parts if (path / part).is_dir()] or [path]
        files = sorted(file for folder in folders for file in folder.rglob("*") if file.is_file())
        named = [(file.relative_to(path).as_posix(), self.of(file)) for file in files]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()

    def save(self) -> None:
        """Remember what was read, where the folder is there and can be written."""
        new, self._new = self._new, []
        text = "".join(json.dumps([*state, self._known[state]]) + "\n" for state in new)
        if not text or not self._memory.parent.is_dir():
            return
        try:
            with self._memory.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError:
            return

    def _try(self, path: Path) -> None:
        try:
            self.of(path)
        except OSError:
            return


def _part(path: Path, start: int) -> bytes:
    digest = hashlib.sha256()
    left = _CHUNK
    with path.open("rb") as file:
        file.seek(start)
        while left and (data := file.read(min(_READ, left))):
            digest.update(data)
            left -= len(data)
    return digest.digest()


def _of_system(path: Path) -> _State:
    found = path.stat()
    # The time of the last change of any kind cannot be set by a program, as that of the contents is
    # by whatever copies a file with its times.
    return (
        os.path.realpath(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
    )  # fmt: skip


def _state(values: Any) -> _State:
    path, size, modified, changed, inode = values
    return str(path), int(size), int(modified), int(changed), int(inode)
