"""The films below files and folders, each known by its content."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import MogaError
from .records import Decision, Source

# What is tried in a folder; a file that is named itself is always tried.
ENDINGS = frozenset(
    [
        ".3gp",
        ".avi",
        ".flv",
        ".m2ts",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".ogv",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
    ]
)
_PIECE = 1 << 20  # bytes hashed at the beginning, in the middle and at the end


class SourcesError(MogaError, ValueError):
    """No films where some were promised."""


@dataclass(frozen=True)
class Found:
    """Films, and how many other files the folders hold."""

    sources: tuple[Source, ...]
    passed_over: int


def find_sources(places: Sequence[Path], dataset: Path) -> Found:
    """The films of files and folders, in order of their names.

    Links are followed, each folder once. `dataset` is not looked into, nor are hidden files. Films
    that cannot be read, and those that are there already, come as dropped sources. Raises
    SourcesError for a place that is not there, and where no film is found.
    """
    named: dict[str, str] = {}  # absolute path to name
    passed_over = 0
    for place in places:
        if place.is_file():
            named.setdefault(os.path.abspath(place), place.name)
        elif place.is_dir():
            for path, name in _walk(place, dataset.resolve()):
                if Path(name).suffix.lower() in ENDINGS:
                    named.setdefault(os.path.abspath(path), name)
                else:
                    passed_over += 1
        else:
            raise SourcesError(f"IN is {place}, which is not there; give films or folders.")
    if not named:
        looked = ", ".join(map(str, places))
        raise SourcesError(
            f"{looked} holds no films ({passed_over} other files); give a folder with files such "
            "as .mp4, .mov or .mkv, or name the files themselves."
        )
    return Found(tuple(_known(sorted(named.items(), key=lambda x: (x[1], x[0])))), passed_over)


def _walk(folder: Path, dataset: Path) -> Iterator[tuple[str, str]]:
    """Path of each file and its name below `folder`; a link to a folder above ends there."""
    seen: set[tuple[int, int]] = set()
    for inside, folders, files in os.walk(folder, followlinks=True):
        try:
            status = os.stat(inside)
        except OSError:
            folders.clear()
            continue
        key = (status.st_dev, status.st_ino)
        if key in seen or Path(inside).resolve() == dataset:
            folders.clear()
            continue
        seen.add(key)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = os.path.join(inside, name)
            if not name.startswith(".") and (os.path.isfile(path) or os.path.islink(path)):
                yield path, os.path.relpath(path, folder).replace(os.sep, "/")


def _known(files: Sequence[tuple[str, str]]) -> Iterator[Source]:
    first: dict[str, str] = {}
    for path, name in files:
        try:
            content = _content(path)
            why = "" if content else "the file is empty; take it out."
        except OSError as error:
            content, why = "", f"cannot be read ({error.strerror}); check the file."
        if content in first:
            why = f"has the content of {printable(first[content])}, which is used; take one out."
        elif content:
            first[content] = name
        # What has no content of its own is known by where it is.
        key = hashlib.sha256(os.fsencode(path)).hexdigest() if why else content
        dropped = (Decision("probe", False, why),) if why else ()
        yield Source(f"{_slug(name)}-{key[:12]}", path, name, decisions=dropped, kept=not why)


def _content(path: str) -> str:
    """A hash of the size and three pieces; "" for an empty file. Raises OSError."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        known = hashlib.sha256(str(size).encode())
        for start in sorted({0, max(0, size // 2 - _PIECE // 2), max(0, size - _PIECE)}):
            file.seek(start)
            known.update(file.read(_PIECE))
    return known.hexdigest() if size else ""


def _slug(name: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9]+", "_", Path(name).stem).strip("_")
    return stem[:32].lower() or "film"


def printable(name: str) -> str:
    """A file's name for reading, where it may not be UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
