"""Who does what among the processes of a training.

`parallel.sequence` neighbours share a clip: each has a part of its tokens, and for attention some
of the heads. The groups that they make have clips of their own, as single processes have otherwise.
Weights lie whole in every process, or split over all of them (sharding.py), whatever the groups.

Every process of a group computes the loss of its whole clip, and its gradient has what comes from
its own tokens: the sum over a group is the gradient. What averages over all processes, as DDP and
FSDP do, makes the mean over groups divided by their size; `Ranks.loss_scale` makes up for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from accelerate import Accelerator
from diffusers import WanTransformer3DModel
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ..hosts.diffusers import share_sequence
from ..parallel import ParallelismError
from .errors import everywhere
from .read_settings import SettingsError
from .settings import Settings, Stage


@dataclass(frozen=True)
class Ranks:
    """This process among all. sequence: how many share a clip. device: kind of their devices."""

    rank: int = 0
    processes: int = 1
    sequence: int = 1
    device: str = "cpu"

    @classmethod
    def of(cls, settings: Settings, accelerator: Accelerator) -> Ranks:
        """Raises SettingsError where the processes cannot be dealt out as the settings say."""
        processes = accelerator.num_processes
        sequence, device = settings.parallel.sequence, accelerator.device.type
        ranks = cls(accelerator.process_index, processes, sequence, device)
        if processes % ranks.sequence:
            raise SettingsError(
                f"parallel.sequence is {ranks.sequence}, which does not divide the {processes} "
                f"{'process' if processes == 1 else 'processes'} of this launch; start a multiple "
                "of it, or give a number that does."
            )
        if ranks.sequence > 1 and not torch.accelerator.device_count():
            raise SettingsError(
                f"parallel.sequence is {ranks.sequence}, which diffusers does on GPUs only, and "
                "PyTorch finds none; set it to 1."
            )
        for index, stage in enumerate(settings.stages):
            if ranks.forwards(stage) % ranks.groups:
                each = f", {ranks.sequence} to a clip," if ranks.sequence > 1 else ""
                raise SettingsError(
                    f"stages.{index}.forwards is {stage.forwards}, which {processes} processes"
                    f"{each} cannot do evenly; give a multiple of {ranks.groups}."
                )
        return ranks

    @property
    def groups(self) -> int:
        """How many clips are worked on at a time."""
        return self.processes // self.sequence

    @property
    def group(self) -> int:
        """Which of them this process works on."""
        return self.rank // self.sequence

    @property
    def loss_scale(self) -> int:
        """What the loss is multiplied with, so that the mean over all processes is the gradient."""
        return self.sequence

    def forwards(self, stage: Stage) -> int:
        """Forwards of one step of a stage, of all processes together."""
        return stage.forwards or stage.accumulate * self.groups

    def accumulate(self, stage: Stage) -> int:
        """Those of this process."""
        return self.forwards(stage) // self.groups

    def share(self, dit: WanTransformer3DModel) -> None:
        """Let this process's group run the model together, on one sequence."""
        if self.sequence == 1:
            return
        try:
            share_sequence(dit, self._mesh)
        except ParallelismError as error:
            raise everywhere(error) from None

    @cached_property
    def _mesh(self) -> DeviceMesh:
        """One for all stages, as each would open connections of its own."""
        return init_device_mesh(
            self.device,
            (self.groups, 1, self.sequence),
            mesh_dim_names=("group", "ring", "ulysses"),
        )
