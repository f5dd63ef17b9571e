"""The MoGA attention layer: routed groups, static windows and frames over the same q, k and v.

`reference` spells the definition out with masks; here the same is computed by permuting tokens so
that every neighbourhood is one segment of a variable-length attention call. RoPE is applied before,
with the true position of every token; the output projection comes after.

Letters: B batch, L visual tokens (t-major, then h, then w), N heads, D head width, M groups.
"""

from __future__ import annotations

from functools import lru_cache, partial

import torch
from torch import Tensor

from ..config import MoGAConfig
from ..kernels import AUTO, Assignment, Backend, assign
from ..kernels.branch import BranchOutput
from ..kernels.merge import merge
from ..kernels.probe import needs_grad
from ..layout import VideoLayout
from ..routing import Routing
from .packing import Packing, packed, packings, work_of
from .validation import check_inputs

_LARGE = 1 << 27  # elements of q from which the heads are halved to hold fewer copies at once


def moga_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Routing | None,
    layout: VideoLayout,
    config: MoGAConfig,
    *,
    backend: str = AUTO,
    heads_at_once: int | None = None,
) -> Tensor:
    """One MoGA attention layer (arXiv 2510.18692, section 3).

    q, k, v: (B, L, N, D), after qk-norm and RoPE, L = layout.tokens.
    routing: what `TokenRouter` made of the layer's input, for B samples of L tokens; None when
        config has no "routed" branch.
    heads_at_once: heads that are computed together where no gradient is wanted; fewer take less
        memory. None: all of a small layer, half of a large one (at most 4 tensors like q).
    Returns (B, L, N, D) in the type of q. Raises ValueError when the shapes do not belong together
    and BackendError when the backend cannot run.
    """
    check_inputs(q, k, v, routing, layout, config)
    training = needs_grad(q, k, v)
    backends = layer_backends(q, layout, config, backend, training=training).backends
    found = packings(routing, layout, config, q.shape[0], q.device)
    gated = config.gate and config.combine == "mean"
    gates = {"routed": routing.gate.flatten()} if "routed" in found and gated else {}
    branches = [(found[name], backends[name], gates.get(name)) for name in config.branches]
    heads = q.shape[2]
    if heads_at_once is None:
        copies = any(packing.queries is not None and not b.indexed for packing, b, _ in branches)
        heads_at_once = -(-heads // 2) if copies and q.numel() >= _LARGE else heads
    tokens = [t.flatten(0, 1) for t in (q, k, v)]
    layer = partial(_layer, branches=branches, lse=config.combine == "lse")
    if training or heads_at_once >= heads:
        return layer(*tokens).unflatten(0, q.shape[:2])
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device).flatten(0, 1)
    for first in range(0, heads, heads_at_once):
        part = slice(first, first + heads_at_once)
        layer(*(t[:, part] for t in tokens), into=out[:, part])
    return out.unflatten(0, q.shape[:2])


def layer_backends(
    q: Tensor,
    layout: VideoLayout,
    config: MoGAConfig,
    backend: str = AUTO,
    *,
    training: bool = False,
) -> Assignment:
    """What runs each branch of `moga_attention` on tensors like q (B, L, N, D), and why.

    Chosen once for a layout, a device and a type, however many layers ask. Raises BackendError when
    the backend cannot run.
    """
    return _chosen(layout, config, backend, training, q.shape[0], q.shape[-1], q.dtype, q.device)


@lru_cache(maxsize=32)
def _chosen(
    layout: VideoLayout,
    config: MoGAConfig,
    backend: str,
    training: bool,
    batch: int,
    width: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Assignment:
    like = torch.empty(1, 1, 1, width, dtype=dtype, device=device)
    work = work_of(layout, config, batch, device)
    return assign(backend, like, work, training=training, lse=config.combine == "lse")


def _layer(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    branches: list[tuple[Packing, Backend, Tensor | None]],
    lse: bool,
    into: Tensor | None = None,
) -> Tensor:
    """All branches of q, k, v (B * L, N, D), each with its gate (B * L,), merged."""
    outputs = []
    for packing, backend, gate in branches:
        if backend.indexed is not None:
            out = backend.indexed(q, k, v, packing.queries, packing.keys, packing.segments, lse)
            outputs.append(BranchOutput(*out, gate=gate))
            continue
        pairs = ((q, packing.queries), (k, packing.keys), (v, packing.keys))
        out = backend.run(*(packed(t, index) for t, index in pairs), packing.segments, lse)
        outputs.append(BranchOutput(*out, place=packing.place, gate=gate))
    return merge(outputs, weighted=lse, into=into)
