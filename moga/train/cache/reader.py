"""Reading a cache: the clips of one length, with whatever is missing or stale named.

Where shots begin and what they say is not in the files of latents but in the rows, so that a
caption can be mended without encoding the video again.

Letters: C latent channels, t, h, w latent grid, K text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ...data.rows import Examined
from .spec import CacheError, CacheSpec, latent_file, pieces, text_file

LATENT, TEXT = "latent", "embedding"  # in the files
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


def read_cache(spec: CacheSpec, rows: Sequence[Examined], seconds: float) -> list[CachedClip]:
    """The pieces of one length, in the order of the rows.

    Raises CacheError for what is missing, damaged or older than its video.
    """
    whole: set[Path] = set()
    clips = []
    for piece in (piece for row in rows for piece in pieces(row, seconds)):
        file, texts = latent_file(spec, piece), tuple(text_file(spec, t) for t in piece.texts)
        for path in (file, *texts):
            if path not in whole:
                _check_whole(spec, path, piece.source)
                whole.add(path)
        with safe_open(file, "pt") as opened:
            shape = tuple(opened.get_slice(LATENT).get_shape())
        clips.append(CachedClip(file, texts, piece.starts, shape, piece.source))
    return clips


def load_latent(clip: CachedClip) -> Tensor:
    """(C, t, h, w) float32, normalised as the transformer sees it."""
    return load_file(clip.file)[LATENT].float()


def load_text(path: Path) -> Tensor:
    """(K, text width) float32, without padding."""
    return load_file(path)[TEXT].float()


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
