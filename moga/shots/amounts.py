"""Numbers of a script, taken exactly: durations and frame rates."""

from __future__ import annotations

from decimal import Context, Decimal, Inexact, InvalidOperation, localcontext
from fractions import Fraction
from typing import Any

from .refusal import ShotScriptError
from .script import show

MAX_FRAMES = 1_000_000  # 17 hours at 16 fps; more is a slip of the keyboard
_MAX_DIGITS = 40  # of a duration: keeps 1e-999999999 from being worked out
_FPS_RANGE = (Fraction(1, 1000), Fraction(1000))


def amount(value: Any, name: str) -> Decimal:
    """A duration as an exact decimal above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal, Fraction)):
        raise ShotScriptError(f"{name} is {show(value)}; give a number, without quotes.")
    amount = decimal(value)
    if amount is None:
        raise ShotScriptError(
            f"{name} is {show(value)}; give a finite number of at most {_MAX_DIGITS} decimals."
        )
    if amount <= 0:
        raise ShotScriptError(f"{name} is {show(value)}; give a number above 0.")
    if amount > MAX_FRAMES:
        raise ShotScriptError(f"{name} is {show(value)}, more than {MAX_FRAMES}; shorten the shot.")
    return amount


def whole(amount: Decimal) -> int:
    if amount != amount.to_integral_value():
        raise ShotScriptError(
            f"frames is {show(amount)}; give a whole number, or the duration in seconds."
        )
    return int(amount)


def decimal(value: int | float | str | Decimal | Fraction) -> Decimal | None:
    """`value` exactly, or None if it is not a number of `_MAX_DIGITS` decimal digits or fewer."""
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


def frame_rate(value: Any) -> Fraction:
    """A frame rate, exactly: 23.976 is 2997/125, "24000/1001" is what it says."""
    found = None
    if isinstance(value, Fraction):
        found = value
    elif isinstance(value, str) and "/" in value:
        over, _, under = map(decimal, value.partition("/"))
        found = Fraction(over) / Fraction(under) if over and under else None
    elif isinstance(value, (int, float, str, Decimal)) and not isinstance(value, bool):
        number = decimal(value)
        found = None if number is None else Fraction(number)
    low, high = _FPS_RANGE
    if found is None or not low <= found <= high:
        raise ShotScriptError(
            f"fps is {show(value)}; give frames per second from {plain(low)} to {plain(high)}, "
            "such as 16."
        )
    return found


def plain(number: Fraction) -> str:
    """A frame rate for reading: at most three decimals, none that are zero."""
    return f"{float(number):.3f}".rstrip("0").rstrip(".")
