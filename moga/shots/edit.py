"""Changes to a script that leave the rest of its text as it is: a moved cut, one more shot."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction

from ..wan import TEMPORAL_STRIDE, video_frames
from .durations import respell
from .json_places import shot_places
from .refusal import ShotScriptError
from .script import CLOSING, looks_like_json, plain_lines, read_script
from .shots import ShotList

NEW_CAPTION = "Write what this shot shows."
_NEW_LENGTH = "4s"  # where there is no other shot to take it from


def move_cut(text: str, fps: Fraction | float | str, cut: int, seconds: Fraction) -> str:
    """`text` with the start of shot `cut` (from 1; 0 is the first shot) moved to about `seconds`.

    Changes the lengths of the shots before and behind the cut and nothing else, so that the cut
    falls on the nearest latent frame that leaves each of them one. Raises `ShotScriptError`.
    """
    shots = ShotList.parse(text, fps)
    if not 0 < cut < len(shots.shots):
        raise ShotScriptError(f"cut {cut} is none of this script's {len(shots.shots) - 1} cuts.")
    first, start = shots.latent_starts[cut - 1 : cut + 1]
    end = start + shots.latent_counts[cut]
    wanted = 1 + math.floor((seconds * shots.fps - 1) / TEMPORAL_STRIDE + Fraction(1, 2))
    moved = min(max(wanted, first + 1), end - 1)
    text = plain_lines(text)
    if moved == start:
        return text
    amounts = [
        _amount(shots, cut - 1, moved - first),
        _amount(shots, cut, end - moved),
    ]
    return _with_amounts(text, cut - 1, amounts)


def add_shot(text: str, fps: Fraction | float | str) -> str:
    """`text` with one more shot at its end, as long as the last. Raises `ShotScriptError`."""
    text = plain_lines(text)
    if looks_like_json(text):
        return _add_to_json(text, ShotList.parse(text, fps))
    length = _NEW_LENGTH
    if read_script(text).shots:
        length = ShotList.parse(text, fps).shots[-1].asked
    before = f"{text.rstrip()}\n" if text.strip() else ""
    return f"{before}[{length}] {NEW_CAPTION}\n"


def shot_lines(text: str) -> list[int]:
    """The line, from 1, on which each shot of a sound script opens."""
    return [passage.line or 1 for passage in read_script(text).shots]


def _amount(shots: ShotList, number: int, latents: int) -> Decimal:
    """A length that makes shot `number` so many latent frames, in the unit that it was asked in.

    Seconds with as few decimals as there can be.
    """
    frames = video_frames(latents) if number == 0 else TEMPORAL_STRIDE * latents
    if shots.shots[number].seconds is None:
        return Decimal(frames)
    half = Fraction(TEMPORAL_STRIDE, 2)
    decimals = 0
    while True:
        scale = 10**decimals
        seconds = Fraction(math.floor(frames / shots.fps * scale + Fraction(1, 2)), scale)
        # What lies just between two is snapped to the greater.
        if seconds > 0 and frames - half <= seconds * shots.fps < frames + half:
            return Decimal(seconds.numerator * scale // seconds.denominator).scaleb(-decimals)
        decimals += 1


def _with_amounts(text: str, first: int, amounts: list[Decimal]) -> str:
    """`text` with other lengths for shots `first` and following; the last is replaced first."""
    shots = list(enumerate(amounts, start=first))
    if looks_like_json(text):
        places = shot_places(text)
        for number, amount in reversed(shots):
            start, end = places[number].amount or (0, 0)
            text = f"{text[:start]}{amount:f}{text[end:]}"
        return text
    lines, opened = text.split("\n"), shot_lines(text)
    for number, amount in shots:
        line = lines[opened[number] - 1]
        opening = len(line) - len(line.lstrip())
        closing = CLOSING.search(line).start()
        inside = respell(line[opening + 1 : closing], amount)
        lines[opened[number] - 1] = f"{line[: opening + 1]}{inside}{line[closing:]}"
    return "\n".join(lines)


def _add_to_json(text: str, shots: ShotList) -> str:
    last = shot_places(text)[-1]
    indent = re.search(r"\n[ \t]*$", text[: last.start])
    unit = "frames" if shots.shots[-1].seconds is None else "seconds"
    shot = f'{{"caption": "{NEW_CAPTION}", "{unit}": {shots.shots[-1].asked[:-1]}}}'
    return f"{text[: last.end]},{indent[0] if indent else ' '}{shot}{text[last.end :]}"
