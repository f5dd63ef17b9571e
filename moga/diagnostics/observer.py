"""Looks on while a model runs: takes each chosen block's x, q, k and v, and keeps numbers alone.

Letters: B batch, L visual tokens, C model width, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import MoGAConfig
from ..layout import VideoLayout
from ..routing import Routing, route
from ..vae.decode import NotFiniteError
from .layer import sample_layer
from .report import Cell, Inspection
from .request import Request, UnsuitableError, check_tokens

_FRAMES = 4  # whose groups are kept, to be drawn
_CHUNK = 8192  # tokens that are looked at at once


class Observer:
    """What a host shows its layers to, one forward for each noise level.

    config: of the MoGA that is measured, whatever attention the model itself runs. routers: weight
    and bias of every block; empty where config has no "routed" branch. min_tokens: a video of fewer
    is refused. advance: called after each block that was measured.
    """

    def __init__(
        self,
        request: Request,
        config: MoGAConfig,
        routers: Mapping[int, Mapping[str, Tensor]],
        *,
        min_tokens: int = 0,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        self.request, self.config = request, config
        self.layout: VideoLayout | None = None
        self._routers, self._min_tokens, self._advance = routers, min_tokens, advance
        self._noise: float | None = None
        self._cells: dict[tuple[int, float], Cell] = {}

    def begin(self, noise: float) -> None:
        """The model is run next at this noise level."""
        self._noise = noise

    @torch.no_grad()
    def see(
        self, block: int, layout: VideoLayout, x: Tensor, q: Tensor, k: Tensor, v: Tensor
    ) -> None:
        """A layer's input x (B, L, C) and its q, k, v (B, L, N, D), after norm and RoPE.

        The first sample of a batch is measured, in the first call of a block at a noise level.
        Raises NotFiniteError, UnsuitableError.
        """
        place = (block, self._noise)
        if self._noise is None or place in self._cells:
            return
        check_tokens(layout, self.config, self._min_tokens)
        for name, values in (("x", x), ("q", q), ("k", k), ("v", v)):
            self._check(block, name, values)
        if block not in self.request.blocks or self.layout not in (None, layout):
            return
        self.layout = layout
        queries = self.request.tokens_of(layout).to(q.device)
        routing = self._route(block, x[:1])
        sample = sample_layer(q[0, queries], k[0], v[0], queries, routing, layout, self.config)
        sizes, groups, gate = (), None, None
        if routing is not None:
            sizes = tuple(routing.sizes()[0].tolist())
            gate = float(routing.gate.mean())
            grid = routing.group[0].view(layout.frames, layout.height, layout.width)
            groups = grid[drawn_frames(layout)].to(torch.uint8).cpu().numpy()
        self._cells[place] = Cell(
            block=block,
            noise=self._noise,
            error=sample.error,
            recall=float(sample.recall.mean()),
            density=float(sample.seen.mean()),
            near=float(sample.near.mean()),
            far=float(sample.far.mean()),
            gate=gate,
            sizes=sizes,
            groups=groups,
        )
        self._advance()

    def result(self) -> Inspection:
        """What was seen. Raises UnsuitableError where that is nothing."""
        if not self._cells:
            raise UnsuitableError(
                "no block could be measured, as the tokens of the calls form no plain video grid "
                "(reference latents in context, or SCAIL's poses); inspect without them."
            )
        return Inspection(self.request, self.config, self.layout, tuple(self._cells.values()))

    def _route(self, block: int, x: Tensor) -> Routing | None:
        if "routed" not in self.config.branches:
            return None
        weight, bias = (
            self._routers[block][name].to(x.device, torch.float32) for name in ("weight", "bias")
        )
        return route(x, lambda part: F.linear(part, weight, bias))

    def _check(self, block: int, name: str, values: Tensor) -> None:
        if all(part.isfinite().all() for part in values.split(_CHUNK, dim=1)):
            return
        what = "its input" if name == "x" else name
        raise NotFiniteError(
            f"block {block} has values that aren't numbers (NaN or infinite) in {what} at noise "
            f"level {self._noise:g}; use another precision of the weights (fp32 or bf16), or "
            "download the model again."
        )


def drawn_frames(layout: VideoLayout) -> list[int]:
    """The latent frames whose groups are kept: up to four, spread over the shots."""
    spans = layout.shot_spans
    count = min(_FRAMES, layout.frames)
    if len(spans) > count:
        spans = [spans[(2 * i + 1) * len(spans) // (2 * count)] for i in range(count)]
    shares = [count // len(spans) + (i < count % len(spans)) for i in range(len(spans))]
    frames = set()
    for (start, stop), share in zip(spans, shares, strict=True):
        length = stop - start
        frames |= {start + (2 * i + 1) * length // (2 * share) for i in range(share)}
    return sorted(frames)
