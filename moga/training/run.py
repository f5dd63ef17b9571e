"""A whole training: cache, stages one after the other, and going on where it was cut off."""

from __future__ import annotations

import json
import platform
import subprocess
from datetime import timedelta
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import broadcast_object_list, set_seed

from ..checkpoint import DTYPES
from ..flops import density
from ..layout import VideoLayout
from .cache import read_cache
from .cache_spec import CacheSpec, on_grid
from .cache_writer import make_cache
from .check import check
from .checkpoints import Checkpoints, Progress
from .journal import Journal
from .results import metadata
from .resume import SHARDED, bound_to, check_same
from .rows import Examined, examine, latent_count, read_rows
from .settings import Settings
from .sharding import is_sharded, sharding
from .stage import StageRun, Training
from .texts import check_texts
from .validation import films, script_texts

# One process fills the cache, and writes large files, while the others wait.
_PATIENCE = timedelta(days=1)
CHECKPOINTS, JOURNAL, SETTINGS = "checkpoints", "log.jsonl", "settings.json"


def run(settings: Settings, *, cache_only: bool = False) -> Path | None:
    """Train. Returns the finished model, None when only the cache was made.

    Started again after whatever interruption, it goes on from its last checkpoint.
    Raises what `check` raises, RowsError, CacheError and TrainingError.
    """
    check(settings)
    accelerator = _accelerator(settings)
    rows, validation_rows = _rows_of_all(settings, accelerator)
    checkpoints = _checkpoints(settings)
    found = None
    bound = bound_to(settings, rows, accelerator.num_processes, is_sharded(accelerator))
    if not cache_only:
        found = checkpoints.latest()
        check_same(settings, bound, found[1] if found else None)
    spec = cache_spec(settings, accelerator.device)
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            make_cache(spec, rows + validation_rows, extra_texts=script_texts(settings))
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
        bound,
        metadata(settings, revision()),
    )
    if accelerator.is_main_process:
        _begin(training, found)
    accelerator.init_trackers(settings.log.project)
    first = found[1].stage if found else 0
    for index in range(first, len(settings.stages)):
        seconds = settings.stages[index].seconds
        clips, fixed = (read_cache(spec, some, seconds) for some in (rows, validation_rows))
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
    """Everything that `run` checks before it computes, and what it would train on, for reading."""
    pixels = check(settings)
    rows, validation_rows = clips_of(settings)
    found = _checkpoints(settings).latest()
    if found:  # however it was launched: --check is one process
        then = found[1].settings
        launched = then.get("processes", 1), then.get(SHARDED, False)
        check_same(settings, bound_to(settings, rows, *launched), found[1])
    data, frames = settings.data, on_grid(max(settings.lengths), settings.data.fps)
    lines = [f"{len(rows)} clips to train on, {len(validation_rows)} to validate on"]
    layout = VideoLayout(latent_count(frames), data.height // pixels, data.width // pixels)
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


def _rows_of_all(
    settings: Settings, accelerator: Accelerator
) -> tuple[list[Examined], list[Examined]]:
    """What `clips_of` returns or raises, in every process; one looks for all of them."""
    found: Any = None
    if accelerator.is_main_process:
        try:
            found = clips_of(settings)
        except Exception as error:
            found = error
    found = broadcast_object_list([found])[0]
    if isinstance(found, Exception):
        raise found
    return found


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
