"""The two files of tensors that a run reads or leaves: encoded captions, and latents.

Letters: S shots, K text tokens, C width or channels, t, h, w latent frames, rows and columns.
"""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..checkpoint import write
from ..tensor_file import TensorFile
from ..vae.decode import broken_frames
from .options import UsageError

_PROMPT, _NEGATIVE = "prompt_embeds", "negative_prompt_embeds"
_LATENTS = "latents"
_SETTINGS = "moga_generate"
_TYPES = ("F64", "F32", "F16", "BF16")


class Embeddings(NamedTuple):
    """Encoded captions: (S, K, C), and (1, K, C) for what to avoid, if given; in float32."""

    prompt: Tensor
    negative: Tensor | None


def read_embeddings(path: Path) -> Embeddings:
    """The captions in a file. Raises UsageError, CheckpointError."""
    found = _read(path, (_PROMPT, _NEGATIVE), 3)
    if _PROMPT not in found:
        raise UsageError(
            f"{path.name} has no tensor {_PROMPT}; save the captions as (shots, tokens, width)."
        )
    for name, tensor in found.items():
        if not tensor.isfinite().all():
            raise UsageError(
                f"{path.name} has values in {name} that aren't numbers (NaN or infinite); encode "
                "the captions again, in bfloat16 or float32."
            )
    return Embeddings(found[_PROMPT], found.get(_NEGATIVE))


def read_latents(path: Path) -> Tensor:
    """Latents (1, C, t, h, w) as the transformer sees them, in float32.

    Raises UsageError, CheckpointError.
    """
    found = _read(path, (_LATENTS,), 5)
    if _LATENTS not in found:
        raise UsageError(f"{path.name} has no tensor {_LATENTS}; give a file of an earlier run.")
    latents = found[_LATENTS]
    if broken := broken_frames(latents):
        raise UsageError(
            f"{path.name} has values that aren't numbers (NaN or infinite) from latent frame "
            f"{broken[0]} on; sample again, with another --dtype or model."
        )
    return latents


def write_latents(path: Path, latents: Tensor, settings: dict[str, Any]) -> None:
    """Save latents with what they were made from. Raises OSError."""
    made_from = {_SETTINGS: json.dumps(settings, default=str)}
    write(path, {_LATENTS: latents.cpu()}, None, made_from)


def _read(path: Path, names: tuple[str, ...], dimensions: int) -> dict[str, Tensor]:
    """Those of the tensors that the file has, in float32; nothing else in it is read."""
    file = TensorFile.open(path)
    there = [name for name in names if name in file.shapes]
    for name in there:
        shape, dtype = file.shapes[name], file.dtypes[name]
        if len(shape) != dimensions:
            raise UsageError(
                f"{path.name} has {name} of shape {reprlib.repr(shape)}; {dimensions} dimensions "
                "are needed."
            )
        if dtype not in _TYPES:
            raise UsageError(
                f"{path.name} has {name} as {dtype}; save it in float32, float16 or bfloat16."
            )
    return {name: tensor.float() for name, tensor in file.read(there)}
