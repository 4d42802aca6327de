from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.adapters.call import ModelCall
from kitaru.adapters.google import ADAPTER
from kitaru.adapters.message import Message, ToolCall
from kitaru.adapters.reply import Delta, Reply, Usage, require_finished
from kitaru.errors import (
    AnswerError,
    CredentialError,
    ModelConnectionError,
    ProviderError,
)
from tests.adapters.damage import bodies, cuts, one_changed, outcome, told, torn
from tests.cases import cases

MODEL = "gemini-3-flash"
HEADERS = {"content-type": "application/json", "x-request-id": "req-9"}
SIGNATURE = "CiQB0Xqd/+8QwZ3=="


def call(*messages: Message, model: str = MODEL, **kw: Any) -> ModelCall:
    return ModelCall("google", model, messages or (Message("user", "hi"),), **kw)


def answer(*parts: object, finish: object = "STOP", **more: object) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": list(parts)}, "finishReason": finish, "index": 0}
    return {"candidates": [candidate], "modelVersion": "gemini-3-flash-001", "responseId": "resp-1", **more}


def parse(
    body: object, status: int = 200, headers: Mapping[str, str] = HEADERS, asked: ModelCall | None = None
) -> Reply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ADAPTER.parse_response(asked or call(), status, headers, data)


def chunks(*payloads: object, end: str = "\r\n\r\n") -> bytes:
    return "".join(f"data: {json.dumps(payload, ensure_ascii=False)}{end}" for payload in payloads).encode(
        "utf-8", "surrogatepass"
    )


def stream(data: bytes, asked: ModelCall | None = None) -> tuple[list[Delta], Reply]:
    parser = ADAPTER.parse_stream(asked or call(), 200, HEADERS)
    deltas = list(parser.feed(data))
    return deltas, parser.finish()


# Answers


def test_text_thoughts_and_calls_are_told_apart() -> None:
    reply = parse(
        answer(
            {"text": "hm", "thought": True},
            {"text": "It is "},
            {"text": "warm."},
            {"functionCall": {"id": "f1", "name": "weather", "args": {"city": "Rome"}}},
        )
    )
    assert (reply.text, reply.reasoning) == ("It is warm.", "hm")
    assert reply.tool_calls == (ToolCall("f1", "weather", '{"city":"Rome"}'),)
    assert (reply.finish, reply.model, reply.request_id) == ("tool_calls", "gemini-3-flash-001", "resp-1")


@pytest.mark.parametrize(
    ("said", "finish"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("FUNCTION_CALL", "tool_calls"),
        ("SAFETY", "content_filter"),
        ("IMAGE_RECITATION", "content_filter"),
        ("MALFORMED_FUNCTION_CALL", "error"),
        ("MISSING_THOUGHT_SIGNATURE", "error"),
        ("LANGUAGE", "other"),
        ("A_NEW_ONE", "other"),
        (None, "other"),
        (7, "other"),
    ],
)
def test_every_finish_reason_has_its_word(said: object, finish: str) -> None:
    assert parse(answer({"text": "a"}, finish=said)).finish == finish


def test_a_candidate_that_thought_its_tokens_away_has_no_content() -> None:
    usage = {"promptTokenCount": 5, "thoughtsTokenCount": 60, "totalTokenCount": 65}
    body = {"candidates": [{"finishReason": "MAX_TOKENS", "index": 0}], "usageMetadata": usage}
    reply = parse(body)
    assert (reply.text, reply.finish, reply.usage) == ("", "length", Usage(5, 60, reasoning=60))
    with pytest.raises(AnswerError, match="the token limit was used up"):
        require_finished("google", reply)


def test_a_blocked_prompt_is_filtered_and_says_why() -> None:
    reply = parse({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 5}})
    assert (reply.finish, reply.warnings) == ("content_filter", ("the prompt was blocked: PROHIBITED_CONTENT",))


def test_what_the_provider_says_of_a_broken_call_is_kept() -> None:
    body = answer(finish="MALFORMED_FUNCTION_CALL")
    body["candidates"][0]["finishMessage"] = "Malformed function call: print(\x1b[0m"
    assert parse(body).warnings == ("the provider says: Malformed function call: print( [0m",)


def test_parts_that_are_not_text_are_mentioned() -> None:
    reply = parse(answer({"inlineData": {"mimeType": "image/png", "data": "aQ=="}}, {"text": "done"}))
    assert reply.warnings == ("the answer also holds inlineData, which is not text",)


@pytest.mark.parametrize(
    ("stated", "usage"),
    [
        (
            {"promptTokenCount": 10, "candidatesTokenCount": 4, "thoughtsTokenCount": 6, "cachedContentTokenCount": 8},
            Usage(10, 10, cached_input=8, reasoning=6),
        ),
        ({"promptTokenCount": 10, "toolUsePromptTokenCount": 5, "candidatesTokenCount": 1}, Usage(15, 1)),
        ({"promptTokenCount": 10}, Usage(10, 0)),
        ({}, Usage()),
        (None, Usage()),
        (
            {
                "promptTokenCount": 9,
                "candidatesTokenCount": 3,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 2}, {"modality": "AUDIO", "tokenCount": 7}],
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 1}],
                "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 3}],
                "serviceTier": "FLEX",
            },
            Usage(9, 3, input_audio=7, cached_audio=1, output_audio=3, tier="flex"),
        ),
    ],
)
def test_usage_counts_thoughts_as_output_and_tool_results_as_input(stated: object, usage: Usage) -> None:
    assert parse(answer({"text": "a"}, usageMetadata=stated)).usage == usage


def test_usage_that_cannot_be_read_spoils_no_answer() -> None:
    reply = parse(answer({"text": "a"}, usageMetadata={"promptTokenCount": "many"}))
    assert (reply.text, reply.usage) == ("a", Usage())
    assert reply.warnings == ("the provider's usage could not be read in full",)


def test_searches_are_counted() -> None:
    body = answer({"text": "a"}, usageMetadata={"promptTokenCount": 1})
    body["candidates"][0]["groundingMetadata"] = {"webSearchQueries": ["x", "y"]}
    assert parse(body).usage.searches == 2


# Errors


def quota(quota_id: str) -> dict[str, Any]:
    return {
        "error": {
            "code": 429,
            "message": "You exceeded your current quota, please check your plan and billing details.",
            "status": "RESOURCE_EXHAUSTED",
            "details": [
                {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota_id}]},
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "36s"},
            ],
        }
    }


def error_of(body: object, status: int) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        parse(body, status)
    return caught.value


@pytest.mark.parametrize("listed", [False, True])
def test_a_minutes_quota_is_waited_for(listed: bool) -> None:
    body = quota("GenerateRequestsPerMinutePerProjectPerModel-FreeTier")
    error = error_of([body] if listed else body, 429)
    assert (error.reason, error.retryable, error.retry_after) == ("rate_limit", True, 36.0)
    assert (error.provider_code, error.request_id) == ("RESOURCE_EXHAUSTED", "req-9")


def test_a_days_quota_is_not_waited_for_whatever_the_delay_beside_it() -> None:
    error = error_of(quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier"), 429)
    assert (error.reason, error.retryable) == ("quota", False)


@pytest.mark.parametrize(
    "message",
    [
        "Quota exceeded for metric: generate_content_free_tier_requests, limit: 0, model: gemini-3-pro",
        "Your prepayment credits are depleted. Please go to AI Studio.",
    ],
)
def test_an_empty_account_is_not_waited_for(message: str) -> None:
    error = error_of({"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED"}}, 429)
    assert (error.reason, error.retryable) == ("quota", False)


def test_a_key_that_is_not_valid_is_a_400_and_a_credential_error() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
    message = "API key not valid. Please pass a valid API key."
    body = {"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT", "details": details}}
    with pytest.raises(CredentialError, match="API key not valid") as caught:
        parse(body, 400)
    assert caught.value.status == 400
    assert "GOOGLE_API_KEY" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("message", "refuses"),
    [
        ("Thinking level is not supported for this model.", "reasoning"),
        ("Invalid JSON payload received. Unknown name \"seed\" at 'generation_config': Cannot find field.", "seed"),
        ("thinking_budget is not supported by this model", "reasoning"),
        ("User location is not supported for the API use.", ""),
    ],
)
def test_a_refused_setting_is_named(message: str, refuses: str) -> None:
    error = error_of({"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}, 400)
    assert error.refuses == refuses


def test_too_long_a_prompt_is_a_matter_of_context() -> None:
    message = "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576)."
    assert error_of({"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}, 400).reason == "context"


def test_an_error_inside_a_success_is_found() -> None:
    error = error_of({"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}, 200)
    assert (error.status, error.retryable, error.reason) == (200, True, "overloaded")


@pytest.mark.parametrize("body", [{}, {"candidates": []}, {"candidates": [None]}, {"promptFeedback": {}}, [], "text"])
def test_a_success_without_a_candidate_is_not_one(body: object) -> None:
    assert error_of(body, 200).reason == "invalid"


# Streams

STREAMED = (
    answer({"text": "thinking é", "thought": True}, finish=None, usageMetadata={"promptTokenCount": 3}),
    answer({"text": " more", "thought": True}, finish=None),
    answer({"text": "Grüße, "}, finish=None),
    answer({"text": "wörld"}, {"functionCall": {"name": "now", "args": {"a": [1, "ü"]}}}, finish=None),
    answer({"text": "", "thoughtSignature": SIGNATURE}, finish=None),
    answer(
        {"functionCall": {"id": "f2", "name": "weather", "args": {}}},
        usageMetadata={"promptTokenCount": 3, "candidatesTokenCount": 5, "thoughtsTokenCount": 2},
    ),
)
WHOLE = answer(
    {"text": "thinking é more", "thought": True},
    {"text": "Grüße, wörld"},
    {"functionCall": {"name": "now", "args": {"a": [1, "ü"]}}},
    {"text": "", "thoughtSignature": SIGNATURE},
    {"functionCall": {"id": "f2", "name": "weather", "args": {}}},
    usageMetadata={"promptTokenCount": 3, "candidatesTokenCount": 5, "thoughtsTokenCount": 2},
)


def alike(streamed: Reply, plain: Reply) -> bool:
    assert json.loads(streamed.raw) == json.loads(plain.raw)
    return all(getattr(streamed, name) == getattr(plain, name) for name in Reply.__struct_fields__ if name != "raw")


def test_a_stream_gives_the_reply_that_the_plain_answer_gives() -> None:
    deltas, reply = stream(chunks(*STREAMED))
    assert alike(reply, parse(WHOLE))
    assert "".join(delta.text for delta in deltas if delta.kind == "text") == reply.text
    assert "".join(delta.text for delta in deltas if delta.kind == "reasoning") == reply.reasoning
    assert [delta for delta in deltas if delta.kind == "tool_call"] == [
        Delta("tool_call", one.arguments, index, one.id, one.name) for index, one in enumerate(reply.tool_calls)
    ]


@given(cuts(chunks(*STREAMED)))
def test_a_stream_may_be_cut_anywhere(pieces: list[bytes]) -> None:
    parser = ADAPTER.parse_stream(call(), 200, HEADERS)
    deltas = [delta for piece in pieces for delta in parser.feed(piece)]
    whole, reply = stream(chunks(*STREAMED))
    assert (deltas, parser.finish()) == (whole, reply)


@pytest.mark.parametrize("indent", [None, 2])
def test_a_stream_may_be_a_json_array(indent: int | None) -> None:
    _, reply = stream(json.dumps(list(STREAMED), indent=indent).encode())
    assert alike(reply, parse(WHOLE))


def test_the_last_chunk_needs_no_empty_line() -> None:
    assert stream(chunks(answer({"text": "a"}), end="\n"))[1].text == "a"


def test_the_end_of_a_stream_without_a_finish_reason_is_a_cut() -> None:
    parser = ADAPTER.parse_stream(call(), 200, HEADERS)
    parser.feed(chunks(*STREAMED[:-1]))
    with pytest.raises(ModelConnectionError, match="finishReason"):
        parser.finish()


@given(st.integers(0, len(chunks(answer({"text": "abc"}, finish=None), answer({"text": "d"}))) - 10))
def test_a_torn_stream_is_never_a_short_answer(length: int) -> None:
    data = chunks(answer({"text": "abc"}, finish=None), answer({"text": "d"}))[:length]
    parser = ADAPTER.parse_stream(call(), 200, HEADERS)
    parser.feed(data)
    with pytest.raises(ModelConnectionError):
        parser.finish()


def test_a_blocked_prompt_ends_a_stream() -> None:
    assert stream(chunks({"promptFeedback": {"blockReason": "SAFETY"}}))[1].finish == "content_filter"


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("listed", [False, True])
def test_an_error_may_come_as_bare_json(indent: int | None, listed: bool) -> None:
    error = {"error": {"code": 503, "message": "The model is overloaded {", "status": "UNAVAILABLE"}}
    data = chunks(STREAMED[0]) + json.dumps([error] if listed else error, indent=indent).encode()
    with pytest.raises(ProviderError, match="overloaded") as caught:
        stream(data)
    assert (caught.value.retryable, caught.value.request_id) == (True, "req-9")


def test_an_error_in_a_chunk_is_found_at_once() -> None:
    parser = ADAPTER.parse_stream(call(), 200, HEADERS)
    with pytest.raises(ProviderError, match="quota"):
        parser.feed(chunks(quota("PerDay")))


def test_a_long_stream_takes_linear_time() -> None:
    piece = chunks(answer({"text": "x" * 100}, finish=None))
    parser = ADAPTER.parse_stream(call(), 200, HEADERS)
    for _ in range(5000):
        parser.feed(piece)
    parser.feed(chunks(answer()))
    assert len(parser.finish().text) == 500_000


# Whatever arrives


@settings(max_examples=cases(300))
@given(bodies(WHOLE))
def test_a_malformed_answer_is_a_model_error(body: bytes) -> None:
    assert told(outcome(lambda: parse(body)), "google", 200)


@settings(max_examples=cases(150))
@given(bodies(quota("PerDay")), st.sampled_from([400, 403, 429, 500, 302]))
def test_a_malformed_error_is_a_model_error(body: bytes, status: int) -> None:
    assert told(outcome(lambda: parse(body, status)), "google", status)


@settings(max_examples=cases(300))
@given(st.data())
def test_a_malformed_stream_is_a_model_error(data: st.DataObject) -> None:
    payloads = data.draw(one_changed(list(STREAMED[2:])))
    whole = data.draw(torn(chunks(*payloads)) | st.just(chunks(*payloads)) | bodies(list(STREAMED[:2])))
    assert told(outcome(lambda: stream(whole)[1]), "google", 200)
