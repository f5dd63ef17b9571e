"""LoRAs, judged by their headers and added to a transformer's weights while these are read.

No adapter layers are left in it, so memory, types and offloading are those of the model alone. A
weight is rounded once, after everything was added to it in float32, in ComfyUI's order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...checkpoint import CheckpointError, router_key
from ...shots.script import shorten
from ...tensor_file import TensorFile
from .lora_alpha import NotedAlpha
from .lora_names import (
    ALPHA,
    DIFF,
    DIFF_BIAS,
    DIFF_MODULATION,
    DOWN,
    UP,
    UP_BIAS,
    Names,
    is_lora,
    of_image_branch,
    other_kind,
    own_name,
)
from .parts import Part, PathLike, takes_image
from .recognise import looks_like
from .weights import is_floating, open_weights

_SHOWN = 3  # names in a message
Shapes = Mapping[str, tuple[int, ...]]
Parts = dict[str, dict[str, str]]  # of a change: the key of each, by weight


class LoraFile(NamedTuple):
    """A LoRA as it is asked for: its file, and how much of it; 0 leaves it out."""

    path: PathLike | TensorFile
    weight: float = 1.0


@dataclass(frozen=True)
class Change:
    """What is added to a weight: `scale` times up @ down, or times one tensor of its shape."""

    keys: tuple[str, ...]
    scale: float


@dataclass(frozen=True, eq=False)
class Lora:
    """A LoRA that fits a model.

    changes: by diffusers' name of the weight. left_out: how many of its tensors are for the image
    branch of Wan 2.1, where the model is an image-to-video model without one.
    """

    file: TensorFile
    weight: float
    changes: Mapping[str, Sequence[Change]]
    left_out: int

    @property
    def has_routers(self) -> bool:
        """Whether MoGA routers were trained together with it."""
        return any(map(router_key, self.file.shapes))

    def text(self) -> str:
        """For a plan."""
        said = f"{self.file.name} at {self.weight:g}"
        if self.weight == 0:
            return f"{said}, which leaves it out"
        if self.left_out:
            said += f", without {self.left_out} tensors for an image branch, which the model lacks"
        return said

    def add_to(self, name: str, tensor: Tensor) -> Tensor:
        """A weight of the model, in diffusers' name, with its change added, in float32."""
        changes = self.changes.get(name, ())
        if not changes or self.weight == 0:
            return tensor
        total = tensor.to(torch.float32, copy=True)
        for change in changes:
            halves = [part.float() for _, part in self.file.read(change.keys)]
            if len(halves) == 2:
                up, down = halves
                halves = [up.flatten(1) @ down.flatten(1)]
            total += (self.weight * change.scale) * halves[0].view(total.shape)
        return total


def open_lora(asked: LoraFile, model: Part, weights: Shapes) -> Lora:
    """Open a LoRA and hold it against the model that it is for. Its values are looked at, too.

    weights: shapes of the model's weights, in diffusers' names.
    Raises CheckpointError for names and shapes that do not fit, and for other kinds of adapters.
    """
    path = asked.path
    file = path if isinstance(path, TensorFile) else open_weights(path)
    keys = [key for key in file.shapes if not router_key(key)]
    _refuse_other_kinds(file, keys)
    parts, strange = _sorted(file, keys, Names(weights))
    for weight, own in parts.items():
        _check_shapes(file, model, weight, own, weights[weight])
    without_image_branch = takes_image(model.config) and not model.config.get("image_dim")
    left_out = [key for key in strange if without_image_branch and of_image_branch(key)]
    if len(strange) > len(left_out) or not parts:
        raise _fits_nothing(file, model, sorted(set(strange) - set(left_out)) or left_out)
    numbers = _numbers(file, [key for own in parts.values() for key in own.values()])
    changes = _changes(file, parts, numbers)
    return Lora(file, asked.weight, changes, len(left_out))


def add_all(loras: Sequence[Lora], name: str, tensor: Tensor) -> Tensor:
    """A weight of the model with the changes of all LoRAs, one after the other."""
    for lora in loras:
        tensor = lora.add_to(name, tensor)
    return tensor


def _refuse_other_kinds(file: TensorFile, keys: Sequence[str]) -> None:
    if found := other_kind(keys):
        raise CheckpointError(
            f"{file.name} is a {found[1]} (it has {_quoted(found[0])}), which this host does "
            "not apply; use a LoRA, or ComfyUI."
        )
    if not any(map(is_lora, keys)):
        raise CheckpointError(
            f"{file.name} holds no LoRA, it looks like {looks_like(file.shapes)}; choose a LoRA "
            "for Wan."
        )


def _sorted(file: TensorFile, keys: Iterable[str], names: Names) -> tuple[Parts, list[str]]:
    """The keys by weight and part, and those that fit nothing in the model."""
    parts: Parts = {}
    strange: list[str] = []
    for key in keys:
        if (place := names.place(key)) is None:
            strange.append(key)
            continue
        if not (is_floating(file.dtypes[key]) or place.part == ALPHA):
            raise CheckpointError(
                f"{file.name} stores {_quoted(key)} as {file.dtypes[key]}, which is no type "
                "of weights; use a LoRA in float32, float16 or bfloat16."
            )
        own = parts.setdefault(place.weight, {})
        if own.setdefault(place.part, key) != key:
            raise CheckpointError(
                f"{file.name} changes {own_name(place.weight)} twice, by "
                f"{_quoted(own[place.part])} and {_quoted(key)}; use a file of one LoRA."
            )
    return parts, strange


def _check_shapes(
    file: TensorFile, model: Part, weight: str, own: Mapping[str, str], wanted: tuple[int, ...]
) -> None:
    """Raise CheckpointError unless what is added to a weight has its shape."""
    shapes = {part: file.shapes[key] for part, key in own.items()}
    claimed = {part: shape for part, shape in shapes.items() if part not in (DOWN, UP, ALPHA)}
    if own.keys() & {DOWN, UP, ALPHA}:
        down, up = shapes.get(DOWN), shapes.get(UP)
        if down is None or up is None:
            raise CheckpointError(
                f"{file.name} has {_quoted(next(iter(own.values())))} without the rest of "
                f"that change of {own_name(weight)}; use a whole file."
            )
        if min(len(down), len(up)) < 2 or not down[0] == math.prod(up[1:]) > 0:
            raise CheckpointError(
                f"{file.name} changes {own_name(weight)} by {_size(down)} and {_size(up)}, which "
                "do not belong together; use the file as it was saved."
            )
        claimed[UP] = (up[0], *down[1:])
    if math.prod(shapes.get(ALPHA, ())) != 1:
        raise CheckpointError(
            f"{file.name} has {_quoted(own[ALPHA])} of size {_size(shapes[ALPHA])}, where one "
            "number belongs; use the file as it was saved."
        )
    for part, shape in claimed.items():
        # The halves of a convolution's change may be stored flat, a modulation without its batch.
        flat = (shape[:1], math.prod(shape[1:])) == (wanted[:1], math.prod(wanted[1:]))
        if not (flat if part == UP else shape in (wanted, wanted[wanted[0] == 1 :])):
            raise CheckpointError(
                f"{file.name} does not fit {model.name}: it changes {own_name(weight)} as if that "
                f"had the size {_size(shape)}, and the model's has {_size(wanted)}; use a LoRA "
                "that was made for this model."
            )


def _fits_nothing(file: TensorFile, model: Part, strange: Sequence[str]) -> CheckpointError:
    shown = ", ".join(_quoted(key) for key in strange[:_SHOWN])
    blocks = model.config["num_layers"]
    has = f"blocks 0 to {blocks - 1}, each with self_attn, cross_attn and ffn"
    if any(map(of_image_branch, strange)) and not model.config.get("image_dim"):
        has += ", and no image branch (k_img, v_img, img_emb)"
    more = f"{len(strange)} tensors that fit" if len(strange) > 1 else "a tensor that fits"
    return CheckpointError(
        f"{file.name} has {more} nothing in {model.name}, such as {shown}; the model has {has}, so "
        "use a LoRA that was made for it."
    )


def _numbers(file: TensorFile, keys: Sequence[str]) -> dict[str, float]:
    """The tensors that are one number, by key. Raises CheckpointError for values that are none."""
    numbers = {}
    for key, tensor in file.read(keys):
        if not tensor.float().isfinite().all():
            raise CheckpointError(
                f"{file.name} has values in {_quoted(key)} that aren't numbers (NaN or "
                "infinite); download it again, or use one from before its training went wrong."
            )
        if tensor.numel() == 1:
            numbers[key] = tensor.item()
    return numbers


def _changes(
    file: TensorFile, parts: Parts, numbers: Mapping[str, float]
) -> dict[str, list[Change]]:
    noted = NotedAlpha.of(file)
    changes: dict[str, list[Change]] = {}
    for weight, own in parts.items():
        module = weight.rpartition(".")[0]
        made = changes[weight] = []
        pair = parts.get(f"{module}.weight", {}) if UP_BIAS in own else own
        if DOWN in pair:
            rank = file.shapes[pair[DOWN]][0]
            alpha = numbers[pair[ALPHA]] if ALPHA in pair else None
            scale = noted.scale(module, rank) if alpha is None else alpha / rank
            if UP in own:
                made.append(Change((own[UP], own[DOWN]), scale))
            if UP_BIAS in own:
                made.append(Change((own[UP_BIAS],), scale))
        elif UP_BIAS in own:
            raise CheckpointError(
                f"{file.name} has {_quoted(own[UP_BIAS])} without the rest of that change; "
                "use a whole file."
            )
        for part in (DIFF, DIFF_BIAS, DIFF_MODULATION):
            if part in own:
                made.append(Change((own[part],), 1.0))
    return changes


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) if shape else "one number"


def _quoted(key: str) -> str:
    """The name of a tensor, for a message: in one line, and not longer than trainers make them."""
    return shorten(repr(key), 80)
