"""Weights in safetensors files: judged by the header, fitted to a model, cast while read."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from ...checkpoint import CheckpointError
from ...shots.script import shorten
from ...tensor_file import TensorFile
from .recognise import quantised

_PLAIN = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_EIGHT_BITS = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")  # a cast undoes them

_NO_WEIGHTS = ("spiece_model",)  # a tokenizer, as bytes
# Which attention ComfyUI prefers in a layer, as bytes: nothing of the model itself.
_COMFY_SETTINGS = "comfy_attention.config"


def open_weights(path: str | os.PathLike[str]) -> TensorFile:
    """The weights in a file, without what ComfyUI notes about its attention beside them.

    Raises CheckpointError unless it is there and a whole safetensors file.
    """
    file = TensorFile.open(path)
    keys = [key for key in file.shapes if not key.endswith(_COMFY_SETTINGS)]
    shapes = {key: file.shapes[key] for key in keys}
    return replace(file, shapes=shapes, dtypes={key: file.dtypes[key] for key in keys})


def dtype_of(file: TensorFile, key: str, asked: torch.dtype | None) -> torch.dtype:
    """The type to load into: the one asked for, else that of `key` in the file.

    Raises CheckpointError for quantised files, and for fp8 when no type is asked for.
    """
    refuse_quantised(file)
    if asked is not None:
        return asked
    stored = file.dtypes[key]
    if stored not in _PLAIN:
        raise CheckpointError(
            f"{file.name} stores its weights as {stored}; ask for dtype=torch.bfloat16 to load "
            "them in that, or use the fp16 or bf16 file of the same model."
        )
    return _PLAIN[stored]


def is_floating(dtype: str) -> bool:
    """Whether that is a type that weights are stored in, of safetensors' names."""
    return dtype in _PLAIN or dtype in _EIGHT_BITS


def refuse_quantised(file: TensorFile) -> None:
    """Raise CheckpointError for weights that need more than a cast."""
    types = {dtype for key, dtype in file.dtypes.items() if key not in _NO_WEIGHTS}
    how = quantised(types, file.shapes)
    if how is not None:
        raise CheckpointError(
            f"{file.name} is {how}, which this host does not undo; use the fp16 or bf16 file "
            "of the same model."
        )


def assemble(
    build: Callable[[], nn.Module],
    file: TensorFile,
    names: Mapping[str, str],
    dtype: torch.dtype,
    *,
    what: str,
    keep: Iterable[str] = (),
    tied: Iterable[str] = (),
    change: Callable[[str, Tensor], Tensor] | None = None,
) -> nn.Module:
    """A model with the weights of a file, in evaluation mode, never holding them twice.

    build: makes the model. names: the model's name for each key of the file.
    keep: parts of names whose weights stay in float32. tied: names that the model fills itself.
    change: makes a weight, by its name in the model, out of that in the file, before it is cast.
    Raises CheckpointError, before any weight is read, when the file does not fit.
    """
    _refuse_no_numbers(file, names)
    try:
        with init_empty_weights():
            model = build()
    except Exception as error:  # of diffusers, transformers or torch, by the sizes in the file
        raise CheckpointError(
            f"{file.name} does not fit {what}: its weights have impossible sizes "
            f"({shorten(str(error), 100)}); use a complete file of that model."
        ) from error
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    found = {name: file.shapes[key] for key, name in names.items()}
    missing = sorted(set(expected) - set(found) - set(tied))
    extra = sorted(set(found) - set(expected))
    odd = sorted(n for n in set(found) & set(expected) if found[n] != expected[n])
    if missing or extra or odd:
        name = (missing or odd or extra)[0]
        shown = reprlib.repr(name) if extra else name
        problem = (
            f"lacks {len(missing)} weights, such as {name}"
            if missing
            else f"has {name} with shape {reprlib.repr(found[name])} where {expected[name]} belongs"
            if odd
            else f"has {len(extra)} weights too many, such as {shown}"
        )
        raise CheckpointError(
            f"{file.name} does not fit {what}: it {problem}; use a complete file of that model."
        )
    keep = set(keep)
    state = {}
    for key, tensor in file.read(names):
        name = names[key]
        if change is not None:
            tensor = change(name, tensor)
        wide = not keep.isdisjoint(name.split("."))
        state[name] = tensor.to(torch.float32 if wide else dtype)
    model.load_state_dict(state, strict=False, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return model.eval()


def _refuse_no_numbers(file: TensorFile, names: Mapping[str, str]) -> None:
    """Raise CheckpointError for weights that are no floating-point numbers, or there twice."""
    by_name: dict[str, str] = {}
    for key, name in names.items():
        dtype = file.dtypes[key]
        if not is_floating(dtype):
            raise CheckpointError(
                f"{file.name} stores {reprlib.repr(key)} as {dtype}, which is no type of weights; "
                "use the fp16 or bf16 file of the same model."
            )
        if by_name.setdefault(name, key) != key:
            raise CheckpointError(
                f"{file.name} holds {name} twice, also as {reprlib.repr(by_name[name])}; use a "
                "file of one model."
            )
