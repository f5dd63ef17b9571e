"""What learns in a stage: model, optimizer, learning rates and average; a step, and its state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers.optimization import get_scheduler
from torch import Tensor, nn

from ..config import MoGAConfig
from ..hosts.diffusers import moga_config, unwrap
from ..routing import Routing
from .batches import Batch
from .ema import Ema
from .errors import loading
from .export import unrounded
from .model import base_of, build, parameter_groups, router_parameters
from .objective import Losses, losses
from .older import read_older
from .optimizers import make_optimizer, names_of, set_state, state_of
from .ranks import Ranks
from .settings import Settings, Stage
from .sharding import forget_gathered, is_sharded
from .state import StoredState, put, spread, write_state


class NotFiniteError(ArithmeticError):
    """A step that was not taken, raised in every process. what: loss or gradient. clips: which."""

    def __init__(self, what: str, clips: list[str]) -> None:
        super().__init__(f"the {what} is not a number")
        self.what, self.clips = what, clips


@dataclass(frozen=True)
class Learned:
    """A step: its numbers by the names that they have in the log, and what the routers did."""

    numbers: dict[str, float]
    routings: tuple[Routing, ...]


class Learner:
    """A model that learns, step after step. done: how many steps it has done of its stage.

    earlier: the model that the stage before left; None for the first stage.
    """

    def __init__(
        self,
        settings: Settings,
        stage: Stage,
        earlier: Path | None,
        accelerator: Accelerator,
        ranks: Ranks,
    ) -> None:
        self.settings, self.stage, self.earlier, self.ranks = settings, stage, earlier, ranks
        self.accelerator, self.sharded = accelerator, is_sharded(accelerator)
        narrow = settings.optimizer.precision == "bf16" and not self.sharded
        self.frozen = torch.bfloat16 if narrow else torch.float32
        dit = build(settings, stage, earlier, self.frozen)
        self.config: MoGAConfig | None = moga_config(dit)
        ranks.share(dit)
        accelerator.gradient_accumulation_steps = ranks.accumulate(stage)
        optimizer = make_optimizer(settings.optimizer, parameter_groups(dit, stage))
        self.model, self.optimizer = accelerator.prepare(dit, optimizer)
        self.schedule = get_scheduler(
            settings.optimizer.schedule,
            self.optimizer.optimizer,
            num_warmup_steps=settings.optimizer.warmup,
            num_training_steps=stage.steps,
        )
        self.trained = {n: p for n, p in self.dit.named_parameters() if p.requires_grad}
        self.routers = router_parameters(self.model)
        decay = settings.optimizer.ema
        self.ema = Ema(self.trained, decay) if decay else None
        self.done = 0

    @property
    def dit(self) -> nn.Module:
        """The transformer inside what accelerate made of it."""
        return unwrap(self.model)

    def step(self, batches: Iterable[Batch]) -> Learned:
        """One step of the optimizer, on this process's batches of it. Raises NotFiniteError."""
        parts: list[Losses] = []
        clips: list[str] = []
        for batch in batches:
            clips += batch.sources
            parts.append(self._forward_backward(batch.to(self.accelerator.device)))
        velocity = torch.stack([part.velocity.detach() for part in parts]).mean()
        self._refuse_nan("loss", velocity, clips)
        lr = self.optimizer.param_groups[0]["lr"]
        norms = self._clip()
        self._refuse_nan("gradient", torch.tensor(norms["grad_norm"]), clips)
        self._update()
        self.done += 1
        numbers = {"loss": self.accelerator.reduce(velocity, "mean").item()}
        if parts[-1].balance is not None:
            balance = torch.stack([part.balance.detach() for part in parts]).mean()
            numbers["balance"] = self.accelerator.reduce(balance, "mean").item()
        return Learned({**numbers, "lr": lr, **norms}, parts[-1].routings)

    def _forward_backward(self, batch: Batch) -> Losses:
        objective, accelerator = self.settings.objective, self.accelerator
        with accelerator.accumulate(self.model):
            with accelerator.autocast():
                part = losses(self.model, batch, objective.shift)
            accelerator.backward(part.total(objective.balance) * self.ranks.loss_scale)
        return part

    def _refuse_nan(self, what: str, value: Tensor, clips: list[str]) -> None:
        bad = ~torch.isfinite(value).to(self.accelerator.device)
        if self.accelerator.reduce(bad.float(), "sum").item():
            found = gather_object(clips if bad else [])
            raise NotFiniteError(what, list(dict.fromkeys(found)))  # some share a clip

    def _clip(self) -> dict[str, float]:
        """Clip the gradients. Returns their norms as they were before."""
        clip = self.settings.optimizer.clip
        routers = [p.grad for p in self.routers if p.grad is not None]
        router_norm = torch.nn.utils.get_total_norm(routers) if routers else None
        norm = self.accelerator.clip_grad_norm_(self.trained.values(), clip or float("inf"))
        norms = {"grad_norm": _number(norm)}
        return norms if router_norm is None else {**norms, "router_grad_norm": _number(router_norm)}

    def _update(self) -> None:
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.step()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the model has the averaged weights, where an average is kept."""
        if self.ema is None or not self.done:
            yield
            return
        with self.ema.applied():
            yield
        forget_gathered(self.model)

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module]:
        """Within it the transformer, averaged, computes what it has learned so far."""
        self.dit.eval()
        with self.averaged(), self.accelerator.autocast():
            yield self.dit
        self.dit.train()

    @contextmanager
    def weights(self) -> Iterator[dict[str, Tensor]]:
        """Within it all weights by diffusers' names, averaged; frozen ones as they were given.

        All processes enter it, the main one gets them.
        """
        with self.averaged():
            state = self.accelerator.get_state_dict(self.model)
            if not self.accelerator.is_main_process:
                state = {}
            elif self.stage.train != "full" and self.frozen != torch.float32:
                exact = base_of(self.settings, self.earlier, torch.float32)
                state = unrounded(state, exact.state_dict())
            yield state

    def save(self, folder: Path) -> None:
        """Write all that `load` needs to go on: of the model what is trained, as the rest is in the
        files that it was made from. All processes call it."""
        optimizer = state_of(self._optimizer, self._optimized)
        held = {f"optimizer.{name}": value for name, value in optimizer.items()}
        write_state(folder, self._weights() | held)

    def load(self, folder: Path, step: int) -> None:
        """Go on from where `save` was called, with `step` steps done, by whatever number of
        processes. All call it. Raises TrainingError."""
        with loading(folder):
            optimizer = (
                self._read(folder) if StoredState.is_in(folder) else self._read_older(folder)
            )
            set_state(self._optimizer, self._optimized, optimizer)
        if self.ema is not None:
            self.ema.begin_at(step)
        self.schedule.last_epoch = step
        groups, rates = self._optimizer.param_groups, self.schedule.base_lrs
        for group, rate, factor in zip(groups, rates, self.schedule.lr_lambdas, strict=True):
            group["lr"] = rate * factor(step)
        self.done = step

    def _read(self, folder: Path) -> dict[str, Any]:
        """Fill the weights, and return what the optimizer remembers."""
        stored, prefix = StoredState(folder), "optimizer."
        held = {}
        for name in (name for name in stored.names() if name.startswith(prefix)):
            weight = name.removeprefix(prefix).rpartition(".")[0]
            held[name] = stored.like(name, self.trained[weight])
        both = self._weights() | held
        stored.read(both)
        return {name.removeprefix(prefix): both[name] for name in held}

    def _read_older(self, folder: Path) -> dict[str, Any]:
        """The same, of what version 0.2 wrote."""
        found = read_older(folder, self._optimized, list(self.trained) if self.ema else [])
        for name, tensor in self._weights().items():
            put(tensor, found.pop(name))
        held = {n.removeprefix("optimizer."): v for n, v in found.items() if n.startswith("optim")}
        return {
            name: spread(value, self.trained[name.rpartition(".")[0]])
            if isinstance(value, Tensor) else value
            for name, value in held.items()
        }  # fmt: skip

    def _weights(self) -> dict[str, Tensor]:
        """Trained weights and their average, as they are spread, by their names in a checkpoint."""
        weights = {f"model.{name}": p.detach() for name, p in self.trained.items()}
        average = self.ema.tensors() if self.ema is not None else {}
        return weights | {f"ema.{name}": tensor for name, tensor in average.items()}

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        """The optimizer inside what accelerate made of it."""
        return self.optimizer.optimizer

    @property
    def _optimized(self) -> list[str]:
        return names_of(self._optimizer, self.trained)

    def saved_bytes(self) -> int:
        """About what `save` writes: for each trained weight three or four numbers."""
        return sum(p.numel() for p in self.trained.values()) * 4 * (4 if self.ema else 3)


def _number(value: Any) -> float:
    whole = value.full_tensor() if hasattr(value, "full_tensor") else value
    return float(whole)
