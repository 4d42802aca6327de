from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest

from kitaru.adapters.call import Effort, ModelCall, Output, Settings, Tool, ToolChoice
from kitaru.adapters.call_ids import is_made
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.google import ADAPTER, ROW
from kitaru.adapters.message import Document, Image, Message, Text, ToolCall, assistant
from kitaru.adapters.providers import adapter, split_model
from kitaru.adapters.reply import Reply
from kitaru.adapters.secret import SecretStr
from kitaru.errors import (
    UsageError,
)

MODEL = "gemini-3-flash"
HEADERS = {"content-type": "application/json", "x-request-id": "req-9"}
WEATHER = Tool("weather", "Of a city", {"type": "object", "properties": {"city": {"type": "string"}}})
SIGNATURE = "CiQB0Xqd/+8QwZ3=="


def call(*messages: Message, model: str = MODEL, **kw: Any) -> ModelCall:
    return ModelCall("google", model, messages or (Message("user", "hi"),), **kw)


def built(asked: ModelCall, base: str = "https://g.example/v1beta", *, stream: bool = False) -> Any:
    return ADAPTER.build_request(asked, Endpoint(base_url=base, api_key=SecretStr("key-of-the-test")), stream=stream)


def sent(asked: ModelCall) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(built(asked).content)
    return body


def answer(*parts: object, finish: object = "STOP", **more: object) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": list(parts)}, "finishReason": finish, "index": 0}
    return {"candidates": [candidate], "modelVersion": "gemini-3-flash-001", "responseId": "resp-1", **more}


def parse(
    body: object, status: int = 200, headers: Mapping[str, str] = HEADERS, asked: ModelCall | None = None
) -> Reply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ADAPTER.parse_response(asked or call(), status, headers, data)


# Addresses


@pytest.mark.parametrize(
    ("base", "path"),
    [
        ("https://g.example", "/v1beta/models/gemini-3-flash:generateContent"),
        ("https://g.example/", "/v1beta/models/gemini-3-flash:generateContent"),
        ("https://g.example/v1", "/v1/models/gemini-3-flash:generateContent"),
        ("https://g.example/gate/v1alpha/", "/gate/v1alpha/models/gemini-3-flash:generateContent"),
        ("https://g.example/gate", "/gate/v1beta/models/gemini-3-flash:generateContent"),
        (
            "https://europe-west4-aiplatform.googleapis.com/v1/projects/p/locations/europe-west4",
            "/v1/projects/p/locations/europe-west4/publishers/google/models/gemini-3-flash:generateContent",
        ),
        (
            "https://g.example/x/v1beta1/projects/p/locations/l/publishers/google/models/y:generateContent",
            "/x/v1beta1/projects/p/locations/l/publishers/google/models/gemini-3-flash:generateContent",
        ),
        (
            "https://aiplatform.googleapis.com",
            "/v1/publishers/google/models/gemini-3-flash:generateContent",
        ),
        ("https://g.example/v1/models/x:generateContent", "/v1/models/gemini-3-flash:generateContent"),
        ("https://g.example/v1beta/openai/", "/v1beta/models/gemini-3-flash:generateContent"),
    ],
)
def test_the_version_of_the_address_is_kept_or_added(base: str, path: str) -> None:
    assert built(call(), base).url.path == path


def test_an_access_token_travels_as_bearer() -> None:
    endpoint = Endpoint(base_url="https://g.example", api_key=SecretStr("ya29.of-the-test"))
    headers = ADAPTER.build_request(call(), endpoint).headers
    assert headers["authorization"] == "Bearer ya29.of-the-test"
    assert "x-goog-api-key" not in headers


def test_a_stream_is_asked_for_as_server_sent_events() -> None:
    url = built(call(), stream=True).url
    assert (url.path, url.query) == ("/v1beta/models/gemini-3-flash:streamGenerateContent", b"alt=sse")


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("models/gemini-3-flash", "models/gemini-3-flash"),
        ("tunedModels/mine-1", "tunedModels/mine-1"),
        ("a b?c", "models/a%20b%3Fc"),
    ],
)
def test_a_model_may_be_named_by_its_resource(model: str, path: str) -> None:
    assert f"/v1beta/{path}:generateContent" == built(call(model=model)).url.raw_path.decode()


@pytest.mark.parametrize("model", ["../../admin", "models/..", "a//b", ""])
def test_a_model_cannot_leave_its_folder(model: str) -> None:
    with pytest.raises(UsageError):
        built(call(model=model))


@pytest.mark.parametrize(
    ("environ", "base"),
    [
        ({}, "https://generativelanguage.googleapis.com/v1beta"),
        ({"GOOGLE_GENAI_API_VERSION": "v1"}, "https://generativelanguage.googleapis.com/v1"),
        ({"GOOGLE_GENAI_API_VERSION": "beta"}, "https://generativelanguage.googleapis.com/v1beta"),
        ({"GOOGLE_GEMINI_BASE_URL": "https://p.example/x/"}, "https://p.example/x/v1beta"),
        ({"GOOGLE_GEMINI_BASE_URL": "https://p.example/v1"}, "https://p.example/v1"),
        (
            {"GOOGLE_GEMINI_BASE_URL": "https://p.example", "GOOGLE_GENAI_API_VERSION": "v1alpha"},
            "https://p.example/v1alpha",
        ),
    ],
)
def test_the_environment_names_host_and_version(environ: dict[str, str], base: str) -> None:
    assert ROW.base_url_from(environ) == base


def test_nothing_in_the_environment_names_no_address() -> None:
    assert ROW.base_url_named({}) is None


def test_the_key_travels_in_its_header_and_never_in_the_address() -> None:
    request = built(call())
    assert request.headers["x-goog-api-key"] == "key-of-the-test"
    assert "authorization" not in request.headers
    assert "key-of-the-test" not in str(request.url)


def test_a_token_travels_as_bearer() -> None:
    endpoint = Endpoint(base_url="https://g.example", api_key=SecretStr("token-of-the-test"), bearer=True)
    headers = ADAPTER.build_request(call(), endpoint).headers
    assert headers["authorization"] == "Bearer token-of-the-test"
    assert "x-goog-api-key" not in headers


def test_gemini_is_another_name_for_google() -> None:
    assert split_model("gemini/gemini-3-flash") == ("google", "gemini-3-flash")
    assert adapter("gemini") is ADAPTER


# Requests


def test_all_settings_go_into_the_generation_config() -> None:
    asked = Settings(temperature=0.5, max_tokens=9, top_p=0.25, stop=("END",), seed=0)
    assert sent(call(settings=asked)) == {
        "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
        "generationConfig": {
            "temperature": 0.5,
            "topP": 0.25,
            "maxOutputTokens": 9,
            "stopSequences": ["END"],
            "seed": 0,
        },
    }


def test_a_plain_call_is_its_contents_only() -> None:
    assert sent(call()) == {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}


def test_instructions_wherever_they_stand_become_the_system_instruction() -> None:
    body = sent(call(Message("system", "a"), Message("user", "hi"), Message("developer", "b")))
    assert body["systemInstruction"] == {"parts": [{"text": "a"}, {"text": "b"}]}
    assert body["contents"] == [{"role": "user", "parts": [{"text": "hi"}]}]


def test_instructions_alone_are_said_by_the_user() -> None:
    assert sent(call(Message("system", "a"))) == {"contents": [{"role": "user", "parts": [{"text": "a"}]}]}


def test_neighbours_of_one_role_become_one_turn() -> None:
    body = sent(call(Message("user", "a"), Message("user", "b"), Message("assistant", "c"), Message("assistant", "d")))
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "a"}, {"text": "b"}]},
        {"role": "model", "parts": [{"text": "c"}, {"text": "d"}]},
    ]


def test_an_assistant_that_said_nothing_is_left_out() -> None:
    body = sent(call(Message("user", "a"), Message("assistant", ""), Message("user", "b")))
    assert [turn["role"] for turn in body["contents"]] == ["user"]


def test_bytes_go_inline_and_addresses_as_files() -> None:
    parts = (
        Text("look"),
        Image("image/png", b"\x89P"),
        Image(url="https://h.example/a.jpg", media_type="image/jpeg"),
        Document("application/pdf", b"%PDF"),
        Document(url="https://h.example/b"),
    )
    assert sent(call(Message("user", parts)))["contents"][0]["parts"] == [
        {"text": "look"},
        {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(b"\x89P").decode()}},
        {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://h.example/a.jpg"}},
        {"inlineData": {"mimeType": "application/pdf", "data": base64.b64encode(b"%PDF").decode()}},
        {"fileData": {"fileUri": "https://h.example/b"}},
    ]


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        (ToolChoice("auto"), {"mode": "AUTO"}),
        (ToolChoice("none"), {"mode": "NONE"}),
        (ToolChoice("required"), {"mode": "ANY"}),
        (ToolChoice("tool", "weather"), {"mode": "ANY", "allowedFunctionNames": ["weather"]}),
    ],
)
def test_a_tool_choice_is_a_mode(choice: ToolChoice, config: dict[str, object]) -> None:
    assert sent(call(tools=(WEATHER,), tool_choice=choice))["toolConfig"] == {"functionCallingConfig": config}


def test_without_a_choice_no_mode_is_sent() -> None:
    assert "toolConfig" not in sent(call(tools=(WEATHER,)))


def test_strict_tools_are_validated() -> None:
    body = sent(call(tools=(Tool("weather", "", WEATHER.parameters, strict=True),)))
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}


def test_tools_are_declared_and_one_without_parameters_has_none() -> None:
    assert sent(call(tools=(WEATHER, Tool("now"))))["tools"] == [
        {
            "functionDeclarations": [
                {"name": "weather", "description": "Of a city", "parametersJsonSchema": WEATHER.parameters},
                {"name": "now"},
            ]
        }
    ]


def test_extra_adds_tools_of_the_providers_own() -> None:
    body = sent(call(tools=(Tool("now"),), settings=Settings(extra={"tools": [{"googleSearch": {}}]})))
    assert body["tools"] == [{"functionDeclarations": [{"name": "now"}]}, {"googleSearch": {}}]


def test_extra_adds_to_the_generation_config() -> None:
    asked = Settings(temperature=1.0, extra={"generationConfig": {"topK": 4}, "safetySettings": []})
    body = sent(call(settings=asked))
    assert body["generationConfig"] == {"temperature": 1.0, "topK": 4}
    assert body["safetySettings"] == []


@pytest.mark.parametrize(
    "extra",
    [
        {"generationConfig": {"maxOutputTokens": 1}},
        {"generationConfig": 5},
        {"generation_config": {}},
        {"contents": []},
        {"tools": 1},
    ],
)
def test_extra_may_not_hold_what_has_a_setting(extra: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="extra"):
        sent(call(settings=Settings(extra=extra)))


def test_a_schema_and_plain_json_are_asked_for_by_media_type() -> None:
    schema: dict[str, object] = {"type": "object", "properties": {"a": {"type": "integer"}}}
    config = sent(call(output=Output("schema", schema)))["generationConfig"]
    assert config == {"responseMimeType": "application/json", "responseJsonSchema": schema}
    assert sent(call(output=Output("json")))["generationConfig"] == {"responseMimeType": "application/json"}


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        ("gemini-3-flash", "none", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3-flash", "minimal", {"thinkingLevel": "MINIMAL", "includeThoughts": True}),
        ("gemini-3.1-pro", "none", {"thinkingLevel": "LOW"}),
        ("gemini-3.1-pro", "medium", {"thinkingLevel": "MEDIUM", "includeThoughts": True}),
        ("gemini-flash-latest", "low", {"thinkingLevel": "LOW", "includeThoughts": True}),
        ("models/gemini-10-pro", "max", {"thinkingLevel": "HIGH", "includeThoughts": True}),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-pro", "none", {"thinkingBudget": 128}),
        ("gemini-2.5-flash", "medium", {"thinkingBudget": 8192, "includeThoughts": True}),
        ("gemini-2.5-flash", "max", {"thinkingBudget": 24576, "includeThoughts": True}),
        ("gemini-2.5-pro", "max", {"thinkingBudget": 32768, "includeThoughts": True}),
        ("gemini-3-flash", 500, {"thinkingBudget": 500, "includeThoughts": True}),
        ("gemini-2.5-flash", 0, {"thinkingBudget": 0}),
    ],
)
def test_an_effort_is_a_level_from_gemini_3_on_and_a_budget_before(
    model: str, effort: Effort | int, config: dict[str, object]
) -> None:
    body = sent(call(model=model, settings=Settings(reasoning=effort)))
    assert body["generationConfig"] == {"thinkingConfig": config}


# Tools in a conversation


def test_results_follow_the_order_of_their_calls_and_come_before_what_the_user_says() -> None:
    calls = (ToolCall("a", "weather", '{"city": "Rome"}'), ToolCall("b", "weather", '{"city": "Oslo"}'))
    body = sent(
        call(
            Message("user", "hi"),
            assistant("one moment", calls),
            Message("tool", "cold", tool_call_id="b", is_error=True),
            Message("tool", "warm", tool_call_id="a"),
            Message("user", "and?"),
        )
    )
    turns = body["contents"]
    assert [turn["role"] for turn in turns] == ["user", "model", "user"]
    assert turns[1]["parts"] == [
        {"text": "one moment"},
        {
            "functionCall": {"id": "a", "name": "weather", "args": {"city": "Rome"}},
            "thoughtSignature": "skip_thought_signature_validator",
        },
        {"functionCall": {"id": "b", "name": "weather", "args": {"city": "Oslo"}}},
    ]
    assert turns[2]["parts"] == [
        {"functionResponse": {"id": "a", "name": "weather", "response": {"output": "warm"}}},
        {"functionResponse": {"id": "b", "name": "weather", "response": {"error": "cold"}}},
        {"text": "and?"},
    ]


def test_before_gemini_3_a_foreign_call_needs_no_signature() -> None:
    body = sent(call(Message("user", "hi"), assistant("", [ToolCall("a", "now")]), model="gemini-2.5-flash"))
    assert body["contents"][1]["parts"] == [{"functionCall": {"id": "a", "name": "now", "args": {}}}]


def test_a_result_with_an_image_shows_it_after_the_results() -> None:
    parts = (Text("see"), Image("image/png", b"x"))
    body = sent(
        call(Message("user", "hi"), assistant("", [ToolCall("a", "now")]), Message("tool", parts, tool_call_id="a"))
    )
    assert [list(part) for part in body["contents"][2]["parts"]] == [["functionResponse"], ["inlineData"]]


@pytest.mark.parametrize(
    ("arguments", "args"), [("", {}), ("not json", {"arguments": "not json"}), ("[1]", {"arguments": [1]})]
)
def test_arguments_that_are_no_object_stay_sendable(arguments: str, args: object) -> None:
    body = sent(call(Message("user", "hi"), assistant("", [ToolCall("a", "now", arguments)])))
    assert body["contents"][1]["parts"][0]["functionCall"]["args"] == args


def test_two_calls_of_one_name_without_ids_get_distinct_ids() -> None:
    part = {"functionCall": {"name": "weather", "args": {"city": "Rome"}}}
    found = parse(answer(part, part)).tool_calls
    assert len({one.id for one in found}) == 2
    assert all(is_made(one.id) for one in found)


def test_made_ids_are_the_same_for_the_same_answer_and_not_in_the_next_turn() -> None:
    body = answer({"functionCall": {"name": "now"}})
    later = call(Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert parse(body).tool_calls == parse(body).tool_calls
    assert parse(body).tool_calls[0].id != parse(body, asked=later).tool_calls[0].id


def test_made_ids_are_not_sent() -> None:
    reply = parse(answer({"functionCall": {"name": "now"}}))
    result = Message("tool", "noon", tool_call_id=reply.tool_calls[0].id)
    for asked in (
        call(Message("user", "hi"), reply.message, result, model=model) for model in (MODEL, "gemini-2.5-pro")
    ):
        turns = sent(asked)["contents"]
        assert "id" not in turns[1]["parts"][0]["functionCall"]
        assert turns[2]["parts"] == [{"functionResponse": {"name": "now", "response": {"output": "noon"}}}]


def test_the_providers_own_turn_goes_back_as_it_came() -> None:
    parts = [
        {"text": "hm", "thought": True},
        {"text": "Look", "thoughtSignature": SIGNATURE},
        {
            "functionCall": {"id": "f1", "name": "weather", "args": {"n": 1.0, "big": 10**30}},
            "thoughtSignature": "Zg==",
        },
        {"functionCall": {"name": "now"}},
    ]
    reply = parse(answer(*parts))
    assert reply.message.opaque is not None
    assert SIGNATURE.encode() in reply.message.opaque.data
    request = built(call(Message("user", "hi"), reply.message, Message("user", "go on")))
    assert reply.message.opaque.data in request.content
    assert json.loads(request.content)["contents"][1] == {"role": "model", "parts": parts}


def test_the_own_turn_goes_to_no_other_model() -> None:
    reply = parse(answer({"text": "Look", "thoughtSignature": SIGNATURE}))
    body = sent(call(Message("user", "hi"), reply.message, model="gemini-2.5-pro"))
    assert body["contents"][1]["parts"] == [{"text": "Look"}]


def test_a_turn_of_plain_text_needs_no_form_of_its_own() -> None:
    assert parse(answer({"text": "a"}, {"text": "b"})).message == Message("assistant", "ab")
