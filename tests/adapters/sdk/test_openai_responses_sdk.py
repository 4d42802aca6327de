"""Requests of the responses API compared with those of OpenAI's SDK, and answers made of its types and read by it."""

from __future__ import annotations

import json
from typing import Any, Final

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming,
    ResponseCreateParamsStreaming,
)
from pydantic import TypeAdapter

from kitaru.adapters.call import ModelCall, Output, Settings, Tool, ToolChoice
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.message import Document, Image, Message, Text, ToolCall, assistant
from kitaru.adapters.openai_responses import ADAPTER
from kitaru.adapters.reply import Reply, Usage
from kitaru.adapters.secret import SecretStr
from kitaru.errors import ProviderError
from tests.adapters.recording import Request, recorder
from tests.adapters.sdk.chat_cases import strangers

EXPLAINED: Final = {
    "store": "false unless extra says otherwise: the API would keep every answer for 30 days",
    "include": "asks thinking models for their thinking in encrypted form, as nothing is stored",
}

KEY = "key-of-the-test"
MODEL = "gpt-5-nano"
HEADERS = {"x-request-id": "req_1", "content-type": "application/json"}
SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = Tool("weather", "Of a city", SCHEMA)
DECLARED = {"type": "function", "name": "weather", "description": "Of a city", "parameters": SCHEMA, "strict": False}
HI = [{"role": "user", "content": "hi"}]
SAID: Final[dict[str, Any]] = {
    "id": "msg_1",
    "type": "message",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}],
}
ANSWER: Final[dict[str, Any]] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1.0,
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "model": "gpt-5-nano-2026-01-01",
    "output": [SAID],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}


def events(*payloads: Any) -> bytes:
    numbered = [{**one, "sequence_number": at} for at, one in enumerate(payloads)]
    return "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in numbered).encode()


STREAMED = events({"type": "response.created", "response": ANSWER}, {"type": "response.completed", "response": ANSWER})


def asked(*messages: Message, **kw: Any) -> ModelCall:
    return ModelCall("openai-responses", MODEL, messages or (Message("user", "hi"),), **kw)


def theirs(fields: dict[str, Any]) -> Request:
    """Return the request that the SDK sends."""
    streams = bool(fields.get("stream"))
    media = "text/event-stream" if streams else "application/json"
    with recorder(STREAMED if streams else ANSWER, content_type=media) as server:
        options: dict[str, Any] = {"api_key": KEY, "base_url": f"{server.url}/v1", "max_retries": 0}
        with openai.OpenAI(**options, organization="org", project="proj") as client:
            found = client.responses.create(**{"model": MODEL, "input": HI, **fields})
            if streams:
                list(found)
        return server.only


def ours(call: ModelCall, *, stream: bool = False) -> Any:
    named = ADAPTER.row.headers_from({"OPENAI_ORG_ID": "org", "OPENAI_PROJECT_ID": "proj"})
    endpoint = Endpoint(base_url="https://o.example/v1", api_key=SecretStr(KEY), headers=named)
    return ADAPTER.build_request(call, endpoint, stream=stream)


CASES: Final[dict[str, tuple[ModelCall, dict[str, Any]]]] = {
    "text": (asked(), {}),
    "stream": (asked(), {"stream": True}),
    "system": (asked(Message("system", "be brief"), Message("user", "hi")), {"instructions": "be brief"}),
    "developer": (
        asked(Message("developer", "be brief"), Message("user", "hi")),
        {"input": [{"role": "developer", "content": "be brief"}, *HI]},
    ),
    "settings": (
        asked(settings=Settings(temperature=0.5, top_p=0.25, max_tokens=64)),
        {"temperature": 0.5, "top_p": 0.25, "max_output_tokens": 64},
    ),
    "reasoning": (
        asked(settings=Settings(reasoning="low", extra={"reasoning": {"summary": "auto"}})),
        {"reasoning": {"effort": "low", "summary": "auto"}},
    ),
    "tools": (
        asked(tools=(WEATHER,), tool_choice=ToolChoice("auto")),
        {"tools": [DECLARED], "tool_choice": "auto"},
    ),
    "strict tools": (
        asked(tools=(Tool("weather", "Of a city", SCHEMA, strict=True),), tool_choice=ToolChoice("none")),
        {"tools": [{**DECLARED, "strict": True}], "tool_choice": "none"},
    ),
    "some tool": (
        asked(tools=(WEATHER,), tool_choice=ToolChoice("required")),
        {"tools": [DECLARED], "tool_choice": "required"},
    ),
    "this tool": (
        asked(tools=(WEATHER,), tool_choice=ToolChoice("tool", "weather")),
        {"tools": [DECLARED], "tool_choice": {"type": "function", "name": "weather"}},
    ),
    "results of tools": (
        asked(
            Message("user", "hi"),
            assistant("I look.", [ToolCall("call_1", "weather", '{"city": "Rome"}')]),
            Message("tool", "warm", tool_call_id="call_1"),
        ),
        {
            "input": [
                *HI,
                {"role": "assistant", "content": "I look."},
                {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Rome"}'},
                {"type": "function_call_output", "call_id": "call_1", "output": "warm"},
            ]
        },
    ),
    "schema": (
        asked(output=Output("schema", SCHEMA, "place", strict=True)),
        {"text": {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}}},
    ),
    "json": (asked(output=Output("json")), {"text": {"format": {"type": "json_object"}}}),
    "images and documents": (
        asked(
            Message(
                "user",
                (
                    Text("what?"),
                    Image("image/png", b"\x89PNG"),
                    Image(url="https://h.example/a.png", detail="low"),
                    Document("application/pdf", b"%PDF", name="a.pdf"),
                    Document(url="https://h.example/a.pdf"),
                ),
            )
        ),
        {
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "what?"},
                        {"type": "input_image", "image_url": "data:image/png;base64,iVBORw==", "detail": "auto"},
                        {"type": "input_image", "image_url": "https://h.example/a.png", "detail": "low"},
                        {
                            "type": "input_file",
                            "filename": "a.pdf",
                            "file_data": "data:application/pdf;base64,JVBERg==",
                        },
                        {"type": "input_file", "file_url": "https://h.example/a.pdf"},
                    ],
                }
            ]
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_adapter_sends_what_the_sdk_sends(name: str) -> None:
    call, fields = CASES[name]
    recorded, request = theirs(fields), ours(call, stream=bool(fields.get("stream")))
    assert request.url.path == recorded.path == "/v1/responses"
    for header in ("authorization", "openai-organization", "openai-project", "content-type"):
        assert request.headers[header] == recorded.headers[header]
    body, absent = json.loads(request.content), object()
    names = body.keys() | recorded.json.keys()
    different = {name for name in names if body.get(name, absent) != recorded.json.get(name, absent)}
    assert different == EXPLAINED.keys()


@pytest.mark.parametrize("name", CASES)
def test_the_sdk_s_types_know_every_field_that_is_sent(name: str) -> None:
    call, fields = CASES[name]
    streams = bool(fields.get("stream"))
    body = json.loads(ours(call, stream=streams).content)
    assert strangers(body, ResponseCreateParamsStreaming if streams else ResponseCreateParamsNonStreaming) == []


REASONING: Final[dict[str, Any]] = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "hm"}],
    "encrypted_content": "gA/+=",
}
CALLED: Final[dict[str, Any]] = {
    "id": "fc_1",
    "type": "function_call",
    "status": "completed",
    "call_id": "call_1",
    "name": "weather",
    "arguments": '{"city": "Rome"}',
}
USAGE: Final = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 20},
    "output_tokens": 50,
    "output_tokens_details": {"reasoning_tokens": 40},
    "total_tokens": 150,
}
WHOLE: Final = {**ANSWER, "output": [REASONING, SAID, CALLED], "usage": USAGE, "service_tier": "priority"}


def parse(response: Any) -> Reply:
    return ADAPTER.parse_response(asked(), 200, HEADERS, response.model_dump_json().encode())


def test_a_response_of_the_sdk_is_read() -> None:
    reply = parse(Response.model_validate(WHOLE))
    assert (reply.text, reply.reasoning, reply.finish, reply.warnings) == ("hello", "hm", "tool_calls", ())
    assert reply.tool_calls == (ToolCall("call_1", "weather", '{"city": "Rome"}'),)
    assert reply.usage == Usage(100, 50, 60, 20, 40, tier="priority")
    assert reply.model == "gpt-5-nano-2026-01-01"


def test_a_turn_of_the_sdk_goes_back_as_its_users_send_it() -> None:
    made = Response.model_validate(WHOLE)
    body = json.loads(ours(asked(Message("user", "hi"), parse(made).message)).content)
    assert body["input"][1:] == json.loads(made.model_dump_json())["output"]


@pytest.mark.parametrize(
    ("fields", "finish"),
    [
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ({"output": [{**SAID, "content": [{"type": "refusal", "refusal": "no"}]}]}, "content_filter"),
        ({"status": "cancelled"}, "error"),
    ],
)
def test_an_unfinished_response_of_the_sdk_is_read(fields: dict[str, Any], finish: str) -> None:
    assert parse(Response.model_validate({**ANSWER, **fields})).finish == finish


def test_a_failed_response_of_the_sdk_is_an_error() -> None:
    fault = {"code": "rate_limit_exceeded", "message": "later"}
    with pytest.raises(ProviderError, match="later") as caught:
        parse(Response.model_validate({**ANSWER, "status": "failed", "error": fault}))
    assert (caught.value.retryable, caught.value.reason) == (True, "rate_limit")


def streamed() -> bytes:
    """Return a stream made of the SDK's own events."""
    form = TypeAdapter(ResponseStreamEvent)
    begun = {**WHOLE, "status": "in_progress", "output": [], "usage": None}
    of_text = {"output_index": 1, "item_id": "msg_1", "content_index": 0, "logprobs": []}
    of_thought = {"output_index": 0, "item_id": "rs_1", "summary_index": 0}
    of_call = {"output_index": 2, "item_id": "fc_1"}
    arguments = "function_call_arguments"
    found: list[dict[str, Any]] = [
        {"type": "created", "response": begun},
        {"type": "output_item.added", "output_index": 0, "item": {**REASONING, "summary": []}},
        {"type": "reasoning_summary_text.delta", **of_thought, "delta": "h"},
        {"type": "reasoning_summary_text.delta", **of_thought, "delta": "m"},
        {"type": "output_item.done", "output_index": 0, "item": REASONING},
        {"type": "output_item.added", "output_index": 1, "item": {**SAID, "content": []}},
        {"type": "content_part.added", **of_text, "part": {**SAID["content"][0], "text": ""}},
        {"type": "output_text.delta", **of_text, "delta": "hel"},
        {"type": "output_text.delta", **of_text, "delta": "lo"},
        {"type": "output_text.done", **of_text, "text": "hello"},
        {"type": "output_item.done", "output_index": 1, "item": SAID},
        {"type": "output_item.added", "output_index": 2, "item": {**CALLED, "arguments": ""}},
        {"type": f"{arguments}.delta", **of_call, "delta": '{"city": '},
        {"type": f"{arguments}.delta", **of_call, "delta": '"Rome"}'},
        {"type": f"{arguments}.done", **of_call, "name": "weather", "arguments": '{"city": "Rome"}'},
        {"type": "output_item.done", "output_index": 2, "item": CALLED},
        {"type": "completed", "response": WHOLE},
    ]
    made = [form.validate_python({**one, "type": f"response.{one['type']}", "sequence_number": 0}) for one in found]
    return events(*[json.loads(form.dump_json(one)) for one in made])


def test_a_stream_of_the_sdk_s_events_is_read_as_the_sdk_reads_it() -> None:
    parser = ADAPTER.parse_stream(asked(), 200, HEADERS)
    deltas = parser.feed(streamed())
    reply = parser.finish()
    with recorder(streamed(), content_type="text/event-stream") as server:
        options: dict[str, Any] = {"api_key": KEY, "base_url": server.url, "max_retries": 0}
        with openai.OpenAI(**options) as client, client.responses.stream(model=MODEL, input="hi") as stream:
            final = stream.get_final_response()
    read = parse(Response.model_validate(final.model_dump()))
    for field in ("text", "reasoning", "tool_calls", "finish", "usage", "model", "warnings"):
        assert getattr(reply, field) == getattr(read, field), field
    assert "".join(one.text for one in deltas if one.kind == "text") == final.output_text
