"""The model of the newest checkpoint as one file, however many processes wrote it."""

from __future__ import annotations

from pathlib import Path

import torch

from ..checkpoint import DTYPES
from ..hosts.diffusers import moga_config
from .check import check
from .checkpoints import Checkpoints, Progress
from .errors import TrainingError, loading, writing
from .export import model_state, write_model
from .folders import alone_in
from .model import build
from .preview import standing
from .provenance import metadata
from .resume import check_settings
from .settings import Settings
from .state import StoredState
from .workspace import Workspace


def consolidate(settings: Settings) -> Path:
    """Write the whole model as it is in the newest checkpoint, averaged where an average is kept.

    One process does it, without a GPU. Raises what `check` raises, SettingsError for settings that
    are not those of the checkpoint, and TrainingError.
    """
    check(settings)
    workspace = Workspace.of(settings)
    with alone_in(workspace):
        checkpoints = Checkpoints(workspace.checkpoints, settings.save.keep_last)
        survey = checkpoints.survey()
        if survey.newest is None:
            raise TrainingError(
                f"{workspace.checkpoints} has no checkpoint; train until the first one is written."
            )
        print("\n".join(standing(settings, survey)), flush=True)
        return _written(settings, workspace, *survey.newest)


def _written(settings: Settings, workspace: Workspace, folder: Path, at: Progress) -> Path:
    check_settings(settings, at)
    earlier = workspace.stage_model(at.stage - 1) if at.stage else None
    dit = build(settings, settings.stages[at.stage], earlier, torch.float32)
    with loading(folder):
        stored = StoredState(folder)
        state = dit.state_dict() | (stored.whole("ema.") or stored.whole("model."))
    model = model_state(state, settings.lora.alpha / settings.lora.rank)
    path = workspace.checkpoint_model(at.stage, at.step)
    dtype = DTYPES[settings.save.dtype]
    with writing(path):
        write_model(path, model, moga_config(dit), dtype, metadata(settings))
    return path
