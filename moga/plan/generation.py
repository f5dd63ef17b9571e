"""A sampling step of one film, and the film."""

from __future__ import annotations

from dataclasses import dataclass

from . import wire
from .cards import GB
from .estimate import Estimate
from .layer import VALUE
from .passes import EXCHANGE, Job, forward_bytes, forward_pass, operations
from .rates import DECODED, DECODING

# Tensors of (l, C) alive at the worst moment of a block, as moga/generate/memory.py counts them.
_AT_ATTENTION = 13.1
_AT_FEED_FORWARD = 6  # beside two of (l, F)
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
    work, model = job.work, job.film.model
    ranks = job.arrangement.sequence
    shape = model.shape
    moments = {
        "at norms and RoPE": _AT_ATTENTION,
        "at the feed-forward": _AT_FEED_FORWARD + 2 * shape.feed_forward / shape.width,
    }
    name, tensors = max(moments.items(), key=lambda item: item[1])
    held = {
        "weights, bfloat16": model.weights(job.parts.groups) * VALUE,
        f"a block's tensors, {name}": tensors * work.unit,
        "latents, noise, velocity": 4 * _latent_bytes(job),
    }
    if ranks > 1:
        # What is sent and what arrives lie beside q, k and v.
        heads = job.film.layout.tokens * work.heads * 128 * VALUE
        held["buffers of the all-to-all"] = 4 * heads
    return held


def decoding_seconds(job: Job) -> float:
    """Of the film on one card, by the measured rate."""
    film = job.film
    return film.frames * film.width * film.height / DECODED


def _latent_bytes(job: Job) -> float:
    film = job.film
    return film.layout.tokens * 4 * film.model.channels * _LATENT
