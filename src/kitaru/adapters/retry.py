"""When a call is tried again, and after how long. Pure: clock and chance are handed in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, TypeAlias

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

_UNITS: Final[Mapping[str, float]] = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


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

    if TYPE_CHECKING:

        def __init__(
            self,
            attempts: int = 3,
            initial: float | timedelta | str = 1.0,
            max: float | timedelta | str = 30.0,  # noqa: A002 - the field's name
            factor: float = 2.0,
        ) -> None: ...

    def __post_init__(self) -> None:
        attempts: object = self.attempts
        if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
            raise UsageError(
                f"attempts={attempts!r}: a whole number is needed; the first attempt counts, so at least 1"
            )
        for name, given, least in (("initial", self.initial, 0), ("max", self.max, 0), ("factor", self.factor, 1)):
            value = _number(name, given, duration=name != "factor")
            if not (math.isfinite(value) and value >= least):
                raise UsageError(f"{name}={value}: a number of at least {least} is needed")
            if value is not given:
                msgspec.structs.force_setattr(self, name, value)

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


RetryLike: TypeAlias = int | Mapping[str, int | float | str | timedelta] | Retry
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
    value = duration_in(given) if duration or isinstance(given, int | float) else math.nan
    if math.isfinite(value):
        return value
    what = 'seconds, a timedelta, or a text such as "1s", "500ms", "2m" or "1h"' if duration else "a number"
    raise UsageError(f"retry's {name}={given!r} cannot be read: {what} is needed")


def duration_in(given: object) -> float:
    """Return the seconds of a number, a `timedelta`, or a text; not a finite number where it is none of these."""
    if isinstance(given, timedelta):
        return given.total_seconds()
    if isinstance(given, str):
        return seconds_in(given, math.nan)
    if isinstance(given, bool) or not isinstance(given, int | float):
        return math.nan
    try:
        return float(given)
    except OverflowError:
        return math.inf


def seconds_in(text: str, otherwise: float) -> float:
    """Return the seconds that a text such as "500ms", "90s", "2h" or "3d" names; `otherwise` where it names none."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?(ms|s|m|h|d)", text.strip(), re.ASCII)
    return otherwise if found is None else float(found[1]) * _UNITS[found[2]]


def retry_after(headers: Mapping[str, str], now: float | None = None, *, limited: bool = False) -> float | None:
    """Return the seconds that a response asks to wait.

    `retry-after-ms` comes first, then `retry-after` as seconds or as a date. A date is measured against the response's
    own `date`, so that a wrong clock on either side does no harm, else against `now`.

    Args:
        headers: By lower-case name.
        now: UTC seconds since the epoch, if known.
        limited: A rate limit was met: without a `retry-after` its reset counts.

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
    since = _date(headers.get("date", "")) or now
    until = _date(headers.get("retry-after", ""))
    if until is None:
        return _limit_reset(headers, since) if limited and since is not None else None
    return None if since is None or until <= since else until - since


def _limit_reset(headers: Mapping[str, str], since: float) -> float | None:
    """Return the seconds until a rate limit that is used up is whole again.

    Headers are `x-ratelimit-reset-requests` (a duration such as 6m0s), `ratelimit-reset` (seconds), `x-ratelimit-reset`
    (an epoch, perhaps in milliseconds), `anthropic-ratelimit-tokens-reset` (a moment). `remaining` beside each one says
    whether it is this limit. A longer time than is waited for is none: a limit fills up before it is whole.
    """
    spent: list[float] = []
    unsure: list[float] = []
    for name, value in headers.items():
        if "ratelimit" not in name or "reset" not in name:
            continue
        left = headers.get(name.replace("reset", "remaining"), "").strip()
        seconds = _reset(value.strip(), since)
        if 0 < seconds <= MAX_RETRY_AFTER and left in ("", "0"):
            (spent if left else unsure).append(seconds)
    return max(spent or unsure, default=None)


def _reset(text: str, since: float) -> float:
    """Return the seconds from a moment until what a header states; 0 where it states nothing."""
    if re.fullmatch(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+", text, re.ASCII):
        return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h|d)", text))
    try:
        number = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - since
        except (ValueError, OverflowError):
            return 0.0
    if not math.isfinite(number):
        return 0.0
    # Epochs of this century, in milliseconds or seconds; else it is a duration.
    return number / 1000 - since if number > 1e12 else number - since if number > 1e9 else number


def _date(text: str) -> float | None:
    if not text:
        return None
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
