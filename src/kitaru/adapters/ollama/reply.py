"""Reading an answer of Ollama's chat API, plain or as lines of JSON."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from kitaru.adapters.call import ModelCall
from kitaru.adapters.call_ids import made_id
from kitaru.adapters.failures import cut_short, decode, failure, failure_within, malformed, not_json, request_id
from kitaru.adapters.fields import Object, count, is_object, json_text, object_at, objects_in, text_in
from kitaru.adapters.mending import EventMender, is_heartbeat
from kitaru.adapters.message import ToolCall, assistant
from kitaru.adapters.notes import notes
from kitaru.adapters.provider import Provider
from kitaru.adapters.reply import Delta, FinishReason, Reply, Usage
from kitaru.adapters.secret import clean
from kitaru.adapters.sse import Lines, LineTooLongError
from kitaru.errors import ModelError


def read(row: Provider, call: ModelCall, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
    """Return the reply held by a response.

    Raises:
        ModelError: The response is an error, or cannot be understood. Nothing else is raised.
    """
    if not 200 <= status < 300:
        raise _failure(row, call, status, headers, body)
    try:
        payload = decode(body)
    except ValueError as error:
        raise malformed(row, status, headers, body, not_json(str(error))) from None
    if not is_object(payload):
        raise malformed(row, status, headers, body, "the body is not a JSON object")
    if payload.get("error"):
        raise failure_within(row, status, headers, payload["error"])
    message = payload.get("message")
    if not is_object(message):
        raise malformed(row, status, headers, body, "the body holds no message")
    if message.get("content") is not None and not isinstance(message["content"], str):
        raise malformed(row, status, headers, body, "its message's content is not text")
    return _reply(row, call, headers, body, payload, message)


def calls_in(call: ModelCall, before: int, message: Object) -> list[ToolCall]:
    """Return the tool calls of a message.

    Args:
        call: What was asked.
        before: How many tool calls the answer had before.
        message: The whole one, or a piece of it.
    """
    found: list[ToolCall] = []
    for index, one in enumerate(objects_in(message.get("tool_calls")), start=before):
        function = object_at(one, "function")
        name = text_in(function.get("name"))
        stated = function.get("arguments")
        arguments = "{}" if stated is None else json_text(stated)
        # Servers give ids since 0.12.10.
        found.append(ToolCall(text_in(one.get("id")) or made_id(call, index, name, arguments), name, arguments))
    return found


def _failure(row: Provider, call: ModelCall, status: int, headers: Mapping[str, str], body: bytes) -> ModelError:
    error = failure(row, status, headers, body)
    # "model 'llama3.2' not found", older: "..., try pulling it first"
    if status == 404 and "model" in error.message:
        error.hint = f"Fetch it first: kitaru model pull {call.model}"
    return error


def _reply(
    row: Provider, call: ModelCall, headers: Mapping[str, str], body: bytes, payload: Object, message: Object
) -> Reply:
    text, thinking = text_in(message.get("content")), text_in(message.get("thinking"))
    calls = calls_in(call, 0, message)
    said = payload.get("done_reason")
    finish: FinishReason
    match said:
        case "stop":
            finish = "tool_calls" if calls else "stop"
        case "length":
            finish = "length"
        case None | "" if payload.get("done") is True:  # servers before 0.1.42 gave no reason
            finish = "tool_calls" if calls else "stop"
        case _:
            finish = "other"  # load, unload
    stated = (payload.get("prompt_eval_count"), payload.get("eval_count"))
    known, produced = counts = [count(value) for value in stated]
    usage_read = all((one is None) == (value is None) for one, value in zip(counts, stated, strict=True))
    return Reply(
        text=text,
        message=assistant(
            text, calls, provider=row.name, model=call.model, own=_own(message, calls) if thinking else b""
        ),
        finish=finish,
        usage=Usage(input=known, output=produced),
        model=clean(text_in(payload.get("model")), 200),
        request_id=request_id(row, headers),
        raw=body,
        reasoning=thinking,
        warnings=tuple(notes(text, finish, said, usage_read=usage_read)),
    )


def _own(message: Object, calls: list[ToolCall]) -> bytes:
    """Return the turn as it came, with its thinking."""
    found: dict[str, object] = {"role": "assistant", "content": text_in(message.get("content"))}
    found["thinking"] = message.get("thinking")
    if calls:
        found["tool_calls"] = objects_in(message.get("tool_calls"))
    try:
        return msgspec.json.encode(found)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return b""


class OllamaStream:
    """Reads one streamed answer: a JSON object a line, the last with `done`.

    Args:
        row: Who answers.
        call: What was asked.
        status: HTTP status, a success.
        headers: By lower-case name.
    """

    def __init__(self, row: Provider, call: ModelCall, status: int, headers: Mapping[str, str]) -> None:
        self._row, self._call, self._status, self._headers = row, call, status, headers
        self._lines = Lines()
        self._mender = EventMender()
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._calls: list[Object] = []
        self._last: Object | None = None

    def feed(self, data: bytes) -> list[Delta]:
        """Return what these bytes add to the answer.

        Raises:
            ModelError: An error inside the stream, or bytes that are not what the API promises.
        """
        try:
            lines = self._lines.feed(data)
        except LineTooLongError:
            raise malformed(self._row, self._status, self._headers, b"", "a line of the stream never ends") from None
        return [delta for line in lines for delta in self._line(line)]

    def finish(self) -> Reply:
        """Return the whole reply, after the last byte.

        Raises:
            ModelConnectionError: No line with `done` came.
            ModelError: What arrived is not what the API promises.
        """
        rest = self._lines.finish()
        if rest.strip() and self._last is None:
            try:
                decode(rest)
            except ValueError:
                raise cut_short(self._row, self._headers, 'a line with "done": true') from None
            self._line(rest)
        if self._last is None:
            raise cut_short(self._row, self._headers, 'a line with "done": true')
        message: dict[str, object] = {"role": "assistant", "content": "".join(self._text)}
        if self._thinking:
            message["thinking"] = "".join(self._thinking)
        if self._calls:
            message["tool_calls"] = self._calls
        try:
            body = msgspec.json.encode({**self._last, "message": message})
        except (TypeError, ValueError, OverflowError, RecursionError):
            raise malformed(self._row, self._status, self._headers, b"", "its lines cannot be put together") from None
        return read(self._row, self._call, self._status, self._headers, body)

    def _line(self, line: bytes) -> list[Delta]:
        if is_heartbeat(line) or self._last is not None:
            return []
        try:
            payload = decode(self._mender.readable(line))
        except ValueError as error:
            raise malformed(self._row, self._status, self._headers, line, not_json(str(error))) from None
        if not is_object(payload):
            raise malformed(self._row, self._status, self._headers, line, "a line is not a JSON object")
        if payload.get("error"):
            raise failure_within(self._row, self._status, self._headers, payload["error"])
        message = object_at(payload, "message")
        text, thinking = text_in(message.get("content")), text_in(message.get("thinking"))
        found: list[Delta] = []
        if thinking:
            self._thinking.append(thinking)
            found.append(Delta("reasoning", thinking))
        if text:
            self._text.append(text)
            found.append(Delta("text", text))
        for index, one in enumerate(calls_in(self._call, len(self._calls), message), start=len(self._calls)):
            found.append(Delta("tool_call", one.arguments, index, one.id, one.name))
        self._calls += objects_in(message.get("tool_calls"))
        if payload.get("done") is True:
            self._last = payload
        return found
