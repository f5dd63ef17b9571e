"""Safetensors files: what is whole is judged in one place, by the library of the format itself."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import MogaError
from .files import written_whole

_SUFFIXES = (".safetensors", ".sft")  # what ComfyUI takes for safetensors, in any case
_MAX_HEADER = 100 << 20


class CheckpointError(MogaError, ValueError):
    """A file that cannot be used; the message names it and says what to do."""


class Header(NamedTuple):
    """What a safetensors file holds, without its tensors.

    shapes: by name. dtypes: by name, as safetensors writes them ("BF16").
    """

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    metadata: dict[str, str]


def read_header(path: str | os.PathLike[str]) -> Header:
    """What a safetensors file holds, after checking that the file is whole.

    Raises CheckpointError for anything that is not a complete safetensors file; pickles are never
    opened.
    """
    with _opened(path) as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        return Header(
            {key: tuple(found.get_shape()) for key, found in slices.items()},
            {key: found.get_dtype() for key, found in slices.items()},
            file.metadata() or {},
        )


def read_tensors(path: str | os.PathLike[str], keys: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of `keys`, one at a time, out of the keys in the header.

    Raises CheckpointError, as `read_header` does.
    """
    with _opened(path) as file:
        for key in keys:
            try:
                tensor = file.get_tensor(key)
            except Exception as error:  # of safetensors or of torch, by what the file claims
                found = file.get_slice(key)
                raise CheckpointError(
                    f"{Path(path).name} has {reprlib.repr(key)} as {found.get_dtype()} of shape "
                    f"{reprlib.repr(found.get_shape())}, which this PyTorch cannot hold; download "
                    "or save the file again."
                ) from error
            yield key, tensor


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a safetensors file. Raises CheckpointError."""
    header = read_header(path)
    return dict(read_tensors(path, header.shapes)), header.metadata


def _opened(path: str | os.PathLike[str]) -> safe_open:
    """The file, held against the format by the safetensors library itself.

    Every reader comes through here, so what is whole is judged once. Raises CheckpointError.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise CheckpointError(
            f"{path.name} is not a .safetensors file; other formats can run code when they are "
            "opened, so convert it first."
        )
    size = 0
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
        if size >= 8 and length <= _MAX_HEADER:
            return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there; check the path.") from None
    except (OSError, ValueError) as error:  # a path that holds a NUL is a ValueError
        why = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path} cannot be read ({why}); check the path.") from None
    except SafetensorError as error:
        raise CheckpointError(
            f"{path.name} is damaged or incomplete ({size} bytes); download or save it again."
        ) from error
    raise CheckpointError(
        f"{path.name} is not a safetensors file, whatever its name says; download it again."
    )


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], header: Mapping[str, str]
) -> None:
    """Write a file that appears under its name only when it is whole.

    Raises OSError when the place cannot be written or is full.
    """
    path = Path(path)
    with written_whole(path) as partial:
        try:
            save_file(dict(tensors), partial, dict(header))
        except SafetensorError as error:  # "...: I/O error: No space left on device (os error 28)"
            words = str(error).rpartition("I/O error: ")[2]
            why, _, number = words.rstrip(")").partition(" (os error ")
            raise OSError(int(number) if number.isdigit() else 0, why, str(path)) from error
