"""What OpenRouter's own SDK sends and reads, against the adapter. It writes requests from models of its own."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from openrouter import OpenRouter
from openrouter.components import ChatResult, ChatStreamChunk

from kitaru.adapters import ToolCall, Usage, adapter
from tests.adapters.sdk.chat_cases import KEY, Case, cases, differences, parse, parse_stream, sent_by

OPENROUTER = adapter("openrouter")

EXPLAINED: Final = {
    "stream_options": "asks for the usage of a stream; it comes unasked, too",
    "stream": "the SDK states the default, false",
}


def ask(url: str, given: dict[str, Any]) -> None:
    with OpenRouter(api_key=KEY, server_url=f"{url}/api/v1") as client:
        found = client.chat.send(**given)
        if given.get("stream"):
            list(found)


def spelled(case: Case) -> dict[str, Any]:
    """The same arguments, the effort as a field of `reasoning`, of which `reasoning_effort` is a shorthand."""
    given = dict(case.given)
    if "reasoning_effort" in given:
        given["reasoning"] = {"effort": given.pop("reasoning_effort")}
    return given


@pytest.mark.parametrize("name", cases())
def test_the_adapter_sends_what_the_sdk_sends(name: str) -> None:
    case = cases()[name]
    theirs = sent_by(ask, spelled(case))
    assert differences(OPENROUTER, case, theirs, "https://h.example/api/v1") <= EXPLAINED.keys()
    assert theirs.json["stream"] is case.stream


USAGE: Final = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 4},
    "cost": 0.0000012,
    "is_byok": False,
    "server_tool_use_details": {"web_search_requests": 2},
}
READ: Final = Usage(20, 9, cached_input=16, reasoning=4, searches=2)
DETAILS: Final = [
    {"type": "reasoning.text", "text": "hm", "signature": "s1", "index": 0},
    {"type": "reasoning.encrypted", "data": "xyz", "index": 1},
]
HEAD: Final[dict[str, Any]] = {"id": "gen-1", "created": 1, "model": "other/m-2026", "system_fingerprint": None}
CALL: Final = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_a_completion_of_the_sdk_is_read() -> None:
    message = {
        "role": "assistant",
        "content": "hello",
        "reasoning": "hm",
        "reasoning_details": DETAILS,
        "tool_calls": [CALL],
    }
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    made = ChatResult.model_validate({**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE})
    reply = parse(OPENROUTER, made.model_dump_json(by_alias=True))
    assert (reply.text, reply.finish, reply.reasoning) == ("hello", "tool_calls", "hm")
    assert (reply.model, reply.stated_cost) == ("other/m-2026", "0.0000012")
    assert reply.tool_calls == (ToolCall("call_1", "f", "{}"),)
    assert reply.usage == READ
    assert reply.message.opaque is not None
    assert json.loads(reply.message.opaque.data)["reasoning_details"][1]["data"] == "xyz"


def test_a_stream_of_the_sdk_is_read() -> None:
    def chunk(delta: object, finish: object = None, **more: object) -> str:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        fields = {**HEAD, "system_fingerprint": "f", "object": "chat.completion.chunk", "choices": choices, **more}
        text: str = ChatStreamChunk.model_validate(fields).model_dump_json(by_alias=True)
        return text

    reply = parse_stream(
        OPENROUTER,
        [
            chunk({"reasoning": "h", "reasoning_details": [{"type": "reasoning.text", "text": "h", "index": 0}]}),
            chunk({"reasoning": "m", "reasoning_details": [{"type": "reasoning.text", "text": "m", "index": 0}]}),
            chunk({"reasoning_details": [{"type": "reasoning.text", "signature": "s1", "index": 0}]}),
            chunk({"reasoning_details": [DETAILS[1]]}),
            chunk({"content": "hello"}),
            chunk({"tool_calls": [{"index": 0, **CALL}]}, "tool_calls"),
            chunk({"role": "assistant", "content": ""}, "tool_calls", usage=USAGE),
        ],
    )
    assert (reply.text, reply.finish, reply.reasoning) == ("hello", "tool_calls", "hm")
    assert reply.tool_calls == (ToolCall("call_1", "f", "{}"),)
    assert (reply.usage, reply.stated_cost) == (READ, "0.0000012")
    assert reply.message.opaque is not None
    sent_back = json.loads(reply.message.opaque.data)["reasoning_details"]
    assert [{k: v for k, v in one.items() if v is not None} for one in sent_back] == DETAILS
