"""The evaluation of a stage on its way, validation loss and films: when, and what if it fails.

A training is worth more than its evaluation: one that fails is logged and left out. The checkpoint
of a step is written before, so that even an evaluation that ends the process costs no step, and
such a one is not tried for ever.
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
from .context import RunContext
from .errors import TrainingError, is_network, writing
from .together import for_all
from .validation import Film, FixedClips, sample, write_film

LOSS = "validation loss"
_MOST_TRIES = 2  # of what ends the process


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated in stage number `index`, by all processes together.

    A thing to evaluate goes by its name: LOSS, or that of a film.
    fixed: what the loss is measured on. dense: measure it with plain attention, too, at the start.
    together: whether a process needs the others to run the model.
    """

    run: RunContext
    index: int
    fixed: FixedClips | None
    dense: bool
    together: bool

    def due(self, step: int, *, first: bool = False) -> list[str]:
        """Names of what to evaluate after `step` steps.

        first: the stage begins or goes on here, and may have evaluated some of it before.
        """
        policy = self.run.settings.validation
        names = [LOSS] if self.fixed is not None and step % policy.loss_every == 0 else []
        if step > 0 and policy.every and step % policy.every == 0:
            names += [_name(film) for film in self.run.films]
        if not (names and first):
            return names
        return for_all(self.run.accelerator, lambda: self._undone(step, names))

    def evaluate(self, name: str, step: int, dit: nn.Module) -> None:
        """Measure the loss, or sample a film.

        Raises only what ends a training anyway: lost processes, a disk that takes no log, and with
        a model that is shared whatever stops one process while the others wait for it.
        """
        main = self.run.accelerator.is_main_process
        if main:
            self._begin(name, step)
        film = next((film for film in self.run.films if _name(film) == name), None)
        losses, why = None, None
        try:
            if film is None:
                losses = self._losses(step, dit)
            else:
                settings, device = self.run.settings, self.run.accelerator.device
                pipe, latents = sample(film, dit, settings, device)
        except Exception as error:
            if not self._goes_on_after(error):
                raise
            why = _reason(error)
        if film is not None and why is None and main:
            try:
                write_film(pipe, latents, film, self._path(film, step))
            except Exception as error:
                why = _reason(error)
        pipe = latents = None
        if why is not None:
            self._leave_out(name, step, why)
        elif losses is not None:
            self._log_losses(step, losses)
        if main:
            self.run.workspace.evaluating.unlink(missing_ok=True)

    def _goes_on_after(self, error: Exception) -> bool:
        if is_network(error):
            return False
        # Of ours is what all processes meet alike, in the same place.
        return not self.together or isinstance(error, TrainingError)

    def _undone(self, step: int, names: list[str]) -> list[str]:
        """Those that were not evaluated before, and have not ended the process too often."""
        rows = [row for row in self.run.log.rows()
                if (row["stage"], row["step"]) == (self.index, step)]  # fmt: skip
        done = {row.get("failed") for row in rows}
        done |= {LOSS for row in rows if "validation" in row}
        done |= {_name(film) for film in self.run.films if self._path(film, step).exists()}
        undone = [name for name in names if name not in done]
        for name in undone:
            if self._tries(name, step) >= _MOST_TRIES:
                self._leave_out(name, step, f"it ended the training {_MOST_TRIES} times")
                undone.remove(name)
                break  # there is one at most
        return undone

    def _begin(self, name: str, step: int) -> None:
        about = {"stage": self.index, "step": step, "name": name}
        text = json.dumps({**about, "tries": self._tries(name, step) + 1})
        path = self.run.workspace.evaluating
        with writing(path):
            path.write_text(text, encoding="utf-8")

    def _tries(self, name: str, step: int) -> int:
        """How often an evaluation was begun and not ended."""
        try:
            about = json.loads(self.run.workspace.evaluating.read_text(encoding="utf-8"))
            this = {"stage": self.index, "step": step, "name": name}
            return int(about["tries"]) if {**about, **this} == about else 0
        except (OSError, ValueError, TypeError, KeyError):  # none, or cut off
            return 0

    def _leave_out(self, name: str, step: int, why: str) -> None:
        gc.collect()  # what an error held on to
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.run.log.add({"stage": self.index, "step": step, "failed": name, "why": why})
        if self.run.accelerator.is_main_process:
            stage = self.run.settings.stages[self.index].name
            print(f"{stage}: the {name} of step {step} is left out: {why}", flush=True)

    def _losses(self, step: int, dit: nn.Module) -> dict[str, Any]:
        """By their names in the log."""
        device = self.run.accelerator.device
        losses = {"validation": self.fixed.loss(dit, device)}
        if step == 0 and self.dense:
            losses["dense"] = self.fixed.loss(dit, device, dense=True)
        return losses

    def _log_losses(self, step: int, losses: dict[str, Any]) -> None:
        """Log the loss, and tell how it stands to the dense one."""
        self.run.log.add({"stage": self.index, "step": step, **losses})
        if not self.run.accelerator.is_main_process or not self.dense:
            return
        rows = [row for row in self.run.log.rows()
                if row["stage"] == self.index and "validation" in row]  # fmt: skip
        dense = rows[0].get("dense")
        if dense is None:
            return
        name = self.run.settings.stages[self.index].name
        if step == 0:
            share = losses["validation"] / dense
            print(f"{name}: loss {losses['validation']:.4f}, {share:.2f} x the dense loss")
        as_good = [row["step"] for row in rows if row["validation"] <= dense]
        if as_good == [step]:
            print(f"{name}: back at the dense loss after {step} steps", flush=True)

    def _path(self, film: Film, step: int) -> Path:
        return self.run.workspace.film(self.index, step, film.name)


def _name(film: Film) -> str:
    return f"film {film.name}"


def _reason(error: Exception) -> str:
    """What an error says; ours say it in a sentence, of others the kind is named."""
    ours = type(error).__module__.partition(".")[0] == __name__.partition(".")[0]
    return shorten(str(error) if ours else f"{type(error).__name__}: {error}", 400)
