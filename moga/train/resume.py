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
from .ranks import Ranks
from .read_settings import SettingsError
from .settings import Settings

_BY_STEP_COUNT = ("linear", "cosine")  # schedules that end with the last step
# Of a fingerprint, in checkpoints and in what is told.
_STAGES, _FORWARDS = "stages", "forwards"
_GROUPS = "clips at a time"  # noted for `launched`, and free to change
_PROCESSES, _SHARDED = "processes", "weights split over processes"  # of version 0.2
_CLIPS = "clips of data.rows"
_MODEL, _VAE, _TEXT = (f"contents of {name}" for name in
                       ("model.file", "data.vae", "data.text_encoder"))  # fmt: skip


def fingerprint(
    settings: Settings,
    rows: Sequence[Examined],
    ranks: Ranks,
    contents: Contents | None = None,
) -> dict[str, Any]:
    """What decides the numbers of a training's steps, as plain JSON.

    That is how many forwards a step has, and not how many processes do them. contents: of files;
    None is what the cache's folder remembers. Raises SettingsError for a file that cannot be read.
    """
    contents = contents or Contents(settings.data.cache / MEMORY)
    made = {**settings.for_resume(), _GROUPS: ranks.groups}
    for stage, about in zip(settings.stages, made[_STAGES], strict=True):
        about[_FORWARDS] = ranks.forwards(stage)
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
    folder, before = settings.save.folder, _as_now(settings, progress.fingerprint)
    _check_forwards(settings, now[_STAGES], before[_STAGES])
    now, then = _flat(now), _flat(before)
    for name in (_GROUPS, *_may_change(settings, progress.stage), *on_trust(progress)):
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


def check_settings(settings: Settings, progress: Progress) -> None:
    """The same of the settings alone: clips and files are not looked at. Raises SettingsError."""
    then = _as_now(settings, progress.fingerprint)
    now = {**then, **settings.for_resume()}
    for stage, before in zip(now[_STAGES], then[_STAGES], strict=False):
        stage[_FORWARDS] = before[_FORWARDS]
    check_same(settings, now, progress)


def launched(progress: Progress) -> Ranks:
    """Processes that do at a time what those did that wrote a checkpoint."""
    then = progress.fingerprint
    return Ranks(processes=then.get(_GROUPS, then.get(_PROCESSES, 1)))


def _as_now(settings: Settings, then: dict[str, Any]) -> dict[str, Any]:
    """The fingerprint of a checkpoint as this version would have made it.

    Raises SettingsError where version 0.2 split the weights, in a way of its own.
    """
    if _PROCESSES not in then:
        return then
    then = dict(then)
    processes = then.pop(_PROCESSES)
    if then.pop(_SHARDED, False):
        raise SettingsError(
            f"{settings.save.folder} holds a training of version 0.2 whose weights are split over "
            f"{processes} processes, which this version cannot read; let that version end the "
            "stage, or give another save.folder."
        )
    then[_STAGES] = [dict(stage) for stage in then[_STAGES]]
    for stage in then[_STAGES]:
        stage[_FORWARDS] = stage.pop("accumulate", 1) * processes
    return then


def _check_forwards(
    settings: Settings, now: Sequence[dict[str, Any]], then: Sequence[dict[str, Any]]
) -> None:
    """Raise SettingsError where steps would have other clips, with what makes them the same."""
    pairs = enumerate(zip(now, then, strict=False))
    other = [(i, a[_FORWARDS], b[_FORWARDS]) for i, (a, b) in pairs if a[_FORWARDS] != b[_FORWARDS]]
    if not other:
        return
    index, asked, had = other[0]
    fix = " and ".join(f"stages.{i}.forwards to {b}" for i, _, b in other)
    raise SettingsError(
        f"{settings.save.folder} holds a training with {had} forwards to a step in stage "
        f"{settings.stages[index].name!r}, now it is {asked}; set {fix}, which is for any number "
        "of processes, or give another save.folder."
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
