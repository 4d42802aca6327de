"""The stream of OpenAI's responses API: pieces as they come, and at the end the whole response once more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from kitaru.adapters.call import ModelCall
from kitaru.adapters.event_objects import EventObject, EventObjects
from kitaru.adapters.failures import cut_short, failure_within
from kitaru.adapters.fields import Object, count, is_object, text_in
from kitaru.adapters.openai_responses.reply import PARAGRAPH, call_in, read
from kitaru.adapters.provider import Provider
from kitaru.adapters.reply import Delta, Reply
from kitaru.adapters.secret import MASK, clean

_ENDS: Final = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")

# Pieces of thinking: of its summary, and of open models the thinking itself; and which part of it they belong to.
_THOUGHTS: Final[Mapping[str, str]] = {
    "response.reasoning_summary_text.delta": "summary_index",
    "response.reasoning_text.delta": "content_index",
}


class _Whole(msgspec.Struct):
    response: msgspec.Raw


class _Item(msgspec.Struct):
    item: msgspec.Raw


class _Call:
    """A tool call under way."""

    __slots__ = ("index", "pieces")

    def __init__(self, index: int) -> None:
        self.index = index
        self.pieces: list[str] = []


class ResponsesStream:
    """Reads one streamed answer.

    The last event's response is the answer; the pieces must add up to it.

    Args:
        row: Who answers.
        call: What was asked.
        status: HTTP status, a success.
        headers: By lower-case name.
    """

    def __init__(self, row: Provider, call: ModelCall, status: int, headers: Mapping[str, str]) -> None:
        self._row, self._call, self._status, self._headers = row, call, status, headers
        self._events = EventObjects(row, status, headers)
        self._texts: dict[tuple[int, int], list[str]] = {}
        self._refusals: dict[tuple[int, int], list[str]] = {}
        self._thought: tuple[str, int, int] | None = None
        self._calls: dict[int, _Call] = {}
        self._items: dict[int, bytes] = {}
        self._response: bytes | None = None

    def feed(self, data: bytes) -> list[Delta]:
        """Return what these bytes add to the answer.

        Raises:
            ModelError: An error inside the stream, or bytes that are not what the API promises.
        """
        return self._read(self._events.feed(data))

    def finish(self) -> Reply:
        """Return the whole reply, after the last byte.

        Raises:
            ModelConnectionError: There was no `response.completed` or its like: the stream was cut.
            ModelError: What arrived is not what the API promises.
        """
        self._read(self._events.finish())
        stray = self._events.stray()
        if stray and not self._events.seen:  # an error, or the plain answer of a gateway that does not stream
            return read(self._row, self._call, self._status, self._headers, stray)
        if self._response is None:
            raise cut_short(self._row, self._headers, "a response.completed event")
        reply = read(self._row, self._call, self._status, self._headers, self._response)
        streamed = [
            (_joined(self._texts), reply.text),
            (clean(_joined(self._refusals)), reply.refusal or ""),
            *self._arguments(reply),
        ]
        # An echo of the key that came in pieces is masked only where it stands whole.
        if any(pieces and pieces != whole and MASK not in whole for pieces, whole in streamed):
            raise self._events.malformed(b"", "the pieces of its stream do not add up to the answer at its end")
        return reply

    def _arguments(self, reply: Reply) -> list[tuple[str, str]]:
        """Return what was streamed of each tool call beside what it is at the end."""
        whole = {at: call.arguments for at, call in enumerate(reply.tool_calls)}
        in_order = [self._calls[at] for at in sorted(self._calls)]
        return [("".join(call.pieces), whole.get(at, "")) for at, call in enumerate(in_order)]

    def _read(self, events: Iterable[EventObject]) -> list[Delta]:
        return [delta for event in events for delta in self._event(event)]

    def _event(self, event: EventObject) -> list[Delta]:
        kind, payload, data = event
        # An error first, whatever else it claims to be. What is not known is ignored: the API adds events.
        if kind == "error" or payload.get("error"):
            error = payload.get("error") or {name: payload.get(name) for name in ("message", "code", "param")}
            raise failure_within(self._row, self._status, self._headers, error)
        match kind:
            case "response.output_text.delta":
                return [Delta("text", self._piece(payload, data, self._texts))]
            case "response.refusal.delta":
                return [Delta("refusal", self._piece(payload, data, self._refusals))]
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                return self._thinking(kind, payload, data)
            case "response.output_item.added":
                return self._added(payload, data)
            case "response.function_call_arguments.delta":
                return self._more_arguments(payload, self._text(payload, "delta", data), data)
            case "response.function_call_arguments.done":
                return self._rest_of_arguments(payload, self._text(payload, "arguments", data))
            case "response.output_item.done":
                return self._done(payload, data)
            case _ if kind in _ENDS:
                self._end(payload, data)
        return []

    def _text(self, payload: Object, name: str, data: bytes) -> str:
        piece = payload.get(name)
        if not isinstance(piece, str):
            raise self._events.malformed(data, f"a {name} in its stream is not text")
        return piece

    def _piece(self, payload: Object, data: bytes, pieces: dict[tuple[int, int], list[str]]) -> str:
        piece = self._text(payload, "delta", data)
        pieces.setdefault((_at(payload, "output_index"), _at(payload, "content_index")), []).append(piece)
        return piece

    def _thinking(self, kind: str, payload: Object, data: bytes) -> list[Delta]:
        piece = self._text(payload, "delta", data)
        place = (kind, _at(payload, "output_index"), _at(payload, _THOUGHTS[kind]))
        begins = self._thought is not None and self._thought != place
        self._thought = place
        return [Delta("reasoning", PARAGRAPH + piece if begins else piece)]

    def _added(self, payload: Object, data: bytes) -> list[Delta]:
        item = payload.get("item")
        if not is_object(item):
            raise self._events.malformed(data, "an item of its stream is not a JSON object")
        if item.get("type") != "function_call":
            return []
        at = _at(payload, "output_index")
        if at in self._calls:
            raise self._events.malformed(data, "its stream begins a tool call twice")
        call = self._calls[at] = _Call(len(self._calls))
        begun = call_in(self._call, call.index, item)
        return [Delta("tool_call", "", call.index, begun.id, begun.name)]

    def _more_arguments(self, payload: Object, piece: str, data: bytes) -> list[Delta]:
        call = self._calls.get(_at(payload, "output_index"))
        if call is None:
            raise self._events.malformed(data, "its stream gives arguments to no tool call")
        call.pieces.append(piece)
        return [Delta("tool_call", piece, call.index)]

    def _rest_of_arguments(self, payload: Object, arguments: str) -> list[Delta]:
        # Some servers give a call whole, without pieces.
        call = self._calls.get(_at(payload, "output_index"))
        if call is None or call.pieces or not arguments:
            return []
        call.pieces.append(arguments)
        return [Delta("tool_call", arguments, call.index)]

    def _done(self, payload: Object, data: bytes) -> list[Delta]:
        item, at = payload.get("item"), _at(payload, "output_index")
        if not is_object(item):
            raise self._events.malformed(data, "an item of its stream is not a JSON object")
        try:
            self._items[at] = bytes(msgspec.json.decode(data, type=_Item).item)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise self._events.malformed(data, "an item of its stream cannot be read") from None
        if item.get("type") != "function_call":
            return []
        begun = [] if at in self._calls else self._added(payload, data)
        return [*begun, *self._rest_of_arguments(payload, text_in(item.get("arguments")))]

    def _end(self, payload: Object, data: bytes) -> None:
        response = payload.get("response")
        if not is_object(response):
            raise self._events.malformed(data, "the response at the end of its stream is not a JSON object")
        try:
            whole = msgspec.json.decode(data, type=_Whole).response
            if not response.get("output") and self._items:
                # Some servers leave the output out of it: then it is what the finished items say.
                fields = msgspec.json.decode(whole, type=dict[str, msgspec.Raw])
                items = [msgspec.Raw(self._items[at]) for at in sorted(self._items)]
                whole = msgspec.Raw(msgspec.json.encode({**fields, "output": items}))
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise self._events.malformed(data, "the response at the end of its stream cannot be read") from None
        self._response = bytes(whole)


def _at(payload: Object, name: str) -> int:
    return count(payload.get(name)) or 0


def _joined(pieces: Mapping[tuple[int, int], list[str]]) -> str:
    return "".join("".join(pieces[place]) for place in sorted(pieces))
