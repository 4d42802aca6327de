"""Requests compared with those of ollama's SDK, and answers made of its types."""

from __future__ import annotations

import json
import warnings
from typing import Any, Final

import pytest

from kitaru.adapters.call import Effort, ModelCall, Output, Settings, Tool
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.message import Image, Message, Text, ToolCall, assistant
from kitaru.adapters.ollama import ADAPTER, server_url
from kitaru.adapters.reply import Usage
from kitaru.adapters.secret import SecretStr
from tests.adapters.recording import recorder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ollama
    from ollama._client import _parse_host

pytestmark = pytest.mark.filterwarnings("ignore")

EXPLAINED: Final = {
    "id": "the SDK drops the ids of tool calls, which servers give since 0.12.10 and which tell two results apart",
    "tool_call_id": "see id",
    "tools": "the SDK writes `tools: []` where there are none",
    "0.0.0.0": "the SDK calls the address as it is, which not every system lets through; here it is the loopback",
}

KEY = "key-of-the-test"
ANSWER = {"model": "m", "message": {"role": "assistant", "content": "a"}, "done": True, "done_reason": "stop"}
CITY: Final[dict[str, object]] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = Tool("weather", "Of a city", CITY)
DECLARED = {"type": "function", "function": {"name": "weather", "description": "Of a city", "parameters": CITY}}
HI = [{"role": "user", "content": "hi"}]


def call(*messages: Message, model: str = "m", **kw: Any) -> ModelCall:
    return ModelCall("ollama", model, messages or (Message("user", "hi"),), **kw)


def without(body: Any, *names: str) -> Any:
    """Drop what is explained, anywhere in a body."""
    if isinstance(body, list):
        return [without(one, *names) for one in body]
    if not isinstance(body, dict):
        return body
    return {
        key: without(value, *names) for key, value in body.items() if key not in names and (key, value) != ("tools", [])
    }


def same(asked: ModelCall, messages: Any = HI, *, stream: bool = False, ids: bool = False, **fields: Any) -> None:
    body = json.dumps(ANSWER).encode() + b"\n" if stream else ANSWER
    with recorder(body, content_type="application/x-ndjson" if stream else "application/json") as server:
        client = ollama.Client(host=server.url, headers={"authorization": f"Bearer {KEY}"})
        found = client.chat(model=asked.model, messages=messages, stream=stream, **fields)
        if stream:
            list(found)
        client.close()
        theirs = server.only
        ours = ADAPTER.build_request(asked, Endpoint(base_url=server.url, api_key=SecretStr(KEY)), stream=stream)
    assert ours.url.path == theirs.path == "/api/chat"
    assert ours.headers["authorization"] == theirs.headers["authorization"]
    explained = ("id", "tool_call_id") if ids else ()
    assert without(json.loads(ours.content), *explained) == without(theirs.json, *explained)


@pytest.mark.parametrize("stream", [False, True])
def test_plain_text(stream: bool) -> None:
    same(call(), stream=stream)


def test_all_settings() -> None:
    asked = Settings(temperature=0.5, max_tokens=9, top_p=0.25, stop=("a", "b"), seed=7, context_length=8192)
    options = ollama.Options(temperature=0.5, num_predict=9, top_p=0.25, stop=["a", "b"], seed=7, num_ctx=8192)
    same(
        call(Message("system", "be brief"), Message("user", "hi"), settings=asked),
        [{"role": "system", "content": "be brief"}, *HI],
        options=options,
    )


@pytest.mark.parametrize(
    ("model", "effort", "think"), [("m", "high", True), ("m", "none", False), ("gpt-oss", "medium", "medium")]
)
def test_thinking(model: str, effort: Effort, think: bool | str) -> None:
    same(call(model=model, settings=Settings(reasoning=effort)), think=think)


def test_tools() -> None:
    same(call(tools=(WEATHER,)), tools=[DECLARED])


def test_results_of_tools() -> None:
    same(
        call(
            Message("user", "hi"),
            assistant("wait", [ToolCall("a", "weather", '{"city": "Rome"}')]),
            Message("tool", "warm", tool_call_id="a"),
        ),
        [
            *HI,
            ollama.Message(
                role="assistant",
                content="wait",
                tool_calls=[
                    ollama.Message.ToolCall(
                        function=ollama.Message.ToolCall.Function(name="weather", arguments={"city": "Rome"})
                    )
                ],
            ),
            {"role": "tool", "content": "warm", "tool_name": "weather"},
        ],
        ids=True,
    )


def test_a_schema_and_json() -> None:
    same(call(output=Output("schema", dict(CITY))), format=CITY)
    same(call(output=Output("json")), format="json")


def test_images() -> None:
    message = Message("user", (Text("look"), Image("image/png", b"\x89PNG\xfb\xff")))
    same(call(message), [ollama.Message(role="user", content="look", images=[ollama.Image(value=b"\x89PNG\xfb\xff")])])


def answered(**more: Any) -> Any:
    calls = [
        ollama.Message.ToolCall(function=ollama.Message.ToolCall.Function(name="weather", arguments={"city": "Rome"}))
    ]
    message = ollama.Message(role="assistant", content="It is ", thinking="hm", tool_calls=calls)
    return ollama.ChatResponse(**{"model": "m", "message": message, **more})


END: Final = {"done": True, "done_reason": "stop", "prompt_eval_count": 7, "eval_count": 3, "total_duration": 5}


def test_an_answer_of_the_sdks_types_is_read() -> None:
    reply = ADAPTER.parse_response(call(), 200, {}, answered(**END).model_dump_json().encode())
    assert (reply.text, reply.reasoning, reply.finish, reply.model) == ("It is ", "hm", "tool_calls", "m")
    assert [(one.name, one.arguments) for one in reply.tool_calls] == [("weather", '{"city":"Rome"}')]
    assert (reply.usage, reply.warnings) == (Usage(7, 3), ())


def test_the_own_turn_is_what_the_sdk_sends_back() -> None:
    answer = answered(**END)
    reply = ADAPTER.parse_response(call(), 200, {}, answer.model_dump_json(exclude_none=True).encode())
    same(call(Message("user", "hi"), reply.message), [*HI, answer.message])


def test_a_stream_of_the_sdks_types_is_read_by_both_alike() -> None:
    last = ollama.ChatResponse(model="m", message=ollama.Message(role="assistant", content="warm."), **END)
    body = b"".join(one.model_dump_json().encode() + b"\n" for one in (answered(done=False), last))
    with recorder(body, content_type="application/x-ndjson") as server:
        client = ollama.Client(host=server.url)
        theirs = list(client.chat(model="m", messages=HI, stream=True))
        client.close()
    parser = ADAPTER.parse_stream(call(), 200, {})
    deltas = parser.feed(body)
    reply = parser.finish()
    assert [one.text for one in deltas if one.kind == "text"] == [one.message.content for one in theirs]
    assert (reply.text, reply.reasoning, reply.usage) == ("It is warm.", "hm", Usage(7, 3))


@pytest.mark.parametrize(
    "host",
    [
        "1.2.3.4", ":56789", "1.2.3.4:56789", "http://1.2.3.4", "https://1.2.3.4", "https://1.2.3.4:56789",
        "example.com", "example.com:56789", "http://example.com", "https://example.com", "example.com/",
        "example.com/path", "example.com:56789/path/", "https://example.com:56789/path", "[1::1]", "[1::1]:56789",
        "http://[1::1]", "https://[1::1]:56789/path/", "[1::1]/path",
    ],
)  # fmt: skip
def test_a_host_is_read_as_the_sdk_reads_it(host: str) -> None:
    assert server_url(host) == _parse_host(host)


def test_every_difference_is_explained() -> None:
    assert server_url("0.0.0.0") != _parse_host("0.0.0.0")
    assert set(EXPLAINED) == {"id", "tool_call_id", "tools", "0.0.0.0"}
