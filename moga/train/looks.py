"""What a stage looks at on its way, the validation loss and films: when, and what if that fails.

A training is worth more than a look at it: one that fails is logged and left out. The checkpoint of
a step is written before, so that even a look that ends the process costs no step, and such a one is
not tried for ever.
"""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..shots.script import shorten
from .checkpoints import TrainingError, writing
from .together import for_all
from .training import Training
from .validation import Film, FixedClips, sample, write_film

LOSS = "validation loss"
_UNDER_WAY = "looking.json"  # in the training's folder, as long as a look takes
_TRIES = 2  # of a look that ends the process
_NETWORK: tuple[type[Exception], ...] = ()
if torch.distributed.is_available():
    _NETWORK = (torch.distributed.DistError,)


@dataclass(frozen=True)
class Looks:
    """The looks of stage number `index`, which all processes take together.

    fixed: what the loss is measured on. dense: measure it with plain attention, too, at the start.
    sharded: whether a process needs the others to run the model.
    """

    training: Training
    index: int
    fixed: FixedClips | None
    dense: bool
    sharded: bool

    def due(self, step: int, *, first: bool) -> list[str]:
        """Names of what to look at after `step` steps.

        first: the stage begins or goes on here, and may have looked at some of it before.
        """
        wanted = self.training.settings.validation
        names = [LOSS] if self.fixed is not None and step % wanted.loss_every == 0 else []
        if step > 0 and wanted.every and step % wanted.every == 0:
            names += [_called(film) for film in self.training.films]
        if not (names and first):
            return names
        return for_all(self.training.accelerator, lambda: self._left(step, names))

    def take(self, name: str, step: int, dit: nn.Module) -> None:
        """Look at one thing.

        Raises only what ends a training anyway: lost processes, a disk that takes no log, and with
        split weights whatever stops one process while the others wait for it.
        """
        main = self.training.accelerator.is_main_process
        if main:
            self._begin(name, step)
        film = next((film for film in self.training.films if _called(film) == name), None)
        row, why = None, None
        try:
            if film is None:
                row = self._losses(step, dit)
            else:
                settings, device = self.training.settings, self.training.accelerator.device
                pipe, latents = sample(film, dit, settings, device)
        except Exception as error:
            if not self._goes_on_after(error):
                raise
            why = _words(error)
        if film is not None and why is None and main:
            try:
                write_film(pipe, latents, film, self._path(film, step))
            except Exception as error:
                why = _words(error)
        pipe = latents = None
        if why is not None:
            self._leave_out(name, step, why)
        elif row is not None:
            self._tell(row)
        if main:
            (self.training.folder / _UNDER_WAY).unlink(missing_ok=True)

    def _goes_on_after(self, error: Exception) -> bool:
        if isinstance(error, _NETWORK):
            return False
        # Of ours is what all processes find alike, in the same place.
        return not self.sharded or isinstance(error, TrainingError)

    def _left(self, step: int, names: list[str]) -> list[str]:
        """Those that were not looked at before, and that have not ended the process too often."""
        rows = [row for row in self.training.journal.rows()
                if (row["stage"], row["step"]) == (self.index, step)]  # fmt: skip
        done = {row.get("failed") for row in rows}
        done |= {LOSS for row in rows if "validation" in row}
        done |= {_called(f) for f in self.training.films if self._path(f, step).exists()}
        left = [name for name in names if name not in done]
        for name in left:
            if self._tries(name, step) >= _TRIES:
                self._leave_out(name, step, f"it ended the training {_TRIES} times")
                left.remove(name)
                break  # there is one at most
        return left

    def _begin(self, name: str, step: int) -> None:
        about = {"stage": self.index, "step": step, "name": name}
        text = json.dumps({**about, "tries": self._tries(name, step) + 1})
        path = self.training.folder / _UNDER_WAY
        with writing(path):
            path.write_text(text, encoding="utf-8")

    def _tries(self, name: str, step: int) -> int:
        """How often a look was begun and not ended."""
        try:
            said = json.loads((self.training.folder / _UNDER_WAY).read_text(encoding="utf-8"))
            mine = {"stage": self.index, "step": step, "name": name}
            return int(said["tries"]) if {**said, **mine} == said else 0
        except (OSError, ValueError, TypeError, KeyError):  # none, or cut off
            return 0

    def _leave_out(self, name: str, step: int, why: str) -> None:
        gc.collect()  # what an error held on to
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.training.log({"stage": self.index, "step": step, "failed": name, "why": why})
        if self.training.accelerator.is_main_process:
            stage = self.training.settings.stages[self.index].name
            print(f"{stage}: the {name} of step {step} is left out: {why}", flush=True)

    def _losses(self, step: int, dit: nn.Module) -> dict[str, Any]:
        device = self.training.accelerator.device
        row = {"stage": self.index, "step": step, "validation": self.fixed.loss(dit, device)}
        if step == 0 and self.dense:
            row["dense"] = self.fixed.loss(dit, device, dense=True)
        return row

    def _tell(self, row: dict[str, Any]) -> None:
        """Log the loss, and say how it stands to the dense one."""
        self.training.log(row)
        if not self.training.accelerator.is_main_process or not self.dense:
            return
        earlier = [r for r in self.training.journal.rows()
                   if r["stage"] == self.index and "validation" in r]  # fmt: skip
        dense, step = earlier[0].get("dense"), row["step"]
        if dense is None:
            return
        name = self.training.settings.stages[self.index].name
        if step == 0:
            share = row["validation"] / dense
            print(f"{name}: loss {row['validation']:.4f}, {share:.2f} x the dense loss")
        back = [r["step"] for r in earlier if r["validation"] <= dense]
        if back == [step]:
            print(f"{name}: back at the dense loss after {step} steps", flush=True)

    def _path(self, film: Film, step: int) -> Path:
        name = f"{self.index:02d}-{step:08d}-{film.name}.mp4"
        return self.training.folder / "films" / name


def _called(film: Film) -> str:
    return f"film {film.name}"


def _words(error: Exception) -> str:
    """What an error says; ours say it in a sentence, of others the kind is named."""
    ours = type(error).__module__.partition(".")[0] == __name__.partition(".")[0]
    return shorten(str(error) if ours else f"{type(error).__name__}: {error}", 400)
