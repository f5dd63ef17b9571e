"""MoGA weights on disk: routers beside the model they belong to, settings in the header.

Router keys follow the original Wan names, `blocks.{i}.self_attn.router.weight` (M, C) and `.bias`
(M,), or diffusers', with `attn1` for `self_attn`; the safetensors header holds the MoGAConfig as
JSON under `moga`. A merged file holds a whole model too, a router file only the routers.
"""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Mapping

import torch
from torch import Tensor

from .config import ConfigError, MoGAConfig
from .tensor_file import CheckpointError, TensorFile, read, write_tensors

__all__ = [
    "DTYPES",
    "CheckpointError",
    "Header",
    "Routers",
    "TensorFile",
    "check_routers",
    "config_in",
    "in_router",
    "merge_routers",
    "read",
    "read_header",
    "read_routers",
    "router_key",
    "split_routers",
    "write",
]

METADATA_KEY = "moga"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_ROUTER = re.compile(r"(?:.*\.)?blocks\.(\d{1,4})\.(?:self_attn|attn1)\.router\.(.+)", re.ASCII)
_SHOWN = 6  # runs of block numbers in a message

Routers = dict[int, dict[str, Tensor]]
Header = TensorFile
read_header = TensorFile.open


def router_key(key: str) -> tuple[int, str] | None:
    """Block and name ("weight" or "bias") where `key` is a router's, with any prefix; else None."""
    match = _ROUTER.fullmatch(key)
    return (int(match[1]), match[2]) if match and match[2] in ("weight", "bias") else None


def in_router(key: str) -> bool:
    """Whether `key` is a router's, or of something that was put around one (peft's copies)."""
    return _ROUTER.fullmatch(key) is not None


def split_routers(
    state_dict: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    source: str = "the state dict",
) -> tuple[dict[str, Tensor], Routers, MoGAConfig | None]:
    """Take the routers out of a state dict.

    Returns the rest, the routers as {block index: {"weight": (M, C), "bias": (M,)}}, and the
    settings from the file's metadata where those are given. Keys may carry a prefix such as
    `model.diffusion_model.`; the rest keeps it. source: what messages call the file.
    Raises CheckpointError for a block that has two routers, and ConfigError.
    """
    base: dict[str, Tensor] = {}
    routers: Routers = {}
    for key, tensor in state_dict.items():
        place = router_key(key)
        if place is None:
            base[key] = tensor
            continue
        router = routers.setdefault(place[0], {})
        if place[1] in router:
            raise CheckpointError(
                f"{source} has two routers for block {place[0]} (one is {key}); use a file that "
                "holds one model."
            )
        router[place[1]] = tensor
    return base, dict(sorted(routers.items())), config_in(metadata, source)


def config_in(metadata: Mapping[str, str] | None, source: str = "") -> MoGAConfig | None:
    """The settings in a file's metadata, if there are any.

    source: what messages call the file. Raises ConfigError.
    """
    text = (metadata or {}).get(METADATA_KEY)
    if not text:
        return None
    try:
        return MoGAConfig.from_json(text)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}" if source else str(error)) from None


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

    Values are looked at as well, unless the tensors are on the meta device.

    source: what the message calls the file. dim: model width C. blocks: how many the model has.
    """
    if not routers:
        raise CheckpointError(f"{source} holds no MoGA routers; choose a file that does.")
    if config is None:
        raise CheckpointError(
            f"{source} holds routers but no `moga` settings in its header (a tool that rewrote it "
            "dropped them); use the file as it was saved by the trainer."
        )
    _check_blocks(routers, source, blocks)
    own = {router["weight"].shape[:1] for router in routers.values() if "weight" in router}
    if own - {(config.groups,)}:
        have = ", ".join(str(*shape) or "none" for shape in sorted(own))
        raise CheckpointError(
            f"{source} has settings for {config.groups} groups and router weights for {have}; use "
            "routers with the settings they were trained with."
        )
    for index, router in routers.items():
        for name, shape in (("weight", (config.groups, dim)), ("bias", (config.groups,))):
            problem = _router_problem(router.get(name), shape)
            if problem is not None:
                raise CheckpointError(f"{source}: the router {name} of block {index} {problem}")


def _check_blocks(routers: Routers, source: str, blocks: int) -> None:
    if routers.keys() == set(range(blocks)):
        return
    if routers.keys() == set(range(len(routers))):
        raise CheckpointError(
            f"{source} has routers for {len(routers)} blocks, the model has {blocks}; "
            "use routers that were made for this model."
        )
    missing = [index for index in range(blocks) if index not in routers]
    extra = [index for index in sorted(routers) if index >= blocks]
    words = [f"no router for {_named(missing)}"] if missing else []
    words += [f"a router for {_named(extra)}"] if extra else []
    raise CheckpointError(
        f"{source} has {' and '.join(words)}, where the blocks are 0 to {blocks - 1}; use a whole "
        "file of routers that were made for this model."
    )


def _named(blocks: list[int]) -> str:
    """Ascending block numbers in words: "block 3", "blocks 0, 4 to 6"."""
    runs: list[list[int]] = []
    for index in blocks:
        if runs and index == runs[-1][-1] + 1:
            runs[-1][1:] = [index]
        else:
            runs.append([index])
    shown = [" to ".join(map(str, run)) for run in runs[:_SHOWN]]
    more = ["..."] if len(runs) > _SHOWN else []
    return f"block{'s' if len(blocks) > 1 else ''} {', '.join(shown + more)}"


def _router_problem(tensor: Tensor | None, shape: tuple[int, ...]) -> str | None:
    """What is wrong with a tensor of a router, in words; None for nothing."""
    if tensor is None:
        return f"is missing; the model needs {shape}, so use a whole file of routers."
    if tuple(tensor.shape) != shape:
        found = reprlib.repr(tuple(tensor.shape))
        width = f", width {shape[1]}" if len(shape) > 1 else ""
        return (
            f"has shape {found}, the model needs {shape} ({shape[0]} groups{width}); use routers "
            "made for this model."
        )
    if not tensor.is_floating_point():
        return f"is {str(tensor.dtype).removeprefix('torch.')}; save routers in float32."
    if not (tensor.is_meta or tensor.float().isfinite().all()):
        return (
            "has values that aren't numbers (NaN or infinite); use a checkpoint from before its "
            "training went wrong, or download the file again."
        )
    return None


def read_routers(
    file: TensorFile | str | os.PathLike[str], source: str
) -> tuple[Routers, MoGAConfig | None]:
    """The routers of a router file or merged checkpoint and their settings; nothing else is read.

    file: opened, or its path. source: what messages call it. Neither is there in a file without.
    Raises CheckpointError, ConfigError.
    """
    if not isinstance(file, TensorFile):
        file = TensorFile.open(file)
    config = config_in(file.metadata, source)
    keys = [key for key in file.shapes if router_key(key)]
    return split_routers(dict(file.read(keys)) if keys else {}, source=source)[1], config


def write(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, Tensor],
    config: MoGAConfig | None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors with their MoGA settings; the file appears under its name only when whole.

    state_dict: router keys, with or without a model (see `merge_routers`). config: None for a file
    that has no such settings. metadata: further header entries. Raises OSError when the place
    cannot be written or is full.
    """
    tensors = {key: tensor.detach().contiguous() for key, tensor in state_dict.items()}
    header = {**(metadata or {}), "format": "pt"}
    if config is not None:
        header[METADATA_KEY] = config.to_json()
    write_tensors(path, tensors, header)
