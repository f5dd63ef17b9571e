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
        self._parameters = [_local(p).requires_grad_(True) for p in parameters.values()]
        # Each beside its weight: FSDP2 can keep that in the host's memory, away from the card.
        self._spread = {name: p.detach().clone() for name, p in parameters.items()}
        self._average = EMAModel([], decay=decay, foreach=True)
        self._average.shadow_params = [_local(tensor) for tensor in self._spread.values()]

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
        return dict(self._spread)

    def begin_at(self, step: int) -> None:
        """Go on as after `step` steps."""
        self._average.optimization_step = step


def _local(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies in this process, sharing its storage."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
