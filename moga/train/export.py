"""What a stage leaves: a model that ComfyUI opens, a router file, and an adapter.

All of it is made from one full state dict in diffusers' names, wherever that was gathered from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..checkpoint import DTYPES, merge_routers, router_key, write
from ..config import MoGAConfig
from ..hosts.diffusers import to_wan
from .context import RunContext
from .errors import TrainingError
from .model import ADAPTER

_LORA = re.compile(rf"(.+)\.lora_([AB])\.{ADAPTER}\.weight")
_BASE = ".base_layer."
COMFY = "diffusion_model."


def export(
    run: RunContext, index: int, state: Mapping[str, Tensor], config: MoGAConfig | None
) -> None:
    """Write what stage number `index` has made of the model.

    state: of the whole model, in diffusers' names. After the last stage it becomes
    `model.safetensors`, `routers.safetensors` and, where it says all of the difference to the model
    that the training began with, `adapter.safetensors`.
    Raises TrainingError when there is no room.
    """
    settings, workspace = run.settings, run.workspace
    scale = settings.lora.alpha / settings.lora.rank
    whole, routers = model_state(state, scale), router_state(state)
    lora = _lora_of_all_stages(run, index, lora_state(state, scale))
    if index < len(settings.stages) - 1:
        dtype = torch.float32
        files = {workspace.stage_model(index): whole, workspace.stage_adapter(index): lora}
    else:
        dtype = DTYPES[settings.save.dtype]
        adapter = {**routers, **lora} if lora else {}
        files = {workspace.model: whole, workspace.routers: routers, workspace.adapter: adapter}
    for path, tensors in files.items():
        if not tensors:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_model(path, tensors, config, dtype, run.metadata)
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"{path} could not be written ({error}); make room and start again"
                f"{run.checkpoints.safe()}."
            ) from error


def model_state(state: Mapping[str, Tensor], lora_scale: float = 1.0) -> dict[str, Tensor]:
    """The whole model in Wan's names, routers inside, a LoRA merged into the weights.

    lora_scale: alpha / rank.
    """
    lora = _lora_pairs(state)
    model: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if _LORA.fullmatch(name) or router_key(name):
            continue
        plain = name.replace(_BASE, ".")
        module = plain.rpartition(".")[0]
        if plain.endswith(".weight") and module in lora:
            down, up = (half.float() for half in lora[module])
            tensor = tensor.float() + lora_scale * (up @ down).view(tensor.shape)
        model[_wan(plain)] = tensor
    return model | router_state(state)


def unrounded(state: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with its frozen weights, all but routers and LoRA, as they are in `base`."""
    return {
        name: tensor if router_key(name) or _LORA.fullmatch(name)
        else base[name.replace(_BASE, ".")]
        for name, tensor in state.items()
    }  # fmt: skip


def router_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The routers alone, in Wan's names."""
    routers: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if key := router_key(name):
            routers.setdefault(key[0], {})[key[1]] = tensor
    return merge_routers({}, routers)


def lora_state(state: Mapping[str, Tensor], lora_scale: float) -> dict[str, Tensor]:
    """The LoRA alone in ComfyUI's form, its scale multiplied in, so that no alpha is needed."""
    tensors = {}
    for module, (down, up) in _lora_pairs(state).items():
        name = COMFY + _wan(f"{module}.weight").removesuffix(".weight")
        tensors[f"{name}.lora_A.weight"] = down
        tensors[f"{name}.lora_B.weight"] = up * lora_scale
    return tensors


def joined(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One LoRA that does what two do, one on top of the other: their ranks side by side."""
    both = {**first, **second}
    for name in first.keys() & second.keys():
        both[name] = torch.cat([first[name], second[name]], dim=int("lora_B" in name))
    return both


def write_model(
    path: Path,
    state: Mapping[str, Tensor],
    config: MoGAConfig | None,
    dtype: torch.dtype,
    metadata: Mapping[str, str],
) -> None:
    """Write tensors in `dtype`, routers in float32; `config` None leaves MoGA's settings out."""
    cast = {
        key: tensor.detach().cpu().to(torch.float32 if ".router." in key else dtype).contiguous()
        for key, tensor in state.items()
    }
    write(path, cast, config, metadata)


def _lora_of_all_stages(run: RunContext, index: int, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The LoRA of the stages up to this one; empty where one of them trained the whole model."""
    stages = run.settings.stages[: index + 1]
    if whole := next((stage.name for stage in stages if stage.train == "full"), None):
        if own:
            print(
                f"{stages[-1].name}: leaves no adapter.safetensors, because stage {whole!r} trains "
                "the whole model; use model.safetensors",
                flush=True,
            )
        return {}
    before = run.workspace.stage_adapter(index - 1) if index else None
    return joined(load_file(before), own) if before and before.exists() else own


def _lora_pairs(state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """By module: A (rank, in) and B (out, rank)."""
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if match := _LORA.fullmatch(name):
            halves.setdefault(match[1], {})[match[2]] = tensor
    return {module: (half["A"], half["B"]) for module, half in halves.items()}


def _wan(name: str) -> str:
    key = to_wan(name)
    if key is None:
        raise ValueError(f"{name} is no weight of Wan's transformer.")
    return key
