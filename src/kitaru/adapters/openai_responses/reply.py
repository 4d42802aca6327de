"""Reading an answer of OpenAI's responses API; field names by openai SDK `types/responses/response.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from kitaru.adapters.call import ModelCall
from kitaru.adapters.call_ids import made_id
from kitaru.adapters.failures import failure_within, malformed, payload_of, request_id
from kitaru.adapters.fields import Object, count, is_object, json_text, object_at, objects_in, text_in
from kitaru.adapters.message import ToolCall, assistant
from kitaru.adapters.notes import notes
from kitaru.adapters.provider import Provider
from kitaru.adapters.reply import FinishReason, Reply, Usage
from kitaru.adapters.secret import clean

# `types/responses/response_status.py`, and `incomplete_details.reason`. What is not listed is "other": `queued`,
# `in_progress`, `max_messages`, `steered`, and whatever is new.
_FINISH: Final[Mapping[str, FinishReason]] = {
    "completed": "stop",
    "cancelled": "error",
    "max_output_tokens": "length",
    "content_filter": "content_filter",
}

# What a message and its texts may hold and still be written anew from the reply.
_PLAIN_MESSAGE: Final = frozenset({"type", "id", "status", "role", "content"})
_PLAIN_TEXT: Final = frozenset({"type", "text", "annotations", "logprobs"})
_PLAIN_CALL: Final = frozenset({"type", "id", "status", "call_id", "name", "arguments"})

PARAGRAPH: Final = "\n\n"
"""Stands between two pieces of thinking."""


class _Turn(msgspec.Struct):
    output: msgspec.Raw


def read(row: Provider, call: ModelCall, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
    """Return the reply held by a response.

    Raises:
        ModelError: The response is an error, or cannot be understood. Nothing else is raised.
    """
    payload = payload_of(row, status, headers, body)
    if payload.get("error") or payload.get("status") == "failed":
        raise failure_within(row, status, headers, payload.get("error") or {"message": "no reason is given"})
    output = payload.get("output")
    if not isinstance(output, list) or not all(is_object(item) for item in output):
        raise malformed(row, status, headers, body, "the body holds no list of output items")
    if not all(_complete(item) for item in output):
        raise malformed(row, status, headers, body, "one of its output items lacks what belongs to its type")
    return _reply(row, call, headers, body, payload, output)


def call_in(call: ModelCall, index: int, item: Object) -> ToolCall:
    """Return the tool call in an item of type `function_call`.

    Args:
        call: What was asked.
        index: Which tool call of the answer it is, counted from 0.
        item: Of the output.
    """
    name, stated = text_in(item.get("name")), item.get("arguments")
    arguments = "{}" if stated is None or stated == "" else json_text(stated)
    # `call_id`, not `id`, is what a result names.
    return ToolCall(
        text_in(item.get("call_id")) or made_id(call, index, name, text_in(item.get("id"))), name, arguments
    )


def parts_of(item: Object, kind: str) -> list[Object]:
    """Return the parts of one kind in an item's content."""
    return [part for part in objects_in(item.get("content")) if part.get("type") == kind]


def _complete(item: Object) -> bool:
    match item.get("type"):
        case "message":
            if not isinstance(item.get("content"), list):
                return False
            texts = [part.get("text") for part in parts_of(item, "output_text")]
            return all(isinstance(text, str) for text in texts)
        case kind:
            return isinstance(kind, str)


def _reply(
    row: Provider, call: ModelCall, headers: Mapping[str, str], body: bytes, payload: Object, output: list[Object]
) -> Reply:
    messages = [item for item in output if item.get("type") == "message"]
    text = "".join(text_in(part.get("text")) for item in messages for part in parts_of(item, "output_text"))
    refusals = [text_in(part.get("refusal")) for item in messages for part in parts_of(item, "refusal")]
    asked = [item for item in output if item.get("type") == "function_call"]
    calls = [call_in(call, at, item) for at, item in enumerate(asked)]
    said = payload.get("status")
    if said == "incomplete":
        said = object_at(payload, "incomplete_details").get("reason") or said
    finish = _FINISH.get(text_in(said), "other")
    if finish == "stop" and calls:
        finish = "tool_calls"
    if refusals and finish in ("stop", "tool_calls"):
        finish = "content_filter"
    usage, usage_read = _usage(payload)
    tier = text_in(payload.get("service_tier"))
    return Reply(
        text=text,
        message=assistant(text, calls, provider=row.name, model=call.model, own=_own(body, output)),
        finish=finish,
        usage=msgspec.structs.replace(usage, tier="" if tier in ("default", "auto") else clean(tier, 40)),
        model=clean(text_in(payload.get("model")), 200),
        request_id=request_id(row, headers),
        raw=body,
        refusal=clean("".join(refusals)) if refusals else None,
        reasoning=PARAGRAPH.join(thought for item in output for thought in _thoughts(item)),
        warnings=(*notes(text, finish, said, usage_read=usage_read), *_custom(output)),
    )


def _custom(output: list[Object]) -> list[str]:
    return [
        f"a call of the custom tool {clean(text_in(item.get('name')), 80)!r} was left out: tools are functions here"
        for item in output
        if item.get("type") == "custom_tool_call"
    ]


def _thoughts(item: Object) -> list[str]:
    """Return what a reasoning item shows: summaries, and of open models the thinking itself."""
    if item.get("type") != "reasoning":
        return []
    parts = [*objects_in(item.get("summary")), *objects_in(item.get("content"))]
    return [text for part in parts if (text := text_in(part.get("text")))]


def _own(body: bytes, output: list[Object]) -> bytes:
    """Return the turn as it came where text and calls are not all of it: thinking, phases, the API's own tools."""
    # A call that was cut off, or has no name, cannot go back as it came.
    whole = all(_sound(item) for item in output if item.get("type") == "function_call")
    if not whole or all(_plain(item) for item in output):
        return b""
    try:
        return bytes(msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"), type=_Turn).output)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return b""


def _sound(item: Object) -> bool:
    if not item.get("call_id"):
        return False
    try:
        msgspec.json.decode(text_in(item.get("arguments")))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    return True


def _plain(item: Object) -> bool:
    stated = {name for name, value in item.items() if value is not None}
    if item.get("type") == "function_call":
        return stated <= _PLAIN_CALL
    return (
        item.get("type") == "message"
        and stated <= _PLAIN_MESSAGE
        and all(
            part.get("type") == "output_text"
            and not part.get("annotations")
            and {name for name, value in part.items() if value is not None} <= _PLAIN_TEXT
            for part in objects_in(item.get("content"))
        )
    )


def _usage(payload: Object) -> tuple[Usage, bool]:
    """Return the usage in neutral terms, and whether all that was stated could be read."""
    found = payload.get("usage")
    if found is not None and not is_object(found):
        return Usage(), False
    # `types/responses/response_usage.py`: input holds the cached ones, output the reasoning.
    stated = [
        object_at(found).get("input_tokens"),
        object_at(found).get("output_tokens"),
        object_at(found, "input_tokens_details").get("cached_tokens"),
        object_at(found, "input_tokens_details").get("cache_write_tokens"),
        object_at(found, "output_tokens_details").get("reasoning_tokens"),
        object_at(payload, "tool_usage", "web_search").get("num_requests"),
    ]
    known, produced, cached, written, thought, searches = counts = [count(value) for value in stated]
    complete = all((one is None) == (value is None) for one, value in zip(counts, stated, strict=True))
    return Usage(known, produced, cached, written, thought, searches=searches), complete
