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

from ...data.rows import Examined, nearest_latent
from ...errors import MogaError
from ...hosts.diffusers import Part, TextEncoder, Vae, open_vae
from ...wan import latent_frames, video_frames
from ..contents import MEMORY, Contents

VAE_PARTS, TEXT_PARTS = ("vae",), ("text_encoder", "tokenizer")  # of the folder of a pipeline
SHORTEST = 5  # latent frames of a video's last piece, unless all pieces are shorter


class CacheError(MogaError, RuntimeError):
    """A cache that cannot be written or read; the message says what to do."""


@dataclass(frozen=True)
class CacheSpec:
    """What a cache holds.

    vae, text_encoder: opened already, or their paths. width, height: pixels. fps: frames per
    second. lengths: of the pieces, in seconds. dtype: of the models and of what they give. device:
    where the models compute.
    Raises CacheError for values that no cache can have.
    """

    folder: Path
    vae: Path | Vae
    text_encoder: Path | TextEncoder
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
    def contents(self) -> Contents:
        """What files hold, remembered in the folder."""
        return Contents(self.folder / MEMORY)

    @cached_property
    def vae_key(self) -> str:
        return self.contents.of_model(_path(self.vae), *VAE_PARTS)

    @cached_property
    def text_key(self) -> str:
        return self.contents.of_model(_path(self.text_encoder), *TEXT_PARTS)


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
        if start == 0 or latent_frames(frames) >= min(SHORTEST, latent_frames(longest)):
            found.append(_piece(examined, start, frames))
    return found


def text_file(spec: CacheSpec, text: str) -> Path:
    """Where the embedding of a text lies."""
    return spec.folder / "texts" / f"{_hash(text, spec.text_key, str(spec.dtype))}.safetensors"


def latent_file(spec: CacheSpec, piece: Piece) -> Path:
    """Where the latent of a piece lies."""
    row = piece.examined.row
    try:
        video = spec.contents.of(row.video)
    except OSError as error:
        raise CacheError(
            f"line {row.line}: {row.video} cannot be read ({error.strerror}); check the path."
        ) from None
    # A whole video adds nothing, so that caches from before there were excerpts are read.
    name = _hash(video, piece.start, piece.frames, *_latent_settings(spec), *row.excerpt.key)
    return spec.folder / "latents" / f"{name}.safetensors"


def vae_settings(vae: Path | Vae) -> Mapping[str, Any]:
    """Settings of the VAE; those that it leaves out are diffusers' defaults."""
    return open_vae(vae).config


def _path(model: Path | Part) -> Path:
    return model.source if isinstance(model, Part) else model


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
    return video_frames(latent_frames(frames))


def _piece(examined: Examined, start: int, frames: int) -> Piece:
    # By latent frame. Of shots that begin in the same one the last stays: of all those from before
    # the piece, the one that goes on into it.
    shots: dict[int, tuple[int, str]] = {}
    for cut, text in zip(examined.cuts, examined.row.texts, strict=True):
        own = max(0, cut - start)
        if nearest_latent(own) < latent_frames(frames):
            shots[nearest_latent(own)] = (own, text)
    kept = [shots[at] for at in sorted(shots)]
    return Piece(examined, start, frames, tuple(c for c, _ in kept), tuple(t for _, t in kept))


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
