"""What a cache of VAE latents and text embeddings holds, and the names of its files.

A long video is cut into pieces of the length that a stage trains on. Every tensor has a file of its
own, named by a hash of all that it depends on.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..hosts.diffusers import folders
from ..hosts.diffusers.vae import open_vae
from ..hosts.diffusers.vae_names import vae_config
from ..shots import TEMPORAL_STRIDE
from .rows import Examined, latent_count, nearest_latent

SHORTEST = 5  # latent frames of a video's last piece, unless all pieces are shorter
_SAMPLES, _SAMPLE = 64, 1 << 16  # how often, and how many bytes of a model file are looked at


class CacheError(RuntimeError):
    """A cache that cannot be written or read; the message says what to do."""


@dataclass(frozen=True)
class CacheSpec:
    """What a cache holds.

    width, height: pixels. fps: frames per second. lengths: of the pieces, in seconds.
    dtype: of the models and of what they give. device: where the models compute.
    Raises CacheError for values that no cache can have.
    """

    folder: Path
    vae: Path
    text_encoder: Path
    width: int
    height: int
    fps: float
    lengths: tuple[float, ...]
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 1000:
            raise CacheError(f"fps is {self.fps}; choose a rate above 0 and up to 1000.")
        for length in self.lengths:
            if not (math.isfinite(length) and length > 0):
                raise CacheError(f"a length is {length}; give seconds above 0.")
        for name in ("width", "height"):
            check_multiple(name, getattr(self, name), 16)

    @cached_property
    def vae_key(self) -> str:
        return model_key(self.vae, "vae")

    @cached_property
    def text_key(self) -> str:
        return model_key(self.text_encoder, "text_encoder", "tokenizer")


@dataclass(frozen=True)
class Piece:
    """A run of a video's frames with its shots. cuts: video frames from its own beginning."""

    examined: Examined
    start: int
    frames: int
    cuts: tuple[int, ...]
    texts: tuple[str, ...]

    @property
    def starts(self) -> tuple[int, ...]:
        """First latent frame of each shot."""
        return tuple(map(nearest_latent, self.cuts))

    @property
    def source(self) -> str:
        seconds = self.start / self.examined.fps
        return f"{self.examined.row.video.name}, line {self.examined.row.line}, {seconds:.1f} s"


def all_pieces(spec: CacheSpec, rows: Iterable[Examined]) -> list[Piece]:
    """What a cache of these rows holds, of every length."""
    return [piece for row in rows for length in spec.lengths for piece in pieces(row, length)]


def pieces(examined: Examined, seconds: float) -> list[Piece]:
    """A video cut into pieces of 4n + 1 frames, at most `seconds` long, one after the other.

    A shorter last one is kept if it has SHORTEST latent frames, or is the only one.
    """
    longest = on_grid(seconds, examined.fps)
    found = []
    for start in range(0, examined.frames, longest):
        frames = _on_grid(min(longest, examined.frames - start))
        if start == 0 or latent_count(frames) >= min(SHORTEST, latent_count(longest)):
            found.append(_piece(examined, start, frames))
    return found


def text_file(spec: CacheSpec, text: str) -> Path:
    """Where the embedding of a text lies."""
    return spec.folder / "texts" / f"{_hash(text, spec.text_key, str(spec.dtype))}.safetensors"


def latent_file(spec: CacheSpec, piece: Piece) -> Path:
    name = _hash(
        *(str(piece.examined.row.video.resolve()), _identity(piece), piece.start, piece.frames),
        *_latent_settings(spec),
    )
    return spec.folder / "latents" / f"{name}.safetensors"


def _identity(piece: Piece) -> list[int]:
    row = piece.examined.row
    try:
        found = row.video.stat()
    except OSError as error:
        raise CacheError(
            f"line {row.line}: {row.video} cannot be read ({error.strerror}); check the path."
        ) from None
    return [found.st_size, found.st_mtime_ns]


def vae_settings(path: Path) -> Mapping[str, Any]:
    """Settings of the VAE; those that it leaves out are diffusers' defaults."""
    if not path.is_dir():
        return vae_config(open_vae(path).shapes)
    return folders.read_config(folders.model(path, "vae"))


def _latent_settings(spec: CacheSpec) -> tuple[Any, ...]:
    return spec.width, spec.height, spec.fps, spec.vae_key, str(spec.dtype)


def check_multiple(name: str, value: int, multiple: int) -> None:
    if value < 1 or value % multiple:
        near = max(multiple, round(value / multiple) * multiple)
        raise CacheError(f"{name} is {value}; give a multiple of {multiple}, such as {near}.")


def on_grid(seconds: float, fps: float) -> int:
    """The most frames of so many seconds that the VAE takes, 4n + 1."""
    return _on_grid(max(1, round(seconds * fps)))


def _on_grid(frames: int) -> int:
    """The most frames up to so many that the VAE takes, 4n + 1."""
    return TEMPORAL_STRIDE * (latent_count(frames) - 1) + 1


def _piece(examined: Examined, start: int, frames: int) -> Piece:
    # By latent frame. Of shots that begin in the same one the last stays: of all those from before
    # the piece, the one that goes on into it.
    shots: dict[int, tuple[int, str]] = {}
    for cut, text in zip(examined.cuts, examined.row.texts, strict=True):
        own = max(0, cut - start)
        if nearest_latent(own) < latent_count(frames):
            shots[nearest_latent(own)] = (own, text)
    kept = [shots[at] for at in sorted(shots)]
    return Piece(examined, start, frames, tuple(c for c, _ in kept), tuple(t for _, t in kept))


def model_key(path: Path, *parts: str) -> str:
    """Tells a model from others by its size and samples of its bytes, wherever it lies.

    A file, or the files of a folder: of those of its `parts` that it has, else of all of it. A file
    of up to 4 MiB is read whole.
    """
    files = [path]
    if path.is_dir():
        folders = [path / part for part in parts if (path / part).is_dir()] or [path]
        files = sorted(file for folder in folders for file in folder.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        name = file.relative_to(path).as_posix() if file != path else ""
        with file.open("rb") as opened:
            digest.update(f"{name} {size}\n".encode())
            for at in range(0, size, max(_SAMPLE, size // _SAMPLES)):
                opened.seek(at)
                digest.update(opened.read(_SAMPLE))
    return digest.hexdigest()


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
