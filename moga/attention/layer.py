"""The MoGA attention layer: routed groups, windows and frames over the same q, k and v.

`reference` spells the definition out with masks; here the same is computed by permuting tokens so
that every neighbourhood is one segment of a variable-length attention call. RoPE is applied before,
with the true position of every token; the output projection comes after.

Letters: B batch, L visual tokens (t-major, then h, then w), N heads, D head width, M groups.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor

from ..config import MoGAConfig
from ..kernels import AUTO, BACKENDS, Assignment, Backend, assign, select
from ..kernels.branch import BranchOutput
from ..kernels.far import far_in_triton
from ..kernels.merge import mean_of
from ..kernels.probe import needs_grad
from ..layout import VideoLayout
from ..routing import Routing
from .far import far_in_segments, far_of
from .packing import CELLS, Packing, packed, packings, work_of
from .union import Far, Near, union_attention
from .validation import check_inputs

_LARGE = 1 << 27  # elements of q from which heads are done in shares, to hold fewer copies at once


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
        memory. None: all of a small layer, a part of a large one (at most 4 tensors like q).
    Returns (B, L, N, D) in the type of q. Raises ValueError when the shapes do not belong together
    and BackendError when the backend cannot run.
    """
    check_inputs(q, k, v, routing, layout, config)
    training = needs_grad(q, k, v, *([] if routing is None else [routing.gate]))
    backends = layer_backends(q, layout, config, backend, training=training).backends
    make = _union if config.combine == "union" else _mean
    layer, shares = make(routing, layout, config, backends, q.shape[0], q.device)
    heads = q.shape[2]
    if heads_at_once is None:
        heads_at_once = -(-heads // shares) if q.numel() >= _LARGE else heads
    tokens = [t.flatten(0, 1) for t in (q, k, v)]
    if training or heads_at_once >= heads:
        return layer(*tokens).unflatten(0, q.shape[:2])
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device).flatten(0, 1)
    for first in range(0, heads, heads_at_once):
        part = slice(first, first + heads_at_once)
        layer(*(t[:, part] for t in tokens), into=out[:, part])
    return out.unflatten(0, q.shape[:2])


Layer = Callable[..., Tensor]  # of q, k, v (B * L, N, D), and `into`


def _mean(
    routing: Routing | None,
    layout: VideoLayout,
    config: MoGAConfig,
    backends: dict[str, Backend],
    batch: int,
    device: torch.device,
) -> tuple[Layer, int]:
    """The mean of the branches, and in how many shares of the heads to do a large one."""
    found = packings(routing, layout, config, batch, device)
    gates = {"routed": routing.gate.flatten()} if "routed" in found and config.gate else {}
    branches = [(found[name], backends[name], gates.get(name)) for name in config.branches]
    copies = any(packing.queries is not None and not row.indexed for packing, row, _ in branches)
    return partial(_mean_of_branches, branches=branches), 2 if copies else 1


def _union(
    routing: Routing | None,
    layout: VideoLayout,
    config: MoGAConfig,
    backends: dict[str, Backend],
    batch: int,
    device: torch.device,
) -> tuple[Layer, int]:
    """One softmax, and in how many shares of the heads to do a large one: it has more parts."""
    found = packings(routing, layout, config, batch, device)
    near = tuple(Near(found[name], backends[name], -1 if name == CELLS else 1) for name in found)
    if "routed" not in config.branches:
        return partial(union_attention, gate=None, near=near, far=None), 2
    segments = partial(far_in_segments, routing.group, layout, config)
    far = Far(*far_of(routing.group, layout, config), segments, backends["routed"])
    gate = (routing.gate * config.groups).flatten() if config.gate else None
    return partial(union_attention, gate=gate, near=near, far=far), 4


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
    if config.combine == "mean":
        return assign(backend, like, work, training=training)
    # The backward pass is of the union's own, whatever runs forwards.
    used, why = assign(backend, like, work, lse=True)
    if "routed" in config.branches:
        # The mask is Triton's, or PyTorch's; flash3 does what needs none.
        base, _ = select(backend, like, lse=True)
        masked = BACKENDS["triton" if far_in_triton(like) else "sdpa"]
        helps = base.ranged is not None and far_in_triton(like)
        used = {"routed": base if helps else masked, **used}
    return Assignment(used, why)


def _mean_of_branches(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    branches: list[tuple[Packing, Backend, Tensor | None]],
    into: Tensor | None = None,
) -> Tensor:
    """All branches of q, k, v (B * L, N, D), each with its gate (B * L,), merged."""
    outputs = []
    for packing, backend, gate in branches:
        if backend.indexed is not None:
            out = backend.indexed(q, k, v, packing.queries, packing.keys, packing.segments, False)
            outputs.append(BranchOutput(*out, gate=gate))
            continue
        pairs = ((q, packing.queries), (k, packing.keys), (v, packing.keys))
        out = backend.run(*(packed(t, index) for t, index in pairs), packing.segments, False)
        outputs.append(BranchOutput(*out, place=packing.place, gate=gate))
    return mean_of(outputs, into)
