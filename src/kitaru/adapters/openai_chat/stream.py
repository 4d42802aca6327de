"""Reading a streamed chat completion: its events become the body that the plain form of the answer would have had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from kitaru.adapters.call import ModelCall
from kitaru.adapters.failures import cut_short, decode, failure_within, malformed, not_json
from kitaru.adapters.fields import Object, is_object, json_text, object_at, objects_in, text_in
from kitaru.adapters.openai_chat.dialect import Dialect
from kitaru.adapters.openai_chat.messages import made_id
from kitaru.adapters.openai_chat.reply import blank, error_in, read_reply, thought_in
from kitaru.adapters.provider import Provider
from kitaru.adapters.reply import Delta, Reply
from kitaru.adapters.sse import LineTooLongError, ServerEvent, ServerEvents
from kitaru.errors import ProviderError

# Texts of a delta that add up, beside the content; the first of the thinking that is there is the thinking.
_THINKING: Final = ("reasoning_content", "reasoning")

# Lists of a delta whose entries come in pieces: openrouter, and LiteLLM for anthropic.
_DETAILS: Final = ("reasoning_details", "thinking_blocks")

# What adds up in such an entry; of everything else the last word counts.
_PIECES: Final = frozenset({"text", "summary", "data", "thinking"})


class _Call:
    """A tool call under way."""

    __slots__ = ("arguments", "id", "name", "rest")

    def __init__(self, name_of_call: str, name: str) -> None:
        self.id = name_of_call
        self.name = name
        self.arguments: list[str] = []
        self.rest: dict[str, object] = {}

    def wire(self) -> dict[str, object]:
        function = {"name": self.name, "arguments": "".join(self.arguments)}
        return {**self.rest, "id": self.id, "type": "function", "function": function}


class _Entry:
    """An entry of a list, whose pieces came one after the other."""

    __slots__ = ("lists", "rest", "texts")

    def __init__(self) -> None:
        self.rest: dict[str, object] = {}
        self.texts: dict[str, list[str]] = {}
        self.lists: dict[str, list[Object]] = {}

    def takes(self, piece: Object) -> bool:
        """Whether a piece goes on with this entry: of its kind and place, with more of it, and it is not signed yet."""
        return (
            (self.rest.get("type"), self.rest.get("index")) == (piece.get("type"), piece.get("index"))
            and piece.get("id") in (None, self.rest.get("id"))
            and not self.rest.get("signature")
            and not {"signature", *_PIECES}.isdisjoint(piece)
        )

    def add(self, piece: Object) -> None:
        for name, value in piece.items():
            if name in _PIECES and isinstance(value, str):
                self.texts.setdefault(name, []).append(value)
            elif name in _PIECES and isinstance(value, list):
                self.lists.setdefault(name, []).extend(objects_in(value))
            elif value is not None:
                self.rest[name] = value

    def wire(self) -> dict[str, object]:
        texts = {name: "".join(pieces) for name, pieces in self.texts.items()}
        return {**self.rest, **texts, **{name: _joined(pieces) for name, pieces in self.lists.items()}}


class ChatStream:
    """Reads one streamed answer.

    Args:
        row: Who answers.
        dialect: How it writes.
        call: What was asked.
        status: HTTP status, a success.
        headers: By lower-case name.
    """

    def __init__(
        self, row: Provider, dialect: Dialect, call: ModelCall, status: int, headers: Mapping[str, str]
    ) -> None:
        self._row = row
        self._dialect = dialect
        self._call = call
        self._status = status
        self._headers = headers
        self._events = ServerEvents()
        self._seen = False
        self._done = False
        self._top: dict[str, object] = {}
        self._choice: dict[str, object] = {}
        self._message: dict[str, object] = {}
        self._texts: dict[str, list[str]] = {}
        self._chunks: list[Object] = []
        self._details: dict[str, list[Object]] = {}
        self._calls: list[_Call] = []
        self._places: dict[str, int] = {}

    def feed(self, data: bytes) -> list[Delta]:
        """Return what these bytes add to the answer.

        Raises:
            ModelError: An error inside the stream, or bytes that are not what the API promises.
        """
        try:
            events = self._events.feed(data)
        except LineTooLongError:
            raise self._malformed(b"", "a line of its stream has no end") from None
        found: list[Delta] = []
        for event in events:
            self._event(event, found)
        return found

    def finish(self) -> Reply:
        """Return the whole reply, after the last byte.

        Raises:
            ModelConnectionError: The stream ended without its end marker.
            ModelError: What arrived is not what the API promises.
        """
        for event in self._events.finish():
            self._event(event, [])
        if not self._seen and self._events.stray:
            # No stream at all: an error, a web page, or a server that answers a stream's request plainly.
            return self._read(b"\n".join(self._events.stray))
        if not self._done:
            self._stray_error()
            raise cut_short(self._row, self._headers, "the final [DONE]")
        try:
            body = msgspec.json.encode(self._body())
        except (TypeError, ValueError, RecursionError):
            raise self._malformed(b"", "its stream cannot be put together") from None
        return self._read(body)

    def _event(self, event: ServerEvent, found: list[Delta]) -> None:
        if self._done:
            return
        self._seen = True
        if event.data.strip() == b"[DONE]":
            self._done = True
            return
        try:
            chunk = decode(event.data)
        except ValueError as error:
            raise self._malformed(event.data, not_json(str(error))) from None
        if not is_object(chunk):
            raise self._malformed(event.data, "an event of its stream is not a JSON object")
        problem = error_in(chunk) or (chunk if event.event == "error" else None)
        if problem:
            raise failure_within(self._row, self._status, self._headers, problem)
        self._top_level(chunk)
        choices = chunk.get("choices")
        if choices is not None and not isinstance(choices, list):
            raise self._malformed(event.data, "an event's choices are no list")
        for choice in objects_in(choices):
            if choice.get("index") in (0, None):
                self._chosen(choice, event.data, found)
        # perplexity SDK `stream_chunk.py`
        self._done = chunk.get("type") == "end_of_stream"

    def _top_level(self, chunk: Object) -> None:
        for name, value in chunk.items():
            if name == "choices" or value is None:
                continue
            if name == "x_groq" and is_object(value):
                self._top[name] = {**object_at(self._top, name), **value}
            else:
                self._top[name] = value

    def _chosen(self, choice: Object, data: bytes, found: list[Delta]) -> None:
        self._choice["index"] = 0
        for name, value in choice.items():
            # perplexity repeats the message so far beside each delta.
            if name not in ("delta", "message", "index") and value is not None:
                before = self._choice.get(name)
                if name == "logprobs" and isinstance(before, dict) and is_object(value):
                    _append(before, value)
                else:
                    self._choice[name] = value
        delta = choice.get("delta")
        if not is_object(delta):
            return
        self._content(delta.get("content"), data, found)
        self._thinking(delta, found)
        refusal = text_in(delta.get("refusal"))
        if refusal:
            self._texts.setdefault("refusal", []).append(refusal)
            found.append(Delta("refusal", refusal))
        for position, piece in enumerate(objects_in(delta.get("tool_calls"))):
            index = piece.get("index")
            self._tool_call(piece, str(index) if isinstance(index, int | float) else f"at {position}", found)
        if not blank(delta.get("function_call")):
            self._tool_call({"function": delta.get("function_call")}, "function", found)
        known = {"content", "refusal", "tool_calls", "function_call", *_THINKING, *_DETAILS}
        self._message.update({name: value for name, value in delta.items() if name not in known and value is not None})

    def _content(self, content: object, data: bytes, found: list[Delta]) -> None:
        match content:
            case None | "":
                pass
            case str():
                self._chunks.append({"type": "text", "text": content})
                found.append(Delta("text", content))
            case list():
                for chunk in objects_in(content):
                    self._chunks.append(chunk)
                    kind = chunk.get("type")
                    piece = text_in(chunk.get("text")) if kind in ("text", "output_text") else ""
                    if piece:
                        found.append(Delta("text", piece))
                    thought = thought_in(chunk) if kind == "thinking" else ""
                    if thought:
                        found.append(Delta("reasoning", thought))
            case _:
                raise self._malformed(data, "its delta's content is not text")

    def _thinking(self, delta: Object, found: list[Delta]) -> None:
        said = ""
        for name in _THINKING:
            piece = text_in(delta.get(name))
            if piece:
                self._texts.setdefault(name, []).append(piece)
                said = said or piece
        for name in _DETAILS:
            self._details.setdefault(name, []).extend(objects_in(delta.get(name)))
        told = "".join(thought_in(entry) for entry in objects_in(delta.get("reasoning_details")))
        if said or told:
            found.append(Delta("reasoning", said or told))

    def _tool_call(self, piece: Object, place: str, found: list[Delta]) -> None:
        function = object_at(piece, "function")
        name, stated = text_in(function.get("name")), text_in(piece.get("id"))
        stated = "" if stated == "null" else stated
        at = self._places.get(place)
        # Mistral and some gateways stream whole calls, all at index 0.
        if at is None or (name and self._begins(self._calls[at], stated, function)):
            at = self._places[place] = len(self._calls)
            known = stated or made_id(text_in(self._top.get("id")), at, self._dialect)
            self._calls.append(_Call(known, name))
            first = Delta("tool_call", index=at, id=known, name=name)
        else:
            first = Delta("tool_call", index=at, name="" if self._calls[at].name else name)
        call = self._calls[at]
        call.name = call.name or name
        call.rest.update({key: value for key, value in piece.items() if key not in ("id", "type", "function", "index")})
        arguments = function.get("arguments")
        text = "" if arguments is None else json_text(arguments)
        call.arguments.append(text)
        if text or first.id or first.name:
            found.append(msgspec.structs.replace(first, text=text))

    @staticmethod
    def _begins(last: _Call, stated: str, function: Object) -> bool:
        """Whether a piece begins another call at a place: its id is another one; or it has none, the call before it is
        whole, and it has arguments itself."""
        if stated:
            return stated != last.id
        before = "".join(last.arguments)
        if not before or function.get("arguments") in (None, ""):
            return False
        try:
            msgspec.json.decode(before)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return False
        return True

    def _body(self) -> dict[str, object]:
        content: object = _joined(self._chunks)
        if all(chunk.keys() == {"type", "text"} for chunk in self._chunks):
            content = "".join(text_in(chunk.get("text")) for chunk in self._chunks)
        message: dict[str, object] = {"role": "assistant", **self._message, "content": content}
        message.update({name: "".join(pieces) for name, pieces in self._texts.items()})
        message.update({name: _joined(pieces) for name, pieces in self._details.items() if pieces})
        if self._calls:
            message["tool_calls"] = [call.wire() for call in self._calls]
        choices = [{"finish_reason": None, **self._choice, "message": message}] if self._choice else []
        return {**self._top, "object": "chat.completion", "choices": choices}

    def _read(self, body: bytes) -> Reply:
        return read_reply(self._row, self._dialect, self._call, self._status, self._headers, body)

    def _stray_error(self) -> None:
        try:
            payload = decode(b"\n".join(self._events.stray))
        except ValueError:
            return
        problem = error_in(payload) if is_object(payload) else None
        if problem:
            raise failure_within(self._row, self._status, self._headers, problem)

    def _malformed(self, data: bytes, why: str) -> ProviderError:
        return malformed(self._row, self._status, self._headers, data, why)


def _joined(pieces: list[Object]) -> list[dict[str, object]]:
    """Return the entries that the pieces of a list make up."""
    found: list[_Entry] = []
    for piece in pieces:
        if not found or not found[-1].takes(piece):
            found.append(_Entry())
        found[-1].add(piece)
    return [entry.wire() for entry in found]


def _append(known: dict[str, object], more: Object) -> None:
    """Put the probabilities of more tokens behind those of earlier ones, in place: a stream has thousands."""
    for name, value in more.items():
        earlier = known.get(name)
        if isinstance(earlier, list) and isinstance(value, list):
            earlier.extend(value)
        elif value is not None:
            known[name] = value
