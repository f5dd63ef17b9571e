"""A whole training: cache, stages one after the other, and going on where it was cut off."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from ..flops import density
from ..layout import VideoLayout
from ..shotscript import shorten
from .cache import CachedClip, read_cache, text_length
from .cache_spec import CacheSpec, text_file
from .cache_writer import make_cache
from .check import check
from .checkpoints import Checkpoints, Progress
from .journal import Journal
from .read_settings import SettingsError
from .rows import Examined, examine, read_rows
from .settings import Settings
from .stage import DTYPES, StageRun, Training, metadata
from .validation import films, script_texts

CHECKPOINTS, JOURNAL, SETTINGS = "checkpoints", "log.jsonl", "settings.json"


def run(settings: Settings, *, cache_only: bool = False) -> Path | None:
    """Train. Returns the finished model, None when only the cache was made.

    Started again after whatever interruption, it goes on from its last checkpoint.
    Raises what `check` raises, RowsError, CacheError and TrainingError.
    """
    check(settings)
    checkpoints = _checkpoints(settings)
    found = checkpoints.latest()
    if not cache_only:
        _check_same(settings, found)
    accelerator = _accelerator(settings)
    spec = cache_spec(settings, accelerator.device)
    rows, validation_rows = _rows(settings)
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            make_cache(spec, rows + validation_rows, extra_texts=script_texts(settings))
    _check_texts(settings, spec, rows + validation_rows)
    if cache_only:
        return None
    set_seed(settings.seed)
    training = Training(
        settings,
        accelerator,
        spec,
        checkpoints,
        Journal(settings.save.folder / JOURNAL),
        films(settings, spec),
        read_cache(spec, validation_rows, settings.stages[0].seconds) if validation_rows else [],
        metadata(settings, revision()),
    )
    if accelerator.is_main_process:
        _begin(training, found)
    accelerator.init_trackers(settings.log.project)
    first = found[1].stage if found else 0
    for index in range(first, len(settings.stages)):
        clips = _clips(settings, spec, rows, index)
        stage = StageRun(training, index, clips)
        if found and found[1].stage == index:
            stage.resume(found[0], found[1].step)
        stage.run()
        accelerator.wait_for_everyone()
        del stage
        accelerator.free_memory()
    accelerator.end_training()
    return settings.save.folder / "model.safetensors"


def check_only(settings: Settings) -> str:
    """Everything that `run` checks before it computes, and what it would train on, for reading."""
    pixels = check(settings)
    _check_same(settings, _checkpoints(settings).latest())
    rows, validation_rows = _rows(settings)
    data, frames = settings.data, max(1, round(max(settings.lengths) * settings.data.fps))
    lines = [f"{len(rows)} clips to train on, {len(validation_rows)} to validate on"]
    layout = VideoLayout((frames + 3) // 4, data.height // pixels, data.width // pixels)
    lines.append(
        f"longest clip: {frames} frames of {data.width}x{data.height}, {layout.tokens} tokens"
    )
    for stage in settings.stages:
        share = "dense"
        if settings.model.attention == "moga":
            share = f"{density(layout, settings.moga.config(stage)):.1%} of dense attention"
        lines.append(
            f"stage {stage.name}: {stage.steps} steps of {stage.batch * stage.accumulate} clips up "
            f"to {stage.seconds:g} s, trains {stage.train}, {share} in the longest"
        )
    return "\n".join(lines)


def cache_spec(settings: Settings, device: torch.device | str) -> CacheSpec:
    """The cache that a training reads."""
    data = settings.data
    return CacheSpec(
        folder=data.cache,
        vae=data.vae,
        text_encoder=data.text_encoder,
        width=data.width,
        height=data.height,
        fps=data.fps,
        lengths=settings.lengths,
        dtype=DTYPES[data.dtype],
        device=str(device),
    )


def revision() -> str:
    """The version of moga, and the git revision where there is one."""
    version = "moga " + (_version("moga") or "from a folder")
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return version
    return f"{version}, git {described.stdout.strip()}"


def _checkpoints(settings: Settings) -> Checkpoints:
    return Checkpoints(settings.save.folder / CHECKPOINTS, settings.save.keep_last)


def _accelerator(settings: Settings) -> Accelerator:
    return Accelerator(
        mixed_precision=settings.optimizer.precision,
        log_with=list(settings.log.trackers) or None,
        project_dir=settings.save.folder,
        step_scheduler_with_optimizer=False,
    )


def _rows(settings: Settings) -> tuple[list[Examined], list[Examined]]:
    """The clips to train and to validate on."""
    data = settings.data
    both = [
        examine(read_rows(path), fps=data.fps) if path else []
        for path in (data.rows, data.validation_rows)
    ]
    return both[0], both[1]


def _check_texts(settings: Settings, spec: CacheSpec, rows: list[Examined]) -> None:
    """Raise SettingsError for a text that data.text_tokens would not hold."""
    limit = settings.data.text_tokens
    for text in dict.fromkeys([*(t for r in rows for t in r.row.texts), *script_texts(settings)]):
        if (count := text_length(text_file(spec, text))) > limit:
            raise SettingsError(
                f"a text has {count} tokens and data.text_tokens is {limit} ({shorten(text, 60)}); "
                "shorten it, or raise data.text_tokens."
            )


def _clips(
    settings: Settings, spec: CacheSpec, rows: list[Examined], index: int
) -> list[CachedClip]:
    stage = settings.stages[index]
    clips = read_cache(spec, rows, stage.seconds)
    if not clips:
        raise SettingsError(f"{settings.data.rows} holds no clip; add some.")
    return clips


def _check_same(settings: Settings, found: tuple[Path, Progress] | None) -> None:
    """Raise SettingsError where a training of other settings would be continued."""
    if found is None:
        return
    now, then = _flat(settings.for_resume()), _flat(found[1].settings)
    for name in sorted(now | then):
        if now.get(name) != then.get(name):
            raise SettingsError(
                f"{settings.save.folder} holds a training with {name} = {then.get(name)}, now it "
                f"is {now.get(name)}; set it back to go on, or give another save.folder."
            )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        pairs = [(f"{name}.{key}" if name else key, inner) for key, inner in value.items()]
    elif isinstance(value, (list, tuple)):
        pairs = [(f"{name}.{i}", inner) for i, inner in enumerate(value)]
    else:
        return {name: value}
    return {key: leaf for prefix, inner in pairs for key, leaf in _flat(inner, prefix).items()}


def _begin(training: Training, found: tuple[Path, Progress] | None) -> None:
    """Write down what is about to run, and put the log where the training stands."""
    settings = training.settings
    settings.save.folder.mkdir(parents=True, exist_ok=True)
    training.journal.cut(*((found[1].stage, found[1].step) if found else (-1, 0)))
    about = {
        "revision": revision(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("torch", "diffusers", "accelerate", "peft")},
        "processes": training.accelerator.num_processes,
        "distributed": training.accelerator.distributed_type.value,
        "device": _device(training.accelerator.device),
        "settings": settings.model_dump(mode="json"),
    }
    text = json.dumps(about, indent=1) + "\n"
    (settings.save.folder / SETTINGS).write_text(text, encoding="utf-8")
    if found:
        name = settings.stages[found[1].stage].name
        print(f"going on in stage {name!r} after {found[1].step} steps", flush=True)


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _version(package: str) -> str | None:
    try:
        return packages.version(package)
    except packages.PackageNotFoundError:
        return None
