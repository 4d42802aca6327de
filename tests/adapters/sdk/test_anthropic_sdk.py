"""Requests compared with those of Anthropic's SDK, and answers made of its types and read by it."""

from __future__ import annotations

import json
from typing import Any, Final

import anthropic
import pytest
from anthropic.types import Message as TheirMessage
from anthropic.types import RawMessageStreamEvent
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming, MessageCreateParamsStreaming
from anthropic.types.shared import ErrorResponse
from pydantic import TypeAdapter

from kitaru.adapters.anthropic import ADAPTER, DEFAULT_MAX_TOKENS
from kitaru.adapters.call import ModelCall, Output, Settings, Tool, ToolChoice
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.message import Document, Image, Message, Text, ToolCall, assistant
from kitaru.adapters.reply import Reply, Usage
from kitaru.adapters.secret import SecretStr
from kitaru.errors import ProviderError
from tests.adapters.recording import Request, recorder
from tests.adapters.sdk.chat_cases import strangers

pytestmark = pytest.mark.filterwarnings("ignore")

EXPLAINED: Final = {
    "anthropic-version": "2023-06-01 takes temperature and top_p, which the SDK's 2026-10-21 no longer knows",
    "authorization": "the SDK sends keys as Bearer since 2.0; the API takes both, older gateways only x-api-key",
    "x-api-key": "see authorization",
    "temperature": "no argument of the SDK any more; given to it as extra_body",
    "top_p": "see temperature",
}

KEY = "key-of-the-test"
MODEL = "claude-sonnet-4-6"
HEADERS = {"request-id": "req_1", "content-type": "application/json"}
SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = Tool("weather", "Of a city", SCHEMA)
DECLARED = {"name": "weather", "description": "Of a city", "input_schema": SCHEMA}
HI = [{"role": "user", "content": "hi"}]
ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 2},
}


def events(*payloads: Any) -> bytes:
    return "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in payloads).encode()


STREAMED = events({"type": "message_start", "message": {**ANSWER, "content": []}}, {"type": "message_stop"})


def asked(*messages: Message, **kw: Any) -> ModelCall:
    return ModelCall("anthropic", MODEL, messages or (Message("user", "hi"),), **kw)


def theirs(fields: dict[str, Any], **client_options: Any) -> Request:
    """Return the request that the SDK sends."""
    streams = bool(fields.get("stream"))
    stated = {"model": MODEL, "max_tokens": DEFAULT_MAX_TOKENS, "messages": HI, **fields}
    with recorder(
        STREAMED if streams else ANSWER, content_type="text/event-stream" if streams else "application/json"
    ) as server:
        options = {"api_key": KEY, **client_options}
        with anthropic.Anthropic(base_url=server.url, max_retries=0, **options) as client:
            found = client.messages.create(**stated)
            if streams:
                list(found)
        return server.only


def ours(call: ModelCall, *, stream: bool = False, **kw: Any) -> Any:
    endpoint = Endpoint(base_url="https://a.example", api_key=SecretStr(KEY), **kw)
    return ADAPTER.build_request(call, endpoint, stream=stream)


CASES: Final[dict[str, tuple[ModelCall, dict[str, Any]]]] = {
    "text": (asked(), {}),
    "stream": (asked(), {"stream": True}),
    "system": (asked(Message("system", "be brief"), Message("user", "hi")), {"system": "be brief"}),
    "settings": (
        asked(settings=Settings(temperature=0.5, top_p=0.25, max_tokens=9, stop=("a", "b"))),
        {"max_tokens": 9, "stop_sequences": ["a", "b"], "extra_body": {"temperature": 0.5, "top_p": 0.25}},
    ),
    "effort": (
        asked(settings=Settings(reasoning="high")),
        {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
    ),
    "budget": (
        asked(settings=Settings(reasoning=2000)),
        {"thinking": {"type": "enabled", "budget_tokens": 2000}},
    ),
    "no thinking": (asked(settings=Settings(reasoning="none")), {"thinking": {"type": "disabled"}}),
    "tools": (
        asked(tools=(WEATHER,), tool_choice=ToolChoice("auto")),
        {"tools": [DECLARED], "tool_choice": {"type": "auto"}},
    ),
    "strict tools": (
        asked(tools=(Tool("weather", "Of a city", SCHEMA, strict=True),), tool_choice=ToolChoice("none")),
        {"tools": [{**DECLARED, "strict": True}], "tool_choice": {"type": "none"}},
    ),
    "some tool": (
        asked(tools=(WEATHER,), tool_choice=ToolChoice("required")),
        {"tools": [DECLARED], "tool_choice": {"type": "any"}},
    ),
    "this tool": (
        asked(tools=(WEATHER,), tool_choice=ToolChoice("tool", "weather")),
        {"tools": [DECLARED], "tool_choice": {"type": "tool", "name": "weather"}},
    ),
    "results of tools": (
        asked(
            Message("user", "hi"),
            assistant("I look.", [ToolCall("toolu_1", "weather", '{"city": "Rome"}')]),
            Message("tool", "no such city", tool_call_id="toolu_1", is_error=True),
            Message("user", "why?"),
        ),
        {
            "messages": [
                *HI,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "I look."},
                        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "no such city", "is_error": True},
                        {"type": "text", "text": "why?"},
                    ],
                },
            ],
            "tools": [{"name": "weather", "input_schema": {"type": "object", "properties": {}}}],
            "tool_choice": {"type": "none"},
        },
    ),
    "schema": (
        asked(output=Output("schema", SCHEMA, strict=True)),
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    ),
    "images and documents": (
        asked(
            Message(
                "user",
                (
                    Text("what?"),
                    Image("image/png", b"\x89PNG"),
                    Image(url="https://h.example/a.png"),
                    Document("application/pdf", b"%PDF", name="a.pdf"),
                    Document(url="https://h.example/a.pdf"),
                    Document("text/plain", b"words"),
                ),
            )
        ),
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what?"},
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw=="},
                        },
                        {"type": "image", "source": {"type": "url", "url": "https://h.example/a.png"}},
                        {
                            "type": "document",
                            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
                            "title": "a.pdf",
                        },
                        {"type": "document", "source": {"type": "url", "url": "https://h.example/a.pdf"}},
                        {
                            "type": "document",
                            "source": {"type": "text", "media_type": "text/plain", "data": "words"},
                        },
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
    assert request.url.path == recorded.path == "/v1/messages"
    assert json.loads(request.content) == recorded.json
    known = ("anthropic-version", "authorization", "x-api-key", "content-type")
    different = {name for name in known if request.headers.get(name) != recorded.headers.get(name)}
    assert different <= EXPLAINED.keys()


@pytest.mark.parametrize("name", CASES)
def test_the_sdk_s_types_know_every_field_that_is_sent(name: str) -> None:
    call, fields = CASES[name]
    streams = bool(fields.get("stream"))
    body = json.loads(ours(call, stream=streams).content)
    for explained in EXPLAINED:
        body.pop(explained, None)
    assert strangers(body, MessageCreateParamsStreaming if streams else MessageCreateParamsNonStreaming) == []


def test_a_token_and_a_version_are_sent_as_the_sdk_sends_them() -> None:
    recorded = theirs({}, api_key=None, auth_token=KEY)
    request = ours(asked(), bearer=True, headers={"anthropic-version": "2026-10-21"})
    for name in ("anthropic-version", "authorization"):
        assert request.headers[name] == recorded.headers[name]
    assert "x-api-key" not in recorded.headers


USAGE: Final = {
    "input_tokens": 100,
    "cache_creation_input_tokens": 50,
    "cache_read_input_tokens": 900,
    "cache_creation": {"ephemeral_1h_input_tokens": 20, "ephemeral_5m_input_tokens": 30},
    "output_tokens": 12,
    "output_tokens_details": {"thinking_tokens": 7},
    "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0},
    "service_tier": "priority",
}
CONTENT: Final[list[dict[str, Any]]] = [
    {"type": "thinking", "thinking": "hm", "signature": "Eq/+="},
    {"type": "redacted_thinking", "data": "Em=="},
    {"type": "text", "text": "I look.", "citations": None},
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}, "caller": None},
    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}, "caller": {"type": "direct"}},
]


def parse(message: Any, status: int = 200) -> Reply:
    return ADAPTER.parse_response(asked(), status, HEADERS, message.model_dump_json().encode())


def test_a_message_of_the_sdk_is_read() -> None:
    made = TheirMessage.model_validate({**ANSWER, "content": CONTENT, "stop_reason": "tool_use", "usage": USAGE})
    reply = parse(made)
    assert (reply.text, reply.reasoning, reply.finish, reply.warnings) == ("I look.", "hm", "tool_calls", ())
    assert reply.tool_calls == (ToolCall("toolu_1", "weather", '{"city":"Rome"}'),)
    assert reply.usage == Usage(1050, 12, 900, 50, 7, 20, searches=2, tier="priority")


def test_a_turn_of_the_sdk_goes_back_in_the_form_of_its_arguments() -> None:
    made = TheirMessage.model_validate({**ANSWER, "content": CONTENT, "stop_reason": "tool_use"})
    body = json.loads(ours(asked(Message("user", "hi"), parse(made).message)).content)
    assert body["messages"][1] == {"role": "assistant", "content": json.loads(made.model_dump_json())["content"]}


def test_a_refusal_of_the_sdk_is_read() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "Not this."}
    made = TheirMessage.model_validate({**ANSWER, "content": [], "stop_reason": "refusal", "stop_details": details})
    assert (parse(made).finish, parse(made).refusal) == ("content_filter", "Not this.")


@pytest.mark.parametrize(
    ("status", "error", "reason", "retryable"),
    [
        (429, {"type": "rate_limit_error", "message": "m"}, "rate_limit", True),
        (
            429,
            {"type": "rate_limit_error", "message": "m", "details": {"error_code": "enforced_spend_limit_reached"}},
            "quota",
            False,
        ),
        (402, {"type": "billing_error", "message": "m"}, "quota", False),
        (529, {"type": "overloaded_error", "message": "m"}, "overloaded", True),
        (403, {"type": "permission_error", "message": "m"}, "forbidden", False),
        (404, {"type": "not_found_error", "message": "m"}, "not_found", False),
    ],
)
def test_an_error_of_the_sdk_is_read(status: int, error: dict[str, Any], reason: str, retryable: bool) -> None:
    made = ErrorResponse.model_validate({"type": "error", "error": error, "request_id": "req_1"})
    with pytest.raises(ProviderError) as caught:
        parse(made, status)
    assert (caught.value.reason, caught.value.retryable, caught.value.request_id) == (reason, retryable, "req_1")


def of_the_sdk(payload: dict[str, Any]) -> Any:
    form = TypeAdapter(RawMessageStreamEvent)
    return json.loads(form.dump_json(form.validate_python(payload)))


def streamed() -> bytes:
    """Return a stream made of the SDK's own events."""

    def piece(at: int, **delta: object) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": at, "delta": delta}

    found: list[dict[str, Any]] = []
    deltas = {
        0: [
            piece(0, type="thinking_delta", thinking="h"),
            piece(0, type="thinking_delta", thinking="m"),
            piece(0, type="signature_delta", signature="Eq/+="),
        ],
        2: [piece(2, type="text_delta", text="I "), piece(2, type="text_delta", text="look.")],
        3: [piece(3, type="input_json_delta", partial_json='{"query":"x"}')],
        4: [
            piece(4, type="input_json_delta", partial_json='{"ci'),
            piece(4, type="input_json_delta", partial_json='ty": "Rome"}'),
        ],
    }
    empty: dict[str, dict[str, Any]] = {"thinking": {"thinking": "", "signature": ""}, "text": {"text": ""}}
    for at, block in enumerate(CONTENT):
        begun = {**block, **empty.get(block["type"], {}), **({"input": {}} if "input" in block else {})}
        found.append({"type": "content_block_start", "index": at, "content_block": begun})
        found += deltas.get(at, [])
        found.append({"type": "content_block_stop", "index": at})
    start = {**ANSWER, "content": [], "stop_reason": None, "usage": {**USAGE, "output_tokens": 1}}
    last = {"stop_reason": "tool_use", "stop_sequence": None}
    usage = {name: USAGE[name] for name in ("output_tokens", "output_tokens_details", "server_tool_use")}
    whole = [
        {"type": "message_start", "message": start},
        *found,
        {"type": "message_delta", "delta": last, "usage": usage},
        {"type": "message_stop"},
    ]
    return events(*map(of_the_sdk, whole))


def test_a_stream_of_the_sdk_s_events_is_read_as_the_sdk_reads_it() -> None:
    parser = ADAPTER.parse_stream(asked(), 200, HEADERS)
    parser.feed(streamed())
    reply = parser.finish()
    with recorder(streamed(), content_type="text/event-stream") as server:
        options = {"model": MODEL, "max_tokens": 9, "messages": HI}
        with (
            anthropic.Anthropic(api_key=KEY, base_url=server.url, max_retries=0) as client,
            client.messages.stream(**options) as stream,
        ):
            final = stream.get_final_message()
    read = parse(final)
    for field in ("text", "reasoning", "tool_calls", "finish", "usage", "model", "warnings"):
        assert getattr(reply, field) == getattr(read, field), field
    assert reply.message.opaque is not None
    kept = json.loads(reply.message.opaque.data)
    assert kept == json.loads(final.model_dump_json(exclude={"content": {"__all__": {"parsed_output"}}}))["content"]
