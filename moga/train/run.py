"""A whole training: cache, stages one after the other, and going on where it was cut off."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from accelerate.utils import set_seed

from .cache.jobs import make_cache_with
from .cache.missing import say_what_is_stale
from .cache.reader import read_cache
from .cache.spec import CacheSpec
from .cache.writer import make_cache
from .check import check
from .checkpoints import Checkpoints, Survey
from .context import RunContext
from .errors import with_others
from .folders import alone_in
from .inputs import Inputs, cache_spec, read_inputs
from .log import Log
from .network import join, launched, say_unlike_cards, waiting_group
from .preview import standing
from .provenance import metadata, write_settings
from .ranks import Ranks
from .resume import check_same, fingerprint
from .settings import Settings
from .stage import StageRun
from .together import for_all, wait_for_main
from .validation import films
from .workspace import Workspace

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class Start:
    """What the main process finds out for all before a training begins."""

    inputs: Inputs
    fingerprint: dict[str, Any]
    survey: Survey


def run(settings: Settings) -> Path:
    """Train. Returns the finished model.

    Started again after whatever interruption, it goes on from its last whole checkpoint.
    Raises what `check` raises, RowsError, CacheError and TrainingError.
    """
    if launched() == 1:
        check(settings)
    accelerator = join(settings)
    waiting, spec = waiting_group(accelerator), cache_spec(settings, accelerator.device)
    with ExitStack() as alone, with_others(_checkpoints(settings).safe):
        for_all(accelerator, lambda: _check(settings, accelerator), waiting)
        ranks = Ranks.of(settings, accelerator)
        say_unlike_cards(accelerator)
        start = for_all(accelerator, lambda: _start(settings, ranks, spec, alone), waiting)
        for_all(accelerator, lambda: _fill(spec, start.inputs), waiting)
        return _train(settings, accelerator, ranks, spec, start, waiting)


def fill_cache(settings: Settings, jobs: int = 1) -> None:
    """Make the cache of a training, with so many processes.

    Raises what `check` raises, RowsError and CacheError.
    """
    check(settings)
    accelerator = join(settings)
    waiting, spec = waiting_group(accelerator), cache_spec(settings, accelerator.device)
    for_all(accelerator, lambda: _fill(spec, read_inputs(settings), jobs), waiting)


def _check(settings: Settings, accelerator: Accelerator) -> None:
    """What several processes find out together, so that one tells of it; one has done it before."""
    if accelerator.num_processes > 1:
        check(settings)
    Ranks.of(settings, accelerator)


def _start(settings: Settings, ranks: Ranks, spec: CacheSpec, alone: ExitStack) -> Start:
    """Look at the clips and at where the training stands, with others kept out of its folder."""
    inputs = read_inputs(settings)
    alone.enter_context(alone_in(Workspace.of(settings)))
    survey = _checkpoints(settings).survey()
    now = fingerprint(settings, inputs.rows, ranks, spec.contents)
    check_same(settings, now, survey.newest[1] if survey.newest else None)
    return Start(inputs, now, survey)


def _fill(spec: CacheSpec, inputs: Inputs, jobs: int = 1) -> None:
    say_what_is_stale(spec, inputs.missing_in(spec))
    if jobs > 1:
        make_cache_with(jobs, spec, inputs.all_rows)
    make_cache(spec, inputs.all_rows, extra_texts=inputs.film_texts)


def _train(
    settings: Settings,
    accelerator: Accelerator,
    ranks: Ranks,
    spec: CacheSpec,
    start: Start,
    waiting: ProcessGroup | None,
) -> Path:
    set_seed(settings.seed)
    workspace, newest = Workspace.of(settings), start.survey.newest
    context = RunContext(
        settings,
        accelerator,
        ranks,
        spec,
        workspace,
        _checkpoints(settings),
        Log(workspace.log, settings, accelerator),
        films(settings, spec),
        start.fingerprint,
        metadata(settings),
        waiting,
    )
    for_all(accelerator, lambda: _begin(context, start.survey))
    accelerator.init_trackers(settings.log.project)
    for index in range(newest[1].stage if newest else 0, len(settings.stages)):
        seconds = settings.stages[index].seconds
        clips, validation = (
            read_cache(spec, rows, seconds)
            for rows in (start.inputs.rows, start.inputs.validation_rows)
        )
        stage = StageRun(context, index, clips, validation)
        if newest and newest[1].stage == index:
            stage.resume(newest[0], newest[1].step)
        stage.run()
        wait_for_main(accelerator, waiting)  # which exports
        del stage
        accelerator.free_memory()
    accelerator.end_training()
    return workspace.model


def _begin(context: RunContext, survey: Survey) -> None:
    """Write down what is about to run, and put the log where the training stands."""
    context.checkpoints.set_aside(survey.damaged)
    progress = survey.newest[1] if survey.newest else None
    context.log.cut(*((progress.stage, progress.step) if progress else (-1, 0)))
    write_settings(context.workspace, context.settings, context.accelerator)
    for line in standing(context.settings, survey):
        print(line, flush=True)


def _checkpoints(settings: Settings) -> Checkpoints:
    save = settings.save
    return Checkpoints(Workspace.of(settings).checkpoints, save.keep_last, save.every)
