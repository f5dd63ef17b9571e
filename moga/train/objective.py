"""The loss of one forward: rectified flow's velocity, and the routers' balance.

Letters: B clips of a batch, L visual tokens, M groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..hosts.diffusers import ShotCall, record_routing
from ..routing import Routing, balance_loss
from ..wan import WIDE_CHANNELS
from .batches import Batch

_LOAD = ("load_max", "load_min", "load_entropy", "gate")
TIMESTEPS = 1000  # of the time embedding, for noise levels 0 to 1


@dataclass(frozen=True)
class Losses:
    """Of one forward: two scalars, and what the routers did (empty without routers)."""

    velocity: Tensor
    balance: Tensor | None
    routings: tuple[Routing, ...] = ()

    def total(self, alpha: float) -> Tensor:
        """velocity + alpha * balance."""
        return self.velocity if self.balance is None else self.velocity + alpha * self.balance


def shifted(level: Tensor, shift: float) -> Tensor:
    """Noise levels in [0, 1] moved towards noise, as Wan's sampler moves its sigmas."""
    return shift * level / (1 + (shift - 1) * level)


def losses(transformer: nn.Module, batch: Batch, shift: float, *, dense: bool = False) -> Losses:
    """Velocity loss, mean of squares, and balance loss, mean over layers.

    transformer: one with `enable_moga`. dense: with plain self-attention.
    The noisy latent is (1 - s) x + s * noise at noise level s, the velocity noise - x.
    """
    sigma = shifted(batch.level, shift)
    at = sigma.view(-1, 1, 1, 1, 1)
    noisy = torch.lerp(batch.latents, batch.noise, at)
    shots = len(batch.starts)
    spans = tuple(pairwise(range(0, batch.text_tokens * (shots + 1), batch.text_tokens)))
    call = ShotCall(batch.starts, batch.latents.shape[2], spans, dense)
    with record_routing(transformer) as recorded:
        velocity = transformer(
            hidden_states=noisy,
            timestep=_timestep(sigma * TIMESTEPS, noisy),
            encoder_hidden_states=batch.text,
            attention_kwargs={"moga": call},
            return_dict=False,
        )[0]
        routings = tuple(recorded)
    loss = F.mse_loss(velocity.float(), batch.noise - batch.latents)
    balance = torch.stack([balance_loss(r) for r in routings]).mean() if routings else None
    return Losses(loss, balance, routings)


def _timestep(timestep: Tensor, latents: Tensor) -> Tensor:
    """(B,), or (B, tokens) for the 5B model, whose tokens each have their own."""
    if latents.shape[1] != WIDE_CHANNELS:
        return timestep
    frames, height, width = latents.shape[2:]
    return timestep[:, None].expand(-1, frames * (height // 2) * (width // 2))


@torch.no_grad()
def group_load(routings: tuple[Routing, ...]) -> dict[str, list[float]]:
    """What the routers of each layer do, one number per layer.

    load_max, load_min: share of tokens in the largest and smallest group (1 / M when balanced).
    load_entropy: of the shares, 1 when balanced and 0 when collapsed. gate: mean winning
    probability. Of a whole sequence, where processes share one: all of them call it.
    """
    rows = []
    for routing in routings:
        sizes = routing.sizes().float()
        share = sizes / sizes.sum(dim=-1, keepdim=True)
        entropy = -torch.xlogy(share, share).sum(dim=-1) / max(math.log(routing.groups), 1e-9)
        columns = (share.amax(-1), share.amin(-1), entropy, _gate(routing))
        rows.append(torch.stack([column.mean() for column in columns]))
    values = torch.stack(rows, dim=1).tolist() if rows else [[]] * len(_LOAD)  # one copy to host
    return dict(zip(_LOAD, values, strict=True))


def _gate(routing: Routing) -> Tensor:
    """Mean winning probability of each sample, (B,)."""
    across = routing.across
    if across is None:
        return routing.gate.mean(dim=-1)
    return across.summed(routing.gate.sum(dim=-1)) / across.tokens
