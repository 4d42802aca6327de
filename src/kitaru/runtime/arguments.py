"""What callers pass for options, checked where they pass it: durations, counts, names, flags."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from numbers import Real
from typing import Any, Final, TypeAlias

from kitaru.errors import UsageError

Duration: TypeAlias = float | timedelta | str
"""Seconds, a `timedelta`, or a text such as "90s", "5m", "2h" or "3d"."""

_DURATION: Final = 'It is a number of seconds, a timedelta, or a text such as "90s", "2h" or "3d".'
_LONGEST: Final = 1e10


def seconds_of(value: object, name: str, *, zero: bool = True) -> float:
    """Return the seconds that a caller means.

    Args:
        value: The `Duration`.
        name: The option's name, for the error.
        zero: Whether it may be 0.

    Raises:
        UsageError: It is no duration, or cannot be right.
    """
    seconds = math.nan
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        from kitaru.adapters.retry import seconds_in

        seconds = seconds_in(value, math.nan)
    elif not isinstance(value, bool) and isinstance(value, Real | Decimal):
        try:
            seconds = float(value)
        except (OverflowError, ValueError):
            seconds = math.inf
    if not seconds <= _LONGEST or seconds < 0 or (seconds == 0 and not zero):
        least = "and not below 0" if zero else "and above 0"
        raise UsageError(f"{name}={_shown(value)}: a duration is needed, finite {least}", hint=_DURATION)
    return seconds


def count_of(value: object, name: str, *, least: int = 0) -> int:
    """Return a whole number.

    Args:
        value: What the caller passed.
        name: The option's name, for the error.
        least: The smallest that makes sense.

    Raises:
        UsageError: It is none, or too small.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]  # this is the check
    except TypeError:
        number = None
    if number is None or number < least:
        raise UsageError(f"{name}={_shown(value)}: a whole number of {least} or more is needed")
    return number


def number_of(value: object, name: str, *, least: float, most: float = math.inf) -> float:
    """Return a finite number, an int as it is.

    Args:
        value: What the caller passed.
        name: The option's name, for the error.
        least: The smallest that makes sense.
        most: The largest that makes sense.

    Raises:
        UsageError: It is none, or too small or too large.
    """
    try:
        known = isinstance(value, Real | Decimal) and not isinstance(value, bool)
        number = math.nan if not known else value if isinstance(value, int) else float(value)  # type: ignore[arg-type]  # Real and Decimal
        if math.isfinite(number) and least <= number <= most:
            return number
    except (OverflowError, ValueError):
        pass
    within = f"from {least:g} to {most:g}" if math.isfinite(most) else f"of {least:g} or more"
    raise UsageError(f"{name}={_shown(value)}: a number {within} is needed")


def flag_of(value: object, name: str) -> bool:
    """Return True or False.

    Raises:
        UsageError: It is neither.
    """
    if not isinstance(value, bool):
        raise UsageError(f"{name}={_shown(value)}: True or False is needed")
    return value


def text_of(value: object, name: str) -> str:
    """Return a text.

    Raises:
        UsageError: It is none.
    """
    if not isinstance(value, str):
        raise UsageError(f"{name}={_shown(value)}: a text is needed, not a {type(value).__name__}")
    return value


def names_of(value: object, name: str) -> tuple[str, ...]:
    """Return a list of names; one text alone is none, although Python would take it for a list of letters.

    Raises:
        UsageError: It is no list, or one of them is no text.
    """
    given = tuple_of(value, name)
    if not all(isinstance(one, str) for one in given):
        raise UsageError(f"{name}={_shown(value)}: a list of names is needed", hint=f'Write {name}=["..."].')
    return given


def tuple_of(value: object, name: str) -> tuple[Any, ...]:
    """Return a list's items.

    Raises:
        UsageError: It is no list, or a text.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise UsageError(f"{name}={_shown(value)}: a list is needed", hint=f"Write {name}=[...].")
    return tuple(value)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # a user's own class may do anything
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 60 else text[:59] + "…"
