"""Reading an answer of Anthropic's messages API; field names by anthropic SDK `types/message.py` and `usage.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from kitaru.adapters.call import ModelCall
from kitaru.adapters.call_ids import made_id
from kitaru.adapters.failures import failure_within, malformed, payload_of
from kitaru.adapters.failures import request_id as named_in
from kitaru.adapters.fields import Object, count, is_object, json_text, object_at, text_in
from kitaru.adapters.message import ToolCall, assistant
from kitaru.adapters.notes import notes
from kitaru.adapters.provider import Provider
from kitaru.adapters.reply import FinishReason, Reply, Usage
from kitaru.adapters.secret import clean
from kitaru.errors import ProviderError

# `types/stop_reason.py`. What is not listed is "other": `pause_turn`, after which the turn is sent back to go on, and
# whatever is new.
_FINISH: Final[Mapping[str, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}

# Blocks that hold nothing beyond a text or a call: they can be written anew from the reply.
_PLAIN: Final[Mapping[object, frozenset[str]]] = {
    "text": frozenset({"type", "text"}),
    "tool_use": frozenset({"type", "id", "name", "input"}),
}


class _Turn(msgspec.Struct):
    content: msgspec.Raw


def read(row: Provider, call: ModelCall, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
    """Return the reply held by a response.

    Raises:
        ModelError: The response is an error, or cannot be understood. Nothing else is raised.
    """
    payload = payload_of(row, status, headers, body)
    if payload.get("error"):
        raise error_within(row, status, headers, payload)
    content = payload.get("content")
    if not isinstance(content, list) or not all(is_object(block) for block in content):
        raise malformed(row, status, headers, body, "the body holds no list of content blocks")
    if not all(_complete(block) for block in content):
        raise malformed(row, status, headers, body, "one of its content blocks lacks what belongs to its type")
    return _reply(row, call, headers, body, payload, content)


def error_within(row: Provider, status: int, headers: Mapping[str, str], payload: Object) -> ProviderError:
    """Return the exception for `{type: error, error, request_id}` that came inside a success."""
    stated = text_in(payload.get("request_id"))
    if stated and not named_in(row, headers):
        headers = {**headers, row.request_id_headers[0]: stated}
    return failure_within(row, status, headers, payload.get("error"))


def id_of(call: ModelCall, index: int, block: Object, response: object) -> str:
    """Return a tool call's id: its own, else one made from its place.

    Args:
        call: What was asked.
        index: Which tool call of the answer, counted from 0.
        block: Of the answer.
        response: The answer's own id.
    """
    return text_in(block.get("id")) or made_id(call, index, text_in(block.get("name")), text_in(response))


def _complete(block: Object) -> bool:
    match block.get("type"):
        case "text":
            return isinstance(block.get("text"), str)
        case kind:
            return isinstance(kind, str)


def _reply(
    row: Provider, call: ModelCall, headers: Mapping[str, str], body: bytes, payload: Object, content: list[Object]
) -> Reply:
    text = "".join(text_in(block.get("text")) for block in content if block.get("type") == "text")
    uses = [block for block in content if block.get("type") == "tool_use"]
    calls = [
        ToolCall(id_of(call, at, use, payload.get("id")), text_in(use.get("name")), json_text(use.get("input") or {}))
        for at, use in enumerate(uses)
    ]
    # `types/beta/beta_fallback_block.py`: the provider let another model go on.
    hops = [object_at(block, "to") for block in content if block.get("type") == "fallback"]
    answered_by = hops[-1].get("model") if hops else None
    said = payload.get("stop_reason")
    finish = _FINISH.get(text_in(said), "other")
    if finish == "stop" and calls:
        finish = "tool_calls"
    usage, usage_read = _usage(payload.get("usage"))
    # `types/refusal_stop_details.py`: both may be null.
    details = object_at(payload, "stop_details") if finish == "content_filter" else {}
    category, explanation = clean(text_in(details.get("category")), 40), clean(text_in(details.get("explanation")))
    more = (f"the provider puts the refusal down to {category!r}",) if category else ()
    return Reply(
        text=text,
        message=assistant(text, calls, provider=row.name, model=call.model, own=_own(body, content)),
        finish=finish,
        usage=usage,
        model=clean(text_in(answered_by or payload.get("model")), 200),
        request_id=named_in(row, headers),
        raw=body,
        refusal=explanation or None,
        reasoning="".join(text_in(block.get("thinking")) for block in content if block.get("type") == "thinking"),
        warnings=tuple(notes(text, finish, said, usage_read=usage_read, more=more)),
    )


def _own(body: bytes, content: list[Object]) -> bytes:
    """Return the turn as it came where text and calls are not all of it: thinking, signatures, the API's own tools."""
    plain = all(
        {name for name, value in block.items() if value is not None} <= _PLAIN.get(block.get("type"), frozenset())
        for block in content
    )
    # A call that was cut off, or has no name, cannot go back as it came.
    whole = all(is_object(one.get("input")) and one.get("id") for one in content if one.get("type") == "tool_use")
    if plain or not whole:
        return b""
    try:
        return bytes(msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"), type=_Turn).content)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return b""


def _usage(found: object) -> tuple[Usage, bool]:
    """Return the usage in neutral terms, and whether all that was stated could be read.

    `input_tokens` leaves out what was read from the cache or written to it (`types/usage.py`).
    """
    if found is None:
        return Usage(), True
    if not is_object(found):
        return Usage(), False
    stated = [
        found.get("input_tokens"),
        found.get("cache_read_input_tokens"),
        found.get("cache_creation_input_tokens"),
        object_at(found, "cache_creation").get("ephemeral_1h_input_tokens"),
        found.get("output_tokens"),
        object_at(found, "output_tokens_details").get("thinking_tokens"),
        object_at(found, "server_tool_use").get("web_search_requests"),
    ]
    fresh, cached, written, written_1h, produced, thought, searches = counts = [count(value) for value in stated]
    complete = all((one is None) == (value is None) for one, value in zip(counts, stated, strict=True))
    parts_read = all((one is None) == (value is None) for one, value in zip(counts[:3], stated[:3], strict=True))
    tier = "fast" if found.get("speed") == "fast" else text_in(found.get("service_tier"))
    return Usage(
        input=fresh + (cached or 0) + (written or 0) if fresh is not None and parts_read else None,
        output=produced,
        cached_input=cached,
        cache_write=written,
        reasoning=thought,
        cache_write_1h=written_1h,
        searches=searches,
        tier="" if tier == "standard" else clean(tier, 40),
    ), complete
