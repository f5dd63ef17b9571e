"""A training that cannot go on, and what a disk or a damaged file has to do with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from ..errors import MogaError
from ..parallel.network import NETWORK, backend_failed, first_line, is_network

Raised = TypeVar("Raised", bound=Exception)
NO_DISK = (torch.OutOfMemoryError, *NETWORK)  # RuntimeErrors that no disk raises


class TrainingError(MogaError, RuntimeError):
    """A training that cannot go on; the message says why, and what is safe."""


def everywhere(error: Raised) -> Raised:
    """Mark an error that every process meets alike, so that one of them tells of it."""
    error.everywhere = True
    return error


@contextmanager
def with_others(safe: Callable[[], str]) -> Iterator[None]:
    """Tell of other processes that are lost. safe: from where it goes on. Raises TrainingError."""
    try:
        yield
    except RuntimeError as error:
        if failed := backend_failed(error):
            raise failed from error
        if not is_network(error):
            raise
        why = first_line(error)
        raise everywhere(
            TrainingError(
                "another process of this training has ended, or does not answer (parallel.timeout "
                f"says how long it may take): {why}; see what it said, and start again{safe()}."
            )
        ) from error


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
    except Exception as error:  # of torch, pickle, safetensors, zip files
        if is_network(error):
            raise
        raise everywhere(
            TrainingError(
                f"the checkpoint {path} cannot be loaded ({type(error).__name__}: {error}); delete "
                "it to go on from the one before."
            )
        ) from error
