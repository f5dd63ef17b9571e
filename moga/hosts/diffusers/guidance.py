"""Guidance on two halves of the processes: one computes what the text asks for, one what it avoids.

diffusers' Wan pipelines call the transformer twice in every step, first for the text and then for
the negative one. The first call is both, each half making one; the second has been made by then.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

_FORWARD = ("hidden_states", "timestep", "encoder_hidden_states")


def guide_in_halves(transformer: nn.Module, group: dist.ProcessGroup, negative: Tensor) -> None:
    """Let the ranks of `group`, 0 and 1, make one call each out of every two of `transformer`.

    negative: (1, K, C), the text of every second call, of the same shape as that of the first.
    All processes have to call it alike, as a pipeline with guidance does.
    """
    # Instead of the module's own: what else hangs on a call, hangs around it.
    transformer.forward = _Halves(transformer.forward, group, negative)


class _Halves:
    def __init__(self, forward: Any, group: dist.ProcessGroup, negative: Tensor) -> None:
        self.forward, self.group, self.negative = forward, group, negative
        self.second: Tensor | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        """The velocity, as with return_dict=False."""
        if self.second is not None:
            made, self.second = self.second, None
            return (made,)
        given = {**dict(zip(_FORWARD, args, strict=False)), **kwargs, "return_dict": False}
        if dist.get_rank(self.group) == 1:
            text = given["encoder_hidden_states"]
            given["encoder_hidden_states"] = self.negative.to(text.device, text.dtype)
        own = self.forward(**given)[0].contiguous()
        both = [torch.empty_like(own) for _ in range(2)]
        dist.all_gather(both, own, group=self.group)
        first, self.second = both
        return (first,)
