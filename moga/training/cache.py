"""Reading a cache: the clips of one length, with whatever is missing or stale named.

Where shots begin and what they say is not in the files of latents but in the index, so that a
caption can be mended without encoding the video again.

Letters: C latent channels, t, h, w latent grid, K text tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from .cache_spec import CacheError, CacheSpec, file_identity, latent_file, pieces, text_file
from .rows import Examined

LATENT, TEXT, ABOUT = "latent", "embedding", "moga_clip"  # in the files
_FIX = "run python -m moga.train with --cache-only, which adds what is missing"


@dataclass(frozen=True)
class CachedClip:
    """A piece in the cache.

    shape: of its latent, (C, t, h, w). texts: files, one per shot. starts: first latent frame of
    each shot. source: what messages call it.
    """

    file: Path
    texts: tuple[Path, ...]
    starts: tuple[int, ...]
    shape: tuple[int, ...]
    source: str


def read_cache(
    spec: CacheSpec, rows: Sequence[Examined] | None, seconds: float
) -> list[CachedClip]:
    """The pieces of one length, in the order of the rows.

    rows: None takes those that `make_cache` was last called with for this spec; their videos need
        not be there any more, but if they are, they must not have changed.
    Raises CacheError for what is missing, damaged or older than its video.
    """
    if rows is None:
        listed = list(_read_index(spec, seconds))
    else:
        listed = [
            (
                latent_file(spec, piece),
                tuple(text_file(spec, text) for text in piece.texts),
                piece.starts,
                piece.source,
            )
            for row in rows
            for piece in pieces(row, seconds)
        ]
    whole: set[Path] = set()
    clips = []
    for file, texts, starts, source in listed:
        for path in (file, *texts):
            if path not in whole:
                _check_whole(spec, path, source)
                whole.add(path)
        with safe_open(file, "pt") as opened:
            shape = tuple(opened.get_slice(LATENT).get_shape())
            about = json.loads(opened.metadata()[ABOUT])
        if rows is None:
            _check_unchanged(about, source)
        clips.append(CachedClip(file, texts, starts, shape, source))
    return clips


def load_latent(clip: CachedClip) -> Tensor:
    """(C, t, h, w) float32, normalised as the transformer sees it."""
    return load_file(clip.file)[LATENT].float()


def load_text(path: Path) -> Tensor:
    """(K, text width) float32, without padding."""
    return load_file(path)[TEXT].float()


def text_length(path: Path) -> int:
    """Tokens of an embedding, K, without reading it."""
    with safe_open(path, "pt") as opened:
        return opened.get_slice(TEXT).get_shape()[0]


def _read_index(
    spec: CacheSpec, seconds: float
) -> Iterator[tuple[Path, tuple[Path, ...], tuple[int, ...], str]]:
    if seconds not in spec.lengths or not spec.index.is_file():
        raise CacheError(
            f"{spec.folder} has no finished cache of {seconds:g} s clips with these settings and "
            f"models; {_FIX}."
        )
    for entry in map(json.loads, spec.index.read_text(encoding="utf-8").splitlines()):
        if entry["seconds"] == seconds:
            texts = tuple(spec.folder / "texts" / name for name in entry["texts"])
            latent = spec.folder / "latents" / entry["latent"]
            yield latent, texts, tuple(entry["starts"]), entry["source"]


def _check_whole(spec: CacheSpec, path: Path, source: str) -> None:
    if not path.is_file():
        raise CacheError(
            f"{spec.folder} lacks {source}, or what was cached of it is stale, because the video, "
            f"the caption or a setting has changed since; {_FIX}."
        )
    try:
        with safe_open(path, "pt"):
            pass
    except SafetensorError:
        raise CacheError(f"{path} of {source} is damaged; delete it, then {_FIX}.") from None


def _check_unchanged(about: Mapping[str, Any], source: str) -> None:
    """Raise CacheError if a piece was made from other contents than its video has now."""
    video = Path(about["video"])
    if video.is_file() and file_identity(video) != about["identity"]:
        raise CacheError(f"{source} is stale, its video has changed since it was cached; {_FIX}.")
