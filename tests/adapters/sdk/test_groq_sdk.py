"""What Groq's own SDK sends and reads, against the adapter."""

from __future__ import annotations

from typing import Any, Final

import pytest
from groq import Groq
from groq.types.chat import ChatCompletion, ChatCompletionChunk
from groq.types.chat.completion_create_params import CompletionCreateParams

from kitaru.adapters import ToolCall, Usage, adapter
from tests.adapters.sdk.chat_cases import (
    KEY,
    Case,
    body_of,
    cases,
    differences,
    parse,
    parse_stream,
    sent_by,
    strangers,
)

GROQ = adapter("groq")

EXPLAINED: Final = {
    "include_reasoning": "who asks for thinking sees it in its own field; some models write it into the text otherwise"
}


def ask(url: str, given: dict[str, Any]) -> None:
    with Groq(api_key=KEY, base_url=url, max_retries=0) as client:
        found = client.chat.completions.create(**given)
        if given.get("stream"):
            list(found)


def spelled(case: Case) -> dict[str, Any]:
    return {"max_completion_tokens" if name == "max_tokens" else name: value for name, value in case.given.items()}


@pytest.mark.parametrize("name", cases())
def test_the_adapter_sends_what_the_sdk_sends(name: str) -> None:
    case = cases()[name]
    found = differences(GROQ, case, sent_by(ask, spelled(case)), "https://h.example/openai/v1")
    assert found <= EXPLAINED.keys()


@pytest.mark.parametrize("name", cases())
def test_the_sdk_s_types_know_every_field_that_is_sent(name: str) -> None:
    assert strangers(body_of(GROQ, cases()[name]), CompletionCreateParams) == []


USAGE: Final = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "queue_time": 0.1,
    "completion_tokens_details": {"reasoning_tokens": 4},
}
HEAD: Final[dict[str, Any]] = {"id": "c", "created": 1, "model": "m-2026"}


def test_a_completion_of_the_sdk_is_read() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "hello", "reasoning": "hm", "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None}
    made = ChatCompletion.model_validate(
        {**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE, "x_groq": {"id": "req_g"}}
    )
    reply = GROQ.parse_response(cases()["text"].call, 200, {}, made.model_dump_json().encode())
    assert (reply.text, reply.finish, reply.reasoning) == ("hello", "tool_calls", "hm")
    assert reply.tool_calls == (ToolCall("call_1", "f", "{}"),)
    assert reply.usage == Usage(20, 9, reasoning=4)
    assert reply.request_id == "req_g"
    assert parse(GROQ, made.model_dump_json()).request_id == "req-1"


def test_a_stream_of_the_sdk_is_read_with_the_usage_of_its_last_chunk() -> None:
    def chunk(delta: object, finish: object = None, **more: object) -> str:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        fields = {**HEAD, "object": "chat.completion.chunk", "choices": choices, **more}
        text: str = ChatCompletionChunk.model_validate(fields).model_dump_json()
        return text

    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    reply = parse_stream(
        GROQ,
        [
            chunk({"role": "assistant", "content": ""}, x_groq={"id": "req_g"}),
            chunk({"reasoning": "h"}),
            chunk({"reasoning": "m"}),
            chunk({"content": "hello"}),
            chunk({"tool_calls": [call]}),
            chunk({}, "tool_calls", x_groq={"id": "req_g", "usage": USAGE}),
        ],
    )
    assert (reply.text, reply.finish, reply.reasoning) == ("hello", "tool_calls", "hm")
    assert reply.tool_calls == (ToolCall("call_1", "f", '{"a":1}'),)
    assert reply.usage == Usage(20, 9, reasoning=4)
