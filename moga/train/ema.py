"""An exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


class Ema:
    """The average of a model's trained weights; of this process's share where they are split.

    decay: of the average in a long training; it starts lower, as in diffusers' EMAModel.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self._parameters = [_local(p) for p in parameters if p.requires_grad]
        self._average = EMAModel(self._parameters, decay=decay, foreach=True)

    def step(self) -> None:
        """Take the weights of now into the average."""
        self._average.step(self._parameters)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the model has the averaged weights."""
        self._average.store(self._parameters)
        self._average.copy_to(self._parameters)
        try:
            yield
        finally:
            self._average.restore(self._parameters)

    def save(self, path: Path) -> None:
        tensors = {str(i): t.contiguous() for i, t in enumerate(self._average.shadow_params)}
        save_file(tensors, path, {"step": str(self._average.optimization_step)})

    def load(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            for i, tensor in enumerate(self._average.shadow_params):
                tensor.copy_(file.get_tensor(str(i)))
            self._average.optimization_step = int(file.metadata()["step"])


def _local(parameter: nn.Parameter) -> Tensor:
    """The part of a parameter that lies in this process, sharing its storage."""
    local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return local.detach().requires_grad_(True)
