"""Requests compared with those of google-genai, and answers made of its types."""

from __future__ import annotations

import json
import re
import warnings
from typing import Any, Final

import pytest

from kitaru.adapters.call import Effort, ModelCall, Output, Settings, Tool, ToolChoice
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.google import ADAPTER
from kitaru.adapters.message import Document, Image, Message, Text, ToolCall, assistant
from kitaru.adapters.reply import Usage
from kitaru.adapters.secret import SecretStr
from tests.adapters.recording import Recorder, Request, recorder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from google import genai
    from google.genai import types

pytestmark = pytest.mark.filterwarnings("ignore")

EXPLAINED: Final = {
    "base URL": "the SDK asks v1 unless told otherwise; v1 refuses fields that are sent here, so v1beta is the default",
    "headers": "the SDK also sends x-goog-api-client, which tells its own version",
    "snake case": "the SDK writes some names as mime_type, some as mimeType; the API's JSON reads both",
    "base64": "the SDK writes the URL-safe alphabet; the API's JSON reads both",
    "generationConfig": "the SDK writes an empty one where there are only tools",
}

KEY = "key-of-the-test"
ANSWER = {"candidates": [{"content": {"role": "model", "parts": [{"text": "a"}]}, "finishReason": "STOP"}]}
CITY: Final[dict[str, object]] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = Tool("weather", "Of a city", CITY)
DECLARED = types.Tool(
    function_declarations=[
        types.FunctionDeclaration(name="weather", description="Of a city", parameters_json_schema=CITY)
    ]
)
PNG = b"\x89PNG\xfb\xff"


def user(*parts: Any) -> Any:
    return types.Content(role="user", parts=[types.Part(text=one) if isinstance(one, str) else one for one in parts])


def model(*parts: Any) -> Any:
    return types.Content(role="model", parts=list(parts))


def by_sdk(
    server: Recorder, contents: Any, config: Any = None, name: str = "gemini-3-flash", *, stream: bool = False
) -> Request:
    options = types.HttpOptions(base_url=server.url, api_version="v1beta")
    client = genai.Client(api_key=KEY, http_options=options)
    try:
        if stream:
            list(client.models.generate_content_stream(model=name, contents=contents, config=config))
        else:
            client.models.generate_content(model=name, contents=contents, config=config)
    finally:
        client.close()
    return server.only


def alike(body: Any) -> Any:
    """Return a body in one spelling, where two are explained."""
    match body:
        case list():
            return [alike(one) for one in body]
        case dict():
            found = {re.sub("_([a-z])", lambda at: at[1].upper(), key): alike(value) for key, value in body.items()}
            return {key: value for key, value in found.items() if (key, value) != ("generationConfig", {})}
        case str():
            return body.replace("-", "+").replace("_", "/")
        case _:
            return body


def same(call: ModelCall, contents: Any, config: Any = None, *, stream: bool = False) -> None:
    body = f"data: {json.dumps(ANSWER)}\r\n\r\n".encode() if stream else ANSWER
    with recorder(body, content_type="text/event-stream" if stream else "application/json") as server:
        theirs = by_sdk(server, contents, config, call.model, stream=stream)
        ours = ADAPTER.build_request(call, Endpoint(base_url=server.url, api_key=SecretStr(KEY)), stream=stream)
    assert ours.url.raw_path.decode() == theirs.path
    assert ours.headers["x-goog-api-key"] == theirs.headers["x-goog-api-key"] == KEY
    assert "authorization" not in theirs.headers
    assert alike(json.loads(ours.content)) == alike(theirs.json)


def call(*messages: Message, name: str = "gemini-3-flash", **kw: Any) -> ModelCall:
    return ModelCall("google", name, messages or (Message("user", "hi"),), **kw)


@pytest.mark.parametrize("stream", [False, True])
def test_plain_text(stream: bool) -> None:
    same(call(), "hi", stream=stream)


@pytest.mark.parametrize("name", ["models/gemini-3-flash", "tunedModels/mine-1"])
def test_models_named_by_their_resource(name: str) -> None:
    same(call(name=name), "hi")


def test_all_settings() -> None:
    asked = Settings(temperature=0.5, max_tokens=9, top_p=0.25, stop=("a", "b"), seed=7)
    config = types.GenerateContentConfig(
        system_instruction=types.Content(parts=[types.Part(text="be brief")]),
        temperature=0.5,
        max_output_tokens=9,
        top_p=0.25,
        stop_sequences=["a", "b"],
        seed=7,
    )
    same(call(Message("system", "be brief"), Message("user", "hi"), settings=asked), "hi", config)


@pytest.mark.parametrize(
    ("name", "effort", "thinking"),
    [
        ("gemini-3-flash", "low", {"thinking_level": "LOW", "include_thoughts": True}),
        ("gemini-2.5-flash", "high", {"thinking_budget": 24576, "include_thoughts": True}),
        ("gemini-2.5-flash", 0, {"thinking_budget": 0}),
    ],
)
def test_thinking(name: str, effort: Effort | int, thinking: dict[str, Any]) -> None:
    config = types.GenerateContentConfig(thinking_config=types.ThinkingConfig(**thinking))
    same(call(name=name, settings=Settings(reasoning=effort)), "hi", config)


@pytest.mark.parametrize(
    ("choice", "mode", "names"),
    [
        (None, None, None),
        (ToolChoice("auto"), "AUTO", None),
        (ToolChoice("none"), "NONE", None),
        (ToolChoice("required"), "ANY", None),
        (ToolChoice("tool", "weather"), "ANY", ["weather"]),
    ],
)
def test_tools_and_their_choice(choice: ToolChoice | None, mode: str | None, names: list[str] | None) -> None:
    chosen = types.FunctionCallingConfig(mode=mode, allowed_function_names=names) if mode else None
    config = types.GenerateContentConfig(
        tools=[DECLARED],
        tool_config=types.ToolConfig(function_calling_config=chosen) if chosen else None,
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    same(call(tools=(WEATHER,), tool_choice=choice), "hi", config)


def test_results_of_tools() -> None:
    calls = (ToolCall("a", "weather", '{"city": "Rome"}'), ToolCall("b", "weather", '{"city": "Oslo"}'))
    ours = call(
        Message("user", "hi"),
        assistant("wait", calls),
        Message("tool", "warm", tool_call_id="a"),
        Message("tool", "no such city", tool_call_id="b", is_error=True),
        name="gemini-2.5-flash",
    )
    theirs = [
        user("hi"),
        model(
            types.Part(text="wait"),
            *(
                types.Part(function_call=types.FunctionCall(id=one.id, name=one.name, args=json.loads(one.arguments)))
                for one in calls
            ),
        ),
        user(
            types.Part(function_response=types.FunctionResponse(id="a", name="weather", response={"output": "warm"})),
            types.Part(
                function_response=types.FunctionResponse(id="b", name="weather", response={"error": "no such city"})
            ),
        ),
    ]
    same(ours, theirs)


def test_a_schema() -> None:
    config = types.GenerateContentConfig(response_mime_type="application/json", response_json_schema=CITY)
    same(call(output=Output("schema", dict(CITY))), "hi", config)


def test_json() -> None:
    same(call(output=Output("json")), "hi", types.GenerateContentConfig(response_mime_type="application/json"))


def test_images_and_documents() -> None:
    parts = (
        Text("look"),
        Image("image/png", PNG[:6]),
        Image(url="https://h.example/a.png", media_type="image/png"),
        Document("application/pdf", b"%PDF-1"),
    )
    theirs = user(
        "look",
        types.Part(inline_data=types.Blob(mime_type="image/png", data=PNG[:6])),
        types.Part(file_data=types.FileData(mime_type="image/png", file_uri="https://h.example/a.png")),
        types.Part(inline_data=types.Blob(mime_type="application/pdf", data=b"%PDF-1")),
    )
    same(call(Message("user", parts)), [theirs])


def test_the_own_turn_is_what_the_sdk_sends_back() -> None:
    answered = types.GenerateContentResponse(
        candidates=[
            types.Candidate(
                content=model(
                    types.Part(text="hm", thought=True),
                    types.Part(
                        function_call=types.FunctionCall(id="f1", name="weather", args={"city": "Rome"}),
                        thought_signature=b"signed by them",
                    ),
                ),
                finish_reason="STOP",
            )
        ]
    )
    body = answered.model_dump_json(by_alias=True, exclude_none=True).encode()
    reply = ADAPTER.parse_response(call(), 200, {}, body)
    result = types.FunctionResponse(id="f1", name="weather", response={"output": "warm"})
    theirs = [user("hi"), answered.candidates[0].content, user(types.Part(function_response=result))]
    same(call(Message("user", "hi"), reply.message, Message("tool", "warm", tool_call_id="f1")), theirs)


def test_an_answer_of_the_sdks_types_is_read() -> None:
    answered = types.GenerateContentResponse(
        candidates=[
            types.Candidate(
                content=model(
                    types.Part(text="thinking", thought=True),
                    types.Part(text="It is warm.", thought_signature=b"\xfb\xff"),
                    types.Part(function_call=types.FunctionCall(id="f1", name="weather", args={"city": "Rome"})),
                ),
                finish_reason=types.FinishReason.STOP,
                finish_message="done",
                index=0,
            )
        ],
        model_version="gemini-3-flash-001",
        response_id="resp-1",
        usage_metadata=types.GenerateContentResponseUsageMetadata(
            prompt_token_count=10,
            cached_content_token_count=4,
            candidates_token_count=6,
            thoughts_token_count=20,
            tool_use_prompt_token_count=5,
            total_token_count=41,
        ),
    )
    reply = ADAPTER.parse_response(call(), 200, {}, answered.model_dump_json(by_alias=True, exclude_none=True).encode())
    assert (reply.text, reply.reasoning, reply.finish) == ("It is warm.", "thinking", "tool_calls")
    assert reply.tool_calls == (ToolCall("f1", "weather", '{"city":"Rome"}'),)
    assert (reply.model, reply.request_id) == ("gemini-3-flash-001", "resp-1")
    assert reply.usage == Usage(15, 26, cached_input=4, reasoning=20)


@pytest.mark.parametrize("reason", list(types.FinishReason))
def test_every_finish_reason_of_the_sdk_is_read(reason: Any) -> None:
    answered = types.GenerateContentResponse(
        candidates=[types.Candidate(content=model(types.Part(text="a")), finish_reason=reason)]
    )
    reply = ADAPTER.parse_response(call(), 200, {}, answered.model_dump_json(by_alias=True, exclude_none=True).encode())
    assert reply.text == "a"


@pytest.mark.parametrize("reason", list(types.BlockedReason))
def test_every_block_reason_of_the_sdk_is_a_filter(reason: Any) -> None:
    feedback = types.GenerateContentResponsePromptFeedback(block_reason=reason)
    answered = types.GenerateContentResponse(prompt_feedback=feedback)
    reply = ADAPTER.parse_response(call(), 200, {}, answered.model_dump_json(by_alias=True, exclude_none=True).encode())
    assert reply.finish == "content_filter"


def test_a_stream_of_the_sdks_types_is_read_by_both_alike() -> None:
    def chunk(*parts: Any, **more: Any) -> bytes:
        found = types.GenerateContentResponse(
            candidates=[types.Candidate(content=model(*parts), finish_reason=more.pop("finish", None))], **more
        )
        return f"data: {found.model_dump_json(by_alias=True, exclude_none=True)}\r\n\r\n".encode()

    usage = types.GenerateContentResponseUsageMetadata(prompt_token_count=3, candidates_token_count=4)
    body = (
        chunk(types.Part(text="Grüße, "))
        + chunk(types.Part(text="wörld"))
        + chunk(
            types.Part(function_call=types.FunctionCall(id="f", name="now", args={})),
            finish="STOP",
            usage_metadata=usage,
        )
    )
    with recorder(body, content_type="text/event-stream") as server:
        options = types.HttpOptions(base_url=server.url, api_version="v1beta")
        client = genai.Client(api_key=KEY, http_options=options)
        theirs = list(client.models.generate_content_stream(model="gemini-3-flash", contents="hi"))
        client.close()
    parser = ADAPTER.parse_stream(call(), 200, {})
    deltas = parser.feed(body)
    reply = parser.finish()
    assert [one.text for one in deltas if one.kind == "text"] == [one.text for one in theirs if one.text]
    assert reply.text == "Grüße, wörld"
    assert reply.tool_calls == (ToolCall("f", "now", "{}"),)
    assert reply.usage == Usage(3, 4)


def test_every_difference_is_explained() -> None:
    with recorder(ANSWER) as server:
        theirs = by_sdk(server, "hi")
        ours = ADAPTER.build_request(call(), Endpoint(base_url=server.url, api_key=SecretStr(KEY)))
    additional = {name for name in theirs.headers if name.startswith("x-")} - set(ours.headers)
    assert additional == {"x-goog-api-client"}
    assert all(EXPLAINED.values())
