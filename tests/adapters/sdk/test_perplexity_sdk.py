"""What Perplexity's own SDK sends and reads, against the adapter. The SDK checks what it is given."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest
from perplexity import Perplexity
from perplexity.types import StreamChunk
from perplexity.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)

from kitaru.adapters import Settings, Usage, adapter
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

PERPLEXITY = adapter("perplexity")

EXPLAINED: Final = {"messages": "the SDK's type of an image knows no `detail`"}

# What the API has not, and the table says so: `fit` drops or refuses it before an adapter sees it.
LACKED: Final = {"json": "json_mode", "this tool": "tool"}


def ask(url: str, given: dict[str, Any]) -> None:
    with Perplexity(api_key=KEY, base_url=url, max_retries=0) as client:
        found = client.chat.completions.create(**given)
        if given.get("stream"):
            list(found)


def known() -> dict[str, Case]:
    found = {name: case for name, case in cases().items() if name not in LACKED}
    call, given, stream = found["settings"]
    settings: Settings = msgspec.structs.replace(call.settings, seed=None)
    del given["seed"]
    found["settings"] = Case(msgspec.structs.replace(call, settings=settings), given, stream)
    return found


@pytest.mark.parametrize("name", known())
def test_the_adapter_sends_what_the_sdk_sends(name: str) -> None:
    case = known()[name]
    found = differences(PERPLEXITY, case, sent_by(ask, case.given), "https://h.example")
    assert found <= EXPLAINED.keys()
    assert not found or name == "images"


@pytest.mark.parametrize("name", LACKED)
def test_what_the_sdk_refuses_is_lacking_in_the_table(name: str) -> None:
    with pytest.raises(ValueError, match="Input should be"):
        sent_by(ask, cases()[name].given)
    capabilities = PERPLEXITY.row.capabilities
    assert LACKED[name] not in capabilities.features | capabilities.tool_choices


@pytest.mark.parametrize("name", known())
def test_the_sdk_s_types_know_every_field_that_is_sent(name: str) -> None:
    case = known()[name]
    form = CompletionCreateParamsStreaming if case.stream else CompletionCreateParamsNonStreaming
    # A tool's `additionalProperties` is called `additional_properties` there: the schema's own word is sent.
    found = [said for said in strangers(body_of(PERPLEXITY, case), form) if "additionalProperties" not in said]
    assert found == []


USAGE: Final = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "reasoning_tokens": 40,
    "num_search_queries": 3,
    "search_context_size": "low",
    "cost": {
        "input_tokens_cost": 0.00002,
        "output_tokens_cost": 0.0001,
        "total_cost": 0.00512,
        "request_cost": 0.005,
    },
}
READ: Final = Usage(20, 49, reasoning=40, searches=3)


def chunk(delta: dict[str, Any], so_far: str, finish: object = None, **more: object) -> dict[str, Any]:
    message = {"role": "assistant", "content": so_far}
    choice = {"index": 0, "delta": {"role": "assistant", **delta}, "message": message, "finish_reason": finish}
    found: dict[str, Any] = StreamChunk.model_validate(
        {"id": "c", "created": 1, "model": "sonar", "object": "chat.completion", "choices": [choice], **more}
    ).model_dump(mode="json")
    return found


def test_a_completion_of_the_sdk_is_read() -> None:
    made = chunk({"content": ""}, "hello", "stop", usage=USAGE, citations=["https://h.example"], search_results=[])
    reply = parse(PERPLEXITY, msgspec.json.encode(made))
    assert (reply.text, reply.finish, reply.model) == ("hello", "stop", "sonar")
    assert reply.usage == READ
    assert reply.stated_cost == "0.00512"
    assert b"https://h.example" in reply.raw


def test_a_stream_of_the_sdk_is_read_by_its_deltas() -> None:
    pieces = [
        chunk({"content": "hel"}, "hel", status="PENDING"),
        chunk({"content": "lo"}, "hello", status="PENDING"),
        chunk({"content": ""}, "hello", "stop", usage=USAGE, citations=["https://h.example"], type="end_of_stream"),
    ]
    reply = parse_stream(PERPLEXITY, [msgspec.json.encode(one).decode() for one in pieces])
    assert (reply.text, reply.finish) == ("hello", "stop")
    assert reply.usage == READ
    assert reply.stated_cost == "0.00512"
    assert b"https://h.example" in reply.raw
