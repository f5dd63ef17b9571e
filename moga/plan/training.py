"""A training step of moga.train on one card.

Weights are float32 and split over cards by FSDP2 (`moga/train/sharding.py`); a LoRA's base is
bfloat16 where it is whole. Each step is a forward, for all but `none` a second one that recomputes
blocks, and a backward; then AdamW, and the average of weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..wan import HEAD_WIDTH
from . import wire
from .estimate import Estimate
from .layer import VALUE
from .passes import EXCHANGE, ROUTING, Job, backward_pass, forward_bytes, forward_pass, operations

FULL, LORA = "full", "lora"
RECOMPUTE, KEEP, OFFLOAD = "full", "none", "offload"
ADAMW, ADAMW_8BIT = "adamw", "adamw8bit"
FLOAT = 4  # bytes
GATHERS, SUMS = "weights gathered (FSDP2)", "gradients summed"
ADDED = "gradients added in the host's memory"
_KEPT_AS = {
    RECOMPUTE: "block inputs",
    KEEP: "all blocks' activations",
    OFFLOAD: "block inputs on their way",
}
HOST_LINK = 25e9  # bytes a second to the host's memory and back, pinned; assumed
# Bytes a second and card that AdamW and clipping move there, with eight threads: training.json, the
# 14B's weights in the host's memory less the same on the cards.
HOST_COPY = 26e9
# Times their size that weights and gradients take there: pinned memory comes in powers of two, so
# that the 14B's take 1.53 on four cards.
_PINNED = 1.5

# Tensors of (l, C) alive at the worst moment of a block's backward pass. The rates' file says which
# of the measured peaks they are taken from.
_BLOCK, _INNER = 20.5, 3  # all but attention; of (l, F)
_OF_LAYER = {"dense": 16, "union": 19, "mean": 29}
_OF_LORA = 6
AUTOCAST_TENSORS = 15  # of _BLOCK, float32 copies that blocks without autocast do not have
_KEPT = 0.7  # of a block's tensors, kept for the backward pass without recomputation; assumed
_AUTOCAST = 0.25  # of the trainer's own passes, in each forward; the rest is in the backward pass


@dataclass(frozen=True)
class Learning:
    """What is trained. clips: of a step, on all cards; None: one on each group of ranks.

    rank: of a LoRA. host_weights: weights that are split, their gradients, moments and average wait
    in the host's memory, where AdamW works too (FSDP2's offloading).
    """

    weights: str = FULL
    checkpointing: str = RECOMPUTE
    optimizer: str = ADAMW
    ema: bool = False
    clips: int | None = None
    rank: int = 64
    host_weights: bool = False


def estimate(job: Job, learning: Learning) -> Estimate:
    """One step of the optimizer on one card."""
    turns = -(-(learning.clips or 1) // job.arrangement.copies)
    passes = 1 if learning.checkpointing == KEEP else 2
    seconds = _pass_seconds(job, learning, passes)
    seconds |= _wire_seconds(job, learning, sum(seconds.values()))
    seconds = {name: turns * s for name, s in seconds.items()}
    if _away(job, learning) and turns > 1:
        seconds[ADDED] = (turns - 1) * _adding_seconds(job, learning)
    seconds["optimizer"] = _optimizer_seconds(job, learning)
    return Estimate(
        job.card,
        job.arrangement,
        seconds,
        _wire_bytes(job, learning, turns, passes),
        memory(job, learning),
        operations(job),
        turns,
    )


def _pass_seconds(job: Job, learning: Learning, passes: int) -> dict[str, float]:
    """Of one clip, its exchanges between the ranks of a sequence included."""
    seconds = {name: passes * s for name, s in forward_pass(job, training=True).items()}
    for name, more in backward_pass(job, frozen=learning.weights == LORA).items():
        seconds[name] = seconds.get(name, 0.0) + more
    rates, unit = job.card.rates, job.layers * job.work.unit
    own = rates.trainer * (1 - _AUTOCAST * (2 - passes))
    seconds["autocast, float32 norms"] = own * unit / rates.elementwise
    if learning.checkpointing == OFFLOAD:
        seconds["block inputs to the host and back"] = 2 * unit / HOST_LINK
    if not seconds[EXCHANGE]:
        del seconds[EXCHANGE]
    return seconds


def trained(job: Job, learning: Learning) -> float:
    """How many weights have a gradient."""
    model, groups = job.film.model, job.parts.groups
    if learning.weights == FULL:
        return model.weights(groups)
    return model.lora_weights(learning.rank) + job.layers * groups * (model.shape.width + 1)


def _frozen(job: Job, learning: Learning) -> float:
    return 0.0 if learning.weights == FULL else job.film.model.weights(0)


def _frozen_bytes(job: Job) -> int:
    """Of a weight that is not trained: split ones stay float32."""
    return VALUE if job.arrangement.shard == 1 else FLOAT


def _wire_bytes(job: Job, learning: Learning, turns: int, passes: int) -> dict[str, float]:
    """Bytes that a card gets from others in a step."""
    found = {}
    for name, size in forward_bytes(job).items():
        # Gradients of groups there are none, of gates there are: four of their five bytes.
        back = (wire.GROUP_BYTES - 1) / wire.GROUP_BYTES if name == ROUTING else 1
        found[name] = turns * (passes + back) * size
    shard, cards = job.arrangement.shard, job.arrangement.cards
    learned = trained(job, learning) * FLOAT
    if shard > 1:
        whole = learned + _frozen(job, learning) * FLOAT
        found[GATHERS] = turns * 2 * whole * wire.share(shard)
        found[SUMS] = turns * learned * wire.share(shard)
        if cards > shard:
            found[SUMS] += turns * 2 * learned / shard * wire.share(cards // shard)
    elif cards > 1:
        found[SUMS] = 2 * learned * wire.share(cards)
    return found


def _wire_seconds(job: Job, learning: Learning, compute: float) -> dict[str, float]:
    """What weights and gradients take besides: they travel while blocks compute."""
    shard, cards, network = job.arrangement.shard, job.arrangement.cards, job.network
    if cards == 1:
        return {}
    learned = trained(job, learning) * FLOAT
    gathers = sums = 0.0
    if shard > 1:
        whole = learned + _frozen(job, learning) * FLOAT
        gathers = 2 * wire.gather_seconds(whole, shard, network)
        gathers += 2 * job.layers * network.latency
        sums = wire.gather_seconds(learned, shard, network) + job.layers * network.latency
        if cards > shard:
            sums += _between(learned / shard, cards // shard, network)
        if _away(job, learning):  # each card brings its part for both, and takes that of the sums
            gathers += 2 * whole / shard / HOST_LINK
            sums += learned / shard / HOST_LINK
    else:
        sums = wire.reduce_seconds(learned, cards, network)
    exposed = max(0.0, gathers + sums - compute) / max(gathers + sums, 1e-12)
    return (
        {GATHERS: gathers * exposed, SUMS: sums * exposed} if shard > 1 else {SUMS: sums * exposed}
    )


def _between(size: float, copies: int, network: wire.Network) -> float:
    """An all-reduce between cards of one place in each copy, that lie on different hosts."""
    return 2 * size * wire.share(copies) / network.network + network.latency


def _moment(learning: Learning) -> int:
    """Bytes of a number that AdamW keeps."""
    return FLOAT if learning.optimizer == ADAMW else 1


def _optimizer_seconds(job: Job, learning: Learning) -> float:
    """AdamW reads four numbers of a weight and writes three, clipping three, the average three."""
    numbers = 7 + 3 + 3 * learning.ema
    held = trained(job, learning) / job.arrangement.shard
    return numbers * FLOAT * held / (HOST_COPY if _away(job, learning) else job.card.rates.copy)


def _adding_seconds(job: Job, learning: Learning) -> float:
    """Of another clip's gradients, which FSDP2 brings to the host and adds there while all wait."""
    held = trained(job, learning) / job.arrangement.shard * FLOAT
    return held / HOST_LINK + 3 * held / HOST_COPY


def _away(job: Job, learning: Learning) -> bool:
    """Whether weights wait in the host's memory: only split ones can."""
    return learning.host_weights and job.arrangement.shard > 1


def _states(job: Job, learning: Learning) -> dict[str, float]:
    """Bytes of a card's part of the weights, and of what the optimizer keeps of them."""
    shard = job.arrangement.shard
    learned = trained(job, learning) / shard
    held = {
        "weights": learned * FLOAT + _frozen(job, learning) / shard * _frozen_bytes(job),
        "AdamW's two moments": learned * 2 * _moment(learning),
    }
    if learning.ema:
        held["average of weights"] = learned * FLOAT
    return held


def host_memory(job: Job, learning: Learning) -> float:
    """Bytes of a host's memory: weights with all that is kept of them, and block inputs."""
    held = 0.0
    if learning.checkpointing == OFFLOAD:
        held += job.layers * job.work.unit
    if _away(job, learning):
        states = _states(job, learning)
        gradients = trained(job, learning) / job.arrangement.shard * FLOAT
        held += _PINNED * (states.pop("weights") + gradients) + sum(states.values())
    return min(job.arrangement.cards, job.network.host_cards) * held


def memory(job: Job, learning: Learning) -> dict[str, float]:
    """Bytes that a card holds at the worst moment: early in the backward pass, or at its end."""
    shard, work, shape = job.arrangement.shard, job.work, job.film.model.shape
    away = _away(job, learning)
    kept = job.layers * work.unit
    layer = work.heads * HEAD_WIDTH * VALUE * job.film.layout.tokens
    combine = "dense" if job.film.config is None else job.film.config.combine
    block = (_BLOCK + _INNER * shape.feed_forward / shape.width) * work.unit
    if learning.weights == LORA:
        block += _OF_LORA * work.unit
    attention = _OF_LAYER[combine] * layer
    if learning.checkpointing == OFFLOAD:
        kept = 2 * work.unit  # one waits to go, one has come back
    elif learning.checkpointing == KEEP:
        kept *= _KEPT * (block + attention) / work.unit
    held = {} if away else _states(job, learning)
    # Gradients come as these go, so the larger of the two counts.
    gradients = 0.0 if away else trained(job, learning) / shard * FLOAT
    held[f"{_KEPT_AS[learning.checkpointing]}, then gradients"] = max(gradients, kept)
    held["a block's tensors"] = block
    held["buffers of the attention layer"] = attention
    if job.arrangement.sequence > 1:
        held["buffers of the all-to-all"] = 8 * layer
    if shard > 1:
        held["two blocks' weights, gathered"] = 2 * _block_weights(job, learning) * FLOAT
    return held


def _block_weights(job: Job, learning: Learning) -> float:
    whole = job.film.model.block_weights(job.parts.groups)
    if learning.weights == LORA:
        whole += job.film.model.lora_weights(learning.rank) / job.layers
    return whole
