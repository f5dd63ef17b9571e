"""What ffmpeg complains of while it decodes: it goes on after most errors and ends with success."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from ..shots.script import shorten
from .excerpt import WHOLE, Excerpt
from .ffmpeg import find_ffmpeg, hidden_window

# Every message with its level, none folded into "last message repeated"; and checksums are held
# against the pictures, where a file has some.
REPORT = ("-loglevel", "repeat+level+warning", "-err_detect", "crccheck")
_ERROR = re.compile(r"(?:\[([^]@]+) @ \w+\] )?\[(?:error|fatal|panic)\] ")  # by whom
_CORRUPT = "corrupt decoded frame"  # a warning, and for some codecs all that is said
_ANY_RATE = 25  # of an excerpt, whose pictures are decoded at any
_EMPTY = "Output file is empty"
_HARMLESS = (
    # H.264 that was cut without encoding it again, where pictures before the cut are referred to:
    # the decoder drops those that need them, and all that it gives are whole.
    "mmco: unref short failure",
    "Missing reference picture, default is",
    "reference picture missing during reorder",
    "number of reference frames (",
    "co located POCs unavailable",
    # Beside the pictures: chapters, what a camera notes, and the like.
    "Referenced QT chapter track not found",
    "unable to decode APP fields",
    "SEI type",
    "VPS 0 does not exist",
    # Said by what takes the pictures, not by the decoder: their times are out of order.
    "non monotonically increasing dts",
)
# ffmpeg looks at sound and subtitles too before it knows that nobody asks for them.
_NO_PICTURES = ("aac", "ac3", "adpcm", "alac", "amr", "ass", "atrac", "cc_dec", "cook", "dca",
                "dvbsub", "dvdsub", "eac3", "flac", "gsm", "mlp", "mov_text", "mp1", "mp2", "mp3",
                "opus", "pcm", "pgssub", "speex", "subrip", "truehd", "vorbis", "wma")  # fmt: skip
_ADDRESS = re.compile(r"^(\[[^]]* @ \w+\] *)+|\[(error|fatal|panic|warning)\] ")


def complaints(said: str) -> list[str]:
    """The errors of decoding among what ffmpeg said under REPORT, without addresses and levels."""
    return [plain(line) for line in said.splitlines() if _counts(line)]


def _counts(line: str) -> bool:
    if any(words in line for words in _HARMLESS):
        return False
    error = _ERROR.search(line)
    if error is None:
        return _CORRUPT in line
    return not (error[1] or "").startswith(_NO_PICTURES)


def plain(line: str) -> str:
    """A line of ffmpeg's without the addresses and the level before it, shortened."""
    return shorten(_ADDRESS.sub("", line), 160)


def decode_errors(video: Path, excerpt: Excerpt = WHOLE) -> list[str]:
    """Decode all pictures of an excerpt once, by one thread; returns what was complained of."""
    if not excerpt.spans:
        return _decode(video, ["-i", f"file:{video}"], [])
    found = []
    for run in excerpt.runs(_ANY_RATE, 0, None):
        found += _decode(video, run.input(video), ["-vf", run.filters(video, _ANY_RATE)])
    return found


def _decode(video: Path, source: list[str], filters: list[str]) -> list[str]:
    command = [find_ffmpeg(), "-hide_banner", "-nostdin", *REPORT, "-threads", "1"]
    command += [*source, "-map", "0:v:0", *filters]
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
    if not found and _EMPTY in run.stderr:
        return ["no picture comes out of it"]
    return found or ([f"it stopped with code {run.returncode}"] if run.returncode else [])


def damaged(errors: list[str]) -> str:
    """What to say of a video that decodes with errors."""
    count = "an error" if len(errors) == 1 else f"{len(errors)} errors, first"
    return f"it is damaged, ffmpeg decodes it with {count} ({errors[0]}); replace the video."
