"""The ffmpeg program that comes with imageio-ffmpeg, the only one that is used."""

from __future__ import annotations

import subprocess
from typing import Any


def find_ffmpeg() -> str:
    """The path of imageio-ffmpeg's ffmpeg. Raises ImportError with the command that installs it."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError:
        raise ImportError(
            "Saving a video needs imageio-ffmpeg, which isn't installed; run "
            "`python -m pip install imageio-ffmpeg` in ComfyUI's Python and start ComfyUI again."
        ) from None
    return get_ffmpeg_exe()


def hidden_window() -> dict[str, Any]:
    """Arguments of ``subprocess`` that keep Windows from opening a console for ffmpeg."""
    return {"creationflags": getattr(subprocess, "CREATE_NO_WINDOW", 0)}
