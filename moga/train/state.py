"""The state of a training on disk: tensors by their names, of all processes, in one folder.

It is PyTorch's distributed checkpoint: every process writes what lies in it, and reads what it
needs. So a training goes on with any number of processes, with weights whole or split.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor

_FOLDER = "state"  # of a checkpoint


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write what lies in this process; all call it. Raises what went wrong in any of them."""
    with _plain():
        dcp.save(
            dict(state),
            storage_writer=dcp.FileSystemWriter(folder / _FOLDER),
            no_dist=not dist.is_initialized(),
        )


class StoredState:
    """What lies in a checkpoint's folder. Raises OSError and others where it cannot be read."""

    def __init__(self, folder: Path) -> None:
        self._reader = dcp.FileSystemReader(folder / _FOLDER)
        with _plain():
            about = self._reader.read_metadata()
        self._stored = about.state_dict_metadata
        self._folder = folder / _FOLDER
        self._files = {held.relative_path for held in about.storage_data.values()}

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Older versions wrote something else."""
        return (folder / _FOLDER).is_dir()

    def names(self) -> list[str]:
        return list(self._stored)

    def absent(self) -> list[str]:
        """Files that processes wrote and that cannot be seen here."""
        return sorted(name for name in self._files if not (self._folder / name).is_file())

    def like(self, name: str, model: Tensor) -> Any:
        """Room for what is stored by a name, spread over processes as `model` if sized like it."""
        stored = self._stored[name]
        if not isinstance(stored, TensorStorageMetadata):
            return None
        kind = {"dtype": stored.properties.dtype, "device": model.device}
        if isinstance(model, DTensor) and model.shape == stored.size:
            return torch.empty_like(model, dtype=kind["dtype"])
        return torch.empty(stored.size, **kind if stored.size else {**kind, "device": "cpu"})

    def read(self, into: dict[str, Any]) -> None:
        """Fill the tensors of `into`, and put other values there; all processes call it.

        Raises what went wrong in any of them.
        """
        with _plain():
            dcp.load(into, storage_reader=self._reader, no_dist=not dist.is_initialized())

    def whole(self, prefix: str) -> dict[str, Tensor]:
        """All tensors whose names begin so, without the prefix, read by this process alone."""
        names = [name for name in self._stored if name.startswith(prefix)]
        found = {name: self.like(name, torch.empty(0)) for name in names}
        with _plain():
            dcp.load(found, storage_reader=self._reader, no_dist=True)
        return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def put(tensor: Tensor, whole: Tensor) -> None:
    """Copy into a tensor, which may be spread over processes, from one that each of them has."""
    if isinstance(tensor, DTensor):
        whole = distribute_tensor(
            whole.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None
        )
    tensor.copy_(whole)


def spread(whole: Tensor, model: Tensor) -> Tensor:
    """A tensor that each process has, spread over them as `model` if sized like it."""
    if not (isinstance(model, DTensor) and model.shape == whole.shape):
        return whole
    room = torch.empty_like(model, dtype=whole.dtype)
    put(room, whole)
    return room


@contextmanager
def _plain() -> Iterator[None]:
    """PyTorch tells of all processes at once, by what is no Exception: raise the first of them.

    And it warns where there is one process only.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            yield
    except CheckpointException as error:
        rank, (first, _) = min(error.failures.items())
        if len(error.failures) == 1 and rank == 0:
            raise first from None
        raise RuntimeError(f"process {rank}: {first}") from first
