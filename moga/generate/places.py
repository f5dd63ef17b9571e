"""Where a run writes: proved before anything is sampled, and other places for the latents."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import MogaError
from ..files import partial_file
from ..video.writer import partial_of
from .options import Options, UsageError
from .tensors import write_latents

_BLOCK = bytes(4096)  # enough to notice a disk that takes names and no contents


class RunError(MogaError, RuntimeError):
    """A run that came to nothing after it began; the message says why and what is left of it."""


class NotNumbersError(RunError):
    """Latents that aren't numbers; every process that shares in them sees it."""


class LatentsLostError(RunError):
    """Latents that no place took."""


def prove(options: Options) -> None:
    """Write and remove files under the very names that the run will write.

    Raises UsageError for a folder that cannot be written, a name that is too long, a full disk, and
    a film that is being written already.
    """
    film = partial_of(options.out.absolute())
    if os.path.lexists(film):
        raise UsageError(
            f"{film} exists, so {options.out.name} is being written or was cut off by a crash; "
            "choose another --out, or delete that file."
        )
    with _refusing("--out", options.out):
        film.touch(exist_ok=False)
        try:
            film.write_bytes(_BLOCK)
        finally:
            film.unlink()
        if options.latents is None:
            _try(options.latents_out)
    if options.contact_sheet is not None:
        prove_files("--contact-sheet", options.contact_sheet)


def prove_files(flag: str, *paths: Path) -> None:
    """Write and remove a file under each name. Raises UsageError, which names `flag`."""
    for path in paths:
        with _refusing(flag, path):
            _try(path)


def save_latents(options: Options, latents: Tensor, settings: dict[str, Any]) -> None:
    """Save what was sampled, where it belongs or else where it can be.

    Raises RunError, which names the other place; LatentsLostError where there is none.
    """
    try:
        write_latents(options.latents_out, latents, settings)
        return
    except OSError as error:
        problem = f"{options.latents_out} cannot be written ({words_of(error)})"
    for place in _elsewhere():
        with suppress(OSError):
            write_latents(place, latents, settings)
            raise RunError(
                f"{problem}, so the latents are in {place}; make room, then decode them with "
                f"--latents {place} and another --out."
            )
    raise LatentsLostError(f"{problem}, nor can any other place")


def words_of(error: OSError) -> str:
    """What the system said, without number and path."""
    return error.strerror or str(error).rstrip(".")


def _elsewhere() -> Iterator[Path]:
    name = f"moga-{secrets.token_hex(4)}.latents.safetensors"
    with suppress(OSError):
        yield Path(tempfile.gettempdir(), name)
    with suppress(RuntimeError):
        yield Path(Path.home(), name)


def _try(path: Path) -> None:
    """Raise OSError unless a file can be written beside `path`, and have its name."""
    with suppress(FileNotFoundError):
        path.lstat()
    with partial_file(path.absolute()) as partial:
        partial.write_bytes(_BLOCK)


@contextmanager
def _refusing(flag: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = words_of(error)
        raise UsageError(
            f"{flag} is {path}, and nothing can be written there ({why}); choose another folder, "
            "or a shorter name."
        ) from None
