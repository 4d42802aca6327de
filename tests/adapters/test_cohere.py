from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.adapters.call import Effort, ModelCall, Output, Settings, Tool, ToolChoice
from kitaru.adapters.cohere import ADAPTER, ROW
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.message import Document, Image, Message, Text, ToolCall, assistant
from kitaru.adapters.reply import Delta, Reply, Usage, reply_of
from kitaru.adapters.secret import SecretStr
from kitaru.errors import (
    AnswerError,
    CredentialError,
    ModelConnectionError,
    ProviderError,
    UnsupportedError,
    UsageError,
)
from tests.adapters.damage import bodies, cuts, one_changed, outcome, told, torn
from tests.cases import cases

HEADERS = {"content-type": "application/json", "x-debug-trace-id": "trace-9"}
WEATHER = Tool("weather", "Of a city", {"type": "object", "properties": {"city": {"type": "string"}}})
USAGE = {
    "billed_units": {"input_tokens": 13.0, "output_tokens": 5.0},
    "tokens": {"input_tokens": 542.0, "output_tokens": 8.0},
    "cached_tokens": 480.0,
}


def call(*messages: Message, **kw: Any) -> ModelCall:
    return ModelCall("cohere", "command-a-reasoning", messages or (Message("user", "hi"),), **kw)


def built(asked: ModelCall, base: str = "https://c.example", *, stream: bool = False) -> Any:
    return ADAPTER.build_request(asked, Endpoint(base_url=base, api_key=SecretStr("key-of-the-test")), stream=stream)


def sent(asked: ModelCall, *, stream: bool = False) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(built(asked, stream=stream).content)
    return body


def answer(message: object, finish: object = "COMPLETE", usage: object = None) -> dict[str, Any]:
    return {"id": "gen-1", "finish_reason": finish, "message": message, "usage": USAGE if usage is None else usage}


def said(*content: object, **more: object) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content), **more}


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def parse(body: object, status: int = 200, headers: Mapping[str, str] = HEADERS) -> Reply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ADAPTER.parse_response(call(), status, headers, data)


def events(*payloads: dict[str, Any]) -> bytes:
    lines = (f"event: {one.get('type')}\ndata: {json.dumps(one, ensure_ascii=False)}\n\n" for one in payloads)
    return "".join(lines).encode("utf-8", "surrogatepass")


def stream(data: bytes) -> tuple[list[Delta], Reply]:
    parser = ADAPTER.parse_stream(call(), 200, HEADERS)
    deltas = list(parser.feed(data))
    return deltas, parser.finish()


# Requests


@pytest.mark.parametrize(
    "base",
    [
        "https://c.example",
        "https://c.example/",
        "https://c.example/v2",
        "https://c.example/v2/",
        "https://c.example/v2/chat",
    ],
)
def test_the_base_url_may_name_the_version(base: str) -> None:
    assert str(built(call(), base).url) == "https://c.example/v2/chat"


def test_the_key_travels_as_bearer() -> None:
    assert built(call()).headers["authorization"] == "Bearer key-of-the-test"


def test_a_call_without_key_is_refused() -> None:
    with pytest.raises(CredentialError, match="CO_API_KEY"):
        ADAPTER.build_request(call(), Endpoint(base_url="https://c.example"))


def test_the_address_comes_from_the_environment() -> None:
    assert ROW.base_url_from({"CO_API_URL": "https://api.cohere.ai/"}) == "https://api.cohere.ai"
    assert ROW.base_url_from({}) == "https://api.cohere.com"


def test_all_settings_become_their_fields() -> None:
    asked = Settings(temperature=0.5, max_tokens=9, top_p=0.25, stop=("END",), seed=0, extra={"k": 3})
    assert sent(call(settings=asked)) == {
        "model": "command-a-reasoning",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": False,
        "temperature": 0.5,
        "max_tokens": 9,
        "p": 0.25,
        "stop_sequences": ["END"],
        "seed": 0,
        "k": 3,
    }


@pytest.mark.parametrize(("top_p", "p"), [(1.0, 0.99), (0.0, 0.01)])
def test_top_p_is_kept_within_what_the_api_takes(top_p: float, p: float) -> None:
    assert sent(call(settings=Settings(top_p=top_p)))["p"] == p


def test_a_stream_is_asked_for() -> None:
    assert sent(call(), stream=True)["stream"] is True


@pytest.mark.parametrize(
    ("effort", "thinking"),
    [
        ("none", {"type": "disabled"}),
        (0, {"type": "disabled"}),
        ("minimal", {"type": "enabled", "token_budget": 512}),
        ("high", {"type": "enabled", "token_budget": 16384}),
        ("max", {"type": "enabled"}),
        (700, {"type": "enabled", "token_budget": 700}),
    ],
)
def test_an_effort_is_a_budget(effort: Effort | int, thinking: dict[str, object]) -> None:
    assert sent(call(settings=Settings(reasoning=effort)))["thinking"] == thinking


@pytest.mark.parametrize(
    ("choice", "word"), [(ToolChoice("none"), "NONE"), (ToolChoice("required"), "REQUIRED"), (ToolChoice("auto"), None)]
)
def test_a_tool_choice_is_a_word(choice: ToolChoice, word: str | None) -> None:
    assert sent(call(tools=(WEATHER,), tool_choice=choice)).get("tool_choice") == word


def test_a_tool_cannot_be_chosen_by_name() -> None:
    assert "tool" not in ROW.capabilities.tool_choices
    with pytest.raises(UnsupportedError):
        sent(call(tools=(WEATHER,), tool_choice=ToolChoice("tool", "weather")))


@pytest.mark.parametrize("strict", [True, False])
def test_tools_are_strict_together_or_not(strict: bool) -> None:
    body = sent(call(tools=(Tool("now", strict=True), Tool("weather", "Of a city", WEATHER.parameters, strict))))
    assert body.get("strict_tools") is (True if strict else None)
    assert body["tools"][1] == {
        "type": "function",
        "function": {"name": "weather", "description": "Of a city", "parameters": WEATHER.parameters},
    }


def test_a_schema_goes_bare_into_the_response_format() -> None:
    schema: dict[str, object] = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert sent(call(output=Output("schema", schema)))["response_format"] == {
        "type": "json_object",
        "json_schema": schema,
    }
    assert sent(call(output=Output("json")))["response_format"] == {"type": "json_object"}


def test_images_are_openais_parts() -> None:
    parts = (Text("look"), Image("image/png", b"x", detail="low"), Image(url="https://h.example/a.png"))
    assert sent(call(Message("user", parts)))["messages"][0]["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA==", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://h.example/a.png"}},
    ]


def test_a_document_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="documents"):
        sent(call(Message("user", (Document("application/pdf", b"x"),))))


def test_a_conversation_of_another_provider_can_be_sent() -> None:
    body = sent(
        call(
            Message("developer", "be brief"),
            Message("user", "hi"),
            assistant(
                "I look it up.", [ToolCall("c1", "weather", '{"city":"Rome"}')], provider="x", model="y", own=b"{}"
            ),
            Message("tool", "warm", tool_call_id="c1", name="weather"),
            Message("assistant", "It is warm."),
        )
    )
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "tool_plan": "I look it up.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "warm"},
        {"role": "assistant", "content": "It is warm."},
    ]


def test_extra_may_not_hold_what_has_a_setting() -> None:
    with pytest.raises(UsageError, match="extra"):
        sent(call(settings=Settings(extra={"p": 0.5})))


# Answers

CALLED = {
    "role": "assistant",
    "tool_plan": "I will look.",
    "tool_calls": [{"id": "weather_x1", "type": "function", "function": {"name": "weather", "arguments": '{"a":1}'}}],
    "content": None,
}


def test_text_and_thoughts_are_told_apart() -> None:
    reply = parse(answer(said({"type": "thinking", "thinking": "hm"}, text("It is "), text("warm."))))
    assert (reply.text, reply.reasoning, reply.finish) == ("It is warm.", "hm", "stop")


def test_the_model_that_answered_is_the_one_asked_for() -> None:
    reply = parse(answer(said(text("a"))))
    assert (reply.model, reply.request_id) == ("command-a-reasoning", "gen-1")


def test_calls_come_with_their_plan_which_goes_back() -> None:
    reply = parse(answer(CALLED, "TOOL_CALL"))
    assert reply.tool_calls == (ToolCall("weather_x1", "weather", '{"a":1}'),)
    assert (reply.text, reply.reasoning, reply.finish) == ("", "I will look.", "tool_calls")
    message = sent(call(Message("user", "hi"), reply.message))["messages"][1]
    assert message == {key: value for key, value in CALLED.items() if value is not None}


def test_thoughts_and_citations_go_back_as_they_came() -> None:
    whole = said({"type": "thinking", "thinking": "hm é"}, text("a"), citations=[{"start": 0, "end": 1, "text": "a"}])
    reply = parse(answer(whole))
    assert reply.message.opaque is not None
    assert reply.message.opaque.data in built(call(Message("user", "hi"), reply.message)).content
    assert sent(call(Message("user", "hi"), reply.message))["messages"][1] == whole


def test_plain_text_needs_no_form_of_its_own() -> None:
    assert parse(answer(said(text("a")))).message == Message("assistant", "a")


@pytest.mark.parametrize(
    ("word", "finish"),
    [
        ("COMPLETE", "stop"),
        ("STOP_SEQUENCE", "stop"),
        ("MAX_TOKENS", "length"),
        ("TOOL_CALL", "tool_calls"),
        ("ERROR", "error"),
        ("TIMEOUT", "error"),
        ("A_NEW_ONE", "other"),
        (None, "other"),
    ],
)
def test_every_finish_reason_has_its_word(word: object, finish: str) -> None:
    assert parse(answer(said(text("a")), word)).finish == finish


def test_usage_has_the_real_and_the_billed_counts() -> None:
    usage = Usage(542, 8, cached_input=480, billed_input=13, billed_output=5)
    assert parse(answer(said(text("a")))).usage == usage


@pytest.mark.parametrize("usage", [{"tokens": {"input_tokens": "x"}}, {"tokens": {"input_tokens": 1.5}}, [1]])
def test_usage_that_cannot_be_read_spoils_no_answer(usage: object) -> None:
    reply = parse(answer(said(text("a")), usage=usage))
    assert (reply.text, reply.usage) == ("a", Usage())
    assert reply.warnings == ("the provider's usage could not be read in full",)


# Errors


def error_of(body: object, status: int) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        parse(body, status)
    return caught.value


@pytest.mark.parametrize(("per", "reason", "retryable"), [("minute", "rate_limit", True), ("month", "quota", False)])
def test_a_trial_keys_month_is_not_waited_for(per: str, reason: str, retryable: bool) -> None:
    message = f"You are using a Trial key, which is limited to 20 API calls / {per}."
    error = error_of({"id": "e1", "message": message}, 429)
    assert (error.reason, error.retryable) == (reason, retryable)


def test_the_id_of_an_error_is_in_its_body() -> None:
    with pytest.raises(ProviderError) as caught:
        parse({"id": "e1", "message": "internal server error"}, 500, {})
    assert (caught.value.request_id, caught.value.retryable) == ("e1", True)


def test_a_refused_key_is_a_credential_error() -> None:
    with pytest.raises(CredentialError, match="invalid api token"):
        parse({"message": "invalid api token"}, 401)


def test_a_deny_listed_token_is_a_filter_and_no_matter_of_the_key() -> None:
    with pytest.raises(AnswerError) as caught:
        parse({"message": "blocked"}, 498)
    reply = reply_of(caught.value)
    assert reply is not None
    assert reply.finish == "content_filter"


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        (400, "too many tokens: size limit exceeded by 11326 tokens.", "context"),
        (402, "Please add or update your payment method to continue", "quota"),
        (404, "model 'x' not found", "not_found"),
        (503, "", "overloaded"),
    ],
)
def test_errors_have_their_reason(status: int, message: str, reason: str) -> None:
    assert error_of({"message": message}, status).reason == reason


def test_an_error_inside_a_success_is_found() -> None:
    assert "went wrong" in error_of({"message": "it went wrong"}, 200).message


@pytest.mark.parametrize("body", [{}, {"message": None}, {"message": {"content": 5}}, [], "x"])
def test_a_success_without_a_message_is_not_one(body: object) -> None:
    assert error_of(body, 200).reason == "invalid"


# Streams


def delta(kind: str, index: int | None = None, **message: object) -> dict[str, Any]:
    place = {} if index is None else {"index": index}
    return {"type": kind, **place, "delta": {"message": message}}


END = {"type": "message-end", "delta": {"finish_reason": "TOOL_CALL", "usage": USAGE}}
STREAMED = (
    {
        "type": "message-start",
        "id": "gen-1",
        "delta": {"message": {"role": "assistant", "content": [], "tool_plan": ""}},
    },
    delta("tool-plan-delta", tool_plan="I will "),
    delta("tool-plan-delta", tool_plan="look."),
    delta("content-start", 0, content={"type": "thinking", "thinking": ""}),
    delta("content-delta", 0, content={"thinking": "hm é"}),
    {"type": "content-end", "index": 0},
    delta("content-start", 1, content={"type": "text", "text": ""}),
    delta("content-delta", 1, content={"text": "Grüße, "}),
    delta("content-delta", 1, content={"text": "wörld"}),
    delta("citation-start", 0, citations={"start": 0, "end": 5, "text": "Grüße"}),
    {"type": "citation-end", "index": 0},
    {"type": "content-end", "index": 1},
    delta("tool-call-start", 0, tool_calls={"id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}),
    delta("tool-call-delta", 0, tool_calls={"function": {"arguments": '{"x"'}}),
    delta(
        "tool-call-start", 1, tool_calls={"id": "b", "type": "function", "function": {"name": "g", "arguments": "{"}}
    ),
    delta("tool-call-delta", 0, tool_calls={"function": {"arguments": ": 1}"}}),
    delta("tool-call-delta", 1, tool_calls={"function": {"arguments": "}"}}),
    {"type": "tool-call-end", "index": 0},
    {"type": "debug", "prompt": "x"},
    END,
)
WHOLE = answer(
    {
        "role": "assistant",
        "tool_plan": "I will look.",
        "content": [{"type": "thinking", "thinking": "hm é"}, {"type": "text", "text": "Grüße, wörld"}],
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
        "citations": [{"start": 0, "end": 5, "text": "Grüße"}],
    },
    "TOOL_CALL",
)


def test_a_stream_gives_the_reply_that_the_plain_answer_gives() -> None:
    deltas, reply = stream(events(*STREAMED))
    plain = parse(WHOLE)
    assert json.loads(reply.raw) == WHOLE
    for name in set(Reply.__struct_fields__) - {"raw", "message"}:
        assert getattr(reply, name) == getattr(plain, name)
    assert (reply.message.content, reply.message.tool_calls) == (plain.message.content, plain.message.tool_calls)
    assert reply.message.opaque is not None
    assert json.loads(reply.message.opaque.data) == WHOLE["message"]
    assert "".join(one.text for one in deltas if one.kind == "text") == reply.text
    assert "".join(one.text for one in deltas if one.kind == "reasoning") == reply.reasoning
    for index, one in enumerate(reply.tool_calls):
        pieces = [piece for piece in deltas if piece.kind == "tool_call" and piece.index == index]
        assert (pieces[0].id, pieces[0].name) == (one.id, one.name)
        assert "".join(piece.text for piece in pieces) == one.arguments


@given(cuts(events(*STREAMED)))
def test_a_stream_may_be_cut_anywhere(pieces: list[bytes]) -> None:
    parser = ADAPTER.parse_stream(call(), 200, HEADERS)
    deltas = [one for piece in pieces for one in parser.feed(piece)]
    assert (deltas, parser.finish()) == stream(events(*STREAMED))


def test_a_stream_without_its_end_is_cut() -> None:
    with pytest.raises(ModelConnectionError, match="message-end"):
        stream(events(*STREAMED[:-1]) + b"data: [DONE]\n\n")


@given(st.integers(0, len(events(*STREAMED)) - 4))
def test_a_torn_stream_is_never_a_short_answer(length: int) -> None:
    with pytest.raises(ModelConnectionError):
        stream(events(*STREAMED)[:length])


@pytest.mark.parametrize(
    "last",
    [
        {"type": "message-end", "delta": {"error": "the model broke", "finish_reason": "ERROR"}},
        {"type": "error", "message": "the model broke"},
        {"message": "the model broke"},
    ],
)
def test_an_error_in_a_stream_is_found(last: dict[str, Any]) -> None:
    with pytest.raises(ProviderError, match="the model broke") as caught:
        stream(events(*STREAMED[:5], last))
    assert caught.value.request_id == "trace-9"


def test_an_error_may_come_as_bare_json() -> None:
    with pytest.raises(ProviderError, match="the model broke"):
        stream(events(*STREAMED[:5]) + b'{"message": "the model broke"}')


def test_a_stream_that_ends_in_error_without_words_is_an_answer_with_that_reason() -> None:
    end = {"type": "message-end", "delta": {"finish_reason": "ERROR"}}
    assert stream(events(*STREAMED[:5], end))[1].finish == "error"


def test_a_piece_of_a_call_that_never_began_is_refused() -> None:
    with pytest.raises(ProviderError, match="before its start"):
        stream(events(delta("tool-call-delta", 3, tool_calls={"function": {"arguments": "{"}})))


# Whatever arrives


@settings(max_examples=cases(300))
@given(bodies(WHOLE))
def test_a_malformed_answer_is_a_model_error(body: bytes) -> None:
    assert told(outcome(lambda: parse(body)), "cohere", 200)


@given(bodies({"id": "e", "message": "no"}), st.sampled_from([400, 403, 422, 429, 498, 500, 302]))
def test_a_malformed_error_is_a_model_error(body: bytes, status: int) -> None:
    assert told(outcome(lambda: parse(body, status)), "cohere", status)


@settings(max_examples=cases(300))
@given(st.data())
def test_a_malformed_stream_is_a_model_error(data: st.DataObject) -> None:
    payloads = data.draw(one_changed(list(STREAMED[3:])))
    lines = "".join(f"data: {json.dumps(one)}\n\n" for one in payloads).encode()
    whole = data.draw(torn(lines) | st.just(lines) | bodies({"message": "no"}))
    assert told(outcome(lambda: stream(whole)[1]), "cohere", 200)


def test_several_texts_are_parts_of_their_own() -> None:
    content = sent(call(Message("user", (Text("one"), Text("two")))))["messages"][0]["content"]
    assert content == [text("one"), text("two")]


@pytest.mark.parametrize("part", [Image("image/png", b"x"), Document("application/pdf", b"x")])
def test_a_tool_result_that_is_no_text_is_refused_and_not_dropped(part: Image | Document) -> None:
    history = (
        Message("user", "look"),
        Message("assistant", "", (ToolCall("c1", "look", "{}"),)),
        Message("tool", (Text("seen"), part), tool_call_id="c1", name="look"),
    )
    with pytest.raises(UnsupportedError, match="tool's result"):
        sent(call(*history))
