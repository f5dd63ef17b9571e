"""What a node says of itself."""

from __future__ import annotations

import comfy.model_patcher
from torch import nn

from ...config import MoGAConfig
from ...flops import ModelShape, density, expected_speedup
from ...layout import VideoLayout
from ...shots import ShotList
from ...wan import video_frames
from .keys import APPLIED
from .settings import Settings
from .wan import made_for_fps, token_pixels, wan_model

_SIZE = (480, 832)  # pixels that the summary is given for
_FRAMES = 21  # 81 video frames, where no shots say how many


def summary(model: comfy.model_patcher.ModelPatcher) -> str:
    """One line on what `apply_moga` put on this model, before a latent is known."""
    hooks = model.get_attachment(APPLIED)
    settings, dit, config = hooks.settings, wan_model(model), hooks.config
    frames = settings.shots.latent_frames if settings.shots else _FRAMES
    starts = settings.shots.latent_starts if settings.shots else (0,)
    size = f"{video_frames(frames)} frames of 832x480"
    height, width = (pixels // token_pixels(dit) for pixels in _SIZE)
    layout = VideoLayout(frames, height, width, starts)
    return _line(settings, config, dit, layout, size, None)


def latent_summary(
    settings: Settings,
    config: MoGAConfig | None,
    dit: nn.Module,
    layout: VideoLayout,
    scheduled: bool | None,
) -> str:
    """The same line for the tokens that are sampled, and whether they have texts of the shots."""
    size = f"{layout.tokens:,} tokens ({layout.frames} x {layout.height} x {layout.width})"
    return _line(settings, config, dit, layout, size, scheduled)


def _line(
    settings: Settings,
    config: MoGAConfig | None,
    dit: nn.Module,
    layout: VideoLayout,
    size: str,
    scheduled: bool | None,
) -> str:
    attention = _attention(settings, config, dit, layout, size)
    return f"{attention}; {_texts(settings.shots, scheduled)}{_pace(settings.shots, dit)}"


def _attention(
    settings: Settings, config: MoGAConfig | None, dit: nn.Module, layout: VideoLayout, size: str
) -> str:
    if config is None:
        return f"dense attention in {len(dit.blocks)} blocks"
    blocks, dense = len(dit.blocks), len(settings.dense_blocks)
    shape = ModelShape(blocks, dit.dim, dit.ffn_dim, dit.text_len)
    gain = expected_speedup(layout, config, shape, dense_layers=dense)
    what = f"{config.groups} groups" if "routed" in config.branches else "static branches"
    return (
        f"{what} in {blocks - dense} of {blocks} blocks; density "
        f"{density(layout, config):.3f} and at most {gain:.1f} x dense speed for {size}"
    )


def _texts(shots: ShotList | None, scheduled: bool | None) -> str:
    if shots is None or len(shots.shots) == 1:
        return "one shot"
    reading = {None: "", True: " read their own text", False: " read the whole prompt"}
    return f"{len(shots.shots)} shots{reading[scheduled]}"


def _pace(shots: ShotList | None, dit: nn.Module) -> str:
    fps = made_for_fps(dit)
    if shots is None or fps is None or shots.fps == fps:
        return ""
    return (
        f"; set fps to {fps}: this model was made for it, and the shots are at {float(shots.fps):g}"
    )


def show_on_node(node_id: str | None, line: str) -> None:
    """Write a line onto a node in the browser, where a server is running."""
    try:
        from server import PromptServer
    except ImportError:
        return
    send = getattr(getattr(PromptServer, "instance", None), "send_progress_text", None)
    if send is not None and node_id is not None:
        send(line, node_id)
