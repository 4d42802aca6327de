"""Requests compared with those of cohere's SDK, and answers made of its types."""

from __future__ import annotations

import json
import warnings
from typing import Any, Final

import httpx
import pytest

from kitaru.adapters.call import ModelCall, Output, Settings, Tool, ToolChoice
from kitaru.adapters.cohere import ADAPTER
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.message import Image, Message, Text, ToolCall, assistant
from kitaru.adapters.reply import Usage
from kitaru.adapters.secret import SecretStr
from tests.adapters.recording import recorder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import cohere
    from cohere import v2

pytestmark = pytest.mark.filterwarnings("ignore")

EXPLAINED: Final = {
    "headers": "the SDK also sends x-client-name, x-fern-* and x-sdk-*, which tell its own version",
}

KEY = "key-of-the-test"
ANSWER = {
    "id": "g",
    "finish_reason": "COMPLETE",
    "message": {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
}
CITY: Final[dict[str, object]] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = Tool("weather", "Of a city", CITY)
DECLARED = {"type": "function", "function": {"name": "weather", "description": "Of a city", "parameters": CITY}}
HI = [{"role": "user", "content": "hi"}]


def call(*messages: Message, **kw: Any) -> ModelCall:
    return ModelCall("cohere", "command-a", messages or (Message("user", "hi"),), **kw)


def same(asked: ModelCall, messages: Any = HI, *, stream: bool = False, **fields: Any) -> None:
    end = {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}}
    body = f"event: message-end\ndata: {json.dumps(end)}\n\n".encode() if stream else ANSWER
    with recorder(body, content_type="text/event-stream" if stream else "application/json") as server:
        with httpx.Client() as http:
            client = cohere.ClientV2(api_key=KEY, base_url=server.url, httpx_client=http)
            if stream:
                list(client.chat_stream(model="command-a", messages=messages, **fields))
            else:
                client.chat(model="command-a", messages=messages, **fields)
        theirs = server.only
        ours = ADAPTER.build_request(asked, Endpoint(base_url=server.url, api_key=SecretStr(KEY)), stream=stream)
    assert ours.url.path == theirs.path == "/v2/chat"
    assert ours.headers["authorization"] == theirs.headers["authorization"] == f"Bearer {KEY}"
    assert json.loads(ours.content) == theirs.json
    additional = {name for name in theirs.headers if name.startswith("x-")} - set(ours.headers)
    assert {name.split("-")[1] for name in additional} <= {"client", "fern", "sdk"}


def dumped(answer: Any) -> bytes:
    found: str = answer.json() if not hasattr(answer, "model_dump_json") else answer.model_dump_json()
    return found.encode()


@pytest.mark.parametrize("stream", [False, True])
def test_plain_text(stream: bool) -> None:
    same(call(), stream=stream)


def test_all_settings() -> None:
    asked = Settings(temperature=0.5, max_tokens=9, top_p=0.25, stop=("a", "b"), seed=7, reasoning=100)
    same(
        call(Message("system", "be brief"), Message("user", "hi"), settings=asked),
        [{"role": "system", "content": "be brief"}, *HI],
        temperature=0.5,
        max_tokens=9,
        p=0.25,
        stop_sequences=["a", "b"],
        seed=7,
        thinking=cohere.Thinking(type="enabled", token_budget=100),
    )


def test_thinking_switched_off() -> None:
    same(call(settings=Settings(reasoning="none")), thinking=cohere.Thinking(type="disabled"))


@pytest.mark.parametrize(
    ("choice", "fields"),
    [
        (None, {}),
        (ToolChoice("auto"), {}),
        (ToolChoice("none"), {"tool_choice": "NONE"}),
        (ToolChoice("required"), {"tool_choice": "REQUIRED"}),
    ],
)
def test_tools_and_their_choice(choice: ToolChoice | None, fields: dict[str, Any]) -> None:
    same(call(tools=(WEATHER,), tool_choice=choice), tools=[DECLARED], **fields)


def test_strict_tools() -> None:
    same(call(tools=(Tool("weather", "Of a city", CITY, strict=True),)), tools=[DECLARED], strict_tools=True)


def test_results_of_tools() -> None:
    same(
        call(
            Message("user", "hi"),
            assistant("I look.", [ToolCall("a", "weather", '{"city": "Rome"}')]),
            Message("tool", "warm", tool_call_id="a"),
        ),
        [
            *HI,
            {
                "role": "assistant",
                "tool_plan": "I look.",
                "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "a", "content": "warm"},
        ],
    )


def test_a_schema() -> None:
    same(
        call(output=Output("schema", dict(CITY))),
        response_format=cohere.JsonObjectResponseFormatV2(json_schema=CITY),
    )


def test_json() -> None:
    same(call(output=Output("json")), response_format=cohere.JsonObjectResponseFormatV2())


def test_images() -> None:
    parts = (Text("look"), Image("image/png", b"x"), Image(url="https://h.example/a.png", detail="low"))
    content = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}},
        {"type": "image_url", "image_url": {"url": "https://h.example/a.png", "detail": "low"}},
    ]
    same(call(Message("user", parts)), [{"role": "user", "content": content}])


def answered() -> Any:
    message = cohere.AssistantMessageResponse(
        tool_plan="I will look.",
        content=[
            cohere.ThinkingAssistantMessageResponseContentItem(thinking="hm"),
            cohere.TextAssistantMessageResponseContentItem(text="It is warm."),
        ],
        tool_calls=[
            cohere.ToolCallV2(id="a", function=cohere.ToolCallV2Function(name="weather", arguments='{"city":"Rome"}'))
        ],
    )
    usage = cohere.Usage(
        billed_units=cohere.UsageBilledUnits(input_tokens=13.0, output_tokens=5.0),
        tokens=cohere.UsageTokens(input_tokens=542.0, output_tokens=8.0),
        cached_tokens=480.0,
    )
    return cohere.V2ChatResponse(id="g", finish_reason="TOOL_CALL", message=message, usage=usage)


def test_an_answer_of_the_sdks_types_is_read() -> None:
    reply = ADAPTER.parse_response(call(), 200, {}, dumped(answered()))
    assert (reply.text, reply.reasoning, reply.finish) == ("It is warm.", "I will look.hm", "tool_calls")
    assert reply.tool_calls == (ToolCall("a", "weather", '{"city":"Rome"}'),)
    assert (reply.request_id, reply.warnings) == ("g", ())
    assert reply.usage == Usage(542, 8, cached_input=480, billed_input=13, billed_output=5)


def test_the_own_turn_is_what_the_sdk_sends_back() -> None:
    answer = answered()
    reply = ADAPTER.parse_response(call(), 200, {}, dumped(answer))
    same(call(Message("user", "hi"), reply.message), [*HI, answer.message])


def test_a_stream_of_the_sdks_types_is_read() -> None:
    def content(kind: str, index: int, **fields: Any) -> Any:
        item = {"message": {"content": fields}}
        made = v2.ContentStartV2ChatStreamResponse if kind == "start" else v2.ContentDeltaV2ChatStreamResponse
        return made(index=index, delta=item)

    def tool(kind: str, fields: Any) -> Any:
        made = v2.ToolCallStartV2ChatStreamResponse if kind == "start" else v2.ToolCallDeltaV2ChatStreamResponse
        return made(index=0, delta={"message": {"tool_calls": fields}})

    called = cohere.ToolCallV2(id="a", function=cohere.ToolCallV2Function(name="weather", arguments=""))
    events = [
        v2.MessageStartV2ChatStreamResponse(id="g"),
        v2.ToolPlanDeltaV2ChatStreamResponse(delta={"message": {"tool_plan": "I will look."}}),
        content("start", 0, type="thinking", thinking=""),
        content("delta", 0, thinking="hm"),
        v2.ContentEndV2ChatStreamResponse(index=0),
        content("start", 1, type="text", text=""),
        content("delta", 1, text="It is "),
        content("delta", 1, text="warm."),
        v2.ContentEndV2ChatStreamResponse(index=1),
        tool("start", called),
        tool("delta", {"function": {"arguments": '{"city":'}}),
        tool("delta", {"function": {"arguments": '"Rome"}'}}),
        v2.ToolCallEndV2ChatStreamResponse(index=0),
        v2.MessageEndV2ChatStreamResponse(delta={"finish_reason": "TOOL_CALL", "usage": answered().usage}),
    ]
    parser = ADAPTER.parse_stream(call(), 200, {})
    for event in events:
        parser.feed(f"event: {event.type}\ndata: ".encode() + dumped(event) + b"\n\n")
    reply, plain = parser.finish(), ADAPTER.parse_response(call(), 200, {}, dumped(answered()))
    assert (reply.text, reply.reasoning, reply.tool_calls) == (plain.text, plain.reasoning, plain.tool_calls)
    assert (reply.usage, reply.finish, reply.request_id) == (plain.usage, plain.finish, plain.request_id)


def test_every_difference_is_explained() -> None:
    assert set(EXPLAINED) == {"headers"}
