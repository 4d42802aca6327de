"""What Together's own SDK sends and reads, against the adapter."""

from __future__ import annotations

from typing import Any, Final

import pytest
from together import Together
from together.types.chat import ChatCompletion, ChatCompletionChunk
from together.types.chat.completion_create_params import (
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

TOGETHER = adapter("together")

EXPLAINED: Final = {
    "reasoning": "who asks for an effort wants thinking, which some models leave off otherwise",
    "tools": "the SDK's type of a tool knows no `strict`",
    "messages": "the SDK's type of an image knows no `detail`",
}
ONLY_THERE: Final = {"reasoning": "reasoning", "tools": "tools", "messages": "images"}


def ask(url: str, given: dict[str, Any]) -> None:
    with Together(api_key=KEY, base_url=url, max_retries=0) as client:
        found = client.chat.completions.create(**given)
        if given.get("stream"):
            list(found)


@pytest.mark.parametrize("name", cases())
def test_the_adapter_sends_what_the_sdk_sends(name: str) -> None:
    case = cases()[name]
    found = differences(TOGETHER, case, sent_by(ask, case.given), "https://h.example/v1")
    assert found <= EXPLAINED.keys()
    assert all(ONLY_THERE[field] == name for field in found)


@pytest.mark.parametrize("name", cases())
def test_the_sdk_s_types_know_every_field_that_is_sent(name: str) -> None:
    case: Case = cases()[name]
    form = CompletionCreateParamsStreaming if case.stream else CompletionCreateParamsNonStreaming
    assert strangers(body_of(TOGETHER, case), form) == []


def test_the_address_is_the_one_that_the_sdk_has_for_chat() -> None:
    import inspect

    from together.resources.chat.completions import CompletionsResource

    assert f"{TOGETHER.row.base_url}/chat/completions" in inspect.getsource(CompletionsResource)


USAGE: Final = {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29}
HEAD: Final[dict[str, Any]] = {"id": "c", "created": 1, "model": "m-2026", "usage": USAGE}
CALL: Final = {"id": "call_1", "index": 0.0, "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_a_completion_of_the_sdk_is_read() -> None:
    message = {"role": "assistant", "content": "hello", "reasoning": "hm", "tool_calls": [CALL]}
    choice = {"index": 0, "message": message, "finish_reason": "eos", "seed": 4}
    made = ChatCompletion.model_validate(
        {**HEAD, "object": "chat.completion", "prompt": [], "choices": [choice], "warnings": [{"message": "old"}]}
    )
    reply = parse(TOGETHER, made.model_dump_json())
    assert (reply.text, reply.finish, reply.reasoning) == ("hello", "tool_calls", "hm")
    assert reply.tool_calls == (ToolCall("call_1", "f", "{}"),)
    assert reply.usage == Usage(20, 9)
    assert reply.warnings == ("old",)


def test_a_stream_of_the_sdk_is_read_with_the_usage_of_its_last_chunk() -> None:
    def chunk(delta: dict[str, Any], finish: object = None, **more: object) -> str:
        choice = {"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": finish}
        fields = {**HEAD, "usage": None, "object": "chat.completion.chunk", "choices": [choice], **more}
        text: str = ChatCompletionChunk.model_validate(fields).model_dump_json()
        return text

    reply = parse_stream(
        TOGETHER,
        [chunk({"reasoning": "hm"}), chunk({"content": "hello"}), chunk({"content": ""}, "eos", usage=USAGE)],
    )
    assert (reply.text, reply.finish, reply.reasoning) == ("hello", "stop", "hm")
    assert reply.usage == Usage(20, 9)
