"""A sampling step of one film, and the film."""

from __future__ import annotations

from dataclasses import dataclass

from ..wan import HEAD_WIDTH
from . import wire
from .buffers import layer_tensors
from .estimate import Estimate
from .layer import VALUE, kernels_of
from .passes import EXCHANGE, Job, forward_bytes, forward_pass, operations
from .rates import DECODED

# Tensors of (l, C) that are alive in a block, in the three moments that can be the worst.
_AT_ROPE = 13.1  # from the peak of the 14B at 62,400 tokens in forward.json
_IN_ATTENTION = 5  # x, its norm, q, k, v
_AT_FEED_FORWARD = 6  # beside two of (l, F), as moga/generate/memory.py counts them
_LATENT = 4  # bytes of a number of a latent


@dataclass(frozen=True)
class Sampling:
    """How a film is sampled. guided: whether each step takes two forwards."""

    steps: int
    guided: bool


def estimate(job: Job, sampling: Sampling) -> Estimate:
    """One sampling step on one card."""
    forwards = 2 // job.arrangement.halves if sampling.guided else 1
    seconds = {name: forwards * s for name, s in forward_pass(job).items()}
    bytes_in = {name: forwards * size for name, size in forward_bytes(job).items()}
    if job.arrangement.halves == 2:
        size = _latent_bytes(job)
        bytes_in["the other half's velocity"] = size
        seconds[EXCHANGE] += wire.gather_seconds(2 * size, 2, job.network)
    return Estimate(
        job.card, job.arrangement, seconds, bytes_in, memory(job), operations(job), forwards
    )


def memory(job: Job) -> dict[str, float]:
    """Bytes that a card holds while it samples."""
    held = {
        "weights, bfloat16": job.film.model.weights(job.parts.groups) * VALUE,
        "latents, noise, velocity": 4 * _latent_bytes(job),
    }
    return held | max(moments(job), key=lambda moment: sum(moment.values()))


def moments(job: Job) -> list[dict[str, float]]:
    """What a block holds at norms and RoPE, in the feed-forward, and in the attention layer."""
    work, shape = job.work, job.film.model.shape
    unit = work.unit
    attention = {"a block's tensors, in the attention": _IN_ATTENTION * unit}
    heads = job.film.layout.tokens * work.heads * HEAD_WIDTH * VALUE
    layer = layer_tensors(job.parts, kernels_of(job.parts, job.backend), work.heads)
    attention["buffers of the attention layer"] = layer * heads
    if job.arrangement.sequence > 1:
        # q, k and v of all tokens, and the copy in which one of them is sent.
        attention["buffers of the all-to-all"] = 3 * heads + unit
    inner = _AT_FEED_FORWARD + 2 * shape.feed_forward / shape.width
    return [
        attention,
        {"a block's tensors, at norms and RoPE": _AT_ROPE * unit},
        {"a block's tensors, in the feed-forward": inner * unit},
    ]


def decoding_seconds(job: Job) -> float:
    """Of the film on one card, by the measured rate."""
    film = job.film
    return film.frames * film.width * film.height / DECODED


def _latent_bytes(job: Job) -> float:
    film = job.film
    return film.layout.tokens * 4 * film.model.channels * _LATENT
