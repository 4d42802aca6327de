"""Anthropic's stream: a message that begins empty, and events that fill its content block by block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from kitaru.adapters.anthropic.reply import error_within, id_of, read
from kitaru.adapters.call import ModelCall
from kitaru.adapters.event_objects import EventObject, EventObjects
from kitaru.adapters.failures import cut_short
from kitaru.adapters.fields import Object, count, is_object, json_text, text_in
from kitaru.adapters.provider import Provider
from kitaru.adapters.reply import Delta, Reply

# `types/raw_content_block_delta.py`: the kind of a piece, and the field that it goes on with.
_GROWS: Final[Mapping[str, str]] = {"text_delta": "text", "thinking_delta": "thinking"}
_INPUT: Final = "partial_json"


class _Block:
    """A content block under way."""

    __slots__ = ("call", "fields", "grown")

    def __init__(self, fields: Object, call: int | None) -> None:
        self.fields = dict(fields)
        self.grown: dict[str, list[str]] = {}
        self.call = call
        """Which tool call it is, if it is one."""

    def grow(self, name: str, piece: str) -> None:
        self.grown.setdefault(name, []).append(piece)

    def wire(self) -> dict[str, object]:
        found = dict(self.fields)
        for name, pieces in self.grown.items():
            joined = "".join(pieces)
            if name != _INPUT:
                found[name] = text_in(found.get(name)) + joined
            elif joined.strip():
                found["input"] = _parsed(joined)
        return found


class AnthropicStream:
    """Reads one streamed answer.

    Args:
        row: Who answers.
        call: What was asked.
        status: HTTP status, a success.
        headers: By lower-case name.
    """

    def __init__(self, row: Provider, call: ModelCall, status: int, headers: Mapping[str, str]) -> None:
        self._row, self._call, self._status, self._headers = row, call, status, headers
        self._events = EventObjects(row, status, headers)
        self._message: dict[str, object] = {}
        self._usage: dict[str, object] = {}
        self._blocks: dict[int, _Block] = {}
        self._given: list[object] = []
        self._calls = 0
        self._stopped = False

    def feed(self, data: bytes) -> list[Delta]:
        """Return what these bytes add to the answer.

        Raises:
            ModelError: An error inside the stream, or bytes that are not what the API promises.
        """
        return self._read(self._events.feed(data))

    def finish(self) -> Reply:
        """Return the whole reply, after the last byte.

        Raises:
            ModelConnectionError: There was no `message_stop`: the stream was cut.
            ModelError: What arrived is not what the API promises.
        """
        self._read(self._events.finish())
        stray = self._events.stray()
        if stray and not self._events.seen:  # an error, or the plain answer of a gateway that does not stream
            return read(self._row, self._call, self._status, self._headers, stray)
        if not self._stopped:
            raise cut_short(self._row, self._headers, "a message_stop event")
        content = [self._blocks[at].wire() for at in sorted(self._blocks)]
        usage = {"usage": self._usage} if self._usage else {}
        try:
            body = msgspec.json.encode({**self._message, **usage, "content": content})
        except (TypeError, ValueError, OverflowError, RecursionError):
            raise self._events.malformed(b"", "its events cannot be put together") from None
        return read(self._row, self._call, self._status, self._headers, body)

    def _read(self, events: Iterable[EventObject]) -> list[Delta]:
        return [delta for event in events for delta in self._event(event)]

    def _event(self, event: EventObject) -> list[Delta]:
        kind, payload, data = event
        # An error first, whatever else it claims to be; kinds that are not known are to be ignored (Claude docs,
        # "Streaming messages"), `ping` among them.
        if kind == "error" or payload.get("error"):
            raise error_within(self._row, self._status, self._headers, payload)
        if kind not in ("message_start", "message_delta", "message_stop") and not kind.startswith("content_block_"):
            return []
        if kind != "message_start" and not self._message:
            raise self._events.malformed(data, f"its stream begins with {kind[:40]}")
        match kind:
            case "message_start":
                self._start(payload, data)
            case "content_block_start":
                return self._block_start(payload, data)
            case "content_block_delta":
                return self._block_delta(payload, data)
            case "content_block_stop":
                return self._block_stop(payload)
            case "message_delta":
                self._message_delta(payload, data)
            case "message_stop":
                return self._stop(data)
        return []

    def _start(self, payload: Object, data: bytes) -> None:
        message = payload.get("message")
        if self._message:
            raise cut_short(self._row, self._headers, "a message_stop event, and began anew")
        if not is_object(message) or not message:
            raise self._events.malformed(data, "its message_start does not start a message")
        self._message = {"stop_reason": None, **message}
        self._add_usage(message.get("usage"), data)
        content = message.get("content")
        self._given = content if isinstance(content, list) else []

    def _stop(self, data: bytes) -> list[Delta]:
        """The end of the message. Blocks that only its start held, as some gateways send them, are its content."""
        self._stopped = True
        given = [] if self._blocks else self._given
        return [
            delta
            for at, block in enumerate(given)
            for delta in (
                *self._block_start({"index": at, "content_block": block}, data),
                *self._block_stop({"index": at}),
            )
        ]

    def _message_delta(self, payload: Object, data: bytes) -> None:
        delta = payload.get("delta")
        if not is_object(delta):
            raise self._events.malformed(data, "its message_delta holds no delta")
        self._message.update(
            (name, value) for name, value in delta.items() if name not in ("content", "usage") and value is not None
        )
        self._add_usage(payload.get("usage"), data)

    def _add_usage(self, usage: object, data: bytes) -> None:
        # Totals so far: the last that is stated wins (`types/message_delta_usage.py`).
        if is_object(usage):
            self._usage.update((name, value) for name, value in usage.items() if value is not None)
        elif usage is not None:
            raise self._events.malformed(data, "the usage in its stream is not a JSON object")

    def _block_start(self, payload: Object, data: bytes) -> list[Delta]:
        at, fields = count(payload.get("index")), payload.get("content_block")
        if at is None or at in self._blocks or not is_object(fields):
            raise self._events.malformed(data, "its content_block_start does not start a block")
        if fields.get("type") != "tool_use":
            self._blocks[at] = _Block(fields, None)
            kind, text = ("text", fields.get("text")) if fields.get("type") == "text" else ("", None)
            return [Delta("text", text)] if kind and isinstance(text, str) and text else []
        index = self._calls
        self._calls += 1
        fields = {**fields, "id": id_of(self._call, index, fields, self._message.get("id"))}
        self._blocks[at] = _Block(fields, index)
        return [Delta("tool_call", "", index, text_in(fields["id"]), text_in(fields.get("name")))]

    def _block(self, payload: Object) -> _Block | None:
        at = count(payload.get("index"))
        return self._blocks.get(at) if at is not None else None

    def _block_delta(self, payload: Object, data: bytes) -> list[Delta]:
        block, delta = self._block(payload), payload.get("delta")
        if block is None or not is_object(delta):
            raise self._events.malformed(data, "its content_block_delta belongs to no block")
        kind = text_in(delta.get("type"))
        match kind:
            case "text_delta" | "thinking_delta":
                piece = self._piece(delta, _GROWS[kind], data)
                block.grow(_GROWS[kind], piece)
                shown = block.fields.get("type") == ("text" if kind == "text_delta" else "thinking")
                return [Delta("text" if kind == "text_delta" else "reasoning", piece)] if shown and piece else []
            case "input_json_delta":
                piece = self._piece(delta, _INPUT, data)
                block.grow(_INPUT, piece)
                return [Delta("tool_call", piece, block.call)] if block.call is not None and piece else []
            case "citations_delta":
                stated = block.fields.get("citations")
                block.fields["citations"] = [*(stated if isinstance(stated, list) else []), delta.get("citation")]
            case _:  # a signature comes whole; what is new is taken as it stands
                block.fields.update((name, value) for name, value in delta.items() if name != "type")
        return []

    def _piece(self, delta: Object, name: str, data: bytes) -> str:
        piece = delta.get(name)
        if not isinstance(piece, str):
            raise self._events.malformed(data, f"a {name} in its stream is not text")
        return piece

    def _block_stop(self, payload: Object) -> list[Delta]:
        block = self._block(payload)
        # Some gateways give a call whole, in its first event.
        if block is None or block.call is None or _INPUT in block.grown or not block.fields.get("input"):
            return []
        return [Delta("tool_call", json_text(block.fields["input"]), block.call)]


def _parsed(text: str) -> object:
    """Return a tool's input as the plain form has it; what is no JSON, having been cut off, stays text."""
    try:
        msgspec.json.decode(text)
        return msgspec.Raw(text.encode())
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return text
