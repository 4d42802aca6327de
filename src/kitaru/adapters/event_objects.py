"""Streams of JSON objects in server-sent events, each with the name of its kind in `type`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kitaru.adapters.failures import decode, malformed, not_json
from kitaru.adapters.fields import Object, is_object, text_in
from kitaru.adapters.provider import Provider
from kitaru.adapters.sse import LineTooLongError, ServerEvent, ServerEvents
from kitaru.errors import ProviderError


class EventObject(NamedTuple):
    """One event: its kind, what it says, and the bytes that said it."""

    kind: str
    payload: Object
    data: bytes


class EventObjects:
    """Cuts bytes into such events.

    Args:
        row: Who answers.
        status: HTTP status, a success.
        headers: By lower-case name.
    """

    def __init__(self, row: Provider, status: int, headers: Mapping[str, str]) -> None:
        self._row, self._status, self._headers = row, status, headers
        self._events = ServerEvents()
        self.seen = False
        """Whether any event has come."""

    def feed(self, data: bytes) -> Iterable[EventObject]:
        """Yield the events that these bytes complete.

        Raises:
            ProviderError: A line without end, or an event that is no JSON object.
        """
        try:
            events = self._events.feed(data)
        except LineTooLongError:
            raise self.malformed(b"", "a line of its stream has no end") from None
        return map(self._read, self._of_use(events))

    def finish(self) -> Iterable[EventObject]:
        """Yield the event that the end of the stream completes, if any.

        Raises:
            ProviderError: It is no JSON object.
        """
        return map(self._read, self._of_use(self._events.finish()))

    def stray(self) -> bytes:
        """Return what came outside of any event: an error, or a plain answer, as bare JSON."""
        return b"\n".join(self._events.stray).strip()

    def malformed(self, data: bytes, why: str) -> ProviderError:
        """Return the exception for bytes that are not what the API promises."""
        return malformed(self._row, self._status, self._headers, data, why)

    @staticmethod
    def _of_use(events: list[ServerEvent]) -> list[ServerEvent]:
        # Gateways that also serve OpenAI's clients end every stream like this.
        return [event for event in events if event.data.strip() not in (b"", b"[DONE]")]

    def _read(self, event: ServerEvent) -> EventObject:
        self.seen = True
        try:
            payload = decode(event.data)
        except ValueError as error:
            raise self.malformed(event.data, not_json(str(error))) from None
        if not is_object(payload):
            raise self.malformed(event.data, "an event of its stream is not a JSON object")
        return EventObject(text_in(payload.get("type")) or event.event, payload, event.data)
