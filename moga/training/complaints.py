"""What ffmpeg complains of while it decodes: it goes on after most errors and ends with success."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from ..ffmpeg import find_ffmpeg, hidden_window
from ..shotscript import shorten

# Every message with its level, none folded into "last message repeated"; and checksums are held
# against the pictures, where a file has some.
REPORT = ("-loglevel", "repeat+level+warning", "-err_detect", "crccheck")
_ERROR = re.compile(r"\[(error|fatal|panic)\] ")
_CORRUPT = "corrupt decoded frame"  # a warning, and for some codecs all that is said
_HARMLESS = (
    # H.264 that was cut without encoding it again, where pictures before the cut are referred to:
    # the decoder drops those that need them, and all that it gives are whole.
    "mmco: unref short failure",
    "Missing reference picture, default is",
    "reference picture missing during reorder",
    "number of reference frames (",
    "co located POCs unavailable",
    # Said by what takes the pictures, not by the decoder: their times are out of order.
    "non monotonically increasing dts",
)
_ADDRESS = re.compile(r"^(\[[^]]* @ \w+\] *)+|\[(error|fatal|panic|warning)\] ")


def complaints(said: str) -> list[str]:
    """The errors of decoding among what ffmpeg said under REPORT, without addresses and levels."""
    lines = [line for line in said.splitlines() if _ERROR.search(line) or _CORRUPT in line]
    return [plain(line) for line in lines if not any(word in line for word in _HARMLESS)]


def plain(line: str) -> str:
    """A line of ffmpeg's without the addresses and the level before it, shortened."""
    return shorten(_ADDRESS.sub("", line), 160)


def decode_errors(video: Path) -> list[str]:
    """Decode all pictures of a video once, by one thread, and return what was complained of."""
    command = [find_ffmpeg(), "-hide_banner", "-nostdin", *REPORT, "-threads", "1"]
    command += ["-i", f"file:{video}", "-map", "0:v:0"]
    command += ["-fps_mode", "passthrough", "-f", "null", "-"]
    run = subprocess.run(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        **hidden_window(),
    )
    found = complaints(run.stderr)
    return found or ([f"it stopped with code {run.returncode}"] if run.returncode else [])


def damaged(errors: list[str]) -> str:
    """What to say of a video that decodes with errors."""
    count = "an error" if len(errors) == 1 else f"{len(errors)} errors, first"
    return f"it is damaged, ffmpeg decodes it with {count} ({errors[0]}); replace the video."
