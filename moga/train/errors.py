"""A training that cannot go on, and what a disk or a damaged file has to do with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import MogaError

# Lost processes: what one of them raises, the others wait for in vain.
NETWORK: tuple[type[Exception], ...] = ()
if torch.distributed.is_available():
    NETWORK = (torch.distributed.DistError,)
NO_DISK = (torch.OutOfMemoryError, *NETWORK)  # RuntimeErrors that no disk raises


class TrainingError(MogaError, RuntimeError):
    """A training that cannot go on; the message says why, and what is safe."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell of a disk that does not let the block write. Raises TrainingError."""
    try:
        yield
    except OSError as error:
        where, why = error.filename2 or error.filename or path, error.strerror or error
        raise TrainingError(
            f"{where} cannot be written ({why}); see that the disk has room and lets this user "
            "write, and start again."
        ) from error


@contextmanager
def loading(path: Path) -> Iterator[None]:
    """Tell of a checkpoint that cannot be loaded, whatever the reason. Raises TrainingError."""
    try:
        yield
    except NO_DISK:
        raise
    except Exception as error:  # of accelerate, torch, pickle, safetensors, zip files
        raise TrainingError(
            f"the checkpoint {path} cannot be loaded ({type(error).__name__}: {error}); delete it "
            "to go on from the one before."
        ) from error
