"""The ffmpeg program that comes with imageio-ffmpeg, the only one that is used."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

from ..errors import MissingPackageError


def find_ffmpeg() -> str:
    """The path of imageio-ffmpeg's ffmpeg.

    Raises ImportError, which says how to mend it, when the package or its program isn't there.
    """
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError:
        raise MissingPackageError(
            "Saving a video needs imageio-ffmpeg, which isn't installed; run "
            "`python -m pip install imageio-ffmpeg` in ComfyUI's Python and start ComfyUI again."
        ) from None
    try:
        program = get_ffmpeg_exe()
    except RuntimeError:  # a package that was built without one
        program = ""
    if shutil.which(program) is None:
        named = f" at {program} (from IMAGEIO_FFMPEG_EXE)" if program else ""
        raise MissingPackageError(
            f"Saving a video needs ffmpeg, and imageio-ffmpeg has no program to run{named}; run "
            "`python -m pip install --force-reinstall imageio-ffmpeg` in ComfyUI's Python, or set "
            "IMAGEIO_FFMPEG_EXE to an ffmpeg, and start ComfyUI again."
        )
    return program


def apart() -> dict[str, Any]:
    """The same for what reads films, out of reach of a terminal's interrupt too: what that cuts
    short must not look like a bad film."""
    return {**hidden_window(), "start_new_session": True}


def hidden_window() -> dict[str, Any]:
    """Arguments of `subprocess` that keep Windows from opening a console for ffmpeg."""
    return {"creationflags": getattr(subprocess, "CREATE_NO_WINDOW", 0)}
