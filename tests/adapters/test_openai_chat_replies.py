"""What the chat family answers: calls, thinking, use, charges, turns to send back, and each provider's errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from kitaru.adapters import Endpoint, Message, ModelCall, Reply, ToolCall, Usage, adapter
from kitaru.errors import AnswerError, CredentialError, ModelError, ProviderError

HI = (Message("user", "hi"),)
HEADERS = {"x-request-id": "req-7"}


def completion(message: object = None, finish: object = "stop", **more: object) -> bytes:
    choice = {"index": 0, "message": message or {"role": "assistant", "content": "hello"}, "finish_reason": finish}
    return json.dumps({"id": "c", "model": "m-1", "choices": [choice], **more}).encode()


def parse(name: str, body: bytes, status: int = 200, headers: Mapping[str, str] = HEADERS) -> Reply:
    return adapter(name).parse_response(ModelCall(name, "m", HI), status, headers, body)


def failed(name: str, body: object, status: int, headers: Mapping[str, str] = HEADERS) -> ModelError:
    with pytest.raises(ModelError) as caught:
        parse(name, json.dumps(body).encode(), status, headers)
    return caught.value


def calls(name: str, *entries: object, **message: object) -> tuple[ToolCall, ...]:
    return parse(name, completion({"content": None, "tool_calls": entries, **message})).tool_calls


def call(arguments: object, **more: object) -> dict[str, object]:
    return {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}, **more}


# Tool calls


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ('{"a":1}', '{"a":1}'),
        ({"a": 1}, '{"a":1}'),
        ("", "{}"),
        (None, "{}"),
        ("not json", "not json"),
        ([1], "[1]"),
    ],
)
def test_arguments_are_kept_as_written_and_objects_become_text(arguments: object, read: str) -> None:
    assert calls("mistral", call(arguments)) == (ToolCall("c1", "f", read),)


@pytest.mark.parametrize("missing", [{"id": None}, {"id": ""}, {"id": "null"}])
def test_calls_without_an_id_get_one_that_is_their_own_and_always_the_same(missing: dict[str, object]) -> None:
    found = calls("perplexity", call("{}", **missing), call("{}", **missing))
    assert found == calls("perplexity", call("{}", **missing), call("{}", **missing))
    assert len({one.id for one in found}) == 2
    assert all(one.id.startswith("call_") for one in found)
    assert all(len(one.id) == 9 for one in calls("mistral", call("{}", **missing)))


def test_one_id_for_two_calls_becomes_two() -> None:
    first, second = calls("openai-compatible", call("{}"), call("{}"))
    assert first.id == "c1" != second.id


def test_a_call_that_names_no_tool_is_left_out_with_a_warning() -> None:
    reply = parse("openai", completion({"content": "a", "tool_calls": [{"id": "x"}, 3, call("{}")]}))
    assert reply.tool_calls == (ToolCall("c1", "f", "{}"),)
    assert reply.warnings == ("a tool call that names no tool was left out",)


def test_the_older_function_call_is_a_call() -> None:
    message = {"content": None, "function_call": {"name": "f", "arguments": "{}"}}
    reply = parse("openai-compatible", completion(message, "function_call"))
    assert [(one.name, one.arguments) for one in reply.tool_calls] == [("f", "{}")]
    assert reply.finish == "tool_calls"


@pytest.mark.parametrize(("said", "finish"), [("stop", "tool_calls"), ("", "tool_calls"), ("length", "length")])
def test_calls_with_a_plain_stop_or_with_nothing_are_tool_calls(said: str, finish: str) -> None:
    assert parse("xai", completion({"content": "", "tool_calls": [call("{}")]}, said)).finish == finish


@pytest.mark.parametrize(
    ("name", "said", "finish"),
    [
        ("together", "eos", "stop"),
        ("mistral", "model_length", "length"),
        ("openrouter", "error", "error"),
        ("deepseek", "insufficient_system_resource", "error"),
        ("azure", "content_filter", "content_filter"),
        ("openai", "function_call", "tool_calls"),
    ],
)
def test_each_provider_s_finish_reason_is_understood(name: str, said: str, finish: str) -> None:
    assert parse(name, completion(finish=said)).finish == finish


# Text and thinking


@pytest.mark.parametrize(
    ("name", "message", "text", "reasoning"),
    [
        ("groq", {"content": "a", "reasoning": "hm"}, "a", "hm"),
        ("deepseek", {"content": "a", "reasoning_content": "hm"}, "a", "hm"),
        ("together", {"content": "a", "reasoning": "", "reasoning_content": "hm"}, "a", "hm"),
        (
            "mistral",
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}]},
                    {"type": "text", "text": "a"},
                    {"type": "reference", "reference_ids": [1]},
                    {"type": "text", "text": "b"},
                ]
            },
            "ab",
            "hm",
        ),
        ("perplexity", {"content": "a", "reasoning_steps": [{"thought": "h"}, {"thought": "m"}]}, "a", "h\nm"),
        (
            "openrouter",
            {"content": "a", "reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]},
            "a",
            "hm",
        ),
    ],
)
def test_text_and_thinking_are_told_apart(name: str, message: dict[str, object], text: str, reasoning: str) -> None:
    reply = parse(name, completion(message))
    assert (reply.text, reply.reasoning) == (text, reasoning)


def test_a_refusal_may_be_a_part_of_the_content() -> None:
    assert parse("openai", completion({"content": [{"type": "refusal", "refusal": "No."}]})).refusal == "No."


# Turns that go back


def next_turn(name: str, reply: Reply) -> bytes:
    turn = ModelCall(name, "m", (*HI, reply.message, *HI))
    content: bytes = adapter(name).build_request(turn, Endpoint(base_url="http://127.0.0.1/v1")).content
    return content


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("openrouter", b'"reasoning_details": [ {"type":"reasoning.encrypted", "data":"\\u0078\\/=="} ]'),
        ("deepseek", b'"reasoning_content": "h\\u00e4 \\/"'),
        ("moonshot", b'"reasoning_content": "h\\u00e4 \\/"'),
        ("groq", b'"reasoning": "h\\u00e4 \\/"'),
        ("together", b'"reasoning": "h\\u00e4 \\/"'),
        ("openai-compatible", b'"thinking_blocks": [ {"type":"thinking", "thinking":"x", "signature":"\\/=="} ]'),
    ],
)
def test_what_has_to_go_back_goes_byte_for_byte(name: str, raw: bytes) -> None:
    body = b'{"id":"c","choices":[ {"message": {"role":"assistant","content":"a", ' + raw + b"}} ]}"
    value = raw.partition(b": ")[2]
    assert value in next_turn(name, parse(name, body))


def test_mistral_s_thinking_goes_back_in_its_place_byte_for_byte() -> None:
    content = b'[ {"type":"thinking","thinking":[{"type":"text","text":"h\\u00e4"}]}, {"type":"text","text":"a"}]'
    body = b'{"choices":[{"message":{"role":"assistant","content":' + content + b"}}]}"
    assert b'"content":' + content in next_turn("mistral", parse("mistral", body))


def test_a_signature_beside_a_call_goes_back_with_it() -> None:
    entry = call("{}", extra_content={"google": {"thought_signature": "s=="}})
    sent = next_turn("openai-compatible", parse("openai-compatible", completion({"tool_calls": [entry]})))
    assert json.loads(sent)["messages"][1]["tool_calls"] == [entry]


@pytest.mark.parametrize("name", ["openai", "azure", "perplexity", "vllm"])
def test_other_turns_go_back_as_text_and_calls(name: str) -> None:
    reply = parse(name, completion({"content": "a", "reasoning": "hm", "annotations": [{}]}))
    assert reply.message == Message("assistant", "a")


def test_a_turn_that_goes_back_names_the_calls_as_their_results_do() -> None:
    reply = parse("groq", completion({"reasoning": "hm", "tool_calls": [call("{}", id=None, index=0)]}))
    sent = json.loads(next_turn("groq", reply))["messages"][1]
    assert sent["tool_calls"] == [call("{}", id=reply.tool_calls[0].id)]
    assert sent["reasoning"] == "hm"


# Use and charges


@pytest.mark.parametrize(
    ("name", "usage", "read"),
    [
        ("openai", {"prompt_tokens": 9, "completion_tokens": 2}, Usage(9, 2)),
        (
            "deepseek",
            {"prompt_tokens": 563, "completion_tokens": 2, "prompt_cache_hit_tokens": 512},
            Usage(563, 2, cached_input=512),
        ),
        ("moonshot", {"prompt_tokens": 9, "completion_tokens": 2, "cached_tokens": 4}, Usage(9, 2, cached_input=4)),
        (
            "perplexity",
            {"prompt_tokens": 9, "completion_tokens": 2, "reasoning_tokens": 40, "num_search_queries": 3},
            Usage(9, 42, reasoning=40, searches=3),
        ),
        (
            "xai",
            {
                "prompt_tokens": 9,
                "completion_tokens": 2,
                "total_tokens": 15,
                "completion_tokens_details": {"reasoning_tokens": 4},
            },
            Usage(9, 6, reasoning=4),
        ),
        (
            "openai",
            {
                "prompt_tokens": 9,
                "completion_tokens": 6,
                "total_tokens": 15,
                "completion_tokens_details": {"reasoning_tokens": 4},
            },
            Usage(9, 6, reasoning=4),
        ),
        (
            "openrouter",
            {"prompt_tokens": 9, "completion_tokens": 2, "server_tool_use_details": {"web_search_requests": 1}},
            Usage(9, 2, searches=1),
        ),
        (
            "mistral",
            {"prompt_tokens": 9, "completion_tokens": 2, "service_tier": "priority"},
            Usage(9, 2, tier="priority"),
        ),
        ("mistral", {"prompt_tokens": 9, "completion_tokens": 2, "service_tier": "standard"}, Usage(9, 2)),
    ],
)
def test_use_is_read_in_one_form(name: str, usage: dict[str, object], read: Usage) -> None:
    assert parse(name, completion(usage=usage)).usage == read


@pytest.mark.parametrize(("tier", "read"), [("flex", "flex"), ("default", ""), (None, ""), (3, "")])
def test_the_tier_that_answered_is_kept_unless_it_is_the_usual(tier: object, read: str) -> None:
    assert parse("openai", completion(usage={}, service_tier=tier)).usage.tier == read


@pytest.mark.parametrize(
    ("name", "usage", "cost"),
    [
        ("openrouter", {"cost": 0.0000012}, "0.0000012"),
        ("openrouter", {"cost": 0}, "0"),
        ("openrouter", {"cost": None}, ""),
        ("openrouter", {"cost": -1}, ""),
        ("openrouter", {"cost": 1e300}, ""),
        ("openrouter", {"cost": True}, ""),
        ("openrouter", {"cost": 0.01, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.2}}, "0.21"),
        ("openrouter", {"cost": 0.01, "is_byok": True}, ""),
        ("perplexity", {"cost": {"total_cost": 0.0051}}, "0.0051"),
        ("perplexity", {"cost": 3}, ""),
        ("xai", {"cost_in_usd_ticks": 37_756_000}, "0.0037756"),
        ("openai", {"cost": 0.5}, ""),
    ],
)
def test_a_stated_charge_is_kept_as_a_decimal(name: str, usage: dict[str, object], cost: str) -> None:
    assert parse(name, completion(usage=usage)).stated_cost == cost


@pytest.mark.parametrize(
    ("stated", "cost"),
    [("0.00031", "0.00031"), ("3.1e-05", "0.000031"), ("0.0", ""), ("None", ""), ("-1", ""), ("NaN", ""), ("1e9", "")],
)
def test_a_gateway_states_the_charge_in_a_header(stated: str, cost: str) -> None:
    headers = {**HEADERS, "x-litellm-response-cost": stated}
    assert parse("openai-compatible", completion(), headers=headers).stated_cost == cost


@pytest.mark.parametrize(
    ("name", "headers", "found"),
    [
        ("openai", {"x-request-id": "a"}, "a"),
        ("azure", {"apim-request-id": "a"}, "a"),
        ("mistral", {"mistral-correlation-id": "a"}, "a"),
        ("openrouter", {"x-generation-id": "a", "x-request-id": "b"}, "a"),
        ("openai-compatible", {"x-litellm-call-id": "a"}, "a"),
        ("groq", {}, "g"),
    ],
)
def test_the_request_s_name_is_found_where_each_provider_puts_it(
    name: str, headers: dict[str, str], found: str
) -> None:
    assert parse(name, completion(x_groq={"id": "g"}), headers=headers).request_id == found


# Errors as providers write them


@pytest.mark.parametrize(
    ("name", "status", "body", "reason", "refuses", "retryable"),
    [
        (
            "openai",
            400,
            {
                "error": {
                    "message": "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default"
                    " (1) value is supported.",
                    "type": "invalid_request_error",
                    "param": "temperature",
                    "code": "unsupported_value",
                }
            },
            "unsupported",
            "temperature",
            False,
        ),
        (
            "openai",
            400,
            {
                "error": {
                    "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use"
                    " 'max_completion_tokens' instead.",
                    "type": "invalid_request_error",
                    "param": "max_tokens",
                    "code": "unsupported_parameter",
                }
            },
            "other",
            "",
            False,
        ),
        (
            "openai",
            400,
            {
                "error": {
                    "message": "This model's maximum context length is 128000 tokens.",
                    "type": "invalid_request_error",
                    "param": "messages",
                    "code": "context_length_exceeded",
                }
            },
            "context",
            "",
            False,
        ),
        (
            "openai",
            429,
            {
                "error": {
                    "message": "You exceeded your current quota",
                    "type": "insufficient_quota",
                    "param": None,
                    "code": "credit_balance_exhausted",
                }
            },
            "quota",
            "",
            False,
        ),
        (
            "mistral",
            422,
            {
                "object": "error",
                "message": {
                    "detail": [
                        {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}
                    ]
                },
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            },
            "unsupported",
            "seed",
            False,
        ),
        (
            "mistral",
            422,
            {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "reasoning_effort"],
                        "msg": "Extra inputs are not permitted",
                    }
                ]
            },
            "unsupported",
            "reasoning",
            False,
        ),
        (
            "mistral",
            400,
            {
                "object": "error",
                "message": "Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9.",
                "type": "invalid_function_call",
                "code": "3280",
            },
            "other",
            "",
            False,
        ),
        ("mistral", 429, {"message": "Requests rate limit exceeded"}, "rate_limit", "", True),
        (
            "groq",
            400,
            {
                "error": {
                    "message": "Failed to call a function.",
                    "type": "invalid_request_error",
                    "code": "tool_use_failed",
                    "failed_generation": "<f>",
                }
            },
            "other",
            "",
            True,
        ),
        (
            "groq",
            400,
            {
                "error": {
                    "message": "`reasoning_effort` is not supported with this model",
                    "type": "invalid_request_error",
                    "param": "reasoning_effort",
                }
            },
            "unsupported",
            "reasoning",
            False,
        ),
        ("groq", 498, {"error": {"message": "flex", "code": "capacity_exceeded"}}, "other", "", True),
        ("groq", 413, {"error": {"message": "Request too large", "code": "rate_limit_exceeded"}}, "context", "", False),
        (
            "deepseek",
            402,
            {"error": {"message": "Insufficient Balance", "code": "invalid_request_error"}},
            "quota",
            "",
            False,
        ),
        ("openrouter", 402, {"error": {"code": 402, "message": "Insufficient credits"}}, "quota", "", False),
        ("openrouter", 403, {"error": {"code": 403, "message": "flagged"}}, "forbidden", "", False),
        (
            "openrouter",
            400,
            {
                "error": {
                    "code": 400,
                    "message": "Provider returned error",
                    "metadata": {
                        "raw": '{"error":{"message":"Unsupported value: \'temperature\' does not support 0.2",'
                        '"param":"temperature"}}',
                        "provider_name": "OpenAI",
                    },
                }
            },
            "unsupported",
            "temperature",
            False,
        ),
        ("openrouter", 502, {"error": {"code": 502, "message": "upstream"}}, "overloaded", "", True),
        (
            "xai",
            400,
            {
                "code": "Client specified an invalid argument",
                "error": "Argument not supported on this model: reasoningEffort",
            },
            "unsupported",
            "reasoning",
            False,
        ),
        (
            "xai",
            429,
            {"code": "x", "error": "Your team has either used all available credits or reached its limit."},
            "quota",
            "",
            False,
        ),
        (
            "moonshot",
            429,
            {"error": {"message": "spent", "type": "exceeded_current_quota_error"}},
            "quota",
            "",
            False,
        ),
        (
            "vllm",
            400,
            {
                "object": "error",
                "message": "This model's maximum context length is 2048 tokens.",
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            },
            "context",
            "",
            False,
        ),
        (
            "openai-compatible",
            400,
            {"error": {"message": "litellm.UnsupportedParamsError: m does not support ['seed']", "code": "400"}},
            "unsupported",
            "seed",
            False,
        ),
        ("azure", 404, {"error": {"code": "DeploymentNotFound", "message": "no such"}}, "not_found", "", False),
        ("azure", 429, {"error": {"code": "429", "message": "Requests have exceeded"}}, "rate_limit", "", True),
    ],
)
def test_an_error_is_understood_as_its_provider_writes_it(
    name: str, status: int, body: dict[str, Any], reason: str, refuses: str, retryable: bool
) -> None:
    error = failed(name, body, status)
    assert isinstance(error, ProviderError)
    assert (error.reason, error.refuses, error.retryable) == (reason, refuses, retryable)
    assert (error.status, error.request_id) == (status, "req-7")


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        ("openai", 401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}),
        ("azure", 401, {"statusCode": 401, "message": "Access denied due to invalid subscription key"}),
        ("mistral", 401, {"detail": "Unauthorized"}),
        ("xai", 400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xa***"}),
    ],
)
def test_a_refused_key_is_told_from_other_errors(name: str, status: int, body: dict[str, Any]) -> None:
    error = failed(name, body, status)
    assert isinstance(error, CredentialError)
    assert adapter(name).row.key_env[0] in str(error)


def test_a_prompt_that_azure_filters_is_an_answer_error() -> None:
    body = {
        "error": {
            "message": "The response was filtered",
            "type": None,
            "param": "prompt",
            "code": "content_filter",
            "status": 400,
            "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}},
        }
    }
    assert isinstance(failed("azure", body, 400), AnswerError)


def test_an_error_that_openrouter_puts_into_a_success_is_found() -> None:
    error = failed("openrouter", {"error": {"code": 429, "message": "slow", "metadata": {"raw": "upstream"}}}, 200)
    assert isinstance(error, ProviderError)
    assert (error.reason, error.retryable) == ("rate_limit", True)
    assert "slow: upstream" in error.message


def test_blank_lines_before_a_slow_reply_do_no_harm() -> None:
    body = b"\n\n\n" + completion({"content": "a", "reasoning_content": "hm"})
    assert parse("deepseek", body).message.opaque is not None


def test_perplexity_s_sources_are_kept_in_the_raw_body() -> None:
    assert b"https://h/a" in parse("perplexity", completion(citations=["https://h/a"])).raw


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"type": "exceed_context_size_error", "message": "the request exceeds the available context size"}),
        (500, {"code": 500, "message": "the request exceeds the available context size. try increasing it"}),
        (400, "trying to keep the first 9000 tokens when context the overflows"),
        (400, "The decoder prompt (length 9000) is longer than the maximum model length of 4096."),
        (400, "Requested tokens (9000) exceed context window of 4096"),
        (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 9000"),
        (413, {"code": "rate_limit_exceeded", "message": "Request too large for model: Limit 6000, Requested 9000"}),
        (429, {"code": "rate_limit_exceeded", "message": "Request too large on TPM: Limit 30000, Requested 40000."}),
    ],
)
def test_a_request_that_is_too_long_is_a_matter_of_context_on_any_server(status: int, error: object) -> None:
    found = failed("openai-compatible", {"error": error}, status)
    assert isinstance(found, ProviderError)
    assert (found.reason, found.retryable) == ("context", False)


def test_a_rate_limit_that_passes_is_none() -> None:
    message = "Rate limit reached on tokens per min (TPM): Limit 30000, Used 29000, Requested 5000."
    found = failed("openai", {"error": {"code": "rate_limit_exceeded", "message": message}}, 429)
    assert isinstance(found, ProviderError)
    assert (found.reason, found.retryable) == ("rate_limit", True)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"message": "This response_format type is unavailable now"}),
        (400, {"message": "'response_format.type' must be 'json_schema' or 'text'"}),
        (400, {"message": "'response_format' of type 'json_schema' is not supported with this model."}),
        (400, {"message": "Unsupported parameter", "param": "response_format", "code": "unsupported_parameter"}),
        (400, {"message": "JSON mode is not enabled for this model"}),
        (400, {"message": "json mode cannot be combined with tool/function calling"}),
        (400, {"message": "output_config.format: Extra inputs are not permitted"}),
        (400, {"message": "Failed to parse grammar"}),
        (404, {"message": "This model does not support structured outputs"}),
        (422, [{"type": "literal_error", "loc": ["body", "response_format", "type"], "msg": "Input should be 'text'"}]),
    ],
)
def test_a_refused_form_of_the_answer_is_told_from_other_errors(status: int, error: object) -> None:
    body = {"detail": error} if isinstance(error, list) else {"error": error}
    found = failed("vllm", body, status)
    assert isinstance(found, ProviderError)
    assert (found.refuses, found.retryable) == ("response_type", False)


@pytest.mark.parametrize(
    "message",
    ["'messages' must contain the word 'json' in some form", "messages: field required", "The model is not available"],
)
def test_other_errors_refuse_no_form(message: str) -> None:
    found = failed("vllm", {"error": {"message": message}}, 400)
    assert isinstance(found, ProviderError)
    assert found.refuses == ""
