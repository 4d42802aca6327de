"""What an adapter is: a wire format spoken to one provider. Pure: no network, no clock, no retry, no logging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from kitaru.adapters.call import ModelCall
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.provider import Provider
from kitaru.adapters.reply import Delta, Reply

if TYPE_CHECKING:
    import httpx


class StreamParser(Protocol):
    """Reads one streamed answer, piece by piece, however the pieces are cut."""

    def feed(self, data: bytes) -> Sequence[Delta]:
        """Return what these bytes add to the answer.

        Raises:
            ModelError: An error inside the stream, or bytes that are not what the API promises. Nothing else is raised.
        """
        ...

    def finish(self) -> Reply:
        """Return the whole reply, after the last byte.

        Raises:
            ModelConnectionError: The stream ended without its end marker: an error, never a short answer.
            ModelError: What arrived is not what the API promises. Nothing else is raised.
        """
        ...


class Adapter(Protocol):
    """A wire format spoken to one provider."""

    @property
    def row(self) -> Provider:
        """The provider spoken to."""
        ...

    def build_request(self, call: ModelCall, endpoint: Endpoint, *, stream: bool = False) -> httpx.Request:
        """Return the request for a call.

        Args:
            call: What is asked; it holds nothing that `fit` would drop or refuse.
            endpoint: Where, and as whom.
            stream: Ask for the answer as a stream.

        Raises:
            UsageError: The call or the address cannot be right.
            CredentialError: A key is needed and missing, or cannot be sent.
        """
        ...

    def parse_response(self, call: ModelCall, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
        """Return the reply held by a response, finished or not.

        Args:
            call: What was asked.
            status: HTTP status.
            headers: By lower-case name.
            body: The whole body, decompressed.

        Raises:
            ModelError: The response is an error, or cannot be understood. Nothing else is raised.
        """
        ...

    def parse_stream(self, call: ModelCall, status: int, headers: Mapping[str, str]) -> StreamParser:
        """Return a parser for the body of a streamed success. An error status is for `parse_response`."""
        ...


@runtime_checkable
class Local(Protocol):
    """An adapter that answers by itself: nothing is sent, no credential is looked at."""

    def answer(self, request: httpx.Request) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers by lower-case name, and body, as a server would have."""
        ...
