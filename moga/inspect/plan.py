"""What an inspection would look at, worked out before anything large is read."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..config import MoGAConfig
from ..diagnostics import Request, check_tokens, config_text
from ..generate import plan as film
from ..generate.options import UsageError
from ..generate.places import prove_files
from .options import Options


@dataclass(frozen=True)
class Plan:
    """film: models, script and layout, as if it were to be made. config: of what is measured.

    latents: (1, C, t, h, w) to be looked at; None where they are sampled first.
    """

    options: Options
    film: film.Plan
    request: Request
    config: MoGAConfig
    latents: Tensor | None

    def text(self) -> str:
        """The plan for reading."""
        layout, made = self.film.layout, "sampled first"
        if self.latents is not None:
            made = self.options.film.latents.name
        levels = ", ".join(f"{level:g}" for level in self.request.levels)
        return "\n".join(
            [
                self.film.shots.table(),
                "",
                f"model     {self.film.models.first.name}: {self.about}",
                f"latents   {made}",
                f"tokens    {layout.tokens} ({layout.frames} x {layout.height} x {layout.width})",
                f"measured  {len(self.request.blocks)} blocks at noise levels {levels}",
            ]
        )

    @property
    def title(self) -> str:
        name = self.film.models.first.name
        if self.options.what_if is None:
            return f"What routing does in {name}"
        return f"What routing would do in {name}: random routers of seed {self.request.seed}"

    @property
    def about(self) -> str:
        ran = "dense attention ran" if self.options.what_if is not None else "MoGA ran"
        return f"{config_text(self.config)}; {ran}"


def make_plan(options: Options) -> Plan:
    """Read the script and the headers of all files, and hold them against what is asked.

    Raises MogaError, with one sentence.
    """
    asked = options.film
    if asked.latents is not None:  # nothing is sampled, so nothing that guidance needs is missing
        asked = replace(asked, latents=None, cfg=1.0, cfg_low=None)
    made = film.fit(asked)
    if len(made.models.transformers) > 1:
        raise UsageError(
            f"{options.film.model.name} holds two experts; inspect each by itself: give --model "
            "its folder transformer or transformer_2, and --vae and --text-encoder."
        )
    model, latents = made.models.first, None
    config = options.what_if or model.moga
    request = Request.parse(
        options.noise, options.blocks, model.config["num_layers"], options.queries, asked.seed
    )
    check_tokens(made.layout, config)
    if options.film.latents is not None:
        latents = film.saved_latents(options.film.latents, made.latent_shape)
    sampled = () if latents is not None else (options.film.latents_out,)
    prove_files("--out", *options.files, *sampled)
    return Plan(options, made, request, config, latents)
