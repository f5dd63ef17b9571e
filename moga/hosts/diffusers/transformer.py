"""Wan's transformer from the files that people have, and back into such files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from ...checkpoint import (
    CheckpointError,
    Routers,
    check_routers,
    in_router,
    merge_routers,
    read_routers,
    router_key,
)
from ...config import MoGAConfig
from ...kernels import AUTO
from ...tensor_file import TensorFile
from .enable import enable_moga, moga_routers, unwrap
from .lora import Lora, LoraFile, add_all, open_lora
from .lora_names import is_lora
from .names import infer_config, to_diffusers, to_wan, wan_prefix
from .parts import Part, PathLike, find, takes_image
from .recognise import looks_like
from .weights import assemble, dtype_of, open_weights, refuse_quantised

_PROBE = "blocks.0.attn1.to_q.weight"  # its type is that of the file


@dataclass(frozen=True, eq=False)
class Transformer(Part):
    """A Wan transformer, and the MoGA that its file or a router file asks for.

    names: diffusers' name of each of its weights. routers: read already, they are small; empty
    where there are none. moga: their settings. router_file: the file beside the model that they are
    from. loras: what is added to the weights, in this order.
    """

    names: Mapping[str, str]
    routers: Routers
    moga: MoGAConfig | None
    router_file: TensorFile | None
    loras: Sequence[Lora] = ()

    @property
    def width(self) -> int:
        """C, of a token."""
        return self.config["num_attention_heads"] * self.config["attention_head_dim"]

    @property
    def takes_image(self) -> bool:
        """Whether it needs a first frame."""
        return takes_image(self.config)

    def load(
        self, dtype: torch.dtype | None = None, *, backend: str = AUTO
    ) -> WanTransformer3DModel:
        """The transformer on the CPU, with MoGA enabled if there are routers or settings.

        dtype: None keeps what the file has. Raises CheckpointError, BackendError.
        """
        probe = next((key for key, name in self.names.items() if name == _PROBE), None)
        probe = probe or next(iter(self.names), None)
        transformer = assemble(
            lambda: WanTransformer3DModel.from_config(self.config),
            self.weights,
            self.names,
            torch.float32 if probe is None else dtype_of(self.weights, probe, dtype),
            what="Wan's transformer",
            keep=WanTransformer3DModel._keep_in_fp32_modules,
            change=partial(add_all, self.loras) if self.loras else None,
        )
        if self.routers or self.moga is not None:
            enable_moga(transformer, self.moga, self.routers or None, backend=backend)
        return transformer


def load_wan(
    path: PathLike,
    *,
    routers: PathLike | TensorFile | None = None,
    loras: Sequence[LoraFile] = (),
    dtype: torch.dtype | None = None,
    backend: str = AUTO,
) -> WanTransformer3DModel:
    """A Wan 2.1 or 2.2 transformer on the CPU, with MoGA enabled if the file asks for it.

    path: one safetensors file in Wan's names, with or without `model.diffusion_model.` before them
        (as ComfyUI users have it; MoGA's merged files too), or in diffusers' names; or a diffusers
        folder, with or without the rest of a pipeline.
    routers: a MoGA router file, used instead of those that `path` may hold; a LoRA in it is added
        to the model, too.
    loras: LoRAs to add to the weights, for good. Routers in one of them are used where `routers` is
        None.
    dtype: torch.bfloat16, for one; None keeps what the file has.
    Nothing is downloaded. Raises CheckpointError and ConfigError, before weights are read where the
    header allows, and BackendError.
    """
    return open_wan(path, routers, loras=loras).load(dtype, backend=backend)


def open_wan(
    path: PathLike,
    routers: PathLike | TensorFile | None = None,
    *,
    loras: Sequence[LoraFile] = (),
    dense: bool = False,
    needed: str | None = None,
) -> Transformer:
    """Open a transformer as `load_wan` takes it, and judge it with its routers.

    dense: leave routers alone, of whatever kind they are. needed: routers have to be there, and
    this is what to do where they are not. Raises CheckpointError, ConfigError.
    """
    router_file = None if routers is None else open_routers(routers)
    file, folder, config = find(path, "transformer", WanTransformer3DModel)
    if folder is None:
        names, config = _names(file), _config_of_file(file)
    else:
        names = {key: key for key in file.shapes if not _is_router(key)}
    part = Transformer(Path(path), config, file, names, {}, None, None)
    if router_file is not None and any(map(is_lora, router_file.shapes)):
        loras = (LoraFile(router_file), *loras)
    shapes = {name: file.shapes[key] for key, name in names.items()}
    part = replace(part, loras=[open_lora(lora, part, shapes) for lora in loras])
    if dense:
        return part
    router_file = router_file or _routers_among(part.loras)
    if folder is not None and router_file is None and router_shapes(file):
        raise CheckpointError(
            f"{folder} holds MoGA routers, but a diffusers folder has no place for their settings; "
            "give the router file too, or save with moga.checkpoint.write."
        )
    carrier = router_file or file
    found, moga = read_routers(carrier, carrier.name)
    part = replace(part, routers=found, moga=moga, router_file=router_file)
    _check_routers(part, needed)
    return part


def _routers_among(loras: Sequence[Lora]) -> TensorFile | None:
    """The one LoRA file that brings its routers along, if any does."""
    files = [lora.file for lora in loras if lora.weight and lora.has_routers]
    if len(files) > 1:
        raise CheckpointError(
            f"both {files[0].name} and {files[1].name} hold MoGA routers; say which to use by "
            "giving routers too, or give one of them."
        )
    return files[0] if files else None


def _check_routers(part: Transformer, needed: str | None) -> None:
    """Raise CheckpointError unless the routers fit, before the model itself is read."""
    if part.moga is None:
        routed = bool(part.routers) or needed is not None
    else:
        routed = "routed" in part.moga.branches  # static branches alone need no routers
    if not routed:
        return
    if needed is not None and not part.routers:
        raise CheckpointError(f"{part.name} holds no MoGA routers; {needed}.")
    source, blocks = (part.router_file or part.weights).name, part.config["num_layers"]
    check_routers(part.routers, part.moga, source=source, dim=part.width, blocks=blocks)


def _config_of_file(file: TensorFile) -> dict[str, Any]:
    """The settings that the shapes in a file tell. Raises CheckpointError for another model."""
    if "Wan transformer" in (what := looks_like(file.shapes)):
        refuse_quantised(file)
    config = wan_config(file)
    if config is None:
        raise CheckpointError(
            f"{file.name} is not a Wan text-to-video or image-to-video transformer, it looks like "
            f"{what}; choose a diffusion model of Wan 2.1 or 2.2."
        )
    return config


def wan_config(file: TensorFile) -> dict[str, Any] | None:
    """Settings of `WanTransformer3DModel` for a file; None if it holds another model."""
    names, prefix = _names(file), wan_prefix(file.shapes)
    # Models built on Wan (VACE, Fun, Animate, ...) have all of its weights and some of their own.
    if any(k.startswith(prefix) and k not in names and not _is_router(k) for k in file.shapes):
        return None
    return infer_config({to_wan(name): file.shapes[key] for key, name in names.items()})


def open_routers(path: PathLike | TensorFile) -> TensorFile:
    """The header of a file with MoGA routers. Raises CheckpointError for a file without."""
    file = path if isinstance(path, TensorFile) else open_weights(path)
    if not router_shapes(file):
        raise CheckpointError(
            f"{file.name} holds no MoGA routers, it looks like {looks_like(file.shapes)}; choose a "
            "router file or a merged MoGA checkpoint."
        )
    return file


def load_routers(path: PathLike | TensorFile) -> tuple[Routers, MoGAConfig | None]:
    """The routers of a router file or merged checkpoint, as `enable_moga` takes them.

    path: or what `open_routers` made of it. Raises CheckpointError, ConfigError.
    """
    file = open_routers(path)
    return read_routers(file, file.name)


def router_shapes(file: TensorFile) -> dict[int, dict[str, tuple[int, ...]]]:
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
        if in_router(name):
            continue
        key = to_wan(name)
        if key is None:
            raise CheckpointError(
                f"{name} is no weight of Wan itself; fuse or unload the LoRA first."
            )
        state[key] = tensor.detach()
    return merge_routers(state, moga_routers(dit))


def _names(file: TensorFile) -> dict[str, str]:
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
