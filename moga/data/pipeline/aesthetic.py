"""A predictor of how pictures please, whose weights are the user's own; nothing is fetched."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import MogaError

_SIDE = 224


class PredictorError(MogaError, ValueError):
    """A file that is no such predictor."""


def aesthetic(pictures: np.ndarray, file: Path) -> float:
    """The mean rating of pictures, uint8 (T, H, W, 3) in BGR.

    file: TorchScript of a module that takes float32 (B, 3, 224, 224) in RGB, 0 to 1, and gives one
    number for each of B. Raises PredictorError.
    """
    import cv2

    small = [cv2.resize(p, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for p in pictures]
    batch = torch.from_numpy(np.stack(small)[..., ::-1].copy()).permute(0, 3, 1, 2).float() / 255
    try:
        with torch.inference_mode():
            found = _load(file)(batch).float().reshape(-1)
    except RuntimeError as error:
        raise PredictorError(_said(file, f"it fails on pictures: {_first(error)}")) from None
    if found.shape != (len(batch),) or not torch.isfinite(found).all():
        raise PredictorError(
            _said(file, f"it gives {len(found)} numbers for {len(batch)} pictures")
        )
    return float(found.mean())


@lru_cache(maxsize=1)
def _load(file: Path) -> Any:
    try:
        return torch.jit.load(str(file), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise PredictorError(_said(file, _first(error))) from None


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _said(file: Path, why: str) -> str:
    return (
        f"probe.aesthetic is {file}, which is no predictor that can be used ({why}); give "
        "TorchScript that takes (B, 3, 224, 224), or leave it out."
    )
