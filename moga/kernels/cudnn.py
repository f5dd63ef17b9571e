"""cuDNN's attention, called by its own name because only then it gives its log-sum-exp.

Letters: R segments, N heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cudnn(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """cuDNN's attention and its log-sum-exp (R, N, length), of q, k, v (R, N, length, D)."""
    op = torch.ops.aten._scaled_dot_product_cudnn_attention
    out, log = op(q, k, v, None, True, 0.0, False, False)[:2]
    return out, log.view(out.shape[:3])
