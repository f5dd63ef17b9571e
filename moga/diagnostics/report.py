"""What an inspection found: numbers for each block and noise level, as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np

from ..blocks import blocks_text
from ..config import MoGAConfig
from ..layout import VideoLayout
from .request import Request

VERSION = 1
_LEAST, _TIMES, _SHARE = 0.1, 1.5, 0.25
RULE = (
    f"blocks whose error, averaged over the noise levels, is above {_LEAST:g} and above {_TIMES:g} "
    f"times that of the median block; the worst first, and no more than {_SHARE:.0%} of the blocks"
)
_COLUMNS = ("recall", "density", "near", "far", "largest")
_MEANING = """\
error    size of the difference between the layer's output under MoGA and under dense attention,
         over the size of the dense one: 0 is the same
recall   share of dense attention's weight that lies on keys which MoGA shows
density  keys that MoGA shows, of all keys; each counted once
near     share of dense attention's weight on the query's own window and frame
far      share of it on keys that only the query's group shows; recall is near + far
largest  tokens of the largest group, in groups of even size: 1 is perfectly balanced"""


@dataclass(frozen=True)
class Cell:
    """One block at one noise level; means over the queries, see `LayerSample`.

    error: of the layer's output. recall, density, near, far: shares. gate: mean winning
    probability of all tokens. sizes: tokens of each group. groups: (F, H, W) uint8, of the latent
    frames that are drawn. The last three are None or empty without a "routed" branch.
    """

    block: int
    noise: float
    error: float
    recall: float
    density: float
    near: float
    far: float
    gate: float | None = None
    sizes: tuple[int, ...] = ()
    groups: np.ndarray | None = None

    @property
    def largest(self) -> float | None:
        """The largest group, in groups of even size; None where there are none."""
        return max(self.sizes) * len(self.sizes) / sum(self.sizes) if self.sizes else None


@dataclass(frozen=True)
class Inspection:
    """All cells, in the order in which they were measured. layout: of the tokens that were seen."""

    request: Request
    config: MoGAConfig
    layout: VideoLayout
    cells: tuple[Cell, ...]

    @property
    def blocks(self) -> list[int]:
        return sorted({cell.block for cell in self.cells})

    @property
    def levels(self) -> list[float]:
        return sorted({cell.noise for cell in self.cells}, reverse=True)

    def at(self, block: int, noise: float) -> Cell | None:
        return next((c for c in self.cells if (c.block, c.noise) == (block, noise)), None)

    def mean(self, name: str, block: int | None = None) -> float | None:
        """Of a number of the cells, over a block's or all of them; None where there is none."""
        cells = [c for c in self.cells if block in (None, c.block)]
        values = [value for c in cells if (value := getattr(c, name)) is not None]
        return fmean(values) if values else None

    @property
    def dense_blocks(self) -> str:
        """The suggestion, as Apply MoGA's `dense_blocks` takes it; "" for none."""
        return blocks_text(suggest_dense_blocks({b: self.mean("error", b) for b in self.blocks}))

    def summary(self) -> str:
        """One line of means."""
        error, recall, density, far = (
            self.mean(name) for name in ("error", "recall", "density", "far")
        )
        return (
            f"error {error:.2f}; {recall:.0%} of the attention is recalled with {density:.0%} of "
            f"the keys, {far:.0%} of it through groups alone"
        )

    def text(self, about: Sequence[str] = ()) -> str:
        """A table for reading, one line for each block. about: lines that go before it."""
        layout, asked = self.layout, min(self.request.queries, self.layout.tokens)
        lines = [
            *about,
            f"tokens   {layout.tokens:,} ({layout.frames} x {layout.height} x {layout.width}), "
            f"{len(layout.shots)} shot{'s' if len(layout.shots) > 1 else ''}",
            f"queries  {asked} of each block" + _clamped(self.request.queries, layout.tokens),
            f"means    {self.summary()}",
            "",
            *self._table(),
            "",
            _MEANING,
            "",
            f"dense_blocks: {self.dense_blocks or 'none suggested'}",
            *textwrap.wrap(f"Suggested are {RULE}.", 100),
        ]
        return "\n".join(lines)

    def _table(self) -> list[str]:
        levels = self.levels
        head = ["block", *(f"error at {level:g}" for level in levels), *_COLUMNS]
        rows = [head]
        for block in self.blocks:
            cells = [self.at(block, level) for level in levels]
            errors = [_number(None if cell is None else cell.error) for cell in cells]
            means = [_number(self.mean(name, block)) for name in _COLUMNS]
            rows.append([str(block), *errors, *means])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return ["  ".join(map(str.rjust, row, widths)) for row in rows]

    def to_json(self, about: Mapping[str, Any] | None = None) -> str:
        """All numbers. about: what was inspected, added to them."""
        layout = self.layout
        cells = [
            {k: v for k, v in dataclasses.asdict(cell).items() if k != "groups"}
            for cell in self.cells
        ]
        found = {
            "version": VERSION,
            **(about or {}),
            "config": dataclasses.asdict(self.config),
            "latent": {**dataclasses.asdict(layout), "tokens": layout.tokens},
            "queries": min(self.request.queries, layout.tokens),
            "seed": self.request.seed,
            "dense_blocks": self.dense_blocks,
            "rule": RULE,
            "cells": cells,
        }
        return json.dumps(found, indent=1)


def config_text(config: MoGAConfig) -> str:
    """How a layer attends, in a few words."""
    rows, columns = config.windows
    words = {
        "routed": f"{config.groups} groups",
        "windows": f"{rows}x{columns} windows of {config.window_frames} latent frames",
        "frames": "whole frames",
    }
    merge = "one softmax" if config.combine == "union" else "mean of the branches"
    return ", ".join([*(words[branch] for branch in config.branches), merge])


def suggest_dense_blocks(errors: Mapping[int, float]) -> list[int]:
    """Blocks that are better left dense, by `RULE`. errors: of each block that was measured."""
    limit = max(_LEAST, _TIMES * median(errors.values()))
    worst = sorted((block for block in errors if errors[block] > limit), key=lambda b: -errors[b])
    return sorted(worst[: int(_SHARE * len(errors))])


def _clamped(asked: int, tokens: int) -> str:
    return f" (all there are, of the {asked} asked for)" if asked > tokens else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
