"""When a call is tried again, and after how long. Pure: clock and chance are handed in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final, TypeAlias

import msgspec

from kitaru.errors import UsageError

MAX_RETRY_AFTER: Final = 120.0
"""A provider that asks for a longer wait, in seconds, is not called again (openai SDK `MAX_RETRY_AFTER_DELAY`)."""

_JITTER: Final = 0.25

_NAMES: Final[Mapping[str, str]] = {
    "attempts": "attempts",
    "max_attempts": "attempts",
    "initial": "initial",
    "initial_delay": "initial",
    "max": "max",
    "max_delay": "max",
    "factor": "factor",
    "backoff_multiplier": "factor",
}

_UNITS: Final[Mapping[str, float]] = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Retry(msgspec.Struct, frozen=True):
    """How often and how patiently a call is tried.

    Args:
        attempts: The most attempts, the first included; 1 never retries.
        initial: Seconds before the second attempt.
        max: The most seconds between two attempts, where the provider does not name a wait.
        factor: By how much the wait grows from one attempt to the next.

    Raises:
        UsageError: A number that cannot be right.
    """

    attempts: int = 3
    initial: float = 1.0
    max: float = 30.0
    factor: float = 2.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise UsageError(f"attempts={self.attempts}: the first attempt counts, so at least 1")
        for name, value, least in (("initial", self.initial, 0), ("max", self.max, 0), ("factor", self.factor, 1)):
            if not (math.isfinite(value) and value >= least):
                raise UsageError(f"{name}={value}: a number of at least {least} is needed")

    def delay(self, failed: int, *, asked: float | None, chance: float) -> float:
        """Return the seconds to wait after the `failed`-th attempt.

        Args:
            failed: How many attempts have failed, at least 1.
            asked: What the provider asked for, if it did; never undercut.
            chance: A random number from 0 to 1, so that callers that failed together do not return together.
        """
        if asked is not None:
            return asked + chance * min(1.0, _JITTER * asked)
        # The exponent is capped because a float overflows long before anybody counts that far.
        grown = self.initial * self.factor ** min(failed - 1, 64)
        return min(self.max, grown) * (1 - _JITTER * chance)


RetryLike: TypeAlias = int | Mapping[str, int | float | str] | Retry
"""What may stand for a `Retry`: the number of attempts, or its fields by name."""


def retry_of(value: RetryLike | None) -> Retry | None:
    """Return the `Retry` that a caller means.

    Args:
        value: The most attempts, or a mapping with the names of `Retry`'s fields or their longer forms (`max_attempts`,
            `initial_delay`, `max_delay`, `backoff_multiplier`), or the `Retry` itself. Delays are seconds, or texts
            such as "1s", "500ms", "2m", "1h".

    Returns:
        None where nothing was said.

    Raises:
        UsageError: An unknown name, or a value that cannot be right.
    """
    if value is None or isinstance(value, Retry):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Retry(attempts=value)
    if not isinstance(value, Mapping):
        raise UsageError(
            f"retry={value!r} is not a way to retry", hint="Pass a number of attempts, a dict, or a kitaru.Retry."
        )
    fields: dict[str, float] = {}
    for name, given in value.items():
        field = _NAMES.get(name)
        if field is None:
            raise UsageError(f"retry has no {name!r}", hint=f"It knows {', '.join(_NAMES)}.")
        if field in fields:
            raise UsageError(f"retry says {field!r} twice, the second time as {name!r}")
        fields[field] = _number(name, given, duration=field in ("initial", "max"))
    attempts = fields.pop("attempts", None)
    if attempts is not None and attempts != int(attempts):
        raise UsageError(f"attempts={attempts}: a whole number is needed")
    made = Retry() if attempts is None else Retry(attempts=int(attempts))
    return msgspec.structs.replace(made, **fields)


def _number(name: str, given: object, *, duration: bool) -> float:
    if isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given):
        return given
    if duration and isinstance(given, str):
        found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?(ms|s|m|h)", given.strip(), re.ASCII)
        if found is not None:
            return float(found[1]) * _UNITS[found[2]]
    what = 'seconds, or a text such as "1s", "500ms", "2m" or "1h"' if duration else "a number"
    raise UsageError(f"retry's {name}={given!r} cannot be read: {what} is needed")


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Return the seconds that a response asks to wait.

    `retry-after-ms` comes first, then `retry-after` as seconds or as a date. A date is measured against the response's
    own `date`, so that a wrong clock on either side does no harm, else against `now`.

    Args:
        headers: By lower-case name.
        now: UTC seconds since the epoch, if known.

    Returns:
        None where nothing sensible is asked, or a time that has passed.
    """
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "").strip()) / divisor
        except ValueError:
            continue
        if seconds > 0:  # false for nan too
            return seconds
    until = _date(headers.get("retry-after", ""))
    if until is None:
        return None
    since = _date(headers.get("date", ""))
    since = now if since is None else since
    return None if since is None or until <= since else until - since


def _date(text: str) -> float | None:
    if not text:
        return None
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
