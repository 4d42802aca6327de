"""Reading an answer of cohere's chat API, plain or streamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from kitaru.adapters.call import ModelCall
from kitaru.adapters.call_ids import made_id
from kitaru.adapters.failures import (
    cut_short,
    decode,
    failure_within,
    malformed,
    not_json,
    payload_of,
    request_id,
)
from kitaru.adapters.fields import Object, count, is_object, json_text, object_at, objects_in, text_in
from kitaru.adapters.message import ToolCall, assistant
from kitaru.adapters.notes import notes
from kitaru.adapters.provider import Provider
from kitaru.adapters.reply import Delta, FinishReason, Reply, Usage
from kitaru.adapters.secret import clean
from kitaru.adapters.sse import LineTooLongError, ServerEvent, ServerEvents
from kitaru.errors import ProviderError

# `types/chat_finish_reason.py`; an open enum.
_FINISH: Final[Mapping[str, FinishReason]] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR": "error",
    "TIMEOUT": "error",
}


def read(row: Provider, call: ModelCall, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
    """Return the reply held by a response.

    Raises:
        ModelError: The response is an error, or cannot be understood. Nothing else is raised.
    """
    payload = payload_of(row, status, headers, body)
    message = payload.get("message")
    if payload.get("error") or (isinstance(message, str) and message):  # `{message}` is the form of its errors
        raise failure_within(row, status, headers, payload.get("error") or message)
    if not is_object(message):
        raise malformed(row, status, headers, body, "the body holds no message")
    content = message.get("content")
    if content is not None and not isinstance(content, str | list):
        raise malformed(row, status, headers, body, "its message's content is not text")
    return _reply(row, call, headers, body, payload, message)


def _reply(
    row: Provider, call: ModelCall, headers: Mapping[str, str], body: bytes, payload: Object, message: Object
) -> Reply:
    content = message.get("content")
    pieces = [{"type": "text", "text": content}] if isinstance(content, str) else objects_in(content)
    text = "".join(text_in(piece.get("text")) for piece in pieces if piece.get("type") == "text")
    plan = text_in(message.get("tool_plan"))
    thoughts = plan + "".join(text_in(piece.get("thinking")) for piece in pieces if piece.get("type") == "thinking")
    calls = [_call(call, index, one) for index, one in enumerate(objects_in(message.get("tool_calls")))]
    said = payload.get("finish_reason")
    finish = _FINISH.get(text_in(said), "other")
    if finish == "stop" and calls:
        finish = "tool_calls"
    usage, usage_read = _usage(payload.get("usage"))
    plain = not plan and not message.get("citations") and all(piece.get("type") == "text" for piece in pieces)
    return Reply(
        text=text,
        message=assistant(text, calls, provider=row.name, model=call.model, own=b"" if plain else _own(message, calls)),
        finish=finish,
        usage=usage,
        model=call.model,  # the answer does not say
        request_id=clean(text_in(payload.get("id")), 200) or request_id(row, headers),
        raw=body,
        reasoning=thoughts,
        warnings=tuple(notes(text, finish, said, usage_read=usage_read)),
    )


def _call(call: ModelCall, index: int, found: Object) -> ToolCall:
    function = object_at(found, "function")
    name = text_in(function.get("name"))
    stated = function.get("arguments")
    arguments = "{}" if stated is None or stated == "" else json_text(stated)
    return ToolCall(text_in(found.get("id")) or made_id(call, index, name, arguments), name, arguments)


def _own(message: Object, calls: list[ToolCall]) -> bytes:
    """Return the turn as it came, in the form of a request: without what is null, and with the ids of the calls."""
    found = {"role": "assistant", **{key: value for key, value in message.items() if value is not None}}
    stated = objects_in(message.get("tool_calls"))
    if stated:
        found["tool_calls"] = [{**one, "id": made.id} for one, made in zip(stated, calls, strict=True)]
    try:
        return msgspec.json.encode(found)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return b""


def _usage(found: object) -> tuple[Usage, bool]:
    """Return the usage in neutral terms, and whether all that was stated could be read; the counts are floats."""
    if found is None:
        return Usage(), True
    if not is_object(found):
        return Usage(), False
    tokens, billed = object_at(found, "tokens"), object_at(found, "billed_units")
    stated = (
        tokens.get("input_tokens"),
        tokens.get("output_tokens"),
        found.get("cached_tokens"),
        billed.get("input_tokens"),
        billed.get("output_tokens"),
        billed.get("search_units"),
    )
    known, produced, cached, billed_input, billed_output, searches = counts = [count(value) for value in stated]
    complete = all((one is None) == (value is None) for one, value in zip(counts, stated, strict=True))
    return Usage(
        input=known,
        output=produced,
        cached_input=cached,
        billed_input=billed_input,
        billed_output=billed_output,
        searches=searches,
    ), complete


class _Block:
    """A piece of content, or a tool call, while it grows.

    Args:
        number: Its place among those of its kind.
        kind: `text` or `thinking`, of content.
        id: Of a tool call.
        name: Of a tool call.
    """

    __slots__ = ("id", "kind", "name", "number", "pieces")

    def __init__(self, number: int, *, kind: str = "", id: str = "", name: str = "") -> None:  # noqa: A002 - the API's word
        self.number, self.kind, self.id, self.name = number, kind, id, name
        self.pieces: list[str] = []

    @property
    def content(self) -> dict[str, object]:
        return {"type": self.kind, self.kind: "".join(self.pieces)}

    @property
    def call(self) -> dict[str, object]:
        function = {"name": self.name, "arguments": "".join(self.pieces)}
        return {"id": self.id, "type": "function", "function": function}


class CohereStream:
    """Reads one streamed answer: events told apart by `data.type`, ended by `message-end`.

    Args:
        row: Who answers.
        call: What was asked.
        status: HTTP status, a success.
        headers: By lower-case name.
    """

    def __init__(self, row: Provider, call: ModelCall, status: int, headers: Mapping[str, str]) -> None:
        self._row, self._call, self._status, self._headers = row, call, status, headers
        self._events = ServerEvents()
        self._body: dict[str, object] = {}
        self._content: list[_Block] = []
        self._calls: list[_Block] = []
        self._open_content: dict[int, _Block] = {}
        self._open_calls: dict[int, _Block] = {}
        self._plan: list[str] = []
        self._citations: list[object] = []
        self._ended = False

    def feed(self, data: bytes) -> list[Delta]:
        """Return what these bytes add to the answer.

        Raises:
            ModelError: An error inside the stream, or bytes that are not what the API promises.
        """
        try:
            events = self._events.feed(data)
        except LineTooLongError:
            raise malformed(self._row, self._status, self._headers, b"", "a line of the stream never ends") from None
        return self._read(events)

    def finish(self) -> Reply:
        """Return the whole reply, after the last byte.

        Raises:
            ModelConnectionError: The stream ended without `message-end`.
            ModelError: What arrived is not what the API promises.
        """
        self._read(self._events.finish(), last=True)
        if not self._ended:
            self._strays()
            raise cut_short(self._row, self._headers, "message-end")
        message: dict[str, object] = {"role": "assistant"}
        if self._plan:
            message["tool_plan"] = "".join(self._plan)
        if self._content:
            message["content"] = [block.content for block in self._content]
        if self._calls:
            message["tool_calls"] = [block.call for block in self._calls]
        if self._citations:
            message["citations"] = self._citations
        try:
            body = msgspec.json.encode({**self._body, "message": message})
        except (TypeError, ValueError, OverflowError, RecursionError):
            raise self._malformed(b"", "its events cannot be put together") from None
        return read(self._row, self._call, self._status, self._headers, body)

    def _strays(self) -> None:
        """Find an error that came as bare JSON."""
        stray = b"\n".join(self._events.stray).strip()
        if not stray:
            return
        try:
            payload = decode(stray)
        except ValueError as error:
            if stray.startswith(b"<"):
                raise self._malformed(stray, not_json(str(error))) from None
            # A field's name or a JSON text, torn by the end of the stream.
            raise cut_short(self._row, self._headers, "message-end") from None
        if is_object(payload):
            raise failure_within(self._row, self._status, self._headers, payload.get("error") or payload)
        raise self._malformed(stray, "the stream holds what is no event")

    def _read(self, events: list[ServerEvent], *, last: bool = False) -> list[Delta]:
        found: list[Delta] = []
        for event in events:
            if not event.data.strip() or event.data.strip() == b"[DONE]":
                continue
            try:
                payload = decode(event.data)
            except ValueError as error:
                if last:  # an event torn by the end of the stream
                    raise cut_short(self._row, self._headers, "message-end") from None
                raise self._malformed(event.data, not_json(str(error))) from None
            if not is_object(payload):
                raise self._malformed(event.data, "an event is not a JSON object")
            found += self._event(payload, event.event, event.data)
        return found

    def _event(self, payload: Object, name: str, data: bytes) -> list[Delta]:
        index = payload.get("index")
        delta = object_at(payload, "delta")
        message = object_at(delta, "message")
        place = index if isinstance(index, int) else 0
        match payload.get("type") or name:
            case "message-start":
                self._body["id"] = payload.get("id")
                return []
            case "content-start":
                stated = object_at(message, "content")
                self._open_content.pop(place, None)
                return self._grow(place, stated, "thinking" if stated.get("type") == "thinking" else "text")
            case "content-delta":
                stated = object_at(message, "content")
                return self._grow(place, stated, "thinking" if text_in(stated.get("thinking")) else "text")
            case "tool-plan-delta":
                plan = text_in(message.get("tool_plan"))
                self._plan.append(plan)
                return [Delta("reasoning", plan)] if plan else []
            case "tool-call-start":
                return self._call_start(place, object_at(message, "tool_calls"))
            case "tool-call-delta":
                return self._call_delta(place, object_at(message, "tool_calls", "function"), data)
            case "citation-start":
                self._citations.append(message.get("citations"))
                return []
            case "message-end":
                self._end(payload, delta)
                return []
            case "error":
                raise failure_within(self._row, self._status, self._headers, payload.get("error") or payload)
            case _ if payload.get("error") or ("message" in payload and "type" not in payload):
                raise failure_within(self._row, self._status, self._headers, payload.get("error") or payload)
            case _:
                return []  # content-end, tool-call-end, citation-end, debug, and what is to come

    def _grow(self, place: int, stated: Object, kind: str) -> list[Delta]:
        block = self._open_content.get(place)
        if block is None or block.kind != kind:  # a piece before its block's start still counts
            block = self._open_content[place] = _Block(len(self._content), kind=kind)
            self._content.append(block)
        piece = text_in(stated.get(kind))
        block.pieces.append(piece)
        return [Delta("reasoning" if kind == "thinking" else "text", piece)] if piece else []

    def _call_start(self, place: int, stated: Object) -> list[Delta]:
        function = object_at(stated, "function")
        number, name = len(self._calls), text_in(function.get("name"))
        block = _Block(number, id=text_in(stated.get("id")) or made_id(self._call, number, name, ""), name=name)
        self._open_calls[place] = block
        self._calls.append(block)
        piece = text_in(function.get("arguments"))
        block.pieces.append(piece)
        return [Delta("tool_call", piece, number, block.id, name)]

    def _call_delta(self, place: int, function: Object, data: bytes) -> list[Delta]:
        block = self._open_calls.get(place)
        if block is None:
            raise self._malformed(data, "a piece of a tool call came before its start")
        piece = text_in(function.get("arguments"))
        block.pieces.append(piece)
        return [Delta("tool_call", piece, block.number)] if piece else []

    def _end(self, payload: Object, delta: Object) -> None:
        if delta.get("error"):
            raise failure_within(self._row, self._status, self._headers, delta["error"])
        self._ended = True
        if payload.get("id"):
            self._body["id"] = payload["id"]
        self._body["finish_reason"] = delta.get("finish_reason")
        self._body["usage"] = delta.get("usage")

    def _malformed(self, data: bytes, why: str) -> ProviderError:
        return malformed(self._row, self._status, self._headers, data, why)
