"""Whether a training may go on from a checkpoint: only as the same training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from ..data.rows import Examined
from .cache.spec import TEXT_PARTS, VAE_PARTS
from .checkpoints import Progress
from .contents import MEMORY, Contents
from .read_settings import SettingsError
from .settings import Settings

_BY_STEP_COUNT = ("linear", "cosine")  # schedules that end with the last step
# Of a fingerprint, in checkpoints and in what is told.
PROCESSES, SHARDED = "processes", "weights split over processes"
_CLIPS = "clips of data.rows"
_MODEL, _VAE, _TEXT = (f"contents of {name}" for name in
                       ("model.file", "data.vae", "data.text_encoder"))  # fmt: skip


def fingerprint(
    settings: Settings,
    rows: Sequence[Examined],
    processes: int,
    sharded: bool = False,
    contents: Contents | None = None,
) -> dict[str, Any]:
    """What decides the numbers of a training's steps, and how they are kept, as plain JSON.

    contents: of files; None is what the cache's folder remembers. Raises SettingsError for a file
    that cannot be read.
    """
    contents = contents or Contents(settings.data.cache / MEMORY)
    made = {**settings.for_resume(), PROCESSES: processes, SHARDED: sharded}
    try:
        made[_CLIPS] = _clips(rows, contents)
        made[_VAE] = contents.of_model(settings.data.vae, *VAE_PARTS)[:12]
        made[_TEXT] = contents.of_model(settings.data.text_encoder, *TEXT_PARTS)[:12]
        if settings.model.file is not None:
            made[_MODEL] = contents.of_model(settings.model.file, "transformer")[:12]
    except OSError as error:
        raise SettingsError(
            f"{error.filename} cannot be read ({error.strerror}); check the path and its rights."
        ) from None
    return made


def check_same(settings: Settings, now: dict[str, Any], progress: Progress | None) -> None:
    """Raise SettingsError where a training would be continued as another one.

    now: the fingerprint. progress: where the training stands; None at its beginning.
    """
    if progress is None:
        return
    folder, now, then = settings.save.folder, _flat(now), _flat(progress.fingerprint)
    for name in (*_may_change(settings, progress.stage), *on_trust(progress)):
        now.pop(name, None), then.pop(name, None)
    for name in sorted(now | then):
        if now.get(name) != then.get(name):
            raise SettingsError(
                f"{folder} holds a training with {name} = {then.get(name)}, now it is "
                f"{now.get(name)}; set it back to go on, or give another save.folder."
            )
    steps = settings.stages[progress.stage].steps
    if steps < progress.step:
        raise SettingsError(
            f"stages.{progress.stage}.steps is {steps}, but {folder} holds {progress.step} steps "
            f"of it; give {progress.step} or more, or another save.folder."
        )


def _may_change(settings: Settings, stage: int) -> list[str]:
    """Steps of stages to come, and of the one that runs unless its learning rates go by them."""
    first = stage + 1 if settings.optimizer.schedule in _BY_STEP_COUNT else stage
    return [f"stages.{index}.steps" for index in range(first, len(settings.stages))]


def on_trust(progress: Progress) -> tuple[str, ...]:
    """Names of what may have changed unseen: an older version noted files by samples, or not."""
    return () if _VAE in progress.fingerprint else (_CLIPS, _MODEL, _VAE, _TEXT)


def _clips(rows: Sequence[Examined], contents: Contents) -> str:
    """Tells clips from others by their contents, cuts and texts, wherever they lie."""
    contents.of_all(one.row.video for one in rows)
    listed = [
        (contents.of(one.row.video), one.frames, one.cuts, one.row.texts, *one.row.excerpt.key)
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
