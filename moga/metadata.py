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


def ffmetadata(tags: Mapping[str, str], chapters: Iterable[Chapter], rate: Fraction) -> str:
    """Tags and chapters in the text form that ffmpeg reads (its manual's chapter "Metadata")."""
    lines = [";FFMETADATA1", *(f"{_escape(key)}={_escape(value)}" for key, value in tags.items())]
    for chapter in chapters:
        lines += [
            "[CHAPTER]",
            f"TIMEBASE={rate.denominator}/{rate.numerator}",
            f"START={chapter.start}",
            f"END={chapter.start + chapter.frames}",
            f"title={_escape(chapter.title)}",
        ]
    return "\n".join([*lines, ""])


def _escape(text: str) -> str:
    return re.sub(r"([=;#\\\n])", r"\\\1", text.replace("\r", "").replace("\0", ""))
