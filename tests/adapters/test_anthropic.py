from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.adapters.anthropic import ADAPTER, DEFAULT_MAX_TOKENS, ROW
from kitaru.adapters.call import Effort, ModelCall, Output, Settings, Tool, ToolChoice
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.message import Document, Image, Message, Text, ToolCall, assistant
from kitaru.adapters.providers import adapter
from kitaru.adapters.reply import Delta, Reply, Usage, reply_of, require_finished
from kitaru.adapters.secret import SecretStr
from kitaru.errors import (
    AnswerError,
    CredentialError,
    ModelConnectionError,
    ModelError,
    ProviderError,
    UnsupportedError,
    UsageError,
)
from tests.adapters.damage import bodies, changed, cuts, torn
from tests.cases import cases

MODEL = "claude-sonnet-4-6"
HEADERS = {"content-type": "application/json", "request-id": "req_9"}
WEATHER = Tool("weather", "Of a city", {"type": "object", "properties": {"city": {"type": "string"}}})
ASKED = ToolCall("toolu_1", "weather", '{"city":"Oslo"}')
THINKING = {"type": "thinking", "thinking": "hm…", "signature": "EqQB/+8Q=="}
REDACTED = {"type": "redacted_thinking", "data": "Emwk/A=="}
USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}


def call(*messages: Message, model: str = MODEL, **kw: Any) -> ModelCall:
    return ModelCall("anthropic", model, messages or (Message("user", "hi"),), **kw)


def built(asked: ModelCall, base: str = "https://a.example", *, stream: bool = False, **kw: Any) -> Any:
    endpoint = Endpoint(base_url=base, api_key=SecretStr("key-of-the-test"), **kw)
    return ADAPTER.build_request(asked, endpoint, stream=stream)


def sent(asked: ModelCall) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(built(asked).content)
    return body


def turns(*messages: Message, model: str = MODEL) -> Any:
    return sent(call(*messages, model=model))["messages"]


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def answer(*content: object, stop: object = "end_turn", **more: object) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-6-20260101",
        "content": list(content),
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": 12, "output_tokens": 5},
        **more,
    }


def parse(
    body: object, status: int = 200, headers: Mapping[str, str] = HEADERS, asked: ModelCall | None = None
) -> Reply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ADAPTER.parse_response(asked or call(), status, headers, data)


def error_of(
    status: int, kind: str, message: str, headers: Mapping[str, str] = HEADERS, **more: object
) -> ProviderError:
    body = {"type": "error", "error": {"type": kind, "message": message, **more}, "request_id": "req_body"}
    with pytest.raises(ProviderError) as caught:
        parse(body, status, headers)
    return caught.value


def events(*payloads: dict[str, Any]) -> bytes:
    lines = [f"event: {one['type']}\ndata: {json.dumps(one, ensure_ascii=False)}\n\n" for one in payloads]
    return "".join(lines).encode("utf-8", "surrogatepass")


def pieces(message: dict[str, Any], *, every: int = 4) -> list[dict[str, Any]]:
    """Return the events that stream a message."""
    usage = message["usage"]
    start = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    found: list[dict[str, Any]] = [{"type": "message_start", "message": start}, {"type": "ping"}]
    for at, block in enumerate(message["content"]):
        begun, deltas = dict(block), []

        def cut(whole: str) -> list[str]:
            return [whole[place : place + every] for place in range(0, len(whole), every)]

        match block["type"]:
            case "text":
                begun["text"] = ""
                deltas = [{"type": "text_delta", "text": piece} for piece in cut(block["text"])]
            case "thinking":
                begun |= {"thinking": "", "signature": ""}
                deltas = [{"type": "thinking_delta", "thinking": piece} for piece in cut(block["thinking"])]
                deltas.append({"type": "signature_delta", "signature": block["signature"]})
            case "tool_use" | "server_tool_use":
                begun["input"] = {}
                whole = json.dumps(block["input"]) if block["input"] else ""
                deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in cut(whole)]
        found.append({"type": "content_block_start", "index": at, "content_block": begun})
        found += [delta(one, at) for one in deltas]
        found.append({"type": "content_block_stop", "index": at})
    last = {name: message.get(name) for name in ("stop_reason", "stop_sequence", "stop_details")}
    found.append({"type": "message_delta", "delta": last, "usage": {"output_tokens": usage["output_tokens"]}})
    return [*found, {"type": "message_stop"}]


def stream(data: bytes, asked: ModelCall | None = None) -> tuple[list[Delta], Reply]:
    parser = ADAPTER.parse_stream(asked or call(), 200, HEADERS)
    deltas = list(parser.feed(data))
    return deltas, parser.finish()


def delta(piece: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": piece}


def joined(deltas: list[Delta], kind: str, index: int = 0) -> str:
    return "".join(one.text for one in deltas if one.kind == kind and one.index == index)


# Addresses and credentials


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://a.example", "https://a.example/v1/messages"),
        ("https://a.example/", "https://a.example/v1/messages"),
        ("https://a.example/v1", "https://a.example/v1/messages"),
        ("https://a.example/v1/", "https://a.example/v1/messages"),
        ("https://a.example/v1/messages?beta=true", "https://a.example/v1/messages?beta=true"),
        ("https://a.example/anthropic?beta=true", "https://a.example/anthropic/v1/messages?beta=true"),
    ],
)
def test_the_base_url_may_end_in_v1_or_not(base: str, url: str) -> None:
    assert str(built(call(), base).url) == url


def test_a_key_goes_into_its_own_header_and_the_version_beside_it() -> None:
    headers = built(call()).headers
    assert headers["x-api-key"] == "key-of-the-test"
    assert headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in headers


def test_a_token_goes_as_bearer() -> None:
    headers = built(call(), bearer=True).headers
    assert headers["authorization"] == "Bearer key-of-the-test"
    assert "x-api-key" not in headers


def test_a_missing_key_is_named_by_its_variables() -> None:
    with pytest.raises(CredentialError) as caught:
        ADAPTER.build_request(call(), Endpoint(base_url="https://a.example"))
    assert caught.value.hint == "Set ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN, or pass api_key=."


def test_another_version_may_be_asked_for() -> None:
    headers = built(call(), headers={"Anthropic-Version": "2026-10-21"}).headers
    assert headers.get_list("anthropic-version") == ["2026-10-21"]


@pytest.mark.parametrize("asked", [Settings(temperature=1.0), Settings(top_p=0.9), Settings(extra={"top_k": 5})])
def test_sampling_under_a_version_without_it_is_refused_before_anything_is_sent(asked: Settings) -> None:
    with pytest.raises(UnsupportedError, match=r"version 2026-10-21 .* takes no (temperature|top_p|top_k)"):
        built(call(settings=asked), headers={"anthropic-version": "2026-10-21"})


def test_sampling_is_sent_under_the_usual_version() -> None:
    body = sent(call(settings=Settings(temperature=0.2, top_p=0.9)))
    assert (body["temperature"], body["top_p"]) == (0.2, 0.9)


def test_the_provider_is_registered() -> None:
    assert adapter("anthropic") is ADAPTER


# Settings


def test_a_bare_call_states_only_what_the_api_demands() -> None:
    assert sent(call()) == {
        "model": MODEL,
        "max_tokens": DEFAULT_MAX_TOKENS,
        "messages": [{"role": "user", "content": "hi"}],
    }


def test_settings_become_their_fields() -> None:
    body = sent(call(settings=Settings(max_tokens=5, stop=("a", "b"), extra={"metadata": {"user_id": "u"}})))
    assert body["max_tokens"] == 5
    assert body["stop_sequences"] == ["a", "b"]
    assert body["metadata"] == {"user_id": "u"}
    assert "stream" not in body


def test_a_stream_is_asked_for() -> None:
    assert json.loads(built(call(), stream=True).content)["stream"] is True


@pytest.mark.parametrize("name", ["model", "messages", "system", "max_tokens", "stop_sequences", "stream"])
def test_extra_may_not_hold_what_has_a_setting(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        sent(call(settings=Settings(extra={name: 1})))


def test_a_schema_is_the_output_s_format() -> None:
    schema: dict[str, object] = {"type": "object", "properties": {}, "additionalProperties": False}
    body = sent(call(output=Output("schema", schema, strict=True), settings=Settings(reasoning="low")))
    assert body["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": schema}}


def test_extra_adds_to_what_the_settings_put_into_an_object_or_a_list() -> None:
    search = {"type": "web_search_20260209", "name": "web_search"}
    extra: dict[str, object] = {
        "thinking": {"display": "summarized"},
        "output_config": {"effort": "xhigh"},
        "tools": [search],
        "tool_choice": {"disable_parallel_tool_use": True},
    }
    asked = Settings(reasoning="high", extra=extra)
    body = sent(call(settings=asked, tools=(WEATHER,), tool_choice=ToolChoice("auto")))
    assert body["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert body["output_config"] == {"effort": "xhigh"}
    assert [tool["name"] for tool in body["tools"]] == ["weather", "web_search"]
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}


# Thinking


@pytest.mark.parametrize(
    ("model", "asked", "thinking", "effort"),
    [
        ("claude-sonnet-4-6", "minimal", {"type": "adaptive"}, "low"),
        ("claude-sonnet-4-6", "max", {"type": "adaptive"}, "max"),
        ("claude-sonnet-4-6", 5000, {"type": "enabled", "budget_tokens": 5000}, None),
        ("claude-sonnet-4-6", 5, {"type": "enabled", "budget_tokens": 1024}, None),
        ("claude-sonnet-4-6", "none", {"type": "disabled"}, None),
        ("claude-sonnet-4-6", 0, {"type": "disabled"}, None),
        ("claude-haiku-4-5-20251001", "medium", {"type": "enabled", "budget_tokens": 8192}, None),
        ("claude-opus-4-20250514", "high", {"type": "enabled", "budget_tokens": 16384}, None),
        ("claude-opus-4-8", 5000, {"type": "adaptive"}, "medium"),
        ("claude-opus-5-5", "none", None, "low"),
        ("claude-fable-5", 0, None, "low"),
        ("claude-sonnet-5-5", "none", {"type": "between_tools"}, None),
        ("another-model", "high", {"type": "adaptive"}, "high"),
    ],
)
def test_thinking_is_asked_for_in_the_model_s_terms(
    model: str, asked: Effort | int, thinking: object, effort: str | None
) -> None:
    body = sent(call(model=model, settings=Settings(reasoning=asked)))
    assert body.get("thinking") == thinking
    assert body.get("output_config") == ({"effort": effort} if effort else None)


def test_a_budget_stays_below_the_tokens_there_are() -> None:
    body = sent(call(settings=Settings(reasoning=9000, max_tokens=4000)))
    assert (body["max_tokens"], body["thinking"]["budget_tokens"]) == (4000, 3999)


def test_a_budget_raises_the_default_of_tokens() -> None:
    body = sent(call(settings=Settings(reasoning=40_000)))
    assert body["max_tokens"] > body["thinking"]["budget_tokens"] == 40_000


def test_too_few_tokens_to_think_at_all_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="max_tokens=1024 leaves no room"):
        sent(call(settings=Settings(reasoning=1024, max_tokens=1024)))


def test_a_negative_budget_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="reasoning=-1"):
        sent(call(settings=Settings(reasoning=-1)))


# Messages


def test_instructions_are_the_system_prompt() -> None:
    assert sent(call(Message("system", "be brief"), Message("user", "hi")))["system"] == "be brief"


def test_several_instructions_are_its_blocks_in_order() -> None:
    body = sent(call(Message("system", "a"), Message("user", "hi"), Message("developer", "b")))
    assert body["system"] == [text("a"), text("b")]
    assert body["messages"] == [{"role": "user", "content": "hi"}]


def test_instructions_alone_are_said_by_the_user() -> None:
    body = sent(call(Message("system", "say hi")))
    assert body["messages"] == [{"role": "user", "content": "say hi"}]
    assert "system" not in body


def test_neighbours_of_one_role_become_one_turn() -> None:
    found = turns(Message("user", "a"), Message("user", "b"), assistant("c"), assistant("d"), Message("user", "e"))
    assert found == [
        {"role": "user", "content": [text("a"), text("b")]},
        {"role": "assistant", "content": [text("c"), text("d")]},
        {"role": "user", "content": "e"},
    ]


def test_results_of_tools_come_first_in_the_user_s_turn() -> None:
    two = (ASKED, ToolCall("toolu_2", "weather", ""))
    found = turns(
        Message("user", "hi"),
        assistant("let me see", two),
        Message("user", "quick"),
        Message("tool", "rain", tool_call_id="toolu_1"),
        Message("tool", "no such city", tool_call_id="toolu_2", is_error=True),
    )
    assert found[1]["content"] == [
        text("let me see"),
        USE,
        {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {}},
    ]
    assert found[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"},
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no such city", "is_error": True},
        text("quick"),
    ]


@pytest.mark.parametrize("name", ["call 1", "", "äöü", "a.b", "functions.get:0"])
def test_an_id_of_another_provider_is_rewritten_alike_in_call_and_result(name: str) -> None:
    found = turns(
        Message("user", "hi"),
        assistant("", (ToolCall(name, "weather", "{}"),)),
        Message("tool", "rain", tool_call_id=name),
    )
    written = found[1]["content"][0]["id"]
    assert written == found[2]["content"][0]["tool_use_id"] != name
    assert written.replace("_", "").isalnum()


def test_different_ids_stay_different() -> None:
    made = {turns(assistant("", (ToolCall(name, "t"),)))[0]["content"][0]["id"] for name in ("a.1", "a.2", "a_1")}
    assert len(made) == 3


def test_arguments_that_are_no_object_do_not_make_a_conversation_unsendable() -> None:
    found = turns(Message("user", "hi"), assistant("", (ToolCall("c1", "weather", '{"city": "Os'),)))
    assert found[1]["content"][0]["input"] == {"arguments": '{"city": "Os'}


def test_texts_of_white_space_are_left_out() -> None:
    found = turns(Message("user", "hi"), assistant(" \n"), Message("user", (Text(""), Text("there"))))
    assert found == [{"role": "user", "content": [text("hi"), text("there")]}]


def test_images_and_documents_are_blocks() -> None:
    parts = (
        Text("what?"),
        Image("image/png", b"\x89PNG"),
        Image(url="https://h.example/a.png"),
        Document("application/pdf", b"%PDF", name="a.pdf"),
        Document("text/csv", "ä,b".encode()),
        Document(url="https://h.example/a.pdf"),
    )
    assert turns(Message("user", parts))[0]["content"] == [
        text("what?"),
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}},
        {"type": "image", "source": {"type": "url", "url": "https://h.example/a.png"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(b"%PDF").decode()},
            "title": "a.pdf",
        },
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "ä,b"}},
        {"type": "document", "source": {"type": "url", "url": "https://h.example/a.pdf"}},
    ]


@pytest.mark.parametrize("part", [Document("application/zip", b"PK"), Document("text/plain", b"\xff\xfe")])
def test_a_document_that_the_api_cannot_read_is_refused(part: Document) -> None:
    with pytest.raises(UnsupportedError, match=part.media_type):
        turns(Message("user", (part,)))


def test_calls_in_the_history_bring_tools_that_cannot_be_called_where_the_call_has_none() -> None:
    said = (Message("user", "hi"), assistant("", (ASKED,)), Message("tool", "3", tool_call_id=ASKED.id))
    body = sent(call(*said))
    schema = {"type": "object", "properties": {}}
    assert body["tools"] == [{"name": ASKED.name, "input_schema": schema}]
    assert body["tool_choice"] == {"type": "none"}
    own = {"type": "web_search_20250305", "name": "web_search"}
    assert sent(call(*said, settings=Settings(extra={"tools": [own]})))["tools"] == [own]
    assert "tools" not in sent(call())


def test_a_tool_may_show_an_image() -> None:
    shown = Message("tool", (Text("here"), Image("image/png", b"\x89PNG")), tool_call_id="toolu_1")
    content = turns(Message("user", "hi"), assistant("", (ASKED,)), shown)[2]["content"][0]["content"]
    assert [block["type"] for block in content] == ["text", "image"]


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_a_picture_where_the_api_takes_none_is_refused(role: Any) -> None:
    with pytest.raises(UnsupportedError, match="images or documents"):
        turns(Message("user", "hi"), Message(role, (Image("image/png", b"\x89PNG"),)))


# Tools


def test_a_tool_states_its_schema_and_strictness_where_asked() -> None:
    strict = Tool("t", "", {"type": "object"}, strict=True)
    assert sent(call(tools=(WEATHER, strict)))["tools"] == [
        {"name": "weather", "description": "Of a city", "input_schema": WEATHER.parameters},
        {"name": "t", "input_schema": {"type": "object"}, "strict": True},
    ]


@pytest.mark.parametrize(
    ("choice", "written"),
    [
        (ToolChoice("auto"), {"type": "auto"}),
        (ToolChoice("none"), {"type": "none"}),
        (ToolChoice("required"), {"type": "any"}),
        (ToolChoice("tool", "weather"), {"type": "tool", "name": "weather"}),
    ],
)
def test_a_choice_of_tools_is_written_in_the_api_s_words(choice: ToolChoice, written: object) -> None:
    assert sent(call(tools=(WEATHER,), tool_choice=choice))["tool_choice"] == written


@pytest.mark.parametrize("model", ["claude-sonnet-5-5", "claude-opus-5-5", "claude-fable-5-1"])
def test_a_model_that_cannot_be_forced_is_not_asked(model: str) -> None:
    with pytest.raises(UnsupportedError, match="cannot be made to call a tool"):
        sent(call(model=model, tools=(WEATHER,), tool_choice=ToolChoice("required")))
    assert sent(call(model=model, tools=(WEATHER,), tool_choice=ToolChoice("none")))["tool_choice"] == {"type": "none"}


# Capabilities


@pytest.mark.parametrize(
    ("model", "lacked"),
    [
        ("claude-sonnet-4-6", set[str]()),
        ("claude-haiku-4-5-20251001", set[str]()),
        ("claude-opus-4-7", {"temperature", "top_p"}),
        ("claude-sonnet-5-5", {"temperature", "top_p"}),
        ("claude-mythos-preview", {"temperature", "top_p"}),
        ("claude-sonnet-4-20250514", {"json_schema"}),
        ("claude-sonnet-4-5-20250929", set[str]()),
        ("claude-3-5-haiku-20241022", {"reasoning", "json_schema"}),
    ],
)
def test_what_a_model_lacks_is_known(model: str, lacked: set[str]) -> None:
    assert ROW.capabilities.features - ROW.capabilities.of(model) == lacked


def test_the_api_has_neither_seed_nor_json_mode_nor_context_length() -> None:
    assert not {"seed", "json_mode", "context_length"} & ROW.capabilities.features


# Replies


def test_a_reply_is_read() -> None:
    reply = parse(answer(text("hel"), text("lo")))
    assert (reply.text, reply.finish, reply.model) == ("hello", "stop", "claude-sonnet-4-6-20260101")
    assert (reply.request_id, reply.warnings, reply.refusal) == ("req_9", (), None)
    assert reply.message == assistant("hello")


def test_tool_calls_are_read() -> None:
    reply = parse(answer(text("let me see"), USE, {**USE, "id": "toolu_2", "input": {}}, stop="tool_use"))
    assert reply.finish == "tool_calls"
    assert reply.tool_calls == (ASKED, ToolCall("toolu_2", "weather", "{}"))


def test_calls_without_ids_get_distinct_ones() -> None:
    bare = {"type": "tool_use", "name": "weather", "input": {}}
    names = [one.id for one in parse(answer(bare, bare, stop="tool_use")).tool_calls]
    assert len(set(names)) == 2
    assert all(names)


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("pause_turn", "other"),
        ("something_new", "other"),
        (None, "other"),
        (7, "other"),
    ],
)
def test_why_it_stopped_is_put_in_neutral_words(stop: object, finish: str) -> None:
    assert parse(answer(text("x"), stop=stop)).finish == finish


def test_a_call_with_a_plain_stop_is_a_call() -> None:
    assert parse(answer(USE, stop="end_turn")).finish == "tool_calls"


def test_a_refusal_is_a_reply_with_its_explanation() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "Not this."}
    reply = parse(answer(stop="refusal", stop_details=details))
    assert (reply.finish, reply.refusal) == ("content_filter", "Not this.")
    assert "the provider puts the refusal down to 'bio'" in reply.warnings
    with pytest.raises(AnswerError, match="Not this") as caught:
        require_finished("anthropic", reply)
    assert reply_of(caught.value) == reply


def test_a_refusal_without_words_is_no_finished_answer_either() -> None:
    with pytest.raises(AnswerError, match="content filter"):
        require_finished("anthropic", parse(answer(stop="refusal")))


def test_tokens_spent_on_thinking_alone_are_no_answer() -> None:
    with pytest.raises(AnswerError, match="token limit"):
        require_finished("anthropic", parse(answer(THINKING, stop="max_tokens")))


def test_a_paused_turn_goes_back_as_it_came() -> None:
    block = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    reply = parse(answer(block, stop="pause_turn"))
    assert turns(Message("user", "hi"), reply.message)[1]["content"] == [block]


def test_all_of_the_input_is_counted() -> None:
    usage = {"input_tokens": 100, "cache_read_input_tokens": 900, "cache_creation_input_tokens": 50, "output_tokens": 7}
    assert parse(answer(text("x"), usage=usage)).usage == Usage(1050, 7, 900, 50)


def test_everything_that_has_a_price_is_kept() -> None:
    usage = {
        "input_tokens": 1,
        "output_tokens": 9,
        "cache_creation_input_tokens": 30,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        "output_tokens_details": {"thinking_tokens": 4},
        "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1},
        "service_tier": "priority",
    }
    assert parse(answer(text("x"), usage=usage)).usage == Usage(
        input=31, output=9, cached_input=0, cache_write=30, reasoning=4, cache_write_1h=20, searches=2, tier="priority"
    )


def test_the_usual_tier_has_no_name_and_the_fast_one_has() -> None:
    usage = {"input_tokens": 1, "output_tokens": 1, "service_tier": "standard"}
    assert parse(answer(text("x"), usage=usage)).usage.tier == ""
    assert parse(answer(text("x"), usage={**usage, "speed": "fast"})).usage.tier == "fast"


@pytest.mark.parametrize("usage", [7, {"input_tokens": "12", "output_tokens": 1}, {"cache_read_input_tokens": -1}])
def test_usage_that_cannot_be_read_spoils_no_answer(usage: object) -> None:
    reply = parse(answer(text("x"), usage=usage))
    assert reply.text == "x"
    assert reply.usage.input is None
    assert "the provider's usage could not be read in full" in reply.warnings


def test_an_absent_usage_is_unknown_not_nothing() -> None:
    assert parse(answer(text("x"), usage=None)).usage == Usage()


# Turns that go back as they came


def test_thinking_goes_back_byte_for_byte() -> None:
    thinking = '{"type":"thinking","thinking":"h\\u006d","signature":"Eq/+=="}'
    redacted = '{"data":"\\/x",  "type":"redacted_thinking"}'
    content = f'[ {thinking}, {redacted},\n{{"type":"text","text":"hello"}} ]'
    body = json.dumps(answer()).replace('"content": []', f'"content": {content}').encode()
    reply = parse(body, asked=call(model="claude-opus-4-6"))
    assert reply.reasoning == "hm"
    request = built(call(Message("user", "hi"), reply.message, model="claude-opus-4-6"))
    assert thinking.encode() in request.content
    assert redacted.encode() in request.content


def test_thinking_is_not_sent_to_another_model() -> None:
    reply = parse(answer(THINKING, REDACTED, text("hello")))
    assert turns(Message("user", "hi"), reply.message, model="claude-opus-4-6")[1]["content"] == "hello"


def test_an_edited_turn_is_written_anew() -> None:
    message = parse(answer(THINKING, text("hello"))).message
    edited = Message("assistant", "HELLO", opaque=message.opaque)
    assert turns(Message("user", "hi"), edited)[1]["content"] == "HELLO"


def test_blank_texts_of_a_turn_do_not_go_back() -> None:
    reply = parse(answer(THINKING, text("\n\n"), USE, stop="tool_use"))
    assert turns(Message("user", "hi"), reply.message)[1]["content"] == [THINKING, USE]


def test_a_turn_of_text_and_calls_alone_is_not_kept_twice() -> None:
    assert parse(answer({**text("x"), "citations": None}, USE, stop="tool_use")).message.opaque is None


# Errors


def test_an_error_names_the_request_of_its_body_where_no_header_does() -> None:
    error = error_of(500, "api_error", "Internal server error", {})
    assert (error.request_id, error.retryable, error.reason) == ("req_body", True, "overloaded")


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (429, "rate_limit_error", "rate_limit"),
        (529, "overloaded_error", "overloaded"),
        (504, "timeout_error", "overloaded"),
    ],
)
def test_what_may_pass_is_retryable(status: int, kind: str, reason: str) -> None:
    error = error_of(status, kind, "later", {"retry-after": "7"})
    assert (error.retryable, error.reason, error.retry_after, error.provider_code) == (True, reason, 7.0, kind)


@pytest.mark.parametrize(
    ("status", "kind", "message", "more"),
    [
        (429, "rate_limit_error", "limit", {"details": {"error_code": "enforced_spend_limit_reached"}}),
        (400, "invalid_request_error", "Your credit balance is too low to access the API.", {}),
        (400, "invalid_request_error", "You have reached your specified API usage limits.", {}),
        (402, "billing_error", "pay", {}),
    ],
)
def test_a_spent_quota_is_not_retried(status: int, kind: str, message: str, more: dict[str, Any]) -> None:
    error = error_of(status, kind, message, **more)
    assert (error.retryable, error.reason) == (False, "quota")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "prompt is too long: 208310 tokens > 200000 maximum"),
        (400, "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000"),
        (413, "Request exceeds the maximum size"),
    ],
)
def test_too_long_a_prompt_is_told_apart(status: int, message: str) -> None:
    assert error_of(status, "invalid_request_error", message).reason == "context"


@pytest.mark.parametrize(
    ("message", "setting"),
    [
        ("temperature: Extra inputs are not permitted", "temperature"),
        ("`temperature` is deprecated for this model.", "temperature"),
        ("`temperature` may only be set to 1 when thinking is enabled or in adaptive mode.", "temperature"),
        ("`temperature` and `top_p` cannot both be specified for this model. Please use only one.", "temperature"),
        ("top_p: Extra inputs are not permitted", "top_p"),
        ("This model does not support the effort parameter.", "reasoning"),
        ("adaptive thinking is not supported on this model", "reasoning"),
        ('"thinking.type.disabled" is not supported for this model. Use "thinking.type.adaptive".', "reasoning"),
        ("Thinking may not be enabled when tool_choice forces tool use.", "reasoning"),
        ("messages: at least one message is required", ""),
        ("max_tokens: 300000 > 128000, which is the maximum allowed number of output tokens", ""),
    ],
)
def test_a_setting_that_is_refused_is_named(message: str, setting: str) -> None:
    assert error_of(400, "invalid_request_error", message).refuses == setting


def test_a_refused_key_is_a_credential_error() -> None:
    body = {"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}
    with pytest.raises(CredentialError, match="ANTHROPIC_API_KEY"):
        parse(body, 401)


def test_an_error_inside_a_success_is_an_error() -> None:
    body = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "req_body"}
    with pytest.raises(ProviderError, match="Overloaded") as caught:
        parse(body, headers={})
    assert (caught.value.retryable, caught.value.reason, caught.value.request_id) == (True, "overloaded", "req_body")


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        answer() | {"content": None},
        answer() | {"content": "x"},
        answer("x"),
        answer({"type": "text"}),
        answer({"type": "text", "text": 7}),
        answer({"text": "x"}),
    ],
)
def test_a_body_of_another_form_is_malformed(body: object) -> None:
    with pytest.raises(ProviderError) as caught:
        parse(body)
    assert (caught.value.reason, caught.value.request_id, caught.value.retryable) == ("invalid", "req_9", False)


# Streams

ANSWERS = {
    "text": answer(text("Grüße 👋 from here")),
    "empty": answer(),
    "thinking": answer(THINKING, REDACTED, text("yes")),
    "calls": answer(
        text("see"),
        USE,
        {**USE, "id": "toolu_2", "input": {}},
        {**USE, "id": "toolu_3", "input": {"n": [1, 2.5]}},
        stop="tool_use",
    ),
    "search": answer(
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
        text("found"),
    ),
    "refusal": answer(
        text("I"), stop="refusal", stop_details={"type": "refusal", "category": None, "explanation": "no"}
    ),
    "length": answer(THINKING, stop="max_tokens"),
    "usage": answer(
        text("x"),
        usage={"input_tokens": 3, "cache_read_input_tokens": 5, "output_tokens": 44, "service_tier": "priority"},
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_stream_gives_the_plain_answer_s_reply(name: str) -> None:
    body = ANSWERS[name]
    _, streamed = stream(events(*pieces(body)))
    plain = parse(body)
    for field in ("text", "finish", "usage", "model", "request_id", "refusal", "reasoning", "warnings", "tool_calls"):
        assert getattr(streamed, field) == getattr(plain, field), field
    assert turns(Message("user", "hi"), streamed.message) == turns(Message("user", "hi"), plain.message)


def test_the_raw_body_of_a_stream_is_that_of_the_plain_form() -> None:
    _, reply = stream(events(*pieces(ANSWERS["calls"])))
    assert {**json.loads(reply.raw), "stop_details": 0} == {**ANSWERS["calls"], "stop_details": 0}


def test_pieces_come_as_they_arrive() -> None:
    deltas, reply = stream(
        events(*pieces(answer(THINKING, text("see"), USE, {**USE, "id": "toolu_2"}, stop="tool_use")))
    )
    assert joined(deltas, "reasoning") == "hm…"
    assert joined(deltas, "text") == reply.text == "see"
    begun = [one for one in deltas if one.kind == "tool_call" and one.name]
    assert [(one.index, one.id, one.name) for one in begun] == [(0, "toolu_1", "weather"), (1, "toolu_2", "weather")]
    assert json.loads(joined(deltas, "tool_call", 1)) == {"city": "Oslo"}


def test_a_call_without_pieces_has_no_arguments() -> None:
    _, reply = stream(events(*pieces(answer({**USE, "input": {}}, stop="tool_use"))))
    assert reply.tool_calls == (ToolCall("toolu_1", "weather", "{}"),)


def test_a_call_given_whole_at_its_start_is_read() -> None:
    found = pieces(answer(USE, stop="tool_use"))
    found = [one for one in found if one["type"] != "content_block_delta"]
    found[2]["content_block"]["input"] = {"city": "Oslo"}
    deltas, reply = stream(events(*found))
    assert reply.tool_calls == (ASKED,)
    assert joined(deltas, "tool_call") == '{"city":"Oslo"}'


def test_a_call_that_the_token_limit_cuts_keeps_what_was_written() -> None:
    found = pieces(answer(THINKING, USE, stop="max_tokens"), every=8)
    last = max(at for at, one in enumerate(found) if one["type"] == "content_block_delta")
    _, reply = stream(events(*found[:last], *found[last + 1 :]))
    assert (reply.finish, reply.tool_calls[0].arguments) == ("length", '{"city":')
    assert turns(Message("user", "hi"), reply.message)[1]["content"][0]["input"] == {"arguments": '{"city":'}


def test_a_text_s_citations_are_kept() -> None:
    cited = {"type": "char_location", "cited_text": "x", "document_index": 0}
    found = pieces(answer(text("so")))
    found.insert(
        4, {"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": cited}}
    )
    _, reply = stream(events(*found))
    assert json.loads(reply.raw)["content"] == [{**text("so"), "citations": [cited]}]


def test_usage_so_far_is_replaced_not_added() -> None:
    found = pieces(answer(text("x")))
    found[-2]["usage"] = {"input_tokens": 20, "cache_read_input_tokens": 4, "output_tokens": 30}
    _, reply = stream(events(*found))
    assert reply.usage == Usage(24, 30, 4)


def test_events_and_pieces_that_are_new_are_let_pass() -> None:
    found = pieces(answer(text("hello")))
    found.insert(3, {"type": "something_new", "index": 99})
    found.insert(4, delta({"type": "new_delta", "x": 1}))
    assert stream(events(*found) + b"data: [DONE]\n\n")[1].text == "hello"


def test_an_error_in_the_middle_is_an_error() -> None:
    fault = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "req_s"}
    parser = ADAPTER.parse_stream(call(), 200, {})
    with pytest.raises(ProviderError, match="Overloaded") as caught:
        parser.feed(events(*pieces(answer(text("hello")))[:4], fault))
    assert (caught.value.retryable, caught.value.request_id, caught.value.status) == (True, "req_s", 200)


@pytest.mark.parametrize("kept", range(len(pieces(answer(text("hello"))))))
def test_a_stream_without_its_end_is_no_answer(kept: int) -> None:
    with pytest.raises(ModelConnectionError, match="message_stop") as caught:
        stream(events(*pieces(answer(text("hello")))[:kept]))
    assert caught.value.sent


def test_a_plain_answer_instead_of_a_stream_is_read() -> None:
    assert stream(json.dumps(answer(text("hello")), indent=1).encode())[1].text == "hello"


def test_a_bare_error_instead_of_a_stream_is_found() -> None:
    with pytest.raises(ProviderError, match="Overloaded"):
        stream(b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n')


@pytest.mark.parametrize(
    "data",
    [
        b"data: {\n\n",
        b"data: 7\n\n",
        b"<html>bad gateway</html>\n",
        events({"type": "message_stop"}),
        events(delta({"type": "text_delta", "text": "x"})),
        events({"type": "message_start", "message": []}),
        events(pieces(answer())[0], {"type": "content_block_start", "index": "x", "content_block": text("")}),
        events(
            pieces(answer())[0],
            {"type": "content_block_delta", "index": 3, "delta": {"type": "text_delta", "text": "x"}},
        ),
        events(
            *pieces(answer(text("")))[:3], {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta"}}
        ),
        events(*pieces(answer())[:1], {"type": "message_delta", "delta": 7}),
        events(*pieces(answer())[:1], {"type": "message_delta", "delta": {}, "usage": 7}),
    ],
)
def test_a_stream_of_another_form_is_malformed(data: bytes) -> None:
    with pytest.raises(ProviderError) as caught:
        stream(data)
    assert (caught.value.reason, caught.value.request_id) == ("invalid", "req_9")


# Whatever arrives

EVERYTHING = answer(
    THINKING,
    REDACTED,
    {**text("hello"), "citations": [{"type": "char_location"}]},
    USE,
    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
    stop="refusal",
    stop_details={"type": "refusal", "category": "bio", "explanation": "no"},
    usage={
        "input_tokens": 1,
        "cache_creation": {"ephemeral_1h_input_tokens": 1},
        "output_tokens": 2,
        "output_tokens_details": {"thinking_tokens": 1},
        "server_tool_use": {"web_search_requests": 1},
        "service_tier": "priority",
    },
)
FAULT = {"type": "error", "error": {"type": "x", "message": "y", "details": {"error_code": "z"}}, "request_id": "r"}


def survived(read: Any, status: int = 200) -> None:
    """Check that reading gives a reply that can go back, or an error that says of what it is."""
    try:
        reply = read()
    except ModelError as caught:
        error = caught
    else:
        assert isinstance(reply, Reply)
        turns(Message("user", "hi"), reply.message)
        return
    if isinstance(error, ProviderError):
        assert (error.status, error.request_id) == (status, "req_9")
    else:
        assert isinstance(error, ModelConnectionError | CredentialError | AnswerError)
    assert "anthropic" in str(error)


@settings(max_examples=cases(300), deadline=None)
@given(bodies(EVERYTHING))
def test_no_body_raises_anything_but_a_model_error(body: bytes) -> None:
    survived(lambda: parse(body))


@settings(max_examples=cases(100), deadline=None)
@given(bodies(FAULT), st.sampled_from([400, 401, 402, 403, 404, 413, 429, 500, 529, 302]))
def test_no_error_raises_anything_but_a_model_error(body: bytes, status: int) -> None:
    survived(lambda: parse(body, status), status)


@settings(max_examples=cases(300), deadline=None)
@given(changed(pieces(EVERYTHING)))
def test_no_stream_raises_anything_but_a_model_error(found: Any) -> None:
    payloads = found if isinstance(found, list) else [found]
    survived(lambda: stream(b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in payloads))[1])


@settings(max_examples=cases(100), deadline=None)
@given(torn(events(*pieces(EVERYTHING))))
def test_no_torn_stream_raises_anything_but_a_model_error(data: bytes) -> None:
    survived(lambda: stream(data)[1])


@settings(max_examples=cases(100), deadline=None)
@given(cuts(events(*pieces(ANSWERS["thinking"] | {"content": [THINKING, text("Grüße 👋"), USE]}))))
def test_where_a_stream_is_cut_makes_no_difference(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    deltas, reply = stream(whole)
    parser = ADAPTER.parse_stream(call(), 200, HEADERS)
    found = [delta for part in parts for delta in parser.feed(part)]
    assert found == deltas
    assert parser.finish() == reply


def test_a_second_start_in_a_stream_is_a_broken_stream() -> None:
    start = {"type": "message_start", "message": answer({"type": "text", "text": "whole"})}
    with pytest.raises(ModelConnectionError, match="began anew"):
        stream(events(start, start, {"type": "message_stop"}))


def test_the_model_that_a_fallback_went_to_has_answered() -> None:
    hop = {"type": "fallback", "from": {"model": "claude-a"}, "to": {"model": "claude-b"}}
    assert parse(answer(hop, {"type": "text", "text": "hi"})).model == "claude-b"


@pytest.mark.parametrize("last", [{"type": "message_delta", "delta": {"stop_reason": None}}, {"type": "ping"}])
def test_a_message_that_the_start_of_its_stream_holds_whole_is_kept(last: dict[str, Any]) -> None:
    whole = answer(text("It is."), USE, stop="tool_use")
    deltas, reply = stream(events({"type": "message_start", "message": whole}, last, {"type": "message_stop"}))
    assert (joined(deltas, "text"), joined(deltas, "tool_call")) == ("It is.", '{"city":"Oslo"}')
    assert (reply.text, reply.finish, reply.tool_calls) == ("It is.", "tool_calls", (ASKED,))
    assert reply.usage == parse(whole).usage


def test_blocks_that_follow_a_start_that_holds_them_are_not_counted_twice() -> None:
    whole = answer(text("It is."))
    first, *others = pieces(whole)
    deltas, reply = stream(events({**first, "message": whole}, *others))
    assert (joined(deltas, "text"), reply.text) == ("It is.", "It is.")
