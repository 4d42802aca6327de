"""What each API's wire format has to say to the server, and the framing that several of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec

from kitaru.adapters.standin.asked import Arrived, Ask, Object, Problem, RefusedError, Trouble, refused
from kitaru.adapters.standin.deciding import Answer
from kitaru.adapters.standin.gate import Memory
from kitaru.adapters.standin.options import Options

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream; charset=utf-8"
CREATED: Final = 1_767_323_045
"""The second at which all answers say they were made: the same prompt gets the same bytes."""


class Around(msgspec.Struct, frozen=True):
    """What a wire format works with.

    Args:
        options: How to answer.
        memory: What was said before.
        pulled: Models that were pulled since the server started.
    """

    options: Options
    memory: Memory
    pulled: set[str]

    def knows(self, model: str) -> bool:
        """Return whether a model is found."""
        return self.options.knows(model) or model in self.pulled


class Wire(Protocol):
    """One API, spoken by the server."""

    @property
    def provider(self) -> str:
        """Whose API it is."""

    def credential(self, arrived: Arrived) -> str:
        """Return the credential that came, as the client was given it; empty where none did."""

    def understand(self, arrived: Arrived, around: Around) -> Ask:
        """Read a request.

        Raises:
            RefusedError: It cannot be read: it is not counted as one.
        """

    def check(self, arrived: Arrived, ask: Ask, around: Around) -> None:
        """Find what the API would not take.

        Raises:
            RefusedError: Something.
        """

    def whole(self, ask: Ask, answer: Answer, around: Around) -> bytes:
        """Return the answer in one piece."""

    def frames(self, ask: Ask, answer: Answer, around: Around) -> list[bytes]:
        """Return the answer as a stream, piece by piece, its end last."""

    def media(self, ask: Ask) -> str:
        """Return the content type of the answer."""

    def headers(self, name: str, problem: Problem | None) -> dict[str, str]:
        """Return the provider's own headers for an answer or a refusal."""

    def problem(self, trouble: Trouble, ask: Ask | None) -> Problem:
        """Return what the provider says to some trouble."""

    def failure(self, problem: Problem, name: str) -> bytes:
        """Return the body of a refusal."""

    def within(self, problem: Problem, ask: Ask, name: str) -> bytes:
        """Return the body with which an error is told under status 200."""

    def stray(self, problem: Problem, ask: Ask, name: str) -> list[bytes]:
        """Return the pieces with which an error is told, and the stream ended, in its middle."""


def encoded(value: object) -> bytes:
    """Return a value as JSON."""
    return msgspec.json.encode(value)


def data(value: object, end: bytes = b"\n\n") -> bytes:
    """Return an event without a name."""
    return b"data: " + encoded(value) + end


def event(name: str, value: object) -> bytes:
    """Return an event with a name."""
    return b"event: " + name.encode() + b"\ndata: " + encoded(value) + b"\n\n"


def bearer(headers: Mapping[str, str]) -> str:
    """Return the token of `Authorization: Bearer`."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def payload_of(arrived: Arrived, message: str) -> Object:
    """Return the body.

    Raises:
        RefusedError: It is no JSON object; in these words.
    """
    if arrived.payload is None:
        raise refused(message)
    return arrived.payload


def halves(text: str, most: int = 12) -> Sequence[str]:
    """Return a text in pieces, as arguments come in a stream."""
    return [text[at : at + most] for at in range(0, len(text), most)]


def unknown(payload: Object, known: frozenset[str]) -> list[str]:
    """Return the fields that an API does not know, in their order."""
    return [name for name in payload if name not in known]


def problem(trouble: Trouble, status: int, message: str, code: str | None = None, param: str | None = None) -> Problem:
    """Return a problem."""
    return Problem(trouble=trouble, status=status, message=message, code=code, param=param)


def missing(message: str, code: str | None = None, param: str | None = None) -> RefusedError:
    """Return the error of something, a model mostly, that is not found."""
    return RefusedError(Problem(trouble="missing", status=404, message=message, code=code, param=param))
