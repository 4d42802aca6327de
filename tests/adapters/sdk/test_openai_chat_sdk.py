"""What OpenAI's own SDK sends and reads, against the adapter."""

from __future__ import annotations

from typing import Any, Final

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)

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

OPENAI = adapter("openai")

EXPLAINED: Final = {"stream_options": "asks for the usage of a stream, which the API leaves out otherwise"}


def ask(url: str, given: dict[str, Any]) -> None:
    with OpenAI(api_key=KEY, base_url=f"{url}/v1", max_retries=0) as client:
        found = client.chat.completions.create(**given)
        if given.get("stream"):
            list(found)


def spelled(case: Case) -> dict[str, Any]:
    """The same arguments under this API's newer name of the token limit."""
    return {"max_completion_tokens" if name == "max_tokens" else name: value for name, value in case.given.items()}


@pytest.mark.parametrize("name", cases())
def test_the_adapter_sends_what_the_sdk_sends(name: str) -> None:
    case = cases()[name]
    found = differences(OPENAI, case, sent_by(ask, spelled(case)), "https://h.example/v1")
    assert found <= EXPLAINED.keys()


@pytest.mark.parametrize("name", cases())
def test_the_sdk_s_types_know_every_field_that_is_sent(name: str) -> None:
    case = cases()[name]
    form = CompletionCreateParamsStreaming if case.stream else CompletionCreateParamsNonStreaming
    assert strangers(body_of(OPENAI, case), form) == []


USAGE: Final = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 16, "audio_tokens": 1, "cache_write_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 3},
}
READ: Final = Usage(20, 9, cached_input=16, cache_write=2, reasoning=4, input_audio=1, output_audio=3, tier="flex")


def test_a_completion_of_the_sdk_is_read() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "hello", "refusal": None, "tool_calls": [call], "annotations": []}
    made = ChatCompletion.model_validate(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "m-2026",
            "service_tier": "flex",
            "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None}],
            "usage": USAGE,
        },
        strict=True,
    )
    reply = parse(OPENAI, made.model_dump_json())
    assert (reply.text, reply.finish, reply.model) == ("hello", "tool_calls", "m-2026")
    assert reply.tool_calls == (ToolCall("call_1", "f", "{}"),)
    assert reply.usage == READ
    assert reply.warnings == ()


def test_a_stream_of_the_sdk_is_read() -> None:
    def chunk(delta: object, finish: object = None, **more: object) -> str:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
        head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m-2026", "choices": choices}
        text: str = ChatCompletionChunk.model_validate({**head, **more}, strict=True).model_dump_json()
        return text

    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
    reply = parse_stream(
        OPENAI,
        [
            chunk({"role": "assistant", "content": ""}, service_tier="flex"),
            chunk({"content": "hel"}),
            chunk({"content": "lo"}),
            chunk({"tool_calls": [first]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
            chunk({}, "tool_calls"),
            chunk(None, usage=USAGE),
        ],
    )
    assert (reply.text, reply.finish, reply.model) == ("hello", "tool_calls", "m-2026")
    assert reply.tool_calls == (ToolCall("call_1", "f", '{"a":1}'),)
    assert reply.usage == READ
