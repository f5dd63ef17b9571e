"""Whether a training may go on from a checkpoint: only as the same training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from .cache_spec import model_key
from .checkpoints import Progress
from .read_settings import SettingsError
from .rows import Examined
from .settings import Settings

_BY_STEP_COUNT = ("linear", "cosine")  # schedules that end with the last step


SHARDED = "weights split over processes"


def bound_to(
    settings: Settings, rows: Sequence[Examined], processes: int, sharded: bool = False
) -> dict[str, Any]:
    """What decides the numbers of a training's steps, and how they are kept, as plain JSON."""
    bound = {**settings.for_resume(), "processes": processes, SHARDED: sharded}
    bound["clips of data.rows"] = _clips(rows)
    if settings.model.file is not None:
        bound["contents of model.file"] = model_key(settings.model.file, "transformer")[:12]
    return bound


def check_same(settings: Settings, bound: dict[str, Any], found: Progress | None) -> None:
    """Raise SettingsError where a training would be continued as another one.

    bound: what `bound_to` gives now. found: where the training stands; None at its beginning.
    """
    if found is None:
        return
    folder, now, then = settings.save.folder, _flat(bound), _flat(found.settings)
    for name in _may_change(settings, found.stage):
        now.pop(name, None), then.pop(name, None)
    for name in sorted(now | then):
        if now.get(name) != then.get(name):
            raise SettingsError(
                f"{folder} holds a training with {name} = {then.get(name)}, now it is "
                f"{now.get(name)}; set it back to go on, or give another save.folder."
            )
    asked = settings.stages[found.stage].steps
    if asked < found.step:
        raise SettingsError(
            f"stages.{found.stage}.steps is {asked}, but {folder} holds {found.step} steps of it; "
            f"give {found.step} or more, or another save.folder."
        )


def _may_change(settings: Settings, stage: int) -> list[str]:
    """Steps of stages to come, and of the one that runs unless its learning rates go by them."""
    first = stage + 1 if settings.optimizer.schedule in _BY_STEP_COUNT else stage
    return [f"stages.{index}.steps" for index in range(first, len(settings.stages))]


def _clips(rows: Sequence[Examined]) -> str:
    """Tells clips from others by their names, sizes, cuts and texts, wherever they lie."""
    listed = [
        (one.row.video.name, one.row.video.stat().st_size, one.frames, one.cuts, one.row.texts)
        for one in rows
    ]
    return f"{len(rows)} ({hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:12]})"


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        pairs = [(f"{name}.{key}" if name else key, inner) for key, inner in value.items()]
    elif isinstance(value, (list, tuple)):
        pairs = [(f"{name}.{i}", inner) for i, inner in enumerate(value)]
    else:
        return {name: value}
    return {key: leaf for prefix, inner in pairs for key, leaf in _flat(inner, prefix).items()}
