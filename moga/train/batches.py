"""What each step trains on, as a function of its number alone: that is what makes resume exact.

A batch is a few clips with the same grid and the same cuts, as one forward needs them. Every epoch
puts all clips into batches anew. Nothing is remembered between steps, so a training that was cut
off anywhere goes on with the very clips and noise it would have had.

Letters: B clips of a batch, C latent channels, t, h, w latent grid, S shots, K text tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from .cache.reader import CachedClip, load_latent, load_text

Draw = tuple[int, int]  # a clip, and a number that is its own among all draws of a training


@dataclass(frozen=True)
class Batch:
    """Clips of one forward.

    latents: (B, C, t, h, w) float32, normalised. noise: alike. level: (B,) uniform in [0, 1).
    text: (B, S * K, text width), each shot's text padded with zeros to K tokens.
    starts: first latent frame of each shot. sources: where the clips come from, for messages.
    """

    latents: Tensor
    noise: Tensor
    level: Tensor
    text: Tensor
    starts: tuple[int, ...]
    text_tokens: int
    sources: tuple[str, ...]

    def to(self, device: torch.device) -> Batch:
        moved = (t.to(device) for t in (self.latents, self.noise, self.level, self.text))
        return Batch(*moved, self.starts, self.text_tokens, self.sources)


class BatchOrder:
    """Clips put into batches, epoch after epoch, each in an order of its own.

    Batch n of a training is `order[n]`.
    """

    def __init__(self, clips: Sequence[CachedClip], batch: int, seed: int) -> None:
        self.clips, self.batch, self.seed = clips, batch, seed
        alike: dict[tuple[object, ...], list[int]] = {}
        for index, clip in enumerate(clips):
            alike.setdefault((clip.shape, clip.starts), []).append(index)
        self.alike = list(alike.values())
        self.per_epoch = sum(-(-len(group) // batch) for group in self.alike)
        self._epoch = lru_cache(2)(self._shuffled)

    def __getitem__(self, number: int) -> list[Draw]:
        epoch, place = divmod(number, self.per_epoch)
        first = number * self.batch
        return [(clip, first + i) for i, clip in enumerate(self._epoch(epoch)[place])]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        random = np.random.default_rng((self.seed, epoch))
        batches = []
        for group in self.alike:
            clips = random.permutation(group).tolist()
            batches += [clips[i : i + self.batch] for i in range(0, len(clips), self.batch)]
        return [batches[i] for i in random.permutation(len(batches))]


class Clips(Dataset):
    """Draws to tensors, with the noise and noise level that belong to a draw.

    salt: makes the draws of each stage and seed their own. dropout: share without text.
    """

    def __init__(
        self,
        clips: Sequence[CachedClip],
        empty: Path,
        text_tokens: int,
        salt: tuple[int, ...],
        dropout: float = 0.0,
    ) -> None:
        self.clips, self.empty, self.text_tokens = clips, empty, text_tokens
        self.salt, self.dropout = salt, dropout

    def __getitem__(self, draw: Draw) -> tuple[CachedClip, Tensor, Tensor, float, Tensor]:
        index, number = draw
        clip, random = self.clips[index], np.random.default_rng((*self.salt, number))
        level, dropped = random.random(), random.random() < self.dropout
        latent = load_latent(clip)
        made = torch.Generator().manual_seed(int(random.integers(2**62)))
        noise = torch.randn(latent.shape, generator=made)
        texts = [self.empty] * len(clip.texts) if dropped else clip.texts
        text = torch.cat([padded(load_text(path), self.text_tokens) for path in texts])
        return clip, latent, noise, level, text

    def collate(self, drawn: list[tuple[CachedClip, Tensor, Tensor, float, Tensor]]) -> Batch:
        clips, latents, noise, levels, text = zip(*drawn, strict=True)
        return Batch(
            torch.stack(latents),
            torch.stack(noise),
            torch.tensor(levels, dtype=torch.float32),
            torch.stack(text),
            clips[0].starts,
            self.text_tokens,
            tuple(clip.source for clip in clips),
        )


class _Share(Sampler):
    """The draws of one process, from batch number `first` on: every `ranks`-th."""

    def __init__(self, order: BatchOrder, first: int, rank: int, ranks: int, count: int) -> None:
        self.numbers = range(first + rank, first + count, ranks)
        self.order = order

    def __iter__(self) -> Iterator[list[Draw]]:
        return map(self.order.__getitem__, self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def batches(
    clips: Clips,
    order: BatchOrder,
    *,
    first: int,
    count: int,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
) -> DataLoader:
    """Batches number `first` to `first + count` of a training, those of one process out of `ranks`.

    count: of all processes together, a multiple of `ranks`.
    """
    return DataLoader(
        clips,
        batch_sampler=_Share(order, first, rank, ranks, count),
        collate_fn=clips.collate,
        num_workers=workers,
        persistent_workers=False,
        prefetch_factor=4 if workers else None,
    )


def padded(text: Tensor, tokens: int) -> Tensor:
    """(k, width) -> (tokens, width) with zeros, as Wan's pipelines pad what UMT5 gives.

    Raises ValueError for a text with more tokens.
    """
    if len(text) > tokens:
        raise ValueError(
            f"a text has {len(text)} tokens and data.text_tokens is {tokens}; shorten the captions "
            "or raise it."
        )
    return torch.cat([text, text.new_zeros(tokens - len(text), text.shape[1])])
