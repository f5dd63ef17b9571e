"""Single-file weights: looked at before they are read, fitted to a model, cast while read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor, nn

from ...checkpoint import CheckpointError, read_header
from .recognise import looks_like, quantised

_PLAIN = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

_NO_WEIGHTS = ("spiece_model",)  # a tokenizer, as bytes


@dataclass(frozen=True)
class WeightFile:
    """The header of a safetensors file. names and shapes by key; dtypes as safetensors has them."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    metadata: dict[str, str]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> WeightFile:
        """Read the header. Raises CheckpointError unless it is there and a whole safetensors."""
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"{path} is not there; give the path of a .safetensors file.")
        shapes, metadata = read_header(path)
        with safe_open(path, framework="pt") as file:
            dtypes = {key: file.get_slice(key).get_dtype() for key in shapes}
        return cls(path, shapes, dtypes, metadata)

    @property
    def name(self) -> str:
        return self.path.name

    def looks_like(self) -> str:
        return looks_like(self.shapes)

    def bytes_as(self, dtype: torch.dtype) -> int:
        """Memory of the weights once cast to `dtype`."""
        return dtype.itemsize * sum(map(_numel, self.shapes.values()))

    def dtype_of(self, key: str, asked: torch.dtype | None) -> torch.dtype:
        """The type to load into: the one asked for, else that of `key` in the file.

        Raises CheckpointError for quantised files, and for fp8 when no type is asked for.
        """
        self.refuse_quantised()
        if asked is not None:
            return asked
        stored = self.dtypes[key]
        if stored not in _PLAIN:
            raise CheckpointError(
                f"{self.name} stores its weights as {stored}; ask for dtype=torch.bfloat16 to load "
                "them in that, or use the fp16 or bf16 file of the same model."
            )
        return _PLAIN[stored]

    def refuse_quantised(self) -> None:
        """Raise CheckpointError for weights that need more than a cast."""
        types = {dtype for key, dtype in self.dtypes.items() if key not in _NO_WEIGHTS}
        how = quantised(types, self.shapes)
        if how is not None:
            raise CheckpointError(
                f"{self.name} is {how}, which this host does not undo; use the fp16 or bf16 file "
                "of the same model."
            )

    def read(self, keys: Iterable[str]) -> Iterable[tuple[str, Tensor]]:
        """The tensors of `keys`, one at a time."""
        with safe_open(self.path, framework="pt") as file:
            for key in keys:
                yield key, file.get_tensor(key)


def assemble(
    build: Callable[[], nn.Module],
    file: WeightFile,
    names: Mapping[str, str],
    dtype: torch.dtype,
    *,
    what: str,
    keep: Iterable[str] = (),
    tied: Iterable[str] = (),
) -> nn.Module:
    """A model with the weights of a file, in evaluation mode, never holding them twice.

    build: makes the model. names: the model's name for each key of the file.
    keep: parts of names whose weights stay in float32. tied: names that the model fills itself.
    Raises CheckpointError, before any weight is read, when the file does not fit.
    """
    with init_empty_weights():
        model = build()
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    found = {name: file.shapes[key] for key, name in names.items()}
    missing = sorted(set(expected) - set(found) - set(tied))
    extra = sorted(set(found) - set(expected))
    odd = sorted(n for n in set(found) & set(expected) if found[n] != expected[n])
    if missing or extra or odd:
        name = (missing or odd or extra)[0]
        problem = (
            f"lacks {len(missing)} weights, such as {name}"
            if missing
            else f"has {name} with shape {found[name]} where {expected[name]} belongs"
            if odd
            else f"has {len(extra)} weights too many, such as {name}"
        )
        raise CheckpointError(
            f"{file.name} does not fit {what}: it {problem}; use a complete file of that model."
        )
    keep = set(keep)
    state = {}
    for key, tensor in file.read(names):
        name = names[key]
        wide = not keep.isdisjoint(name.split("."))
        state[name] = tensor.to(torch.float32 if wide else dtype)
    model.load_state_dict(state, strict=False, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return model.eval()


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
