"""What is known and allowed while one HTTP attempt is under way."""

from __future__ import annotations

import msgspec

from kitaru.adapters.secret import clean
from kitaru.errors import ModelConnectionError


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait, in seconds. None: for ever.

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
