"""One stage of a training: its steps, and the checkpoints, films and numbers on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers.optimization import get_scheduler
from torch import Tensor, nn
from tqdm import tqdm

from ..config import MoGAConfig
from ..hosts.diffusers import moga_config, unwrap
from ..routing import Routing
from .batches import Batch, Clips, Deal, batches
from .cache.reader import CachedClip
from .cache.spec import text_file
from .checkpoints import Progress, TrainingError, loading
from .ema import Ema
from .export import unrounded
from .looks import Looks
from .model import base_of, build, parameter_groups, router_parameters
from .objective import Losses, group_load, losses
from .optimizers import make_optimizer
from .results import write_results
from .settings import Stage
from .sharding import forget_gathered, is_sharded
from .training import Training
from .validation import FixedClips


class StageRun:
    """A stage on its way. clips: what it trains on. validation: what its loss is measured on."""

    def __init__(
        self,
        training: Training,
        index: int,
        clips: list[CachedClip],
        validation: list[CachedClip],
    ) -> None:
        self.training, self.index = training, index
        self.stage: Stage = training.settings.stages[index]
        self.accelerator = training.accelerator
        settings, stage = training.settings, self.stage
        self.sharded = is_sharded(self.accelerator)
        narrow = settings.optimizer.precision == "bf16" and not self.sharded
        self.frozen = torch.bfloat16 if narrow else torch.float32
        self.earlier = training.result(index - 1) if index else None
        dit = build(settings, stage, self.earlier, self.frozen)
        self.config: MoGAConfig | None = moga_config(dit)
        self.accelerator.gradient_accumulation_steps = stage.accumulate
        optimizer = make_optimizer(settings.optimizer, parameter_groups(dit, stage))
        self.model, self.optimizer = self.accelerator.prepare(dit, optimizer)
        self.schedule = get_scheduler(
            settings.optimizer.schedule,
            self.optimizer.optimizer,
            num_warmup_steps=settings.optimizer.warmup,
            num_training_steps=stage.steps,
        )
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.routers = router_parameters(self.model)
        decay = settings.optimizer.ema
        self.ema = Ema(self.trained, decay) if decay else None
        empty = text_file(training.spec, "")
        fixed = FixedClips(validation, empty, settings) if (
            validation and settings.validation.loss_every
        ) else None  # fmt: skip
        self.looks = Looks(
            training,
            index,
            fixed,
            dense=self.config is not None,
            sharded=self.sharded and self.accelerator.num_processes > 1,
        )
        salt = (settings.seed, index)
        self.deal = Deal(clips, stage.batch, settings.seed * 1000 + index)
        self.clips = Clips(
            clips, empty, settings.data.text_tokens, salt, settings.objective.caption_dropout
        )
        self.done = 0

    @property
    def dit(self) -> nn.Module:
        """The transformer inside what accelerate made of it."""
        return unwrap(self.model)

    def resume(self, path: Path, step: int) -> None:
        """Go on from a checkpoint with `step` steps done. Raises TrainingError."""
        with loading(path):
            self.accelerator.load_state(path)
            if self.ema is not None:
                self.ema.load(path / self._ema_file)
        self.schedule.last_epoch = step
        self.done = step

    def run(self) -> None:
        """Do the steps that are left, then leave the stage's result."""
        settings, stage = self.training.settings, self.stage
        self._look(self.done, first=True)
        bar = tqdm(
            total=stage.steps,
            initial=self.done,
            desc=stage.name,
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        drawn = self._batches()
        for step in range(self.done + 1, stage.steps + 1):
            start = time.perf_counter()
            row, routings = self._step(step, drawn)
            self.done = step
            if step % settings.log.every == 0 or step == stage.steps:
                self.training.log({**row, **group_load(routings), **self._cost(start)})
            bar.set_postfix(loss=f"{row['loss']:.4f}", refresh=False)
            bar.update()
            if step % settings.save.every == 0 or step == stage.steps:
                self.save()
            self._look(step)
        bar.close()
        self._leave()

    def _batches(self) -> Iterator[Batch]:
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        each = self.stage.accumulate * ranks
        loader = batches(
            self.clips,
            self.deal,
            first=self.done * each,
            count=(self.stage.steps - self.done) * each,
            rank=rank,
            ranks=ranks,
            workers=self.training.settings.workers,
        )
        return iter(loader)

    def _step(
        self, step: int, drawn: Iterator[Batch]
    ) -> tuple[dict[str, Any], tuple[Routing, ...]]:
        """One step of the optimizer. Returns its row of the log, and what the routers did."""
        settings, accelerator = self.training.settings, self.accelerator
        parts: list[Losses] = []
        sources: list[str] = []
        for _ in range(self.stage.accumulate):
            batch = next(drawn).to(accelerator.device)
            sources += batch.sources
            with accelerator.accumulate(self.model):
                with accelerator.autocast():
                    found = losses(self.model, batch, settings.objective.shift)
                accelerator.backward(found.total(settings.objective.balance))
            parts.append(found)
        velocity = torch.stack([part.velocity.detach() for part in parts]).mean()
        self._refuse_nan("loss", velocity, step, sources)
        lr = self.optimizer.param_groups[0]["lr"]
        norms = self._clip()
        self._refuse_nan("gradient", torch.tensor(norms["grad_norm"]), step, sources)
        self._update()
        row: dict[str, Any] = {"stage": self.index, "step": step}
        row["loss"] = accelerator.reduce(velocity, "mean").item()
        if parts[-1].balance is not None:
            balance = torch.stack([part.balance.detach() for part in parts]).mean()
            row["balance"] = accelerator.reduce(balance, "mean").item()
        row |= {"lr": lr, **norms}
        return row, parts[-1].routings

    def _refuse_nan(self, what: str, value: Tensor, step: int, sources: list[str]) -> None:
        bad = ~torch.isfinite(value).to(self.accelerator.device)
        if not accelerator_sum(self.accelerator, bad):
            return
        named = gather_object(sources if bad else [])
        raise TrainingError(
            f"the {what} of step {step} in stage {self.stage.name!r} is not a number, on "
            f"{', '.join(named)}; look at these clips or lower the learning rate, and start "
            f"again{self.training.checkpoints.safe()}."
        )

    def _clip(self) -> dict[str, float]:
        """Clip the gradients. Returns their norms as they were before."""
        clip = self.training.settings.optimizer.clip
        routers = [p.grad for p in self.routers if p.grad is not None]
        router_norm = torch.nn.utils.get_total_norm(routers) if routers else None
        norm = self.accelerator.clip_grad_norm_(self.trained, clip or float("inf"))
        norms = {"grad_norm": _number(norm)}
        return norms if router_norm is None else {**norms, "router_grad_norm": _number(router_norm)}

    def _update(self) -> None:
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.step()

    def _look(self, step: int, *, first: bool = False) -> None:
        """The validation loss and the films that are due after `step` steps."""
        due = self.looks.due(step, first=first)
        if not due:
            return
        self.dit.eval()
        with self._averaged(), self.accelerator.autocast():
            for name in due:
                self.looks.take(name, step, self.dit)
        self.dit.train()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within it the model has the averaged weights, where an average is kept."""
        if self.ema is None or not self.done:
            yield
            return
        with self.ema.applied():
            yield
        forget_gathered(self.model)

    def _cost(self, start: float) -> dict[str, float]:
        cost = {"seconds": round(time.perf_counter() - start, 4)}
        if self.accelerator.device.type == "cuda":
            cost["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 3)
        return cost

    def save(self) -> None:
        """Write a checkpoint. Raises TrainingError when there is no room for it."""
        accelerator, checkpoints = self.accelerator, self.training.checkpoints
        progress = Progress(self.index, self.done, self.training.bound)
        if accelerator.is_main_process:
            checkpoints.begin(progress, self._size())
        accelerator.wait_for_everyone()

        def write(part: Path) -> None:
            accelerator.save_state(part)
            if self.ema is not None and (self.sharded or accelerator.is_main_process):
                self.ema.save(part / self._ema_file)

        checkpoints.guarded(progress, write)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            checkpoints.complete(progress, self._needed())
        accelerator.wait_for_everyone()

    def _needed(self) -> dict[Path, str]:
        """Digests of what the stage before left, without which none goes on."""
        if self.earlier is None:
            return {}
        left = (self.earlier, self.training.adapter(self.index - 1))
        return {path: self.training.spec.contents.of(path) for path in left if path.is_file()}

    @property
    def _ema_file(self) -> str:
        """Of this process's share of the weights; all have the whole unless they are sharded."""
        return f"ema-{self.accelerator.process_index if self.sharded else 0}.safetensors"

    def _size(self) -> int:
        """About the bytes of a checkpoint: all weights, two or three numbers per trained one."""
        weights = sum(p.numel() * p.element_size() for p in self.dit.parameters())
        trained = sum(p.numel() for p in self.trained)
        return weights + trained * 4 * (3 if self.ema else 2)

    def _leave(self) -> None:
        """Write the stage's model, and after the last stage what people use."""
        with self._averaged():
            state = self.accelerator.get_state_dict(self.model)
            if self.accelerator.is_main_process:
                if self.stage.train != "full" and self.frozen != torch.float32:
                    exact = base_of(self.training.settings, self.earlier, torch.float32)
                    state = unrounded(state, exact.state_dict())
                write_results(self.training, self.index, state, self.config)


def accelerator_sum(accelerator: Accelerator, flag: Tensor) -> int:
    """How many processes raise a flag."""
    return int(accelerator.reduce(flag.float(), "sum").item())


def _number(value: Any) -> float:
    full = value.full_tensor() if hasattr(value, "full_tensor") else value
    return float(full)
