"""The same calls for every SDK of the chat-completions family: in neutral terms, and as its users write them."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import typing_extensions

from kitaru.adapters import (
    Adapter,
    Endpoint,
    Image,
    Message,
    ModelCall,
    Output,
    Reply,
    SecretStr,
    Settings,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
)
from tests.adapters.recording import Request, recorder

KEY = "key-of-the-test"
PICTURE = b"\x89PNG\r\n\x1a\n"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = Tool("weather", "The weather in a city", SCHEMA)
HI = Message("user", "hi")
CALL_ID = "aB3dE6gH9"

COMPLETION: dict[str, Any] = {
    "id": "cmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m-2026",
    "system_fingerprint": "fp",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}


class Case(NamedTuple):
    """A call, and the arguments that users of an SDK with OpenAI's names give it."""

    call: ModelCall
    given: dict[str, Any]
    stream: bool = False


def _case(given: dict[str, Any], *messages: Message, stream: bool = False, **fields: Any) -> Case:
    said = given.pop("messages", [{"role": "user", "content": "hi"}])
    call = ModelCall("", "m", messages or (HI,), **fields)
    return Case(call, {"model": "m", "messages": said, **given}, stream)


def _function(**more: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a city",
            "parameters": SCHEMA,
            **more,
        },
    }


_TURN = (
    HI,
    Message("assistant", "", (ToolCall(CALL_ID, "weather", '{"city":"Oslo"}'),)),
    Message("tool", "rain", tool_call_id=CALL_ID),
)
_SAID = [
    {"role": "user", "content": "hi"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": CALL_ID, "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": CALL_ID, "content": "rain"},
]
_FORM = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
_SHOWN = [
    {"type": "text", "text": "what is it?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    {"type": "image_url", "image_url": {"url": "https://h.example/a.png", "detail": "low"}},
]


def cases() -> dict[str, Case]:
    return {
        "text": _case({}),
        "system": _case(
            {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]},
            Message("system", "be brief"),
            HI,
        ),
        "settings": _case(
            {"temperature": 0.2, "top_p": 0.9, "max_tokens": 64, "stop": ["END"], "seed": 7},
            settings=Settings(temperature=0.2, top_p=0.9, max_tokens=64, stop=("END",), seed=7),
        ),
        "reasoning": _case({"reasoning_effort": "low"}, settings=Settings(reasoning="low")),
        "tools": _case(
            {"tools": [_function(strict=True)], "tool_choice": "auto"},
            tools=(msgspec.structs.replace(WEATHER, strict=True),),
            tool_choice=ToolChoice("auto"),
        ),
        "no tool": _case(
            {"tools": [_function()], "tool_choice": "none"}, tools=(WEATHER,), tool_choice=ToolChoice("none")
        ),
        "some tool": _case(
            {"tools": [_function()], "tool_choice": "required"}, tools=(WEATHER,), tool_choice=ToolChoice("required")
        ),
        "this tool": _case(
            {"tools": [_function()], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
            tools=(WEATHER,),
            tool_choice=ToolChoice("tool", "weather"),
        ),
        "tool result": _case({"messages": _SAID, "tools": [_function()]}, *_TURN, tools=(WEATHER,)),
        "json": _case({"response_format": {"type": "json_object"}}, output=Output("json")),
        "schema": _case({"response_format": _FORM}, output=Output("schema", SCHEMA, "place", strict=True)),
        "images": _case(
            {"messages": [{"role": "user", "content": _SHOWN}]},
            Message(
                "user",
                (
                    Text("what is it?"),
                    Image("image/png", PICTURE),
                    Image(url="https://h.example/a.png", detail="low"),
                ),
            ),
        ),
        "stream": _case({"stream": True}, stream=True),
    }


def events(*chunks: object, done: bool = True) -> bytes:
    """Return chunks as the bytes of a stream."""
    lines = [f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


CHUNK = {
    "id": "cmpl-1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m-2026",
    "choices": [{"index": 0, "delta": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
}


def sent_by(ask: Callable[[str, dict[str, Any]], object], given: dict[str, Any], reply: object = None) -> Request:
    """Return the request that an SDK sends; `ask` gets the server's address and the arguments."""
    streams = bool(given.get("stream"))
    body = events(CHUNK) if streams else COMPLETION if reply is None else reply
    with recorder(body, content_type="text/event-stream" if streams else "application/json") as server:
        ask(server.url, given)
        return server.only


def differences(adapter: Adapter, case: Case, theirs: Request, base_url: str, *, bearer: bool = False) -> set[str]:
    """Return what differs between an SDK's request and the adapter's: fields of the body, `path`, headers."""
    call = msgspec.structs.replace(case.call, provider=adapter.row.name)
    endpoint = Endpoint(base_url=base_url, api_key=SecretStr(KEY), bearer=bearer)
    ours = adapter.build_request(call, endpoint, stream=case.stream)
    parts = urlsplit(str(ours.url))
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    found = {"path"} if path != theirs.path else set()
    for name in ("authorization", "api-key", "content-type"):
        if ours.headers.get(name) != theirs.headers.get(name):
            found.add(name)
    mine: dict[str, Any] = json.loads(ours.content)
    others = theirs.json
    absent = object()
    return found | {name for name in mine.keys() | others.keys() if mine.get(name, absent) != others.get(name, absent)}


def body_of(adapter: Adapter, case: Case) -> Any:
    """Return the body that the adapter sends."""
    call = msgspec.structs.replace(case.call, provider=adapter.row.name)
    endpoint = Endpoint(base_url="https://h.example?api-version=2024-10-21", api_key=SecretStr(KEY))
    return json.loads(adapter.build_request(call, endpoint, stream=case.stream).content)


def strangers(value: Any, expected: Any, path: str = "$") -> list[str]:
    """Return what of a JSON value is not as an SDK's type of its arguments says: fields it does not know, wrong types.

    Most SDKs pass on whatever they are given, so that comparing with what they send says little about such a field.
    """
    origin, inner = typing.get_origin(expected), typing.get_args(expected)
    if expected in (object, Any):
        return []
    wrappers = (typing.Required, typing.NotRequired, typing_extensions.Required, typing_extensions.NotRequired)
    if origin in (*wrappers, typing.Annotated):
        return strangers(value, inner[0], path)
    if origin in (typing.Union, UnionType):
        return min((strangers(value, one, path) for one in inner), key=len)
    if origin in (typing.Literal, typing_extensions.Literal):
        return [] if value in inner else [f"{path}: {value!r} is none of {inner}"]
    if typing_extensions.is_typeddict(expected):
        if not isinstance(value, dict):
            return [f"{path} is no object"] * 9
        hints = typing_extensions.get_type_hints(expected, include_extras=True)
        found = [f"{path}.{name} is missing" for name in expected.__required_keys__ if name not in value]
        for name, one in value.items():
            known = name in hints
            found += strangers(one, hints[name], f"{path}.{name}") if known else [f"{path}.{name} is not known"]
        return found
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return [] if isinstance(value, dict) else [f"{path} is no object"] * 9
    if isinstance(origin, type) and issubclass(origin, Iterable):
        if not isinstance(value, list):
            return [f"{path} is no list"] * 9
        return [said for at, one in enumerate(value) for said in strangers(one, inner[0], f"{path}[{at}]")]
    if origin is not None:  # such as IO[bytes]
        return [f"{path} is no {expected}"] * 9
    simple: Any = {NoneType: NoneType, float: (int, float), Sequence: list}.get(expected, expected)
    return [] if isinstance(value, simple) else [f"{path} is no {expected}"] * 9


HEADERS: Mapping[str, str] = {"x-request-id": "req-1", "content-type": "application/json"}


def parse(adapter: Adapter, body: bytes | str) -> Reply:
    call = ModelCall(adapter.row.name, "m", (HI,))
    return adapter.parse_response(call, 200, HEADERS, body.encode() if isinstance(body, str) else body)


def parse_stream(adapter: Adapter, chunks: Iterable[str]) -> Reply:
    call = ModelCall(adapter.row.name, "m", (HI,))
    parser = adapter.parse_stream(call, 200, HEADERS)
    parser.feed(events(*chunks))
    return parser.finish()
