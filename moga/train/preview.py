"""What `--check` finds and tells, for reading, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

from ..data.rows import Examined
from ..flops import density
from ..layout import VideoLayout
from ..wan import latent_frames
from .cache.missing import refuse_unwritable
from .cache.spec import on_grid
from .check import check
from .check_clips import check_clips
from .checkpoints import Checkpoints, Survey
from .folders import unwritable
from .inputs import cache_spec, read_inputs
from .resume import check_same, fingerprint, launched, on_trust
from .settings import Settings
from .workspace import Workspace


def check_only(settings: Settings) -> str:
    """Everything that `run` checks before it computes, and what it would train on, for reading.

    And more: every clip is decoded once. Raises what `run` raises.
    """
    token_pixels = check(settings)
    inputs, spec = read_inputs(settings), cache_spec(settings, "cpu")
    survey = Checkpoints(Workspace.of(settings).checkpoints, settings.save.keep_last).survey()
    if survey.newest:  # however it was launched: --check is one process
        progress = survey.newest[1]
        now = fingerprint(settings, inputs.rows, launched(progress), spec.contents)
        check_same(settings, now, progress)
    if unwritable(spec.folder):
        refuse_unwritable(spec, inputs.missing_in(spec))
    check_clips(inputs.all_rows)
    return "\n".join(
        [
            f"{len(inputs.rows)} clips to train on, {len(inputs.validation_rows)} to validate on",
            *_wordless(inputs.all_rows),
            *standing(settings, survey),
            *_stages(settings, token_pixels),
        ]
    )


def standing(settings: Settings, survey: Survey) -> list[str]:
    """From where a training goes on, for reading."""
    lines = [f"the checkpoint {one.path} is damaged ({one.why})" for one in survey.damaged]
    if survey.newest:
        progress = survey.newest[1]
        name = settings.stages[progress.stage].name
        lines.append(f"going on in stage {name!r} after {progress.step} steps")
        if on_trust(progress):
            lines.append(
                f"{settings.save.folder} is of an older version, which did not note what all of "
                "its files hold; that model, VAE, text encoder and clips are the same is taken on "
                "trust"
            )
    return lines


def _wordless(rows: Sequence[Examined]) -> list[str]:
    shots = [shot for one in rows for shot in one.row.shots]
    count = sum(not shot.caption for shot in shots)
    if not count:
        return []
    return [f"{count} of {len(shots)} shots have no caption and are trained with the global text"]


def _stages(settings: Settings, token_pixels: int) -> list[str]:
    """The longest clip, and what each stage does. token_pixels: of a token, in width and height."""
    data, frames = settings.data, on_grid(max(settings.lengths), settings.data.fps)
    layout = VideoLayout(
        latent_frames(frames), data.height // token_pixels, data.width // token_pixels
    )
    lines = [f"longest clip: {frames} frames of {data.width}x{data.height}, {layout.tokens} tokens"]
    for stage in settings.stages:
        share = "dense"
        if settings.model.attention == "moga":
            share = f"{density(layout, settings.moga.config(stage)):.1%} of dense attention"
        clips = stage.batch * (stage.forwards or stage.accumulate)
        lines.append(
            f"stage {stage.name}: {stage.steps} steps of {clips} clips up "
            f"to {stage.seconds:g} s, trains {stage.train}, {share} in the longest"
        )
    return lines
