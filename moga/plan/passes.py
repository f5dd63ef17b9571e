"""One forward or backward pass of all blocks on one card: seconds, and bytes from other cards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..wan import HEAD_WIDTH
from . import wire
from .backward import backward_steps
from .blocks import BlockWork, backward, forward
from .cards import Card, Network
from .estimate import Arrangement
from .geometry import Film
from .layer import VALUE, forward_steps, kernels_of
from .parts import CELLS, DENSE, FRAMES, ROUTED, WINDOWS, LayerParts, parts_of

NEAR, FAR, SORTING = "attention, near", "attention, groups", "sorting, merging"
WHOLE = "attention, dense"
EXCHANGE, ROUTING = "all-to-all of q, k, v, o", "group ids and gates"
_TENSORS = 4  # q, k, v to heads and the result back
_PACKED = 8  # passes over a tensor like q, to lay them out for that: two for each


@dataclass(frozen=True)
class Job:
    """What runs where."""

    film: Film
    card: Card
    network: Network
    arrangement: Arrangement
    backend: str

    @property
    def parts(self) -> LayerParts:
        return parts_of(self.film.layout, self.film.config, self.film.uneven)

    @property
    def layers(self) -> int:
        return self.film.model.shape.layers

    @property
    def work(self) -> BlockWork:
        """A block on the card that has most to do."""
        ranks, model = self.arrangement.sequence, self.film.model
        return BlockWork(
            model.shape,
            self.parts,
            -(-self.film.layout.tokens // ranks),
            -(-model.heads // ranks),
            len(self.film.layout.shots),
        )


def grouped(steps: dict[str, float]) -> dict[str, float]:
    """The steps of an attention layer as near, far and what moves tokens."""
    found: dict[str, float] = {}
    for name, seconds in steps.items():
        if name == ROUTED or name.endswith("in a group"):
            kind = FAR
        elif name in (WINDOWS, FRAMES, CELLS):
            kind = NEAR
        else:
            kind = WHOLE if name == DENSE else SORTING
        found[kind] = found.get(kind, 0.0) + seconds
    return found


def forward_pass(job: Job, *, training: bool = False) -> dict[str, float]:
    """Seconds by part, exchanges included."""
    work, rates = job.work, job.card.rates
    backend = job.backend
    if job.film.config is None:  # the host's own attention
        backend = "sdpa"
    elif training and job.parts.groups and not job.parts.union:
        backend = "torch"  # FlashAttention 3 has no gradient
    kernels = kernels_of(job.parts, backend)
    steps = forward(work, kernels, rates)
    del steps["self-attention"]
    steps |= grouped(forward_steps(job.parts, kernels, work.heads, rates))
    # While q is on its way k is made, and v while k is: moga/attention/ulysses.py.
    one = steps["projections"] / 4
    behind = (one + steps["qk-norm and RoPE"] / 2, one)
    steps["projections"] += routing_wait(job, steps["projections"])
    steps[EXCHANGE] = exchange(job, behind)
    return {name: job.layers * seconds for name, seconds in steps.items()}


def backward_pass(job: Job, *, frozen: bool) -> dict[str, float]:
    work, rates = job.work, job.card.rates
    kernel = "sdpa" if job.film.config is None else "torch"
    steps = backward(work, kernel, rates, frozen=frozen)
    del steps["self-attention"]
    steps |= grouped(backward_steps(job.parts, kernel, work.heads, rates))
    steps[EXCHANGE] = exchange(job)
    return {name: job.layers * seconds for name, seconds in steps.items()}


def exchange(job: Job, behind: Sequence[float] = ()) -> float:
    """Seconds of the all-to-alls of one layer and direction that nothing hides.

    behind: seconds of what is computed while the first of the four are on their way.
    """
    ranks = job.arrangement.sequence
    if ranks == 1:
        return 0.0
    near = wire.neighbours(ranks, job.arrangement.cards, job.network)
    # The card with most heads gets most: with heads left over, more than a part of the tokens.
    size = job.film.layout.tokens * job.work.heads * HEAD_WIDTH * VALUE
    one = wire.exchange_seconds(size, ranks, near, job.network)
    hidden = sum(min(one, seconds) for seconds in behind)
    return _TENSORS * one - hidden + _PACKED * size / job.card.rates.copy


def routing_wait(job: Job, hidden_behind: float) -> float:
    """Seconds of the routing's gather that the projections do not hide."""
    ranks = job.arrangement.sequence
    if ranks == 1 or not job.parts.groups:
        return 0.0
    near = wire.neighbours(ranks, job.arrangement.cards, job.network)
    size = job.film.layout.tokens * wire.GROUP_BYTES
    return max(0.0, wire.exchange_seconds(size, ranks, near, job.network) - hidden_behind)


def forward_bytes(job: Job) -> dict[str, float]:
    """Bytes that a card gets from others in one forward pass."""
    ranks = job.arrangement.sequence
    if ranks == 1:
        return {}
    tokens, layers = job.film.layout.tokens, job.layers
    part = wire.share(ranks)
    size = tokens * job.work.heads * HEAD_WIDTH * VALUE
    found = {EXCHANGE: _TENSORS * layers * size * part}
    if job.parts.groups:
        found[ROUTING] = layers * tokens * wire.GROUP_BYTES * part
    return found


def operations(job: Job) -> dict[str, float]:
    """Operations of one forward pass of one film, on all its cards together."""
    whole = replace(job, arrangement=Arrangement()).work
    attention = {DENSE: WHOLE, ROUTED: FAR}
    found = {
        "projections": whole.projections,
        "feed-forward": whole.feed_forward,
        "cross-attention": whole.text_projections + whole.text_attention,
    }
    for name, flops in whole.attention.items():
        kind = attention.get(name, NEAR)
        found[kind] = found.get(kind, 0.0) + flops
    return {name: job.layers * flops for name, flops in found.items()}
