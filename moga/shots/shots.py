"""Shots: what was asked for, and what it becomes on the model's latent grid.

Wan's VAE turns the first frame of a video into one latent frame, and every four frames after it
into one more. A cut can only fall between latent frames, so the first shot has 4n + 1 frames and
each later one 4n: T latent frames are 4 * (T - 1) + 1 frames.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from ..wan import TEMPORAL_STRIDE, video_frames
from .amounts import MAX_FRAMES, amount, decimal, frame_rate, plain, whole
from .script import (
    ShotScriptError,
    located,
    one_line,
    read_script,
    refuse_durations,
    shorten,
    show,
)

__all__ = ["DEFAULT_SCRIPT", "TEMPORAL_STRIDE", "Shot", "ShotList", "ShotScriptError"]


DEFAULT_SCRIPT = """\
global: A young woman in a red coat. Rainy neon city, 35mm film.
[4s] Wide shot. She crosses the street toward a diner.
[2.5s] Close-up. Her eyes catch the sign.
[97f] Inside. She sits at the counter; steam rises from a cup.
"""


_COLUMNS = ("shot", "asked", "frames", "seconds", "latent", "start", "caption")


@dataclass(frozen=True)
class Shot:
    """One shot as asked for: a caption, and exactly one of `seconds` and `frames`.

    `caption` may not be blank, nor hold what opens a shot in a script, such as `[4s]`; its line
    breaks become spaces, all else is kept. `seconds` may
    be given as int, float, Decimal or Fraction and is stored exactly: a float means the decimal it
    prints as, and a fraction that no decimal expresses is refused, because no script could say it.
    `frames` is a whole number. Raises `ShotScriptError`.
    """

    caption: str
    seconds: Fraction | None = None
    frames: int | None = None

    def __post_init__(self) -> None:
        caption = _text(self.caption, "caption")
        if not caption:
            raise ShotScriptError("caption is empty; write what the shot shows.")
        object.__setattr__(self, "caption", caption)
        if (self.seconds is None) == (self.frames is None):
            problem = "neither seconds nor frames; add" if self.seconds is None else "both; keep"
            raise ShotScriptError(f"duration is given as {problem} one of seconds and frames.")
        if self.seconds is not None:
            object.__setattr__(self, "seconds", Fraction(amount(self.seconds, "seconds")))
        else:
            object.__setattr__(self, "frames", whole(amount(self.frames, "frames")))

    @property
    def asked(self) -> str:
        """The duration as a script writes it: `2.5s` or `97f`."""
        if self.seconds is None:
            return f"{self.frames}f"
        return f"{decimal(self.seconds):f}s"

    def wanted(self, fps: Fraction) -> Fraction:
        """Frames at `fps` before snapping, exactly. Raises `ShotScriptError` if absurdly many."""
        wanted = Fraction(self.frames) if self.seconds is None else self.seconds * fps
        if wanted > MAX_FRAMES:
            raise ShotScriptError(
                f"{self.asked} at {plain(fps)} fps is more than {MAX_FRAMES} frames; "
                "shorten the shot."
            )
        return wanted


@dataclass(frozen=True)
class ShotList:
    """The shots of one video, snapped to the latent grid. Plain data: hashable and comparable.

    `fps` may be given as int, float, Fraction or text (`"23.976"`, `"24000/1001"`) and is
    stored exactly. `global_caption` is put before the text of every shot, `negative` is what none
    of them should show; "" means none. Raises `ShotScriptError` for no shots, an fps outside 0.001
    to 1000, or more than a million frames.
    """

    shots: tuple[Shot, ...]
    fps: Fraction
    global_caption: str = ""
    negative: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shots", tuple(self.shots))
        object.__setattr__(self, "fps", frame_rate(self.fps))
        object.__setattr__(self, "global_caption", _text(self.global_caption, "global caption"))
        object.__setattr__(self, "negative", _text(self.negative, "negative"))
        if not self.shots:
            raise ShotScriptError(
                "script has no shots; add a line such as: [4s] Wide shot. She crosses the street."
            )
        for number, shot in enumerate(self.shots, start=1):
            with located(f"shot {number}"):
                shot.wanted(self.fps)
        if self.frames > MAX_FRAMES:
            raise ShotScriptError(
                f"script makes {self.frames} frames, more than {MAX_FRAMES}; "
                "shorten the shots or use fewer."
            )

    @classmethod
    def parse(cls, text: str, fps: Fraction | float | str) -> ShotList:
        """Read a script, text or JSON. Raises `ShotScriptError` with the place and the fix."""
        fps = frame_rate(fps)
        script = read_script(text)
        shots = []
        for passage in script.shots:
            with located(passage.where, passage.line):
                shots.append(Shot(**passage.fields))
                shots[-1].wanted(fps)
        once = script.once
        return cls(tuple(shots), fps, once.get("global", ""), once.get("negative", ""))

    @classmethod
    def read(cls, path: Path, fps: Fraction | float | str) -> ShotList:
        """`parse` a file. Raises `ShotScriptError`, OSError."""
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ShotScriptError(f"{path} is not text in UTF-8; save it as such.") from None
        return cls.parse(text, fps)

    def to_text(self) -> str:
        """The text form: `parse(shots.to_text(), shots.fps) == shots`."""
        first = [f"{name}: {text}" for name, text in self._once()]
        lines = first + [f"[{shot.asked}] {shot.caption}" for shot in self.shots]
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """The JSON form: `parse(shots.to_json(), shots.fps) == shots`."""
        shots = ",\n".join(f"    {_shot_json(shot)}" for shot in self.shots)
        first = "".join(f'  "{name}": {_quoted(text)},\n' for name, text in self._once())
        return f'{{\n{first}  "shots": [\n{shots}\n  ]\n}}\n'

    def _once(self) -> list[tuple[str, str]]:
        """The texts that stand once in a script, by name, without those that are empty."""
        return [
            (name, text)
            for name, text in (("global", self.global_caption), ("negative", self.negative))
            if text
        ]

    @property
    def texts(self) -> tuple[str, ...]:
        """What is encoded for each shot: the global caption, a space, the shot's own caption."""
        before = f"{self.global_caption} " if self.global_caption else ""
        return tuple(before + shot.caption for shot in self.shots)

    @cached_property
    def latent_counts(self) -> tuple[int, ...]:
        """Latent frames of each shot, at least one."""
        first, *later = (shot.wanted(self.fps) for shot in self.shots)
        return (
            1 + max(0, _nearest((first - 1) / TEMPORAL_STRIDE)),
            *(max(1, _nearest(wanted / TEMPORAL_STRIDE)) for wanted in later),
        )

    @property
    def frame_counts(self) -> tuple[int, ...]:
        """Frames of each shot: 4n + 1 for the first, 4n for the others."""
        first, *later = self.latent_counts
        return (video_frames(first), *(TEMPORAL_STRIDE * n for n in later))

    @property
    def latent_starts(self) -> tuple[int, ...]:
        """First latent frame of each shot, ascending from 0: `VideoLayout`'s `shots`."""
        return (0, *accumulate(self.latent_counts[:-1]))

    @property
    def frame_starts(self) -> tuple[int, ...]:
        """First frame of each shot, ascending from 0."""
        return (0, *accumulate(self.frame_counts[:-1]))

    @property
    def latent_frames(self) -> int:
        """Latent frames of the video, T."""
        return sum(self.latent_counts)

    @property
    def frames(self) -> int:
        """Frames of the video: 4 * (T - 1) + 1."""
        return sum(self.frame_counts)

    @property
    def seconds(self) -> Fraction:
        """Length of the video as made."""
        return self.frames / self.fps

    def rows(self) -> list[tuple[str, ...]]:
        """What was asked for each shot and what was made of it, as `table` shows it."""
        counts = zip(
            self.shots,
            self.frame_counts,
            self.frame_starts,
            self.latent_counts,
            self.latent_starts,
            strict=True,
        )
        return [
            (
                str(number),
                shot.asked,
                str(frames),
                f"{float(frames / self.fps):.2f}",
                f"[{latent}, {latent + latents})",
                f"{float(start / self.fps):.2f}",
                shorten(shot.caption, 48),
            )
            for number, (shot, frames, start, latents, latent) in enumerate(counts, start=1)
        ]

    def summary(self) -> str:
        """Totals in one line: shots, frames, seconds, fps, latent frames."""
        return (
            f"{_count(len(self.shots), 'shot')}, {_count(self.frames, 'frame')}, "
            f"{float(self.seconds):.2f} s at {plain(self.fps)} fps, "
            f"{_count(self.latent_frames, 'latent frame')}"
        )

    def table(self) -> str:
        """An aligned plain-text table of `rows`, and `summary` as its last line."""
        rows = [_COLUMNS, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for *numbers, caption in rows:
            cells = [cell.rjust(width) for cell, width in zip(numbers, widths, strict=False)]
            lines.append("  ".join([*cells, caption]))
        return "\n".join([*lines, self.summary()])


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _nearest(value: Fraction) -> int:
    """The nearest integer; of two equally near, the greater."""
    return math.floor(value + Fraction(1, 2))


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ShotScriptError(f"{name} is {show(value)}; give a text in quotes.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"U+{ord(value[error.start]):04X}"
        raise ShotScriptError(
            f"{name} holds half a character ({half}), which no text encoder can read; remove it."
        ) from None
    text = one_line(value)
    with located(name):
        refuse_durations(text)
    return text


def _shot_json(shot: Shot) -> str:
    # Written by hand, because json.dumps would round the seconds to a float.
    unit = "frames" if shot.seconds is None else "seconds"
    return f'{{"caption": {_quoted(shot.caption)}, "{unit}": {shot.asked[:-1]}}}'


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
