"""Wan's transformer from the files that people have, and back into such files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders import WanLoraLoaderMixin
from torch import Tensor, nn

from ...checkpoint import (
    CheckpointError,
    Routers,
    check_routers,
    merge_routers,
    read_routers,
    router_key,
)
from ...config import MoGAConfig
from ...kernels import AUTO
from ...shots.script import shorten
from . import folders
from .enable import enable_moga, moga_routers, unwrap
from .names import infer_config, to_diffusers, to_wan, wan_prefix
from .weights import WeightFile, assemble

_PROBE = "blocks.0.attn1.to_q.weight"  # its type is that of the file


def load_wan(
    path: str | os.PathLike[str],
    *,
    routers: str | os.PathLike[str] | None = None,
    dtype: torch.dtype | None = None,
    backend: str = AUTO,
) -> WanTransformer3DModel:
    """A Wan 2.1 or 2.2 transformer on the CPU, with MoGA enabled if the file asks for it.

    path: one safetensors file in Wan's names, with or without `model.diffusion_model.` before them
        (as ComfyUI users have it; MoGA's merged files too), or in diffusers' names; or a diffusers
        folder, with or without the rest of a pipeline.
    routers: a MoGA router file, used instead of those that `path` may hold; LoRA weights in it are
        loaded too.
    dtype: torch.bfloat16, for one; None keeps what the file has.
    Nothing is downloaded. Raises CheckpointError and ConfigError, before weights are read where the
    header allows, and BackendError.
    """
    adapter = None if routers is None else open_routers(routers)
    file = folder = None
    if os.path.isdir(path):
        folder = folders.model(Path(path), "transformer")
        settings = folders.read_config(folder, WanTransformer3DModel)
    else:
        file = open_wan(path)
        settings = wan_config(file)
    carrier = adapter or file
    found, config = read_routers(carrier.path, carrier.name) if carrier else ({}, None)
    # Before the model itself is read, which takes its time.
    if found if config is None else "routed" in config.branches:
        dim = settings["num_attention_heads"] * settings["attention_head_dim"]
        blocks = settings["num_layers"]
        check_routers(found, config, source=carrier.name, dim=dim, blocks=blocks)
    if folder is not None:
        transformer = _from_folder(folder, settings, dtype, routers_given=adapter is not None)
    else:
        transformer = _from_file(file, dtype)
    if found or config is not None:
        enable_moga(transformer, config, found or None, backend=backend)
    if adapter is not None:
        _load_lora(transformer, adapter)
    return transformer


def open_wan(path: str | os.PathLike[str]) -> WeightFile:
    """The header of a single-file Wan transformer. Raises CheckpointError for anything else."""
    file = WeightFile.open(path)
    if "Wan transformer" in (what := file.looks_like()):
        file.refuse_quantised()
    if wan_config(file) is None:
        raise CheckpointError(
            f"{file.name} is not a Wan text-to-video or image-to-video transformer, it looks like "
            f"{what}; choose a diffusion model of Wan 2.1 or 2.2."
        )
    return file


def wan_config(file: WeightFile) -> dict[str, Any] | None:
    """Settings of `WanTransformer3DModel` for a file; None if it holds another model."""
    names, prefix = _names(file), wan_prefix(file.shapes)
    # Models built on Wan (VACE, Fun, Animate, ...) have all of its weights and some of their own.
    if any(k.startswith(prefix) and k not in names and not _is_router(k) for k in file.shapes):
        return None
    return infer_config({to_wan(name): file.shapes[key] for key, name in names.items()})


def open_routers(path: str | os.PathLike[str]) -> WeightFile:
    """The header of a file with MoGA routers. Raises CheckpointError for a file without."""
    file = WeightFile.open(path)
    if not router_shapes(file):
        raise CheckpointError(
            f"{file.name} holds no MoGA routers, it looks like {file.looks_like()}; choose a "
            "router file or a merged MoGA checkpoint."
        )
    return file


def load_routers(path: str | os.PathLike[str]) -> tuple[Routers, MoGAConfig | None]:
    """The routers of a router file or merged checkpoint, as `enable_moga` takes them.

    Raises CheckpointError, ConfigError.
    """
    file = open_routers(path)
    return read_routers(file.path, file.name)


def router_shapes(file: WeightFile) -> dict[int, dict[str, tuple[int, ...]]]:
    """The shapes of the routers in a file, by block and name; empty where there are none."""
    found: dict[int, dict[str, tuple[int, ...]]] = {}
    for key, shape in file.shapes.items():
        if place := router_key(key):
            found.setdefault(place[0], {})[place[1]] = shape
    return found


def wan_state_dict(transformer: nn.Module) -> dict[str, Tensor]:
    """The weights in Wan's own names, routers among them: what `moga.checkpoint.write` saves.

    Raises CheckpointError while a LoRA is on the transformer.
    """
    dit = unwrap(transformer)
    state: dict[str, Tensor] = {}
    for name, tensor in dit.state_dict().items():
        if ".attn1.router." in name:
            continue
        key = to_wan(name)
        if key is None:
            raise CheckpointError(
                f"{name} is no weight of Wan itself; fuse or unload the LoRA first."
            )
        state[key] = tensor.detach()
    return merge_routers(state, moga_routers(dit))


def _from_file(file: WeightFile, dtype: torch.dtype | None) -> WanTransformer3DModel:
    settings, names = wan_config(file), _names(file)
    probe = next((key for key, name in names.items() if name == _PROBE), next(iter(names)))
    return assemble(
        lambda: WanTransformer3DModel(**settings),
        file,
        names,
        file.dtype_of(probe, dtype),
        what="Wan's transformer",
        keep=WanTransformer3DModel._keep_in_fp32_modules,
    )


def _from_folder(
    folder: Path, config: dict[str, Any], dtype: torch.dtype | None, *, routers_given: bool
) -> WanTransformer3DModel:
    files = folders.weights(folder)
    if router_shapes(files) and not routers_given:
        raise CheckpointError(
            f"{folder} holds MoGA routers, but a diffusers folder has no place for their settings; "
            "give the router file too, or save with moga.checkpoint.write."
        )
    names = {key: key for key in files.shapes if not _is_router(key)}
    return assemble(
        lambda: WanTransformer3DModel.from_config(config),
        files,
        names,
        files.dtype_of(_PROBE if _PROBE in names else next(iter(names)), dtype),
        what="Wan's transformer",
        keep=WanTransformer3DModel._keep_in_fp32_modules,
    )


def _names(file: WeightFile) -> dict[str, str]:
    """diffusers' name for each weight of the file that is the transformer's own."""
    if any(key.startswith("condition_embedder.") for key in file.shapes):
        pairs = {key: key for key in file.shapes if to_wan(key) is not None}
    else:
        prefix = wan_prefix(file.shapes)
        pairs = {
            key: to_diffusers(key[len(prefix) :]) for key in file.shapes if key.startswith(prefix)
        }
    return {k: name for k, name in pairs.items() if name is not None and not _is_router(k)}


def _is_router(key: str) -> bool:
    return router_key(key) is not None


def _load_lora(transformer: WanTransformer3DModel, file: WeightFile) -> None:
    """LoRA weights of a router file, `diffusion_model.*` as ComfyUI has them."""
    if not any(".lora_" in key for key in file.shapes):
        return
    weights = dict(file.read(key for key in file.shapes if not _is_router(key)))
    try:
        lora = WanLoraLoaderMixin.lora_state_dict(weights)
        transformer.load_lora_adapter(lora, prefix="transformer", adapter_name="moga")
    except Exception as error:  # of diffusers or peft, by names and shapes in the file
        why = shorten(str(error), 200).rstrip(".")
        raise CheckpointError(
            f"the LoRA in {file.name} does not fit the model ({why}); use the file as it was saved "
            "by the trainer, with the model that it was trained on."
        ) from error
