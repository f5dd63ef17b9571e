"""VAE latents and text embeddings on disk, computed once; the training reads nothing else.

A long video is cut into pieces of the length that a stage trains on, each encoded by itself, a few
frames at a time. Every tensor has a file of its own, named by a hash of all that it depends on; a
cache that was cut off goes on where it was.

Letters: C latent channels, t, h, w latent grid, K text tokens.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from ..hosts.diffusers import load_text_encoder, load_vae
from ..hosts.diffusers.text_encoder import check_lengths
from ..hosts.diffusers.vae import encode_frames
from .frames import VideoReadError, read_frames
from .rows import STRIDE, Examined, latent_count, latent_starts

SHORTEST = 5  # latent frames of a video's last piece, unless it is the only one
_LATENT, _TEXT, _ABOUT = "latent", "embedding", "moga_clip"
_HEAD = 1 << 20  # bytes of a model file that tell it from others, with its size


class CacheError(RuntimeError):
    """A cache that cannot be written or read; the message says what to do."""


@dataclass(frozen=True)
class CacheSpec:
    """What a cache holds. lengths: of the pieces, in seconds. device: where the models compute."""

    folder: Path
    vae: Path
    text_encoder: Path
    width: int
    height: int
    fps: float
    lengths: tuple[float, ...]
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    @cached_property
    def vae_key(self) -> str:
        return _model_key(self.vae)

    @cached_property
    def text_key(self) -> str:
        return _model_key(self.text_encoder)


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
        return tuple(latent_starts(self.cuts, latent_count(self.frames)))

    @property
    def source(self) -> str:
        seconds = self.start / self.examined.fps
        return f"{self.examined.row.video.name}, line {self.examined.row.line}, {seconds:.1f} s"


@dataclass(frozen=True)
class CachedClip:
    """A piece in the cache. shape: of its latent, (C, t, h, w). texts: files, one per shot."""

    file: Path
    texts: tuple[Path, ...]
    starts: tuple[int, ...]
    shape: tuple[int, ...]
    source: str


def pieces(examined: Examined, seconds: float) -> list[Piece]:
    """A video cut into pieces of 4n + 1 frames, at most `seconds` long, one after the other.

    A last one of less than SHORTEST latent frames is left out.
    """
    longest = STRIDE * max(0, round((seconds * examined.fps - 1) / STRIDE)) + 1
    found = []
    for start in range(0, examined.frames, longest):
        frames = min(longest, examined.frames - start)
        frames = STRIDE * (latent_count(frames) - 1) + 1
        if start == 0 or latent_count(frames) >= min(SHORTEST, latent_count(longest)):
            found.append(_piece(examined, start, frames))
    return found


def make_cache(
    spec: CacheSpec, rows: Sequence[Examined], *, extra_texts: Sequence[str] = ()
) -> None:
    """Write everything that is missing. Raises CacheError, ShotMismatchError for long captions."""
    wanted = [p for row in rows for length in spec.lengths for p in pieces(row, length)]
    texts = dict.fromkeys(["", *extra_texts, *(text for piece in wanted for text in piece.texts)])
    missing_texts = [text for text in texts if not text_file(spec, text).is_file()]
    by_file = {_latent_file(spec, piece): piece for piece in wanted}
    missing = {file: piece for file, piece in by_file.items() if not file.is_file()}
    _check_room(spec, missing.values())
    for folder in ("latents", "texts"):
        (spec.folder / folder).mkdir(parents=True, exist_ok=True)
    if missing_texts:
        _encode_texts(spec, missing_texts)
    if missing:
        _encode_pieces(spec, missing)


def read_cache(spec: CacheSpec, rows: Sequence[Examined], seconds: float) -> list[CachedClip]:
    """The pieces of one length, in the order of the rows. Raises CacheError for what is missing."""
    clips = []
    for piece in (piece for row in rows for piece in pieces(row, seconds)):
        file, texts = _latent_file(spec, piece), tuple(text_file(spec, t) for t in piece.texts)
        for path in (file, *texts):
            if not path.is_file():
                raise CacheError(
                    f"{spec.folder} lacks {piece.source}; run python -m moga.train with "
                    "--cache-only, which adds what is missing."
                )
        try:
            with safe_open(file, "pt") as tensors:
                shape = tuple(tensors.get_slice(_LATENT).get_shape())
        except SafetensorError:
            raise CacheError(f"{file} is damaged; delete it and start again.") from None
        clips.append(CachedClip(file, texts, piece.starts, shape, piece.source))
    return clips


def load_latent(clip: CachedClip) -> Tensor:
    """(C, t, h, w) float32, normalised as the transformer sees it."""
    return load_file(clip.file)[_LATENT].float()


def load_text(path: Path) -> Tensor:
    """(K, text width) float32, without padding."""
    return load_file(path)[_TEXT].float()


def text_file(spec: CacheSpec, text: str) -> Path:
    """Where the embedding of a text lies."""
    return spec.folder / "texts" / f"{_hash(text, spec.text_key, str(spec.dtype))}.safetensors"


def _piece(examined: Examined, start: int, frames: int) -> Piece:
    cuts = examined.cuts
    ends = (*cuts[1:], examined.frames)
    overlap = [i for i, cut in enumerate(cuts) if cut < start + frames and ends[i] > start]
    shots: dict[int, tuple[int, str]] = {}  # by latent frame: of two in one, the later one
    total = latent_count(frames)
    for i in overlap:
        cut = max(0, cuts[i] - start)
        at = latent_starts([cut], total)[0]
        if at < total:
            shots[at] = (cut, examined.row.texts[i])
    kept = [shots[at] for at in sorted(shots)]
    return Piece(examined, start, frames, tuple(c for c, _ in kept), tuple(t for _, t in kept))


def _encode_texts(spec: CacheSpec, texts: Sequence[str]) -> None:
    encoder, tokenizer = load_text_encoder(spec.text_encoder, dtype=spec.dtype)
    check_lengths(tokenizer, texts)
    encoder.to(spec.device)
    for text in tqdm(texts, desc="texts", unit="text"):
        tokens = tokenizer([text], max_length=512, padding="max_length", truncation=True,
                           return_attention_mask=True, return_tensors="pt")  # fmt: skip
        ids, mask = tokens.input_ids.to(spec.device), tokens.attention_mask.to(spec.device)
        with torch.no_grad():
            embedding = encoder(ids, mask).last_hidden_state[0, : int(mask.sum())]
        _save(text_file(spec, text), {_TEXT: embedding.to(spec.dtype)}, {"text": text}, spec)
    del encoder
    _free()


def _encode_pieces(spec: CacheSpec, missing: Mapping[Path, Piece]) -> None:
    vae = load_vae(spec.vae, dtype=spec.dtype).to(spec.device)
    for file, piece in tqdm(missing.items(), desc="latents", unit="clip"):
        row = piece.examined.row
        frames = read_frames(
            row.video,
            fps=spec.fps,
            width=spec.width,
            height=spec.height,
            start=piece.start,
            frames=piece.frames,
        )
        try:
            latent = encode_frames(vae, map(torch.from_numpy, frames), piece.frames)
        except VideoReadError as error:
            raise CacheError(f"line {row.line}: {error} What was encoded so far is kept.") from None
        about = {"source": piece.source, "starts": piece.starts, "texts": piece.texts}
        _save(file, {_LATENT: latent[0].to(spec.dtype)}, {_ABOUT: json.dumps(about)}, spec)
    del vae
    _free()


def _save(path: Path, tensors: dict[str, Tensor], about: dict[str, str], spec: CacheSpec) -> None:
    partial = path.with_suffix(".part")
    try:
        save_file({n: t.cpu().contiguous() for n, t in tensors.items()}, partial, about)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise CacheError(
            f"{spec.folder} cannot be written ({error}); make room and start again, what was "
            "encoded so far is kept."
        ) from None


def _check_room(spec: CacheSpec, missing: Iterable[Piece]) -> None:
    pixels = spec.width * spec.height // 64 * 16 * spec.dtype.itemsize
    needed = sum(latent_count(piece.frames) * pixels for piece in missing)
    place = next(folder for folder in spec.folder.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise CacheError(
            f"the disk of {spec.folder} has {free / 1e9:.1f} GB free and the latents take "
            f"{needed / 1e9:.1f} GB; make room, or set data.cache to another disk."
        )


def _latent_file(spec: CacheSpec, piece: Piece) -> Path:
    video = piece.examined.row.video
    stat = video.stat()
    name = _hash(
        *(str(video.resolve()), stat.st_size, stat.st_mtime_ns, piece.start, piece.frames),
        *(spec.width, spec.height, spec.fps, spec.vae_key, str(spec.dtype)),
    )
    return spec.folder / "latents" / f"{name}.safetensors"


def _model_key(path: Path) -> str:
    """Tells a model from others by its size and beginning: a file, or all files of a folder."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(f"{file.name} {file.stat().st_size}".encode() + opened.read(_HEAD))
            if file.stat().st_size > _HEAD:
                opened.seek(-_HEAD // 16, os.SEEK_END)
                digest.update(opened.read())
    return digest.hexdigest()


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
