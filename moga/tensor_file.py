"""Safetensors files: what is whole is judged in one place, by the library of the format itself."""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import MogaError
from .files import written_whole

_SUFFIXES = (".safetensors", ".sft")  # what ComfyUI takes for safetensors, in any case
_MAX_HEADER = 100 << 20


class CheckpointError(MogaError, ValueError):
    """A file that cannot be used; the message names it and says what to do."""


@dataclass(frozen=True, eq=False)
class TensorFile:
    """An opened safetensors file: its header, read once; tensors are read when they are asked for.

    shapes: by name. dtypes: by name, as safetensors writes them ("BF16").
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> TensorFile:
        """Read the header, after checking that the file is whole.

        Raises CheckpointError for anything that is not a complete safetensors file; pickles are
        never opened.
        """
        path = Path(path)
        _refuse_other_formats(path)
        with _opened(path) as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            shapes = {key: tuple(found.get_shape()) for key, found in slices.items()}
            dtypes = {key: found.get_dtype() for key, found in slices.items()}
            return cls(path, shapes, dtypes, file.metadata() or {})

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path.name

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """Shapes, dtypes and metadata: `shapes, dtypes, metadata = read_header(path)`."""
        return iter((self.shapes, self.dtypes, self.metadata))

    def bytes_as(self, dtype: torch.dtype) -> int:
        """Memory of all tensors once cast to `dtype`."""
        return dtype.itemsize * sum(map(math.prod, self.shapes.values()))

    def read(self, keys: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """The tensors of `keys`, one at a time, out of the keys in the header.

        Raises CheckpointError for a tensor that PyTorch cannot hold, and for a file that is another
        one by now.
        """
        with _opened(self.path) as file:
            there = set(file.keys())
            for key in keys:
                shape = tuple(file.get_slice(key).get_shape()) if key in there else None
                if shape != self.shapes[key]:
                    raise CheckpointError(
                        f"{self.name} was changed after it was opened; start again with the file "
                        "as it is now."
                    )
                try:
                    tensor = file.get_tensor(key)
                except Exception as error:  # of safetensors or of torch, by what the file claims
                    raise CheckpointError(
                        f"{self.name} has {reprlib.repr(key)} as {self.dtypes[key]} of shape "
                        f"{reprlib.repr(list(shape))}, which this PyTorch cannot hold; download or "
                        "save the file again."
                    ) from error
                yield key, tensor


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a safetensors file. Raises CheckpointError."""
    file = TensorFile.open(path)
    return dict(file.read(file.shapes)), dict(file.metadata)


def _refuse_other_formats(path: Path) -> None:
    """Raise CheckpointError for what does not begin as the format does, and for what is no file."""
    if path.suffix.lower() not in _SUFFIXES:
        raise CheckpointError(
            f"{path.name} is not a .safetensors file; other formats can run code when they are "
            "opened, so convert it first."
        )
    with _readable(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > _MAX_HEADER:
        raise CheckpointError(
            f"{path.name} is not a safetensors file, whatever its name says; download it again."
        )


def _opened(path: Path) -> safe_open:
    """The file, held against the format by the safetensors library itself.

    Every reader comes through here, so what is whole is judged once. Raises CheckpointError.
    """
    with _readable(path):
        try:
            return safe_open(path, framework="pt")
        except SafetensorError as error:
            raise CheckpointError(
                f"{path.name} is damaged or incomplete ({os.path.getsize(path)} bytes); download "
                "or save it again."
            ) from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What the system refuses, as CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there; check the path.") from None
    except (OSError, ValueError) as error:  # a path that holds a NUL is a ValueError
        why = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path} cannot be read ({why}); check the path.") from None


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
