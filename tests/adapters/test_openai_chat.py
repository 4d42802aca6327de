from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.adapters import (
    Adapter,
    Endpoint,
    Message,
    ModelCall,
    Reply,
    SecretStr,
    Settings,
    Usage,
    adapter,
    reply_of,
    require_finished,
)
from kitaru.errors import AnswerError, CredentialError, ModelError, ProviderError, UsageError

OPENAI = adapter("openai")
COMPATIBLE = adapter("openai-compatible")
CANARY = "sk-canary-5f1d77c2a9"
HI = (Message("user", "hi"),)
HEADERS = {"x-request-id": "req-7", "content-type": "application/json"}


def call(**settings: object) -> ModelCall:
    return ModelCall("openai", "m", HI, msgspec.convert(settings, Settings))


def endpoint(base_url: str = "https://h.example/v1", **kw: str) -> Endpoint:
    return Endpoint(base_url=base_url, api_key=SecretStr(CANARY), headers=kw)


def sent(settings: Mapping[str, object], name: str = "openai") -> dict[str, object]:
    body: dict[str, object] = json.loads(adapter(name).build_request(call(**settings), endpoint()).content)
    del body["model"], body["messages"]
    return body


def completion(message: object = None, finish: object = "stop", **more: object) -> bytes:
    choice = {"index": 0, "message": message or {"role": "assistant", "content": "hello"}, "finish_reason": finish}
    return json.dumps({"id": "c", "model": "m-2026", "choices": [choice], **more}).encode()


def parse(body: bytes, status: int = 200, headers: Mapping[str, str] = HEADERS) -> Reply:
    return require_finished("openai", OPENAI.parse_response(call(), status, headers, body))


# Requests


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({}, {}),
        ({"temperature": 0.0}, {"temperature": 0.0}),
        ({"max_tokens": 5}, {"max_completion_tokens": 5}),
        ({"top_p": 0.5, "seed": 0}, {"top_p": 0.5, "seed": 0}),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"extra": {"presence_penalty": 1, "metadata": {"a": None}}}, {"presence_penalty": 1, "metadata": {"a": None}}),
    ],
)
def test_a_setting_becomes_its_field_and_an_unset_one_none(
    settings: dict[str, object], fields: dict[str, object]
) -> None:
    assert sent(settings) == fields


def test_the_compatible_family_gets_the_older_token_limit() -> None:
    assert sent({"max_tokens": 5}, "openai-compatible") == {"max_tokens": 5}


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://h.example/v1", "https://h.example/v1/chat/completions"),
        ("https://h.example/v1/", "https://h.example/v1/chat/completions"),
        ("http://h.example:8080", "http://h.example:8080/chat/completions"),
        (" http://[::1]:9/x/ ", "http://[::1]:9/x/chat/completions"),
        ("https://h.example/v1?api-version=2", "https://h.example/v1/chat/completions?api-version=2"),
        ("https://h.example/v1/chat/completions/", "https://h.example/v1/chat/completions"),
        ("https://h.example/v1/responses?a=b", "https://h.example/v1/chat/completions?a=b"),
    ],
)
def test_the_path_is_appended_to_the_base_url(base_url: str, url: str) -> None:
    assert str(OPENAI.build_request(call(), endpoint(base_url)).url) == url


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "h.example/v1",
        "ftp://h/v1",
        "http://",
        "http://h:port/v1",
        "http://[::1",
        "http://a b/v1",
        "http://u:p@h/v1",
    ],
)
def test_an_address_that_cannot_be_right_is_refused_without_showing_it(base_url: str) -> None:
    with pytest.raises(UsageError, match="base URL for openai") as caught:
        OPENAI.build_request(call(), endpoint(base_url))
    assert "u:p" not in str(caught.value)


def test_the_caller_s_headers_are_sent_beside_the_credential() -> None:
    headers = OPENAI.build_request(call(), endpoint(**{"X-Trace": "7"})).headers
    assert headers["x-trace"] == "7"
    assert headers["authorization"] == f"Bearer {CANARY}"


@pytest.mark.parametrize("name", ["Authorization", "api-key", "X-Api-Key", "Cookie", "Host", "a b", "", "ü", "x:y"])
def test_credential_and_impossible_headers_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        Endpoint(base_url="http://h", headers={name: "v"})


def test_a_header_with_a_line_break_is_refused_without_its_value() -> None:
    with pytest.raises(UsageError) as caught:
        Endpoint(base_url="http://h", headers={"x": f"{CANARY}\n"})
    assert CANARY not in str(caught.value)


def test_an_endpoint_shows_neither_key_nor_header_values_nor_query() -> None:
    shown = repr(Endpoint(base_url=f"http://h/v1?key={CANARY}", api_key=SecretStr(CANARY), headers={"x-a": CANARY}))
    assert CANARY not in shown
    assert "x-a" in shown


@pytest.mark.parametrize("key", [f"{CANARY}\nX", f"{CANARY} X", f"{CANARY}\u20ac"])
def test_a_key_that_no_header_can_carry_is_refused_unshown(key: str) -> None:
    with pytest.raises(CredentialError) as caught:
        OPENAI.build_request(call(), Endpoint(base_url="http://h", api_key=SecretStr(key)))
    assert CANARY not in str(caught.value)


def test_a_key_read_with_its_final_line_break_is_sent_without_it() -> None:
    request = OPENAI.build_request(call(), Endpoint(base_url="http://h", api_key=SecretStr(f"{CANARY}\n")))
    assert request.headers["authorization"] == f"Bearer {CANARY}"


def test_openai_without_key_is_refused_naming_the_variable() -> None:
    with pytest.raises(CredentialError, match="OPENAI_API_KEY"):
        OPENAI.build_request(call(), Endpoint(base_url="https://h.example/v1", api_key=SecretStr(" ")))


@pytest.mark.parametrize(
    ("spoken", "base_url"), [(COMPATIBLE, "https://h.example/v1"), (OPENAI, "http://127.0.0.1:1/v1")]
)
def test_no_key_means_no_credential_header_where_none_is_needed(spoken: Adapter, base_url: str) -> None:
    request = spoken.build_request(call(), Endpoint(base_url=base_url))
    assert "authorization" not in request.headers


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": float("nan")},
        {"top_p": float("inf")},
        {"max_tokens": 0},
        {"extra": {"stream": True}},
        {"extra": {"model": "other"}},
    ],
)
def test_settings_that_cannot_be_right_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        OPENAI.build_request(call(**settings), endpoint())


def test_half_a_surrogate_pair_is_refused_naming_the_message() -> None:
    broken = ModelCall("openai", "m", (*HI, Message("user", "a\ud800b")))
    with pytest.raises(UsageError, match="message 1"):
        OPENAI.build_request(broken, endpoint())


def test_a_call_without_messages_is_refused() -> None:
    with pytest.raises(UsageError, match="no message"):
        OPENAI.build_request(ModelCall("openai", "m", ()), endpoint())


# Replies


def test_a_reply_holds_all_that_was_answered() -> None:
    usage = {
        "prompt_tokens": 20,
        "completion_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 16, "cache_write_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    body = completion(usage=usage)
    assert parse(body) == Reply(
        text="hello",
        message=Message("assistant", "hello"),
        finish="stop",
        usage=Usage(input=20, output=9, cached_input=16, cache_write=2, reasoning=4),
        model="m-2026",
        request_id="req-7",
        raw=body,
    )


def test_absent_usage_is_unknown_and_not_zero() -> None:
    assert parse(completion()).usage == Usage()


@pytest.mark.parametrize(
    "usage", ["many", [], {"prompt_tokens": "12"}, {"prompt_tokens": -1}, {"completion_tokens": True}]
)
def test_an_odd_usage_spoils_no_answer(usage: object) -> None:
    reply = parse(completion(usage=usage))
    assert reply.text == "hello"
    assert reply.warnings == ("the provider's usage could not be read in full",)


def test_text_in_parts_is_joined_without_the_thinking() -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert parse(completion({"content": parts})).text == "ab"


@pytest.mark.parametrize("before", [b"\n\n \n", b"\xef\xbb\xbf"])
def test_blank_lines_and_a_byte_order_mark_before_a_reply_do_no_harm(before: bytes) -> None:
    assert parse(before + completion()).text == "hello"


@pytest.mark.parametrize(
    ("finish", "neutral", "warning"),
    [
        ("stop", "stop", None),
        ("eos", "stop", None),
        ("length", "length", "the text was cut off by the token limit"),
        (None, "other", "the provider gave 'None' as finish reason"),
        ("novel", "other", "the provider gave 'novel' as finish reason"),
    ],
)
def test_a_text_is_given_with_a_warning_where_its_end_is_odd(finish: object, neutral: str, warning: str | None) -> None:
    reply = parse(completion(finish=finish))
    assert reply.finish == neutral
    assert reply.warnings == ((warning,) if warning else ())


@pytest.mark.parametrize(
    ("message", "finish", "said"),
    [
        ({"content": None, "refusal": "I won't."}, "stop", "it refused: I won't."),
        ({"content": "half"}, "content_filter", "content filter"),
        ({"content": ""}, "length", "token limit was used up"),
        ({"content": None}, "tool_calls", "asks for a tool"),
        ({"content": None}, None, "no reason is given"),
        ({"content": "half"}, "error", "broke off"),
    ],
)
def test_an_unfinished_answer_is_an_error_with_the_reply_attached(
    message: dict[str, object], finish: object, said: str
) -> None:
    with pytest.raises(AnswerError, match=said) as caught:
        parse(completion(message, finish, usage={"prompt_tokens": 3, "completion_tokens": 4}))
    reply = reply_of(caught.value)
    assert reply is not None
    assert reply.usage == Usage(input=3, output=4)
    assert reply.request_id == "req-7"


def test_an_empty_text_that_ended_by_itself_is_an_answer_with_a_warning() -> None:
    reply = parse(completion({"content": ""}))
    assert (reply.text, reply.warnings) == ("", ("the text is empty",))


# Errors


@pytest.mark.parametrize(
    ("status", "body", "headers", "retryable", "code"),
    [
        (400, {"error": {"message": "no", "code": "unsupported_value"}}, {}, False, "unsupported_value"),
        (403, {"error": {"message": "no"}}, {}, False, None),
        (404, {"error": {"message": "no", "code": "model_not_found"}}, {}, False, "model_not_found"),
        (408, {"error": "slow"}, {}, True, None),
        (409, {"error": "lock"}, {}, True, None),
        (422, {"detail": [{"loc": ["body"], "msg": "x"}]}, {}, False, None),
        (429, {"error": {"type": "requests", "code": "rate_limit_exceeded"}}, {}, True, "rate_limit_exceeded"),
        (429, {"error": {"message": "slow", "code": "slow_down"}}, {}, True, "slow_down"),
        (429, {"error": {"message": "spent", "type": "insufficient_quota"}}, {}, False, "insufficient_quota"),
        (429, {"error": {"message": "spent", "type": "insufficient_quota", "code": "novel"}}, {}, False, "novel"),
        (429, {"error": {"code": "insufficient_quota"}}, {"x-should-retry": "true"}, False, "insufficient_quota"),
        (429, {"error": {"message": "no"}}, {"x-should-retry": "false"}, False, None),
        (400, {"error": {"message": "again"}}, {"x-should-retry": "true"}, True, None),
        (500, {"message": "oops", "code": 3280}, {}, True, "3280"),
        (503, [{"error": {"code": 503, "message": "list"}}], {}, True, "503"),
        (529, {}, {}, True, None),
        (302, {}, {"location": "https://elsewhere.example/x?key=1"}, False, None),
        (101, {}, {}, False, None),
    ],
)  # fmt: skip
def test_an_error_answer_says_whether_to_try_again(
    status: int, body: object, headers: dict[str, str], retryable: bool, code: str | None
) -> None:
    with pytest.raises(ProviderError) as caught:
        parse(json.dumps(body).encode(), status, HEADERS | headers)
    error = caught.value
    assert (error.status, error.retryable, error.provider_code, error.request_id) == (status, retryable, code, "req-7")
    assert f"openai answered {status}" in error.message


def test_a_refused_key_is_a_credential_error_that_names_where_it_comes_from() -> None:
    with pytest.raises(CredentialError, match="OPENAI_API_KEY") as caught:
        parse(b'{"error":{"message":"Incorrect API key","code":"invalid_api_key"}}', 401)
    assert (caught.value.status, caught.value.request_id) == (401, "req-7")


def test_a_filtered_prompt_is_an_answer_error() -> None:
    with pytest.raises(AnswerError, match="content_filter"):
        parse(b'{"error":{"message":"filtered","code":"content_filter"}}', 400)


def test_the_wait_asked_for_is_kept() -> None:
    with pytest.raises(ProviderError) as caught:
        parse(b"{}", 429, {"retry-after-ms": "1500"})
    assert caught.value.retry_after == 1.5


@pytest.mark.parametrize(
    ("body", "retryable", "code"),
    [
        ({"error": {"code": 502, "message": "upstream"}}, True, "502"),
        ({"error": {"code": 402, "message": "credits"}}, False, "402"),
        ({"error": {"code": "rate_limit_exceeded"}}, True, "rate_limit_exceeded"),
        ({"error": {"code": "insufficient_quota"}}, False, "insufficient_quota"),
        ({"error": "text"}, False, None),
        ({"choices": [{"error": {"code": 429}, "message": {"content": ""}}]}, True, "429"),
    ],
)
def test_an_error_inside_a_success_is_found(body: object, retryable: bool, code: str | None) -> None:
    with pytest.raises(ProviderError, match="with an error inside") as caught:
        parse(json.dumps(body).encode())
    assert (caught.value.status, caught.value.retryable, caught.value.provider_code) == (200, retryable, code)


@pytest.mark.parametrize(
    ("body", "said", "retryable"),
    [
        (b"", "not JSON", True),
        (completion()[:40], "not JSON", True),
        (b'{"choices": "\xff\xfe"}', "not JSON", True),
        (b"[" * 100_000, "not JSON", True),
        (b"<!DOCTYPE html><p>gateway", "web page", False),
        (b"  <html>", "web page", False),
        (b"[]", "not a JSON object", False),
        (b"null", "not a JSON object", False),
        (b"{}", "no choice", False),
        (b'{"choices": []}', "no choice", False),
        (b'{"choices": [3]}', "no choice", False),
        (b'{"choices": [{}]}', "no message", False),
        (b'{"choices": [{"message": {"content": 3}}]}', "not text", False),
    ],
)
def test_a_success_in_another_form_is_a_provider_error(body: bytes, said: str, retryable: bool) -> None:
    with pytest.raises(ProviderError, match=said) as caught:
        parse(body)
    assert (caught.value.status, caught.value.retryable, caught.value.request_id) == (200, retryable, "req-7")


def test_a_body_that_cannot_be_read_is_shown_short_and_harmless() -> None:
    with pytest.raises(ProviderError) as caught:
        parse(b"\x1b]0;owned\x07" + b"x" * 10_000, 500)
    assert "\x1b" not in str(caught.value)
    assert "owned" in str(caught.value)
    assert len(caught.value.message) < 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("error", "choices", "message", "content", "refusal", "finish_reason", "usage", "model", "tool_calls", "code",
          "detail", "type", "prompt_tokens", "prompt_tokens_details", "cached_tokens", "text")  # fmt: skip
shaped = st.recursive(
    json_values,
    lambda inner: st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5) | st.lists(inner, min_size=1, max_size=2),
    max_leaves=12,
)
statuses = st.sampled_from([200, 201, 204, 301, 400, 401, 404, 429, 500, 599])


@given(statuses, shaped | st.builds(lambda choice, more: {**more, "choices": [choice]},
                                    st.dictionaries(st.sampled_from(FIELDS), shaped),
                                    st.dictionaries(st.sampled_from(FIELDS), shaped)))  # fmt: skip
def test_any_json_gives_a_reply_or_a_model_error(status: int, value: object) -> None:
    try:
        reply = parse(json.dumps(value).encode(), status)
    except ModelError as error:
        assert error.message.isprintable()  # noqa: PT017 - either end is right, any other exception is not
    else:
        assert isinstance(reply.text, str)


@given(statuses, st.binary(max_size=300), st.integers(0, 200))
def test_any_bytes_give_a_model_error(status: int, noise: bytes, cut: int) -> None:
    for body in (noise, completion()[:-cut] + noise if cut else noise):
        try:
            parse(body, status)
        except ModelError as error:
            assert "openai" in error.message  # noqa: PT017
