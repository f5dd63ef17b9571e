"""The models that a training is made of, each opened once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel

from ..hosts.diffusers import (
    Part,
    TextEncoder,
    Transformer,
    Vae,
    open_routers,
    open_text_encoder,
    open_vae,
    open_wan,
)
from ..tensor_file import TensorFile
from ..wan import HEAD_WIDTH, PATCH
from .read_settings import SettingsError
from .settings import Scratch, Settings


@dataclass(frozen=True, eq=False)
class NewTransformer(Part):
    """A Wan transformer with random weights, which no file has."""

    seed: int

    @classmethod
    def of(cls, sizes: Scratch, seed: int) -> NewTransformer:
        source = Path("model.scratch")
        config = {
            "patch_size": (1, PATCH, PATCH),
            "num_attention_heads": sizes.heads,
            "attention_head_dim": HEAD_WIDTH,
            "num_layers": sizes.layers,
            "ffn_dim": sizes.ffn,
            "text_dim": sizes.text,
            "in_channels": sizes.channels,
            "out_channels": sizes.channels,
        }
        return cls(source, config, TensorFile(source, {}, {}, {}), seed)

    def load(self, dtype: torch.dtype | None = None) -> WanTransformer3DModel:
        """In float32, whatever is asked for: nothing of it is worth keeping frozen."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return WanTransformer3DModel(**self.config)


class ModelFiles:
    """What the settings name, opened when it is first asked for and judged by itself then.

    Raises SettingsError for what is not there or cannot be trained with, CheckpointError and
    ConfigError for what it holds.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def transformer(self) -> Transformer | NewTransformer:
        """What the first stage begins with."""
        model = self._settings.model
        if model.scratch is not None:
            if model.routers == "file":
                raise SettingsError(
                    "model.routers is 'file', but model.scratch has none; use 'random'."
                )
            return NewTransformer.of(model.scratch, self._settings.seed)
        part = open_wan(there("model.file", model.file, folder=True))
        if model.routers == "file" and not part.routers:
            raise SettingsError(
                f"model.routers is 'file', but {part.name} holds no routers; give a router file, "
                "or 'random'."
            )
        if part.takes_image:
            raise SettingsError(
                f"model.file is {part.name}, which begins with an image; this trainer knows "
                "text-to-video models, so choose one of those."
            )
        return part

    @cached_property
    def routers(self) -> TensorFile | None:
        """The router file; None where there is none to be given."""
        path = self._settings.model.routers
        if path in ("random", "file"):
            return None
        return open_routers(there("model.routers", path))

    @cached_property
    def vae(self) -> Vae:
        return open_vae(there("data.vae", self._settings.data.vae, folder=True))

    @cached_property
    def text_encoder(self) -> TextEncoder:
        path = self._settings.data.text_encoder
        return open_text_encoder(there("data.text_encoder", path, folder=True))


def model_files(settings: Settings) -> ModelFiles:
    """The model files of a training, always the same for the same object of settings.

    They are kept with it, as a cached property would be, so that all who look at them in a run
    share what the first one opened.
    """
    return vars(settings).setdefault("_model_files", ModelFiles(settings))


def there(name: str, path: Path, *, folder: bool = False) -> Path:
    """The path of a setting. Raises SettingsError where no file, or else folder, is there."""
    if not (path.is_file() or (folder and path.is_dir())):
        raise SettingsError(f"{name} is {path}, which is not there; check the path.")
    return path
