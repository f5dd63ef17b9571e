"""What a node says of itself."""

from __future__ import annotations

import comfy.model_patcher

from ...flops import density
from ...layout import VideoLayout
from ...shots import ShotList
from .hooks import Hooks
from .wan import wan_model

APPLIED = "moga_applied"
_GRID = (30, 52)  # tokens of 832 x 480, the size the summary is given for
_FRAMES = 21  # 81 video frames, where no shots say how many


def summary(model: comfy.model_patcher.ModelPatcher) -> str:
    """One line on what `apply_moga` put on this model."""
    hooks: Hooks = model.get_attachment(APPLIED)
    shots = hooks.settings.shots
    blocks = len(wan_model(model).blocks)
    if hooks.routers is None:
        return f"dense attention in {blocks} blocks; {_texts(shots)}"
    config = hooks.routers.config
    frames = shots.latent_frames if shots else _FRAMES
    layout = VideoLayout(frames, *_GRID, shots.latent_starts if shots else (0,))
    used = blocks - len(hooks.settings.dense_blocks)
    return (
        f"{config.groups} groups in {used} of {blocks} blocks; density "
        f"{density(layout, config):.3f} for {4 * frames - 3} frames of 832x480; {_texts(shots)}"
    )


def _texts(shots: ShotList | None) -> str:
    if shots is None or len(shots.shots) == 1:
        return "one shot"
    return f"{len(shots.shots)} shots read their own text"


def show_on_node(node_id: str | None, line: str) -> None:
    """Write a line onto a node in the browser, where a server is running."""
    try:
        from server import PromptServer
    except ImportError:
        return
    send = getattr(getattr(PromptServer, "instance", None), "send_progress_text", None)
    if send is not None and node_id is not None:
        send(line, node_id)
