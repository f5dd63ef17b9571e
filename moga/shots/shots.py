"""Shots: what was asked for, and what it becomes on the model's latent grid.

Wan's VAE turns the first frame of a video into one latent frame, and every four frames after it
into one more. A cut can only fall between latent frames, so the first shot has 4n + 1 frames and
each later one 4n: T latent frames are 4 * (T - 1) + 1 frames.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation, localcontext
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from ..wan import TEMPORAL_STRIDE, video_frames
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

_MAX_FRAMES = 1_000_000  # 17 hours at 16 fps; more is a slip of the keyboard
_MAX_DIGITS = 40  # of a duration: keeps 1e-999999999 from being worked out
_FPS_RANGE = (Fraction(1, 1000), Fraction(1000))

_COLUMNS = ("shot", "asked", "frames", "seconds", "latent", "start", "caption")


@dataclass(frozen=True)
class Shot:
    """One shot as asked for: a caption, and exactly one of ``seconds`` and ``frames``.

    ``caption`` may not be blank, nor hold what opens a shot in a script, such as ``[4s]``; its line
    breaks become spaces, all else is kept. ``seconds`` may
    be given as int, float, Decimal or Fraction and is stored exactly: a float means the decimal it
    prints as, and a fraction that no decimal expresses is refused, because no script could say it.
    ``frames`` is a whole number. Raises `ShotScriptError`.
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
            object.__setattr__(self, "seconds", Fraction(_amount(self.seconds, "seconds")))
        else:
            object.__setattr__(self, "frames", _whole(_amount(self.frames, "frames")))

    @property
    def asked(self) -> str:
        """The duration as a script writes it: ``2.5s`` or ``97f``."""
        if self.seconds is None:
            return f"{self.frames}f"
        return f"{_decimal(self.seconds):f}s"

    def wanted(self, fps: Fraction) -> Fraction:
        """Frames at ``fps`` before snapping, exactly. Raises `ShotScriptError` if absurdly many."""
        wanted = Fraction(self.frames) if self.seconds is None else self.seconds * fps
        if wanted > _MAX_FRAMES:
            raise ShotScriptError(
                f"{self.asked} at {_plain(fps)} fps is more than {_MAX_FRAMES} frames; "
                "shorten the shot."
            )
        return wanted


@dataclass(frozen=True)
class ShotList:
    """The shots of one video, snapped to the latent grid. Plain data: hashable and comparable.

    ``fps`` may be given as int, float, Fraction or text (``"23.976"``, ``"24000/1001"``) and is
    stored exactly. ``global_caption`` is put before the text of every shot; "" means none. Raises
    `ShotScriptError` for no shots, an fps outside 0.001 to 1000, or more than a million frames.
    """

    shots: tuple[Shot, ...]
    fps: Fraction
    global_caption: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shots", tuple(self.shots))
        object.__setattr__(self, "fps", _fps(self.fps))
        object.__setattr__(self, "global_caption", _text(self.global_caption, "global caption"))
        if not self.shots:
            raise ShotScriptError(
                "script has no shots; add a line such as: [4s] Wide shot. She crosses the street."
            )
        for number, shot in enumerate(self.shots, start=1):
            with located(f"shot {number}"):
                shot.wanted(self.fps)
        if self.frames > _MAX_FRAMES:
            raise ShotScriptError(
                f"script makes {self.frames} frames, more than {_MAX_FRAMES}; "
                "shorten the shots or use fewer."
            )

    @classmethod
    def parse(cls, text: str, fps: Fraction | float | str) -> ShotList:
        """Read a script, text or JSON. Raises `ShotScriptError` with the place and the fix."""
        fps = _fps(fps)
        script = read_script(text)
        shots = []
        for passage in script.shots:
            with located(passage.where):
                shots.append(Shot(**passage.fields))
                shots[-1].wanted(fps)
        return cls(tuple(shots), fps, script.global_caption)

    @classmethod
    def read(cls, path: Path, fps: Fraction | float | str) -> ShotList:
        """`parse` a file. Raises `ShotScriptError`, OSError."""
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ShotScriptError(f"{path} is not text in UTF-8; save it as such.") from None
        return cls.parse(text, fps)

    def to_text(self) -> str:
        """The text form: ``parse(shots.to_text(), shots.fps) == shots``."""
        first = [f"global: {self.global_caption}"] if self.global_caption else []
        lines = first + [f"[{shot.asked}] {shot.caption}" for shot in self.shots]
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """The JSON form: ``parse(shots.to_json(), shots.fps) == shots``."""
        shots = ",\n".join(f"    {_shot_json(shot)}" for shot in self.shots)
        first = f'  "global": {_quoted(self.global_caption)},\n' if self.global_caption else ""
        return f'{{\n{first}  "shots": [\n{shots}\n  ]\n}}\n'

    @property
    def texts(self) -> tuple[str, ...]:
        """What is encoded for each shot: the global caption, a space, the shot's own caption."""
        before = f"{self.global_caption} " if self.global_caption else ""
        return tuple(before + shot.caption for shot in self.shots)

    @cached_property
    def latent_framess(self) -> tuple[int, ...]:
        """Latent frames of each shot, at least one."""
        first, *later = (shot.wanted(self.fps) for shot in self.shots)
        return (
            1 + max(0, _nearest((first - 1) / TEMPORAL_STRIDE)),
            *(max(1, _nearest(wanted / TEMPORAL_STRIDE)) for wanted in later),
        )

    @property
    def frame_counts(self) -> tuple[int, ...]:
        """Frames of each shot: 4n + 1 for the first, 4n for the others."""
        first, *later = self.latent_framess
        return (video_frames(first), *(TEMPORAL_STRIDE * n for n in later))

    @property
    def latent_starts(self) -> tuple[int, ...]:
        """First latent frame of each shot, ascending from 0: `VideoLayout`'s ``shots``."""
        return (0, *accumulate(self.latent_framess[:-1]))

    @property
    def frame_starts(self) -> tuple[int, ...]:
        """First frame of each shot, ascending from 0."""
        return (0, *accumulate(self.frame_counts[:-1]))

    @property
    def latent_frames(self) -> int:
        """Latent frames of the video, T."""
        return sum(self.latent_framess)

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
            self.latent_framess,
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
            f"{float(self.seconds):.2f} s at {_plain(self.fps)} fps, "
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


def _amount(value: Any, name: str) -> Decimal:
    """A duration as an exact decimal above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal, Fraction)):
        raise ShotScriptError(f"{name} is {show(value)}; give a number, without quotes.")
    amount = _decimal(value)
    if amount is None:
        raise ShotScriptError(
            f"{name} is {show(value)}; give a finite number of at most {_MAX_DIGITS} decimals."
        )
    if amount <= 0:
        raise ShotScriptError(f"{name} is {show(value)}; give a number above 0.")
    if amount > _MAX_FRAMES:
        raise ShotScriptError(
            f"{name} is {show(value)}, more than {_MAX_FRAMES}; shorten the shot."
        )
    return amount


def _whole(amount: Decimal) -> int:
    if amount != amount.to_integral_value():
        raise ShotScriptError(
            f"frames is {show(amount)}; give a whole number, or the duration in seconds."
        )
    return int(amount)


def _decimal(value: int | float | str | Decimal | Fraction) -> Decimal | None:
    """``value`` exactly, or None if it is not a number of `_MAX_DIGITS` decimal digits or fewer."""
    if isinstance(value, float):
        value = float.__repr__(value)  # not repr(): NumPy's floats are floats that print otherwise
    with localcontext(Context(prec=_MAX_DIGITS, traps=[Inexact, InvalidOperation])):
        try:
            if isinstance(value, Fraction):
                number = Decimal(value.numerator) / Decimal(value.denominator)
            else:
                number = Decimal(value)
            number = number.normalize()
        except (Inexact, InvalidOperation):
            return None
    # Precision bounds the digits that are written; this bounds the zeros before and after them.
    fits = number.is_finite() and abs(number.as_tuple().exponent) <= _MAX_DIGITS
    return number if fits else None


def _fps(value: Any) -> Fraction:
    """A frame rate, exactly: 23.976 is 2997/125, "24000/1001" is what it says."""
    fps = None
    if isinstance(value, Fraction):
        fps = value
    elif isinstance(value, str) and "/" in value:
        over, _, under = map(_decimal, value.partition("/"))
        fps = Fraction(over) / Fraction(under) if over and under else None
    elif isinstance(value, (int, float, str, Decimal)) and not isinstance(value, bool):
        number = _decimal(value)
        fps = None if number is None else Fraction(number)
    low, high = _FPS_RANGE
    if fps is None or not low <= fps <= high:
        raise ShotScriptError(
            f"fps is {show(value)}; give frames per second from {_plain(low)} to {_plain(high)}, "
            "such as 16."
        )
    return fps


def _plain(number: Fraction) -> str:
    """A frame rate for reading: at most three decimals, none that are zero."""
    return f"{float(number):.3f}".rstrip("0").rstrip(".")


def _shot_json(shot: Shot) -> str:
    # Written by hand, because json.dumps would round the seconds to a float.
    unit = "frames" if shot.seconds is None else "seconds"
    return f'{{"caption": {_quoted(shot.caption)}, "{unit}": {shot.asked[:-1]}}}'


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
