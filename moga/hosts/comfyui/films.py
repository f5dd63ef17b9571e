"""What each node saved last, so that it isn't made again when nothing has changed.

ComfyUI keeps what nodes gave, and runs one again when its inputs differ. But the page adds an input
of its own to a node that has shown a video: the next Run, with nothing changed, is another one to
ComfyUI, and would decode and save the same film once more.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Film:
    """A film and what it was made of. Neither the latent nor the VAE is kept alive by it."""

    saved: Any
    made_of: tuple
    vae: weakref.ref
    stamps: dict[Path, tuple]


class Films:
    """The last film of each node, for as long as ComfyUI keeps the node."""

    def __init__(self) -> None:
        self._films: dict[tuple, Film] = {}
        self._new_node = False

    def node_made(self) -> None:
        """ComfyUI has made an object of a node, as it does before it first runs it."""
        self._new_node = True

    def node_runs(self, node: tuple | None) -> None:
        """A node, by `running_node`, is about to run: nothing is known of one that is new."""
        if self._new_node and node is not None:
            self._films = {key: film for key, film in self._films.items() if key[0] != node[0]}
        self._new_node = False

    def keep(
        self, node: tuple, saved: Any, made_of: tuple, vae: Any, files: Iterable[Path]
    ) -> None:
        """Remember what `node` saved as `files`, and the values that `made_of` tells."""
        stamps = {path: stamp(path) for path in files}
        self._films[node] = Film(saved, made_of, weakref.ref(vae), stamps)

    def find(self, node: tuple, made_of: tuple, vae: Any) -> Any | None:
        """What `node` saved of the same, if its files are there and as they were."""
        film = self._films.get(node)
        if film is None or film.vae() is not vae or film.made_of != made_of:
            return None
        untouched = all(stamp(path) == was for path, was in film.stamps.items())
        return film.saved if untouched else None


FILMS = Films()


def stamp(path: Path) -> tuple:
    """What changes when a file does, or those in a folder; empty when there is none."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found = (file.stat() for file in files if file.exists())
    return tuple((at.st_ino, at.st_size, at.st_mtime_ns) for at in found)


def digest(values: Tensor) -> tuple:
    """The same for the same values, without keeping them."""
    plain = values.detach().cpu().contiguous()
    data = plain.reshape(-1).view(torch.uint8).numpy()
    return str(plain.dtype), tuple(plain.shape), hashlib.blake2b(data).hexdigest()
