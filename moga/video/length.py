"""How long a video is, by its packets."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

from .ffmpeg import find_ffmpeg, hidden_window
from .reader import ffmpeg_words

_DISCARD = 4  # ffmpeg's mark on packets that an edit list cuts away


def length_of(video: Path) -> Fraction | ValueError:
    """Seconds of a video's pictures, none of them decoded.

    An error is returned, so that all can be told together.
    """
    command = [find_ffmpeg(), "-hide_banner", "-loglevel", "error", "-nostdin"]
    # ffprobe is not to be had, but ffmpeg lists the packets: dts, pts, duration, and so on.
    command += ["-i", f"file:{video}", "-map", "0:v:0", "-c", "copy", "-f", "framecrc", "-"]
    run = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", **hidden_window()
    )
    try:
        return _span(run.stdout)
    except ValueError:
        said = ffmpeg_words(run.stderr) or "it holds no pictures"
        return ValueError(f"ffmpeg cannot read it ({said}); replace the video.")


def _span(packets: str) -> Fraction:
    """Seconds from the first picture to the end of the last one. Raises ValueError for none."""
    tick, decoded, presented, ends = Fraction(0), [], [], []
    for line in packets.splitlines():
        if line.startswith("#tb 0:"):
            tick = Fraction(line.partition(":")[2].strip())
        elif not line.startswith("#"):
            _, dts, pts, duration, *rest = line.split(",")
            marks = next((int(x.strip()[2:], 16) for x in rest if x.startswith(" F=")), 0)
            if not marks & _DISCARD:
                decoded.append(int(dts))
                presented.append(int(pts))
                ends.append(int(duration))
    # AVI and bare streams do not say when a picture is shown (the least number there is), only in
    # which order it is decoded.
    shown = presented if min(presented, default=0) > -(2**63) else decoded
    return (max(map(sum, zip(shown, ends, strict=True))) - min(shown)) * tick
