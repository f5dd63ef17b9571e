"""What the stages of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator

from .cache.spec import CacheSpec
from .checkpoints import Checkpoints
from .log import Log
from .ranks import Ranks
from .settings import Settings
from .validation import Film
from .workspace import Workspace

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class RunContext:
    """A run on its way.

    films: what is sampled now and then. fingerprint: of what decides the numbers of the run, see
    `resume.fingerprint`. metadata: written into every file of weights. waiting: of
    `network.waiting_group`.
    """

    settings: Settings
    accelerator: Accelerator
    ranks: Ranks
    spec: CacheSpec
    workspace: Workspace
    checkpoints: Checkpoints
    log: Log
    films: list[Film]
    fingerprint: dict[str, Any]
    metadata: dict[str, str]
    waiting: ProcessGroup | None = None
