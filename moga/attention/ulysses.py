"""The MoGA layer over the ranks of a sequence (section 3 of the paper; Ulysses, arXiv 2309.14509).

Every rank routes its own tokens, with all of their width. Groups and gates are gathered: 5 bytes a
token (uint8 and float32, so that nothing is rounded that one process would not round), against
4 N D of q and k and v and the result. Then each rank runs the layer over the whole sequence for its
share of the heads. Plain attention goes the same way (`over_ranks`).

Letters: B batch, L tokens of the whole sequence, l of this rank, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..config import MoGAConfig
from ..kernels import AUTO
from ..layout import VideoLayout
from ..parallel import SequenceShards, check_heads
from ..parallel.exchange import start_gather, start_to_heads, start_to_tokens
from ..routing import Routing
from .layer import moga_attention


def ulysses_attention(
    qkv: Iterable[Tensor],
    routing: Routing | None,
    layout: VideoLayout,
    config: MoGAConfig,
    shards: SequenceShards,
    *,
    backend: str = AUTO,
) -> Tensor:
    """`moga_attention` of a sequence whose tokens lie on several ranks; all of them call it.

    qkv: q, k and v, each (B, l, N, D), taken one by one: what makes the next works while the last
        is on its way. routing: of this rank's tokens, as for `moga_attention`.
    Returns (B, l, N, D). Raises what `moga_attention` does, and ParallelismError for more
    ranks than heads.
    """
    gathering = None
    if routing is not None:
        group = start_gather(routing.group.to(torch.uint8), shards)
        gathering = group, start_gather(routing.gate, shards)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        whole = None
        if gathering is not None:
            group, gate = (wait() for wait in gathering)
            whole = Routing(None, group.long(), gate, routing.groups)
        return moga_attention(q, k, v, whole, layout, config, backend=backend)

    return over_ranks(qkv, attend, shards)


def over_ranks(
    qkv: Iterable[Tensor],
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    shards: SequenceShards,
) -> Tensor:
    """What `attend` makes of q, k and v (B, L, n, D), all tokens of this rank's heads.

    qkv and result as for `ulysses_attention`. Raises ParallelismError for more ranks than heads.
    """
    heads, arriving = 0, []
    for t in qkv:
        heads = t.shape[2]
        check_heads(heads, shards.ranks)
        arriving.append(start_to_heads(t, shards))
    out = attend(*(wait() for wait in arriving))
    return start_to_tokens(out, heads, shards)()
