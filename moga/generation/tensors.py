"""The two files of tensors that a run reads or leaves: encoded captions, and latents.

Letters: S shots, K text tokens, C width or channels, t, h, w latent frames, rows and columns.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..checkpoint import Header, read, read_header, write
from .options import UsageError

_PROMPT, _NEGATIVE = "prompt_embeds", "negative_prompt_embeds"
_LATENTS = "latents"
_SETTINGS = "moga_generate"


class Embeddings(NamedTuple):
    """Encoded captions: (S, K, C), and (1, K, C) for what to avoid, if given."""

    prompt: Tensor
    negative: Tensor | None


def embeddings_header(path: Path) -> Header:
    """The shapes in an embeddings file. Raises UsageError, CheckpointError."""
    header = _header("--embeddings", path)
    if _PROMPT not in header.shapes:
        raise UsageError(
            f"{path.name} has no tensor {_PROMPT}; save the captions as (shots, tokens, width)."
        )
    return header


def has_negative(header: Header) -> bool:
    return _NEGATIVE in header.shapes


def prompt_shape(header: Header) -> tuple[int, ...]:
    return header.shapes[_PROMPT]


def read_embeddings(path: Path) -> Embeddings:
    tensors, _ = read(path)
    return Embeddings(tensors[_PROMPT], tensors.get(_NEGATIVE))


def latents_shape(path: Path) -> tuple[int, ...]:
    """The shape of saved latents. Raises UsageError, CheckpointError."""
    header = _header("--latents", path)
    if _LATENTS not in header.shapes:
        raise UsageError(f"{path.name} has no tensor {_LATENTS}; give a file of an earlier run.")
    return header.shapes[_LATENTS]


def read_latents(path: Path) -> Tensor:
    """Latents (1, C, t, h, w) as the transformer sees them."""
    return read(path)[0][_LATENTS]


def write_latents(path: Path, latents: Tensor, settings: dict[str, Any]) -> None:
    """Save latents with what they were made from."""
    made_from = {_SETTINGS: json.dumps(settings, default=str)}
    write(path, {_LATENTS: latents.cpu()}, None, made_from)


def _header(option: str, path: Path) -> Header:
    if not path.is_file():
        raise UsageError(f"{option} is {path}, which is not there; check the path.")
    return read_header(path)
