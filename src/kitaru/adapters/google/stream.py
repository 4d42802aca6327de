"""Gemini's stream: chunks of the same form as a whole answer, and no end marker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from kitaru.adapters.call import ModelCall
from kitaru.adapters.failures import cut_short, decode, failure_within, malformed, not_json
from kitaru.adapters.fields import Object, is_object, object_at, text_in
from kitaru.adapters.google.reply import call_in, read, thought
from kitaru.adapters.provider import Provider
from kitaru.adapters.reply import Delta, Reply
from kitaru.adapters.sse import LineTooLongError, ServerEvent, ServerEvents
from kitaru.errors import ProviderError

# Parts that hold nothing but a piece of text or of thinking continue the one before; all others stand alone, so that
# a signature keeps its place.
_GROWING: Final = ({"text"}, {"text", "thought"})

# A later chunk that leaves a field open does not take back what an earlier one said.
_UNSTATED: Final = (None, "", "FINISH_REASON_UNSPECIFIED")


class GoogleStream:
    """Reads one streamed answer.

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
        self._candidate: dict[str, object] = {}
        self._parts: list[dict[str, object]] = []
        self._growing: list[str] = []
        self._content: dict[str, object] | None = None
        self._calls = 0

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
            ModelConnectionError: No chunk gave a finish reason: the stream was cut.
            ModelError: What arrived is not what the API promises.
        """
        self._read(self._events.finish(), last=True)
        self._strays()
        blocked = object_at(self._body, "promptFeedback").get("blockReason")
        if not self._candidate.get("finishReason") and not blocked:
            raise cut_short(self._row, self._headers, "a finishReason")
        self._settle()
        if self._candidate:
            if self._content is not None:
                self._candidate["content"] = {**self._content, "parts": self._parts}
            self._body["candidates"] = [self._candidate]
        try:
            body = msgspec.json.encode(self._body)
        except (TypeError, ValueError, OverflowError, RecursionError):
            raise self._malformed(b"", "its chunks cannot be put together") from None
        return read(self._row, self._call, self._status, self._headers, body)

    def _strays(self) -> None:
        """Read what came without `data:`: an error as bare JSON, or, from gateways, the chunks as a JSON array."""
        stray = b"\n".join(self._events.stray).strip()
        if not stray:
            return
        try:
            payload = decode(stray)
        except ValueError as error:
            if stray.startswith(b"<"):
                raise self._malformed(stray, not_json(str(error))) from None
            # A field's name or a JSON text, torn by the end of the stream.
            raise cut_short(self._row, self._headers, "a finishReason") from None
        for chunk in payload if isinstance(payload, list) else [payload]:
            self._chunk(chunk, stray)

    def _read(self, events: list[ServerEvent], *, last: bool = False) -> list[Delta]:
        found: list[Delta] = []
        for event in events:
            if event.data.strip() == b"[DONE]":  # gateways that speak to OpenAI's clients, too
                continue
            try:
                payload = decode(event.data)
            except ValueError as error:
                if last:  # a chunk torn by the end of the stream
                    raise cut_short(self._row, self._headers, "a finishReason") from None
                raise self._malformed(event.data, not_json(str(error))) from None
            for chunk in payload if isinstance(payload, list) else [payload]:
                found += self._chunk(chunk, event.data)
        return found

    def _chunk(self, chunk: object, data: bytes) -> list[Delta]:
        if not is_object(chunk):
            raise self._malformed(data, "a chunk is not a JSON object")
        if chunk.get("error"):
            raise failure_within(self._row, self._status, self._headers, chunk["error"])
        # Counts are totals so far: the last ones win.
        self._body.update((key, value) for key, value in chunk.items() if key != "candidates" and value is not None)
        candidates = chunk.get("candidates")
        if not candidates:
            return []
        candidate = candidates[0] if isinstance(candidates, list) else None
        if not is_object(candidate):
            raise self._malformed(data, "a candidate is not a JSON object")
        self._candidate.update(
            (key, value) for key, value in candidate.items() if key != "content" and value not in _UNSTATED
        )
        content = candidate.get("content")
        if content is None:
            return []
        parts = (content.get("parts") or []) if is_object(content) else None
        if not is_object(content) or not isinstance(parts, list):
            raise self._malformed(data, "a candidate's content is not a list of parts")
        self._content = {**(self._content or {}), **content}
        found: list[Delta] = []
        for part in parts:
            if not is_object(part):
                raise self._malformed(data, "a part is not a JSON object")
            found += self._part(part)
        return found

    def _part(self, part: Object) -> list[Delta]:
        text = part.get("text")
        growing = isinstance(text, str) and set(part) in _GROWING
        last = self._parts[-1] if self._parts and self._growing else {}
        if growing and last.keys() == part.keys() and last.get("thought") == part.get("thought"):
            self._growing.append(text_in(text))
        elif not (growing and not text):
            self._settle()
            self._parts.append(dict(part))
            self._growing = [text_in(text)] if growing else []
        call = call_in(self._call, self._calls, part)
        if call is not None:
            self._calls += 1
            return [Delta("tool_call", call.arguments, self._calls - 1, call.id, call.name)]
        if not text or not isinstance(text, str):
            return []
        return [Delta("reasoning" if thought(part) else "text", text)]

    def _settle(self) -> None:
        if self._growing:
            self._parts[-1]["text"] = "".join(self._growing)
            self._growing = []

    def _malformed(self, data: bytes, why: str) -> ProviderError:
        return malformed(self._row, self._status, self._headers, data, why)
