"""One call of the DiT, described once for all of its blocks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...attention.text import Span
from ...config import MoGAConfig
from ...layout import VideoLayout
from .geometry import Grid, call_grid
from .keys import KEY, TEXT_CONDITION
from .settings import Settings
from .status import latent_summary


@dataclass(frozen=True)
class Call:
    """One call of the DiT, as the swapped forwards see it (in transformer_options).

    dense_reason: why self-attention stays dense in this call, or None.
    spans: text tokens of each shot, or None where the conditioning has no shots.
    """

    grid: Grid | None
    dense_reason: str | None
    spans: tuple[Span, ...] | None


class Teller:
    """What is said while sampling: each thing once in the log, and a line on the node.

    tell: takes the line on what is sampled, whenever it changes.
    """

    def __init__(self, tell: Callable[[str], None] | None) -> None:
        self._tell, self._told = tell, ""
        self._said: set[str] = set()

    def once(self, message: str) -> None:
        """Log a message unless it was logged before."""
        if message not in self._said:
            self._said.add(message)
            logging.info("MoGA: %s", message)

    def sampled(self, line: str) -> None:
        """Say what is sampled."""
        self.once(line)
        if self._tell is not None and line != self._told:
            self._told = line
            self._tell(line)


class CallDescriber:
    """The APPLY_MODEL wrapper, outside whatever torch.compile compiles.

    scheduled: whether what is sampled has texts of the shots; None before anything was.
    """

    def __init__(self, settings: Settings, config: MoGAConfig | None, teller: Teller) -> None:
        self.scheduled: bool | None = None
        self._settings, self._config, self._teller = settings, config, teller

    def __call__(self, executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Leave a Call in the transformer options of this call of the model, then run it."""
        names = ("x", "t", "c_concat", "c_crossattn", "control", "transformer_options")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        text = kwargs.pop(TEXT_CONDITION, None)
        options = given["transformer_options"]
        model = executor.class_obj
        dit = model.diffusion_model
        grid = call_grid(
            dit,
            given["x"],
            options,
            self._settings.shots,
            time_dim_concat=given.get("time_dim_concat"),
            reference_latent=given.get("reference_latent"),
        )
        reason = _dense_reason(self._settings, grid, options, model.model_sampling)
        if reason is None or (self._config is None and grid is not None):
            self._teller.sampled(self._line(dit, grid.layout))
        options[KEY] = Call(grid, reason, None if text is None else text.spans)
        return executor(*args, **kwargs)

    def _line(self, dit: nn.Module, layout: VideoLayout) -> str:
        return latent_summary(self._settings, self._config, dit, layout, self.scheduled)


def _dense_reason(
    settings: Settings, grid: Grid | None, options: dict[str, Any], sampling: Any
) -> str | None:
    """sampling: of the model as it runs, which nodes after this one may have changed."""
    if grid is None:
        return "the tokens of this call form no video grid"
    if grid.layout.tokens < settings.min_tokens:
        return f"{grid.layout.tokens} tokens are fewer than min_tokens"
    percents = (settings.start_percent, settings.end_percent)
    sigma = options.get("sigmas")
    if percents == (0.0, 1.0) or sigma is None:
        return None
    first, last = (float(sampling.percent_to_sigma(percent)) for percent in percents)
    if not last <= float(sigma[0]) <= first:
        return "this step lies outside start_percent and end_percent"
    return None
