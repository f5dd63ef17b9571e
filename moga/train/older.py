"""Checkpoints that version 0.2 wrote: a file for each kind of thing, of weights that lay whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import load
from safetensors.torch import load_file


def read_older(folder: Path, optimized: Sequence[str], averaged: Sequence[str]) -> dict[str, Any]:
    """What `Learner.save` writes now, by the names that it has there, whole tensors on the CPU.

    optimized: names of the trained weights in the optimizer's order. averaged: in the model's, none
    where no average is kept. Raises errors of all kinds for a file that is not as it was written.
    """
    model = load_file(folder / "model.safetensors")
    state = {f"model.{name.removeprefix('module.')}": tensor for name, tensor in model.items()}
    optimizer = load(folder / "optimizer.bin", map_location="cpu", weights_only=True)
    for index, held in optimizer["state"].items():
        state |= {f"optimizer.{optimized[index]}.{key}": value for key, value in held.items()}
    if averaged:
        ema = load_file(folder / "ema-0.safetensors")
        state |= {f"ema.{name}": ema[str(index)] for index, name in enumerate(averaged)}
    return state
