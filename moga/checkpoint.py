"""MoGA weights on disk: routers beside the model they belong to, settings in the header.

Router keys follow the original Wan names, `blocks.{i}.self_attn.router.weight` (M, C) and `.bias`
(M,); the safetensors header holds the MoGAConfig as JSON under `moga`. A merged file holds a whole
model too, a router file only the routers.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .config import MoGAConfig

METADATA_KEY = "moga"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_ROUTER = re.compile(r"(?:.*\.)?blocks\.(\d+)\.self_attn\.router\.(weight|bias)")
_SUFFIXES = (".safetensors", ".sft")  # what ComfyUI takes for safetensors, in any case
_MAX_HEADER = 100 << 20

Routers = dict[int, dict[str, Tensor]]


class CheckpointError(ValueError):
    """A file that cannot be used; the message names it and says what to do."""


class Header(NamedTuple):
    """What a safetensors file holds, without its tensors: shapes by name, and its metadata."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def split_routers(
    state_dict: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> tuple[dict[str, Tensor], Routers, MoGAConfig | None]:
    """Take the routers out of a state dict.

    Returns the rest, the routers as {block index: {"weight": (M, C), "bias": (M,)}}, and the
    settings from the file's metadata where those are given. Keys may carry a prefix such as
    `model.diffusion_model.`; the rest keeps it.
    """
    base: dict[str, Tensor] = {}
    routers: Routers = {}
    for key, tensor in state_dict.items():
        match = _ROUTER.fullmatch(key)
        if match:
            routers.setdefault(int(match[1]), {})[match[2]] = tensor
        else:
            base[key] = tensor
    return base, dict(sorted(routers.items())), config_in(metadata)


def config_in(metadata: Mapping[str, str] | None) -> MoGAConfig | None:
    """The settings in a file's metadata, if there are any. Raises ConfigError."""
    text = (metadata or {}).get(METADATA_KEY)
    return MoGAConfig.from_json(text) if text else None


def merge_routers(base: Mapping[str, Tensor], routers: Routers) -> dict[str, Tensor]:
    """The opposite of `split_routers`: one state dict in original Wan names."""
    merged = dict(base)
    for index, router in routers.items():
        for name, tensor in router.items():
            merged[f"blocks.{index}.self_attn.router.{name}"] = tensor
    return merged


def check_routers(
    routers: Routers, config: MoGAConfig | None, *, source: str, dim: int, blocks: int
) -> None:
    """Raise CheckpointError unless there is one complete router for each block of the model.

    source: what the message calls the file. dim: model width C. blocks: how many the model has.
    """
    if not routers:
        raise CheckpointError(f"{source} holds no MoGA routers; choose a file that does.")
    if config is None:
        raise CheckpointError(
            f"{source} holds routers but no `moga` settings in its header (a tool that rewrote it "
            "dropped them); use the file as it was saved by the trainer."
        )
    if sorted(routers) != list(range(blocks)):
        raise CheckpointError(
            f"{source} has routers for {len(routers)} blocks, the model has {blocks}; "
            "use routers that were made for this model."
        )
    own = {len(router["weight"]) for router in routers.values() if "weight" in router}
    if own - {config.groups}:
        have = ", ".join(map(str, sorted(own)))
        raise CheckpointError(
            f"{source} has settings for {config.groups} groups and router weights for {have}; use "
            "routers with the settings they were trained with."
        )
    for index, router in routers.items():
        expected = {"weight": (config.groups, dim), "bias": (config.groups,)}
        for name, shape in expected.items():
            found = tuple(router[name].shape) if name in router else None
            if found != shape:
                what = f"has shape {found}" if found else "is missing"
                raise CheckpointError(
                    f"{source}: the router {name} of block {index} {what}, the model needs {shape} "
                    f"({config.groups} groups, width {dim}); use routers made for this model."
                )


def read_header(path: str | os.PathLike[str]) -> Header:
    """Shapes and metadata of a safetensors file, after checking that the file is whole.

    Raises CheckpointError for anything that is not a complete safetensors file; pickles are never
    opened.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise CheckpointError(
            f"{path.name} is not a .safetensors file; other formats can run code when they are "
            "opened, so convert it first."
        )
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > _MAX_HEADER:
            raise CheckpointError(
                f"{path.name} is not a safetensors file, whatever its name says; download it again."
            )
        text = file.read(length)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", {})
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        end, metadata, shapes = None, {}, {}
    if end is None or size != 8 + length + end:
        raise CheckpointError(
            f"{path.name} is damaged or incomplete ({size} bytes); download or save it again."
        )
    return Header(shapes, metadata)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a safetensors file. Raises CheckpointError."""
    metadata = read_header(path).metadata
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{Path(path).name} cannot be read: {error}.") from None


def write(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, Tensor],
    config: MoGAConfig | None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors with their MoGA settings; the file appears under its name only when whole.

    state_dict: router keys, with or without a model (see `merge_routers`). config: None for a file
    that has no such settings. metadata: further header entries.
    """
    path = Path(path)
    tensors = {key: tensor.detach().contiguous() for key, tensor in state_dict.items()}
    header = {**(metadata or {}), "format": "pt"}
    if config is not None:
        header[METADATA_KEY] = config.to_json()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    try:
        save_file(tensors, name, header)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
