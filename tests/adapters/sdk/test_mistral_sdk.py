"""What Mistral's own SDK sends and reads, against the adapter. It writes requests from models of its own."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from mistralai.client import Mistral
from mistralai.client.models import ChatCompletionResponse, CompletionChunk

from kitaru.adapters import ToolCall, Usage, adapter
from tests.adapters.recording import Request
from tests.adapters.sdk.chat_cases import CALL_ID, KEY, Case, cases, differences, parse, parse_stream, sent_by

MISTRAL = adapter("mistral")

EXPLAINED: Final = {
    "stream": "the SDK states the default, false",
    "messages": "the SDK states the defaults `index` 0 of a call and `prefix` false of a turn",
}


def ask(url: str, given: dict[str, Any]) -> None:
    given = dict(given)
    with Mistral(api_key=KEY, server_url=url) as client:
        if given.pop("stream", False):
            list(client.chat.stream(**given))
        else:
            client.chat.complete(**given)


def spelled(case: Case) -> dict[str, Any]:
    """The same arguments in this API's words."""
    given = {"random_seed" if name == "seed" else name: value for name, value in case.given.items()}
    if given.get("tool_choice") == "required":
        given["tool_choice"] = "any"  # both are known; models from before know only this one
    given["messages"] = [{**one, "name": "weather"} if one["role"] == "tool" else one for one in given["messages"]]
    return given


def without_defaults(theirs: Request) -> Request:
    body = theirs.json
    if body["stream"] is False:
        del body["stream"]
    for message in body["messages"]:
        if message.get("prefix") is False:
            del message["prefix"]
        for one in message.get("tool_calls", ()):
            if one["index"] == 0:
                del one["index"]
    return theirs._replace(body=json.dumps(body).encode())


@pytest.mark.parametrize("name", cases())
def test_the_adapter_sends_what_the_sdk_sends(name: str) -> None:
    case = cases()[name]
    theirs = sent_by(ask, spelled(case))
    assert differences(MISTRAL, case, theirs, "https://h.example/v1") <= EXPLAINED.keys()
    assert differences(MISTRAL, case, without_defaults(theirs), "https://h.example/v1") == set()


USAGE: Final = {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29, "service_tier": "standard"}
HEAD: Final[dict[str, Any]] = {"id": "c", "created": 1, "model": "m-2026"}
CHUNKS: Final = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "signature": "s1"},
    {"type": "text", "text": "hel"},
    {"type": "reference", "reference_ids": [1]},
    {"type": "text", "text": "lo"},
]
CALL: Final = {"id": CALL_ID, "function": {"name": "f", "arguments": {"a": 1}}, "index": 0}


def test_a_completion_of_the_sdk_is_read() -> None:
    message = {"role": "assistant", "content": CHUNKS, "tool_calls": [CALL]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    made = ChatCompletionResponse.model_validate(
        {**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}
    )
    reply = parse(MISTRAL, made.model_dump_json(by_alias=True))
    assert (reply.text, reply.finish, reply.reasoning) == ("hello", "tool_calls", "hm")
    assert reply.tool_calls == (ToolCall(CALL_ID, "f", '{"a":1}'),)
    assert reply.usage == Usage(20, 9)
    assert reply.message.opaque is not None
    assert json.loads(reply.message.opaque.data)["content"][0]["signature"] == "s1"


def test_a_stream_of_the_sdk_is_read() -> None:
    def chunk(delta: object, finish: object = None, **more: object) -> str:
        fields = {**HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
        text: str = CompletionChunk.model_validate(fields).model_dump_json(by_alias=True)
        return text

    reply = parse_stream(
        MISTRAL,
        [
            chunk({"role": "assistant", "content": ""}),
            *(chunk({"content": [one]}) for one in CHUNKS),
            chunk({"content": "!", "tool_calls": [CALL]}, "tool_calls", usage=USAGE),
        ],
    )
    assert (reply.text, reply.finish, reply.reasoning) == ("hello!", "tool_calls", "hm")
    assert reply.tool_calls == (ToolCall(CALL_ID, "f", '{"a":1}'),)
    assert reply.usage == Usage(20, 9)
    assert reply.message.opaque is not None
    assert json.loads(reply.message.opaque.data)["content"][:3] == CHUNKS[:3]
