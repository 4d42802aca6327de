"""What is known and allowed while one HTTP attempt is under way."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from kitaru.adapters.retry import duration_in
from kitaru.adapters.secret import clean
from kitaru.errors import ModelConnectionError, UsageError

if TYPE_CHECKING:
    from datetime import timedelta


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait: seconds, timedeltas, or texts such as "90s". None: for ever.

    Args:
        connect: For a connection, TLS included.
        first_byte: From the request sent to the first byte of its answer.
        between: Between two pieces of a body, either way.
        total: For the whole call: every attempt, and the waits between them.
    """

    connect: float | None = 10.0
    first_byte: float | None = 600.0
    between: float | None = 120.0
    total: float | None = 1800.0

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            connect: float | timedelta | str | None = 10.0,
            first_byte: float | timedelta | str | None = 600.0,
            between: float | timedelta | str | None = 120.0,
            total: float | timedelta | str | None = 1800.0,
        ) -> None: ...

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            given = getattr(self, name)
            if type(given) is float and 0 < given < math.inf:
                continue
            msgspec.structs.force_setattr(self, name, _limit(name, given))


def _limit(name: str, given: object) -> float | None:
    if given is None:
        return None
    seconds = duration_in(given)
    if not 0 < seconds < math.inf:
        raise UsageError(
            f"timeout {name}={given!r}: a finite duration above 0 is needed",
            hint='It is a number of seconds, a timedelta, or a text such as "90s"; None for no limit.',
        )
    return seconds


class Exchange:
    """What is known of one attempt so far.

    Attributes:
        sent: The request went out, at least in part.
        status: HTTP status; 0 before it arrived.
        headers: By lower-case name, credentials masked.
        final: Whatever went wrong will go wrong again.
    """

    __slots__ = ("final", "headers", "sent", "status")

    def __init__(self) -> None:
        self.sent = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.final = False

    @property
    def request_id(self) -> str:
        """The provider's name for the request where no adapter got to read the answer."""
        return clean(self.headers.get("x-request-id") or self.headers.get("request-id", ""), 200)


def lost(who: str, what: str, exchange: Exchange) -> ModelConnectionError:
    """Return the error for an answer that did not arrive, or not whole."""
    if exchange.status:
        when = f"after the answer had begun ({exchange.status})"
    elif exchange.sent:
        when = "after the request was sent, so it may have been billed"
    else:
        when = "before the request was sent"
    return ModelConnectionError(f"no answer from {who}: {what}, {when}", sent=exchange.sent)
