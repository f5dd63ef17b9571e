"""What stands in for the cross-attention of a block: each shot reads its own text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.ldm.wan.model
import comfy.model_management
from torch import Tensor, nn

from ...attention.text import joined, shot_parts
from .calls import Call
from .geometry import readings
from .keys import KEY


def cross_attention(module: nn.Module, previous: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """For `previous`, the forward of a block's cross-attention `module`."""
    reads_image = isinstance(module, comfy.ldm.wan.model.WanI2VCrossAttention)
    check_interrupt = comfy.model_management.throw_exception_if_processing_interrupted

    def forward(x: Tensor, context: Tensor, *args: Any, **kw: Any) -> Tensor:
        # A step of a long video takes minutes. Core's own layers look too, from 0.20 on, but not
        # those that are compiled.
        check_interrupt()
        call: Call | None = kw.get("transformer_options", {}).get(KEY)
        if call is None or call.spans is None or call.grid is None:
            return previous(x, context, *args, **kw)
        image = (kw.get("context_img_len") or 0) if reads_image else 0
        read = readings(call.grid, call.spans, x.shape[1], context.shape[1], image)
        outs = []
        for part, text in shot_parts(x, context, read):
            # Called from here, not in a function of its own: so all blocks share what
            # torch.compile makes of it.
            outs.append(previous(part, text, *args, **kw))
        return joined(outs)

    return forward
