"""A tool call and its result bear one id, whichever turns go back in their provider's own form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.adapters import Endpoint, Message, ModelCall, SecretStr, adapter
from kitaru.adapters.message import ToolCall, assistant
from tests.cases import cases

ENDPOINT = Endpoint(base_url="https://a.example/v1", api_key=SecretStr("key-of-the-test"))
USER = Message("user", "How high is the tide?")


def chat(identifier: str, **more: object) -> dict[str, Any]:
    calls = [{"id": identifier, "type": "function", "function": {"name": "tide", "arguments": "{}"}}]
    message = {"role": "assistant", "content": None, "tool_calls": calls, **more}
    return {"id": "c", "choices": [{"message": message, "finish_reason": "tool_calls"}]}


def native(provider: str, identifier: str) -> dict[str, Any]:
    """An answer with a call and thinking, which goes back as it came."""
    match provider:
        case "anthropic":
            thinking = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
            use = {"type": "tool_use", "id": identifier, "name": "tide", "input": {}}
            return {"id": "m", "type": "message", "content": [thinking, use], "stop_reason": "tool_use"}
        case "openai-responses":
            thought: dict[str, object] = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "c2ln"}
            item = {"type": "function_call", "id": "fc", "call_id": identifier, "name": "tide", "arguments": "{}"}
            return {"id": "r", "status": "completed", "output": [thought, item]}
        case "mistral":
            return chat(identifier, content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}])
        case _:
            return chat(identifier, reasoning_details=[{"type": "reasoning.encrypted", "data": "c2ln"}])


def pairs(provider: str, messages: tuple[Message, ...]) -> tuple[list[str], list[str]]:
    """The ids of calls and of results in the request, in order."""
    body = adapter(provider).build_request(ModelCall(provider, "m", messages), ENDPOINT).content
    found: tuple[list[str], list[str]] = ([], [])
    for one in walked(json.loads(body)):
        if one.get("type") in ("tool_use", "function"):
            found[0].append(one["id"])
        elif one.get("type") == "function_call":
            found[0].append(one["call_id"])
        for name in ("tool_use_id", "tool_call_id"):
            if name in one:
                found[1].append(one[name])
        if one.get("type") == "function_call_output":
            found[1].append(one["call_id"])
    return found


def walked(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walked(one)


identifiers = st.from_regex(r"[A-Za-z0-9]{9}|[a-z]+[.:][0-9]|[a-z_]{41,70}", fullmatch=True) | st.text(
    st.characters(codec="utf-8"), min_size=1, max_size=80
)


@pytest.mark.parametrize("provider", ["anthropic", "openai-responses", "openrouter", "mistral"])
@settings(max_examples=cases(50))
@given(identifier=identifiers, foreign=identifiers)
def test_a_result_names_its_call_as_its_turn_does(provider: str, identifier: str, foreign: str) -> None:
    call = ModelCall(provider, "m", (USER,))
    body = json.dumps(native(provider, identifier)).encode()
    own = adapter(provider).parse_response(call, 200, {}, body).message
    assert own.opaque is not None
    (asked,) = own.tool_calls
    other = ToolCall(foreign, "tide")
    results = [Message("tool", "4 m", tool_call_id=one.id) for one in (asked, other)]
    calls, answered = pairs(provider, (USER, own, results[0], assistant("", [other]), results[1]))
    assert calls == answered
    assert calls[0] == asked.id
