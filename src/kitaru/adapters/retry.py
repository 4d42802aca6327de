"""When a call is tried again, and after how long. Pure: clock and chance are handed in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from kitaru.errors import UsageError

MAX_RETRY_AFTER: Final = 120.0
"""A provider that asks for a longer wait, in seconds, is not called again (openai SDK `MAX_RETRY_AFTER_DELAY`)."""

_JITTER: Final = 0.25


class RetryPolicy(msgspec.Struct, frozen=True):
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
