"""What a video file says about itself: tags and chapter marks, handed to ffmpeg in a file.

A file, as a workflow is longer than a command line may be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Chapter:
    """A part of a video: its first frame, how many frames it has, and its title."""

    start: int
    frames: int
    title: str


# QuickTime's chapters, which mp4 and mov have, count the bytes of a title in 16 bits.
_TITLE_BYTES = 2**16 - 1


def ffmetadata(tags: Mapping[str, str], chapters: Iterable[Chapter], rate: Fraction) -> str:
    """Tags and chapters in the text form that ffmpeg reads (its manual's chapter "Metadata").

    Titles are cut where an mp4 could not hold them. CR is left out, and NUL, which ends a line.
    """
    lines = [";FFMETADATA1", *(_assign(key, value) for key, value in tags.items())]
    for chapter in chapters:
        title = chapter.title.encode("utf-8")[:_TITLE_BYTES].decode("utf-8", "ignore")
        lines += [
            "[CHAPTER]",
            f"TIMEBASE={rate.denominator}/{rate.numerator}",
            f"START={chapter.start}",
            f"END={chapter.start + chapter.frames}",
            _assign("title", title),
        ]
    return "\n".join([*lines, ""])


def _assign(key: str, value: str) -> str:
    # ffmpeg takes a line to go on after any backslash, be it an escaped one that ends the value:
    # "title=a\\" would swallow the next line. A NUL ends a line whatever stands before it.
    return f"{_escape(key)}={_escape(value)}\0"


def _escape(text: str) -> str:
    return re.sub(r"([=;#\\\n])", r"\\\1", text.replace("\r", "").replace("\0", ""))
