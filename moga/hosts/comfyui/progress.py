"""What the user sees while frames are made: the node's bar, picture and text, and the log."""

from __future__ import annotations

import logging
import time
from typing import Any

import comfy.utils
from comfy_execution.progress import NodeState, get_progress_state
from comfy_execution.utils import get_executing_context

from .status import show_on_node

Picture = Any  # a PIL.Image

LOG_EVERY = 10.0  # seconds
SHOW_EVERY = 0.5
PICTURE_SIZE = 256  # pixels of the longer edge, as shown on the node


class Progress:
    """Counts frames. `note` is shown with the numbers."""

    def __init__(self, frames: int, note: str = "") -> None:
        self.frames = frames
        self.done = 0
        self._note = note
        self._bar = comfy.utils.ProgressBar(frames)
        self._start = self._shown = self._logged = time.monotonic()

    def advance(self, frames: int, picture: Picture | None = None) -> None:
        """Count `frames` more. Call it in the node's own thread, by which its bar is found."""
        self.done += frames
        now = time.monotonic()
        preview = None
        if picture is not None and now - self._shown >= SHOW_EVERY:
            self._shown, preview = now, ("JPEG", picture, PICTURE_SIZE)
        self._bar.update_absolute(self.done, self.frames, preview)
        if now - self._logged >= LOG_EVERY:
            self._logged = now
            logging.info("%s", self)

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self._start

    def __str__(self) -> str:
        rate = self.done / max(self.seconds, 1e-6)
        left = (self.frames - self.done) / rate if self.done else float("nan")
        spent = f"{clock(self.seconds)} so far, {clock(left)} left"
        if self.done == self.frames:
            spent = f"in {clock(self.seconds)}"
        note = f", {self._note}" if self._note else ""
        return f"{self.done} of {self.frames} frames, {rate:.2f} a second, {spent}{note}"


def running_node() -> tuple[str, int | None] | None:
    """The node that is running, and at which of a list of inputs; None when none is."""
    context = get_executing_context()
    return context and (context.node_id, context.list_index)


def tell(line: str) -> None:
    """Write a line onto the node that is running, for whoever has its page open."""
    if node := running_node():
        show_on_node(node[0], line)


def wait_for_samples() -> list[str]:
    """What a node answers that is asked for inputs, while its samples are still to be made.

    ComfyUI has marked the node as one that runs by then, and would show it so until they are there.
    """
    if node := running_node():
        get_progress_state().ensure_entry(node[0])["state"] = NodeState.Pending
    return ["samples"]


def clock(seconds: float) -> str:
    """A duration for reading: `1:02:03`, or `2:03`."""
    if seconds != seconds:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
