"""`test/echo`: a model without network and key that answers what it was asked, for first steps and demonstrations.

The answer is the last user message's text, cut at `stop` and `max_tokens` (words). Asked for JSON it gives the least
that fits the schema, with the prompt where a text belongs. Where a tool has to be called it calls the named or first
one, with arguments made the same way; the tool's result is then what it echoes. The same call has the same answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from kitaru.adapters.call import ModelCall
from kitaru.adapters.call_ids import made_id
from kitaru.adapters.echo.value import fitting
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.failures import cut_short, decode, failure, failure_within, malformed, not_json
from kitaru.adapters.fields import count, is_object, object_at, objects_in, text_in
from kitaru.adapters.message import ToolCall, assistant
from kitaru.adapters.notes import notes
from kitaru.adapters.provider import Capabilities, Feature, Provider
from kitaru.adapters.reply import Delta, FinishReason, Reply, Usage
from kitaru.adapters.request import address, body_of, post
from kitaru.adapters.sse import Lines, LineTooLongError

if TYPE_CHECKING:
    import httpx

_MODEL: Final = "echo"

# Without a JSON mode: a call that wants JSON then says by a schema which keys it wants.
_FEATURES: Final[frozenset[Feature]] = frozenset(
    {
        "temperature", "top_p", "seed", "reasoning", "context_length", "tools", "tool_choice", "json_schema",
        "images", "image_urls", "documents", "document_urls", "stop", "max_tokens",
    }
)  # fmt: skip

ROW: Final = Provider(
    name="test",
    title="Echo (no network, no key)",
    capabilities=Capabilities(features=_FEATURES),
    base_url="http://echo.invalid",  # a name that never resolves (RFC 2606): nothing is sent, whoever tries
    key_required=False,
    retryable=frozenset(),
    free=True,
)

_FINISH: Final[Mapping[str, FinishReason]] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}


class Echo(msgspec.Struct, frozen=True):
    """The adapter, and the model behind it."""

    row: Provider = ROW

    def build_request(self, call: ModelCall, endpoint: Endpoint, *, stream: bool = False) -> httpx.Request:
        """Return the request for a call, which `answer` reads.

        Raises:
            UsageError: The call cannot be right.
        """
        del endpoint  # nothing is sent, and no key looked at
        settings = call.settings
        called = any(message.role == "tool" for message in call.messages[-1:])
        choice = call.tool_choice
        tool = None
        if choice is not None and choice.mode in ("required", "tool") and not called:
            named = choice.name if choice.mode == "tool" else ""
            tool = next((one for one in call.tools if named in ("", one.name)), None)
        fields: dict[str, object] = {
            "model": call.model,
            "prompt": _prompt(call),
            "words": sum(len(message.text.split()) for message in call.messages),
            "stream": stream,
            "max_tokens": settings.max_tokens,
            "stop": list(settings.stop) or None,
            "tool": None if tool is None else {"name": tool.name, "parameters": tool.parameters},
            "json": None if call.output.kind == "text" else True,
            "schema": None if call.output.kind == "text" else call.output.schema,
        }
        body = body_of(call, fields, frozenset(fields))
        return post(self.row, address(self.row, self.row.base_url or "", "/echo"), body, Endpoint(base_url=""), {})

    def answer(self, request: httpx.Request) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers by lower-case name, and body, as a server would have."""
        headers = {"content-type": "application/json"}
        try:
            asked = decode(request.content)
        except ValueError:
            asked = None
        if not is_object(asked):
            return 400, headers, b'{"error":"the request is not a JSON object"}'
        if asked.get("model") != _MODEL:
            return 404, headers, b'{"error":"there is one model only: test/echo"}'
        text, calls, finish = _answer(asked)
        # The words of a call are its arguments'.
        produced = len(text.split()) + sum(len(str(one["arguments"]).split()) for one in calls)
        usage = {"input": count(asked.get("words")) or 0, "output": produced}
        end: dict[str, object] = {"model": _MODEL, "finish": finish, "usage": usage, "done": True}
        if not asked.get("stream"):
            return 200, headers, msgspec.json.encode({"text": text, "calls": calls, **end})
        lines: list[object] = [{"text": piece} for piece in re.findall(r"\s*\S+\s*", text) or [text]]
        lines += [{"calls": [one]} for one in calls]
        headers["content-type"] = "application/x-ndjson"
        return 200, headers, b"".join(msgspec.json.encode(line) + b"\n" for line in [*lines, end])

    def parse_response(self, call: ModelCall, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
        """Return the reply held by a response.

        Raises:
            ProviderError: An error, or a body that is none of ours.
        """
        if not 200 <= status < 300:
            raise failure(self.row, status, headers, body)
        try:
            payload = decode(body)
        except ValueError as error:
            raise malformed(self.row, status, headers, body, not_json(str(error))) from None
        if not is_object(payload):
            raise malformed(self.row, status, headers, body, "the body is not a JSON object")
        if payload.get("error"):
            raise failure_within(self.row, status, headers, payload["error"])
        text = payload.get("text")
        if not isinstance(text, str):
            raise malformed(self.row, status, headers, body, "the body holds no text")
        calls = [
            _call(call, index, text_in(one.get("name")), text_in(one.get("arguments")))
            for index, one in enumerate(objects_in(payload.get("calls")))
        ]
        said = payload.get("finish")
        finish = _FINISH.get(text_in(said), "other")
        usage = object_at(payload, "usage")
        return Reply(
            text=text,
            message=assistant(text, calls),
            finish=finish,
            usage=Usage(input=count(usage.get("input")), output=count(usage.get("output"))),
            model=text_in(payload.get("model")),
            raw=body,
            warnings=tuple(notes(text, finish, said, usage_read=True)),
        )

    def parse_stream(self, call: ModelCall, status: int, headers: Mapping[str, str]) -> EchoStream:
        """Return a parser for the body of a streamed answer."""
        return EchoStream(self, call, status, headers)


class EchoStream:
    """Reads one streamed answer: a JSON object a line, the last with `done`."""

    def __init__(self, adapter: Echo, call: ModelCall, status: int, headers: Mapping[str, str]) -> None:
        self._adapter, self._call, self._status, self._headers = adapter, call, status, headers
        self._lines = Lines()
        self._text: list[str] = []
        self._calls: list[object] = []
        self._end: Mapping[str, object] | None = None

    def feed(self, data: bytes) -> list[Delta]:
        """Return what these bytes add to the answer.

        Raises:
            ModelError: Bytes that are none of ours.
        """
        try:
            lines = self._lines.feed(data)
        except LineTooLongError:
            raise malformed(self._adapter.row, self._status, self._headers, b"", "a line never ends") from None
        return [delta for line in lines for delta in self._line(line)]

    def finish(self) -> Reply:
        """Return the whole reply, after the last byte.

        Raises:
            ModelError: The last line is missing, or bytes are none of ours.
        """
        if self._end is None:
            raise cut_short(self._adapter.row, self._headers, 'a line with "done": true')
        try:
            body = msgspec.json.encode({"text": "".join(self._text), "calls": self._calls, **self._end})
        except (TypeError, ValueError, OverflowError, RecursionError):
            raise malformed(self._adapter.row, self._status, self._headers, b"", "its lines do not fit") from None
        return self._adapter.parse_response(self._call, self._status, self._headers, body)

    def _line(self, line: bytes) -> list[Delta]:
        row = self._adapter.row
        if not line.strip() or self._end is not None:
            return []
        try:
            payload = decode(line)
        except ValueError as error:
            raise malformed(row, self._status, self._headers, line, not_json(str(error))) from None
        if not is_object(payload):
            raise malformed(row, self._status, self._headers, line, "a line is not a JSON object")
        if payload.get("error"):
            raise failure_within(row, self._status, self._headers, payload["error"])
        found: list[Delta] = []
        text = text_in(payload.get("text"))
        if text:
            self._text.append(text)
            found.append(Delta("text", text))
        for one in objects_in(payload.get("calls")):
            index = len(self._calls)
            made = _call(self._call, index, text_in(one.get("name")), text_in(one.get("arguments")))
            found.append(Delta("tool_call", made.arguments, index, made.id, made.name))
            self._calls.append(one)
        if payload.get("done") is True:
            self._end = payload
        return found


ADAPTER: Final = Echo()


def _call(call: ModelCall, index: int, name: str, arguments: str) -> ToolCall:
    return ToolCall(made_id(call, index, name, arguments), name, arguments)


def _prompt(call: ModelCall) -> str:
    """Return what is echoed: the last text that the user, or a tool, had to say."""
    said = [message.text for message in call.messages if message.role in ("user", "tool")]
    return said[-1] if said else ""


def _answer(asked: Mapping[str, object]) -> tuple[str, list[dict[str, object]], str]:
    prompt = text_in(asked.get("prompt"))
    tool = object_at(asked, "tool")
    if tool:
        arguments = msgspec.json.encode(fitting(object_at(tool, "parameters"), prompt)).decode()
        return "", [{"name": tool.get("name"), "arguments": arguments}], "tool_calls"
    text, finish = prompt, "stop"
    if asked.get("json"):
        schema = asked.get("schema")
        value = fitting(schema, prompt) if is_object(schema) else {"text": prompt}
        text = msgspec.json.encode(value).decode()
    stops = asked.get("stop")
    for stop in stops if isinstance(stops, list) else []:
        text = text.partition(stop)[0] if isinstance(stop, str) and stop else text
    most = count(asked.get("max_tokens"))
    words = list(re.finditer(r"\S+", text))
    if most is not None and len(words) > most:
        return text[: words[most - 1].end()] if most else "", [], "length"
    return text, [], finish
