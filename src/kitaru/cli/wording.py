"""Durations, ages, sizes, amounts and states in the words of the command line."""

from __future__ import annotations

import json
import re
import time
from decimal import Decimal
from typing import Final

from kitaru.cli.output import Colour, clean, shortened
from kitaru.errors import UsageError

UNKNOWN: Final = "–"
_LEAST: Final = Decimal("0.0001")

_UNITS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_PERIOD: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|w)")

STATES: Final[dict[str, tuple[str, Colour]]] = {
    "done": ("✓", "green"),
    "completed": ("✓", "green"),
    "in time": ("✓", "green"),
    "reused": ("↷", "cyan"),
    "overridden": ("●", "yellow"),
    "executed": ("●", "green"),
    "moved": ("↷", "cyan"),
    "dropped": ("−", "yellow"),
    "would run": ("○", "yellow"),
    "unknown": ("?", "dim"),
    "failed": ("✗", "red"),
    "cancelled": ("✗", "yellow"),
    "in doubt": ("!", "yellow"),
    "interrupted": ("!", "yellow"),
    "running": ("●", "cyan"),
    "retrying": ("●", "yellow"),
    "waiting": ("…", "cyan"),
    "parked": ("…", "cyan"),
    "stuck": ("!", "red"),
    "to run again": ("○", "yellow"),
    "pruned": ("−", "dim"),
}
"""A symbol and a colour for each state; the word always stands beside it."""

_WORDS: Final = {"completed": "done"}


def state_word(state: str) -> str:
    """A state with its symbol."""
    return f"{STATES.get(state, ('?', ''))[0]} {_WORDS.get(state, state)}"


def state_colour(state: str) -> Colour:
    """A state's colour."""
    return STATES.get(state, ("", ""))[1] if state in STATES else ""


def duration(seconds: float | None) -> str:
    """Seconds in words."""
    if seconds is None:
        return UNKNOWN
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 5940:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172800 else f"{seconds / 86400:.0f} d"


def age(at: float) -> str:
    """How long ago a time was."""
    seconds = max(0.0, time.time() - at)
    return (
        "just now" if seconds < 1 else f"{duration(round(seconds) if seconds < 10 else seconds).replace('.0', '')} ago"
    )


def until(at: float) -> str:
    """When a time will be, and how long that is from now."""
    moment = time.strftime("until %Y-%m-%d %H:%M:%SZ", time.gmtime(at))
    left = at - time.time()
    return f"{moment}, in {duration(left)}" if left > 0 else f"{moment}, which is over"


def size(count: int) -> str:
    """Bytes in words."""
    if count < 1000:
        return f"{count} B"
    return (
        f"{count / 1000:.1f} KB"
        if count < 9950
        else f"{count / 1000:.0f} KB"
        if count < 999_500
        else f"{count / 1e6:.1f} MB"
    )


def money(amount: Decimal | str | None) -> str:
    """US dollars; four decimals below one. What is known to be nothing is free."""
    if amount is None or amount == "":
        return UNKNOWN
    amount = Decimal(amount)
    if not amount:
        return "free"
    if 0 < amount < _LEAST:
        return f"<${_LEAST}"
    return f"${amount:.4f}" if amount < 1 else f"${amount:.2f}"


def period(text: str, option: str) -> float:
    """`30d`, `2h`, `90s` as seconds.

    Raises:
        UsageError: It is none of these.
    """
    found = _PERIOD.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{option} {text!r} is not a period", hint="Write a number and a unit: 90s, 15m, 2h, 30d, 4w.")
    return float(found[1]) * _UNITS[found[2]]


def value(shown: object, width: int = 100) -> str:
    """A value as JSON shows it, on one line, shortened."""
    text = json.dumps(shown, ensure_ascii=False, default=str)
    return shortened(clean(text), width)


def count(number: int, noun: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(parts: list[str]) -> str:
    """Parts with commas between them."""
    return ", ".join(part for part in parts if part)
