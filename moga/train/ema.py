"""An exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class Ema:
    """The average of a model's trained weights, spread over processes where they are.

    parameters: by their names. decay: of the average in a long training; it starts lower, as in
    diffusers' EMAModel.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._spread = parameters
        self._parameters = [_local(p) for p in parameters.values()]
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

    def tensors(self) -> dict[str, Tensor]:
        """The average by the weights' names, sharing its storage: writing there sets it."""
        pairs = zip(self._spread.items(), self._average.shadow_params, strict=True)
        return {name: _as(parameter, average) for (name, parameter), average in pairs}

    def begin_at(self, step: int) -> None:
        """Go on as after `step` steps."""
        self._average.optimization_step = step


def _local(parameter: nn.Parameter) -> Tensor:
    """The part of a parameter that lies in this process, sharing its storage."""
    local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return local.detach().requires_grad_(True)


def _as(parameter: nn.Parameter, local: Tensor) -> Tensor:
    """What lies in this process of something that is spread as `parameter`."""
    if not isinstance(parameter, DTensor):
        return local
    return DTensor.from_local(
        local,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
