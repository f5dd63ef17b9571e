"""One stage of a run: its steps, and what is logged, saved and evaluated on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from .batches import Batch, BatchOrder, Clips, batches
from .cache.reader import CachedClip
from .cache.spec import text_file
from .checkpoints import Progress
from .context import RunContext
from .errors import TrainingError, everywhere
from .evaluation import Evaluation
from .export import export
from .learner import Learned, Learner, NotFiniteError
from .objective import group_load
from .state import StoredState
from .together import for_all
from .validation import FixedClips


class StageRun:
    """A stage on its way. clips: what it trains on. validation: what its loss is measured on."""

    def __init__(
        self,
        run: RunContext,
        index: int,
        clips: list[CachedClip],
        validation: list[CachedClip],
    ) -> None:
        settings, accelerator = run.settings, run.accelerator
        self.context, self.index, self.stage = run, index, settings.stages[index]
        earlier = run.workspace.stage_model(index - 1) if index else None
        self.learner = Learner(settings, self.stage, earlier, accelerator, run.ranks)
        empty = text_file(run.spec, "")
        measured = bool(validation and settings.validation.loss_every)
        self.evaluation = Evaluation(
            run,
            index,
            FixedClips(validation, empty, settings) if measured else None,
            dense=self.learner.config is not None,
            together=run.ranks.sequence > 1 or (self.learner.sharded and run.ranks.processes > 1),
        )
        salt, dropout = (settings.seed, index), settings.objective.caption_dropout
        self.order = BatchOrder(clips, self.stage.batch, settings.seed * 1000 + index)
        self.clips = Clips(clips, empty, settings.data.text_tokens, salt, dropout)

    def resume(self, checkpoint: Path, step: int) -> None:
        """Go on from a checkpoint with `step` steps done. Raises TrainingError."""
        self.learner.load(checkpoint, step)

    def run(self) -> None:
        """Do the steps that are left, then leave the stage's result. Raises TrainingError."""
        last, log, checkpoints = self.stage.steps, self.context.log, self.context.checkpoints
        self._evaluate(self.evaluation.due(self.learner.done, first=True))
        with self._bar() as bar:
            for batches_of_step in self._batches():
                start = time.perf_counter()
                learned = self._learn(batches_of_step)
                step = self.learner.done
                if log.due(step, last):
                    self._log(learned, start)
                bar.set_postfix(loss=f"{learned.numbers['loss']:.4f}", refresh=False)
                bar.update()
                if checkpoints.due(step, last):
                    self._save()
                self._evaluate(self.evaluation.due(step))
        self._export()

    def _batches(self) -> Iterator[Iterator[Batch]]:
        """For each step that is left the batches of this process, which are read as it goes."""
        steps = self.stage.steps - self.learner.done
        drawn = iter(self._loader(steps))
        for _ in range(steps):
            yield islice(drawn, self.context.ranks.accumulate(self.stage))

    def _loader(self, steps: int) -> DataLoader:
        ranks = self.context.ranks
        each = ranks.forwards(self.stage)
        return batches(
            self.clips,
            self.order,
            first=self.learner.done * each,
            count=steps * each,
            rank=ranks.group,
            ranks=ranks.groups,
            workers=self.context.settings.workers,
        )

    def _learn(self, batches_of_step: Iterator[Batch]) -> Learned:
        try:
            return self.learner.step(batches_of_step)
        except NotFiniteError as error:
            raise everywhere(
                TrainingError(
                    f"the {error.what} of step {self.learner.done + 1} in stage "
                    f"{self.stage.name!r} is not a number, on {', '.join(error.clips)}; look at "
                    "these clips or lower the learning rate, and start again"
                    f"{self.context.checkpoints.safe()}."
                )
            ) from None

    def _log(self, learned: Learned, start: float) -> None:
        """Log a step that began at `start`, in seconds."""
        row = {"stage": self.index, "step": self.learner.done, **learned.numbers}
        row |= group_load(learned.routings)
        row["seconds"] = round(time.perf_counter() - start, 4)
        if self.context.accelerator.device.type == "cuda":
            row["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 3)
        self.context.log.add(row)

    def _save(self) -> None:
        """Write a checkpoint. Raises TrainingError when there is no room for it."""
        accelerator, checkpoints = self.context.accelerator, self.context.checkpoints
        progress = Progress(self.index, self.learner.done, self.context.fingerprint)
        size = self.learner.saved_bytes()
        for_all(accelerator, lambda: checkpoints.begin(progress, size))
        checkpoints.guarded(progress, self.learner.save)
        # Reading it once more may take longer than a process may be silent.
        for_all(accelerator, lambda: self._complete(progress), self.context.waiting)

    def _complete(self, progress: Progress) -> None:
        """Give a checkpoint its name, if all wrote it to one disk. Raises TrainingError."""
        checkpoints = self.context.checkpoints
        if absent := StoredState(checkpoints.part(progress)).absent():
            raise TrainingError(
                f"{checkpoints.folder} is not on a disk that all machines of this training share: "
                f"{', '.join(absent)} cannot be seen on the first one; give another save.folder."
            )
        checkpoints.complete(progress, self._needed())

    def _needed(self) -> dict[Path, str]:
        """Digests of what the stage before left, without which none goes on."""
        if not self.index:
            return {}
        workspace, before = self.context.workspace, self.index - 1
        left = (workspace.stage_model(before), workspace.stage_adapter(before))
        return {path: self.context.spec.contents.of(path) for path in left if path.is_file()}

    def _evaluate(self, names: list[str]) -> None:
        if names:
            with self.learner.evaluated() as dit:
                for name in names:
                    self.evaluation.evaluate(name, self.learner.done, dit)

    def _export(self) -> None:
        """Write the stage's model, and after the last stage what people use."""
        with self.learner.weights() as state:
            if self.context.accelerator.is_main_process:
                export(self.context, self.index, state, self.learner.config)

    def _bar(self) -> tqdm:
        return tqdm(
            total=self.stage.steps,
            initial=self.learner.done,
            desc=self.stage.name,
            unit="step",
            disable=not self.context.accelerator.is_main_process,
        )
