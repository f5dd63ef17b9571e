"""A whole training: cache, stages one after the other, and going on where it was cut off."""

from __future__ import annotations

import json
import platform
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import set_seed

from ..checkpoint import DTYPES
from ..data.rows import Examined, examine, read_rows
from ..flops import density
from ..layout import VideoLayout
from ..wan import latent_frames
from .cache.missing import find_missing, refuse_unwritable, say_what_is_stale
from .cache.reader import read_cache
from .cache.spec import CacheSpec, on_grid
from .cache.writer import make_cache
from .check import check
from .check_clips import check_clips
from .checkpoints import Checkpoints, Survey, writing
from .folders import alone_in, unwritable
from .journal import Journal
from .results import metadata
from .resume import SHARDED, bound_to, check_same, on_trust
from .settings import Settings
from .sharding import is_sharded, sharding
from .stage import StageRun
from .texts import check_texts
from .together import for_all
from .training import Training
from .validation import films, script_texts

# One process fills the cache, and writes large files, while the others wait.
_PATIENCE = timedelta(days=1)
CHECKPOINTS, JOURNAL, SETTINGS = "checkpoints", "log.jsonl", "settings.json"


@dataclass(frozen=True)
class Start:
    """What the main process finds out for all before a training begins."""

    rows: list[Examined]
    validation_rows: list[Examined]
    bound: dict[str, Any]
    survey: Survey


def run(settings: Settings, *, cache_only: bool = False) -> Path | None:
    """Train. Returns the finished model, None when only the cache was made.

    Started again after whatever interruption, it goes on from its last whole checkpoint.
    Raises what `check` raises, RowsError, CacheError and TrainingError.
    """
    check(settings)
    accelerator = _accelerator(settings)
    spec = cache_spec(settings, accelerator.device)
    with ExitStack() as alone:
        if cache_only:
            for_all(accelerator, lambda: _fill_cache(settings, spec, *clips_of(settings)))
            return None
        start = for_all(accelerator, lambda: _start(settings, accelerator, spec, alone))
        rows, validation_rows = start.rows, start.validation_rows
        for_all(accelerator, lambda: _fill_cache(settings, spec, rows, validation_rows))
        return _train(settings, accelerator, spec, start)


def _start(
    settings: Settings, accelerator: Accelerator, spec: CacheSpec, alone: ExitStack
) -> Start:
    """Look at the clips and at where the training stands, with others kept out of its folder."""
    rows, validation_rows = clips_of(settings)
    alone.enter_context(alone_in(settings.save.folder))
    survey = _checkpoints(settings).survey()
    processes, sharded = accelerator.num_processes, is_sharded(accelerator)
    bound = bound_to(settings, rows, processes, sharded, spec.contents)
    check_same(settings, bound, survey.found[1] if survey.found else None)
    return Start(rows, validation_rows, bound, survey)


def _fill_cache(
    settings: Settings,
    spec: CacheSpec,
    rows: list[Examined],
    validation_rows: list[Examined],
) -> None:
    both, texts = rows + validation_rows, script_texts(settings)
    say_what_is_stale(spec, find_missing(spec, both, texts))
    make_cache(spec, both, extra_texts=texts)


def _train(settings: Settings, accelerator: Accelerator, spec: CacheSpec, start: Start) -> Path:
    set_seed(settings.seed)
    training = Training(
        settings,
        accelerator,
        spec,
        _checkpoints(settings),
        Journal(settings.save.folder / JOURNAL),
        films(settings, spec),
        start.bound,
        metadata(settings, revision()),
    )
    for_all(accelerator, lambda: _begin(training, start.survey))
    accelerator.init_trackers(settings.log.project)
    found = start.survey.found
    first = found[1].stage if found else 0
    for index in range(first, len(settings.stages)):
        seconds = settings.stages[index].seconds
        clips, fixed = (
            read_cache(spec, some, seconds) for some in (start.rows, start.validation_rows)
        )
        stage = StageRun(training, index, clips, fixed)
        if found and found[1].stage == index:
            stage.resume(found[0], found[1].step)
        stage.run()
        accelerator.wait_for_everyone()
        del stage
        accelerator.free_memory()
    accelerator.end_training()
    return settings.save.folder / "model.safetensors"


def check_only(settings: Settings) -> str:
    """Everything that `run` checks before it computes, and what it would train on, for reading.

    And more: every clip is decoded once. Raises what `run` raises.
    """
    pixels = check(settings)
    rows, validation_rows = clips_of(settings)
    spec = cache_spec(settings, "cpu")
    survey = _checkpoints(settings).survey()
    if survey.found:  # however it was launched: --check is one process
        progress = survey.found[1]
        launched = progress.settings.get("processes", 1), progress.settings.get(SHARDED, False)
        check_same(settings, bound_to(settings, rows, *launched, spec.contents), progress)
    if unwritable(spec.folder):
        both = rows + validation_rows
        refuse_unwritable(spec, find_missing(spec, both, script_texts(settings)))
    check_clips(rows + validation_rows)
    data, frames = settings.data, on_grid(max(settings.lengths), settings.data.fps)
    lines = [f"{len(rows)} clips to train on, {len(validation_rows)} to validate on"]
    lines += _standing(settings, survey)
    layout = VideoLayout(latent_frames(frames), data.height // pixels, data.width // pixels)
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
        fsdp_plugin=sharding(),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
    )


def clips_of(settings: Settings) -> tuple[list[Examined], list[Examined]]:
    """The clips to train and to validate on, whose videos and texts can be used.

    Raises RowsError, SettingsError for texts of films.
    """
    data = settings.data
    rows, validation_rows = (
        examine(read_rows(path), fps=data.fps) if path else []
        for path in (data.rows, data.validation_rows)
    )
    check_texts(settings, rows + validation_rows)
    return rows, validation_rows


def _begin(training: Training, survey: Survey) -> None:
    """Write down what is about to run, and put the log where the training stands."""
    settings, found = training.settings, survey.found
    training.checkpoints.set_aside(survey.damaged)
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
    path = settings.save.folder / SETTINGS
    with writing(path):
        path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    for line in _standing(settings, survey):
        print(line, flush=True)


def _standing(settings: Settings, survey: Survey) -> list[str]:
    """From where a training goes on, for reading."""
    lines = [f"the checkpoint {one.path} is damaged ({one.why})" for one in survey.damaged]
    if survey.found:
        progress = survey.found[1]
        name = settings.stages[progress.stage].name
        lines.append(f"going on in stage {name!r} after {progress.step} steps")
        if on_trust(progress):
            lines.append(
                f"{settings.save.folder} is of an older version, which did not note what all of "
                "its files hold; that model, VAE, text encoder and clips are the same is taken on "
                "trust"
            )
    return lines


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _version(package: str) -> str | None:
    try:
        return packages.version(package)
    except packages.PackageNotFoundError:
        return None
