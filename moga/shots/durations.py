"""How a script writes the length of a shot: `[4s]`, `[1m30s]`, `[97f]`.

What is plain is taken, however it is spelt. What is not gets advice that can be typed in as it
stands: a fix that is refused in its turn is worse than none.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal
from itertools import pairwise

from ..errors import MogaError

# Seconds of each unit of time.
_TIMES = {
    Decimal(60): ("m", "min", "mins", "minute", "minutes", "\u5206", "\u5206\u949f"),
    Decimal(1): ("s", "sec", "secs", "second", "seconds", "\u79d2", '"', "\u2033"),
    Decimal("0.001"): ("ms", "msec", "msecs", "millisecond", "milliseconds", "\u6beb\u79d2"),
}
_SECONDS = {unit: seconds for seconds, units in _TIMES.items() for unit in units}
_FRAMES = ("f", "fr", "frame", "frames", "\u5e27")

_AMOUNT = r"(?:\d+(?:[.,]\d+)?|\.\d+)"
_UNIT = rf"(?:{'|'.join((*_SECONDS, *_FRAMES))})(?![^\W\d_])\.?"
_CLOCK = r"(?:\d+:)?\d+:\d\d(?:\.\d+)?"
_TO = r" ?(?:[-\u2010-\u2015\u2212~\u301c\u2192]|->|\.{2,3}|\u2026|to|until|till) ?"

_PART = re.compile(rf" ?({_AMOUNT}) ?([^\W\d_]+|[\"\u2033]|)(?:\.(?= |$))?")
_THOUSANDS = re.compile(r"[1-9]\d{0,2},\d{3}")  # 1,500: one and a half, or fifteen hundred
_SIGN = re.compile(r"[-+\u2212~\u2248]")
_SPAN = re.compile(
    rf"({_CLOCK}|{_AMOUNT}) ?({_UNIT})?{_TO}({_CLOCK}|{_AMOUNT}) ?({_UNIT})?", re.IGNORECASE
)
_TIME = re.compile(_CLOCK)
_BRACKETS = re.compile(r"[\[\uff3b\u3010]([^\[\]\uff3b\uff3d\u3010\u3011]*)[\]\uff3d\u3011]")
# A length without its brackets, set off from the text that follows: not "80s diner".
_BARE = re.compile(
    rf"{_CLOCK}{_TO}{_CLOCK}|"
    rf"(?:{_AMOUNT} ?(?:{_UNIT})?{_TO}{_AMOUNT} ?{_UNIT}|(?:{_AMOUNT} ?{_UNIT} ?)+|{_CLOCK})"
    r" ?(?:[:)\]}>\u3011|]|[-\u2010-\u2015](?= |$))",
    re.IGNORECASE,
)

_PLAIN = "write a plain number above 0 with s or f, such as [2.5s] or [97f]."
_LENGTH = "write how long the shot lasts"


class DurationError(MogaError, ValueError):
    """What is wrong with a duration, to be read after it: `has no unit; write [4s] ...`."""


def read_duration(text: str) -> dict[str, Decimal]:
    """`4s` as `{"seconds": Decimal(4)}`, `97f` as `{"frames": Decimal(97)}`, exactly.

    Minutes and milliseconds become seconds. Raises `DurationError`.
    """
    text = " ".join(text.split())
    parts = _parts(text)
    factors = [_SECONDS.get(unit, 0) for _, unit in parts]
    descending = all(a > b for a, b in pairwise(factors))
    if not parts or _THOUSANDS.fullmatch(parts[0][0]) or not descending:
        raise DurationError(_advice(text, parts))
    if len(parts) == 1 and parts[0][1] in _FRAMES:
        return {"frames": _number(parts[0][0])}
    if not all(factors):
        raise DurationError(_advice(text, parts))
    exactly = Context(prec=len(text) + 10)
    seconds = Decimal(0)
    for (amount, _), factor in zip(parts, factors, strict=True):
        seconds = exactly.fma(_number(amount), factor, seconds)
    return {"seconds": seconds}


def respell(text: str, amount: Decimal) -> str:
    """The duration `text` made `amount` long, in seconds, or in frames if `text` is.

    Spelt as it was, but minutes and milliseconds become seconds.
    """
    parts = _parts(" ".join(text.split()))
    if len(parts) == 1 and (parts[0][1] in _FRAMES or _SECONDS.get(parts[0][1]) == 1):
        return re.sub(_AMOUNT, f"{amount:f}", text, count=1)
    return f"{amount:f}s"


def find_duration(text: str) -> str | None:
    """The first bracket in `text` that would open a shot if it began a line, such as `[4s]`."""
    for bracket in _BRACKETS.finditer(text):
        try:
            read_duration(bracket[1])
        except DurationError:
            continue
        return bracket[0]
    return None


def bare_duration(line: str) -> str | None:
    """A length or times at the start of `line` that lack brackets: `4s:`, `0:00-0:04`."""
    match = _BARE.match(line)
    return match and match[0]


def _parts(text: str) -> list[tuple[str, str]]:
    """`1m30s` as `[("1", "m"), ("30", "s")]`; [] for what is no amounts with their units."""
    parts: list[tuple[str, str]] = []
    end = 0
    while end < len(text):
        match = _PART.match(text, end)
        # After another part, .5 and 0,5 might be anything.
        if not match or (parts and not re.fullmatch(r"\d+(?:\.\d+)?", match[1])):
            return []
        parts.append((match[1], match[2].lower()))
        end = match.end()
    return parts


def _number(amount: str) -> Decimal:
    return Decimal(amount.replace(",", "."))


def _advice(text: str, parts: list[tuple[str, str]]) -> str:
    """What is wrong with `text`, and what to write."""
    if _SIGN.match(text):
        return f"has a sign; {_PLAIN}"
    if span := _SPAN.fullmatch(text):
        return f"is a span of time; {_LENGTH}, such as {_example(_span_seconds(*span.groups()))}."
    if _TIME.fullmatch(text):
        return f"is a time; {_LENGTH}, such as {_example(_clock_seconds(text))}."
    if len(parts) != 1:
        return f"is not a duration; {_PLAIN}"
    ((amount, unit),) = parts
    if _THOUSANDS.fullmatch(amount):
        return f"has a comma that may mean two things; {_PLAIN}"
    if unit:
        return f'has an unknown unit "{unit[:20]}"; use s, ms, min or f, such as [2.5s] or [97f].'
    number = _number(amount)
    if not 0 < number < 10_000 or len(amount) > 12:
        return f"has no unit; {_PLAIN}"
    if number != number.to_integral_value():
        return f"has no unit; write {_example(number)} for seconds."
    return f"has no unit; write {_example(number)} for seconds or [{number:f}f] for frames."


def _example(seconds: Decimal | None) -> str:
    """A bracket of `seconds`, or of some where they are not known or cannot be a length."""
    if seconds is None or not 0 < seconds < 10_000:
        return "[4s]"
    return f"[{seconds.normalize():f}s]"


def _span_seconds(start: str, unit: str | None, stop: str, last_unit: str | None) -> Decimal | None:
    """How long `0-4s` or `0:04 - 0:08` is; None in frames, or where no unit is given."""
    begin, end = (
        _clock_seconds(text) if ":" in text else _seconds(text, name)
        for text, name in ((start, unit or last_unit), (stop, last_unit or unit))
    )
    return None if begin is None or end is None else end - begin


def _seconds(amount: str, unit: str | None) -> Decimal | None:
    factor = _SECONDS.get((unit or "").rstrip(".").lower())
    return factor and _number(amount) * factor


def _clock_seconds(text: str) -> Decimal:
    seconds = Decimal(0)
    for part in text.split(":"):
        seconds = 60 * seconds + Decimal(part)
    return seconds
