"""Reading an answer of Gemini's `generateContent`; field names by google-genai `types.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from kitaru.adapters.call import ModelCall
from kitaru.adapters.call_ids import made_id
from kitaru.adapters.failures import decode, failure, failure_within, malformed, not_json, request_id
from kitaru.adapters.fields import Object, count, is_object, json_text, object_at, objects_in, text_in
from kitaru.adapters.message import ToolCall, assistant
from kitaru.adapters.notes import notes
from kitaru.adapters.provider import Provider
from kitaru.adapters.reply import FinishReason, Reply, Usage
from kitaru.adapters.secret import clean

# `FinishReason` of google-genai `types.py`, grouped as in section 3 of the provider facts. What is not listed is
# "other": the enum grows.
_FINISH: Final[Mapping[str, FinishReason]] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "FUNCTION_CALL": "tool_calls",  # gateways and mock servers; the API itself says STOP
    **dict.fromkeys(
        (
            "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR", "IMAGE_SAFETY",
            "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION",
        ),
        "content_filter",
    ),
    **dict.fromkeys(
        (
            "MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS",
            "MISSING_THOUGHT_SIGNATURE",
        ),
        "error",
    ),
}  # fmt: skip


def read(row: Provider, call: ModelCall, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
    """Return the reply held by a response.

    Raises:
        ModelError: The response is an error, or cannot be understood. Nothing else is raised.
    """
    if not 200 <= status < 300:
        raise failure(row, status, headers, body)
    try:
        payload = decode(body)
    except ValueError as error:
        raise malformed(row, status, headers, body, not_json(str(error))) from None
    if isinstance(payload, list) and len(payload) == 1:
        payload = payload[0]  # gateways that speak the streaming form
    if not is_object(payload):
        raise malformed(row, status, headers, body, "the body is not a JSON object")
    if payload.get("error"):
        raise failure_within(row, status, headers, payload["error"])
    blocked = text_in(object_at(payload, "promptFeedback").get("blockReason"))
    candidates = payload.get("candidates")
    candidate = candidates[0] if isinstance(candidates, list) and candidates else None
    if candidate is None and blocked:
        candidate = {}
    if not is_object(candidate):
        raise malformed(row, status, headers, body, "the body holds no candidate")
    # A candidate that ran into MAX_TOKENS while it thought has no content, or one without parts.
    content = candidate.get("content") or {}
    parts = (content.get("parts") or []) if is_object(content) else None
    if not isinstance(parts, list) or not all(is_object(part) for part in parts):
        raise malformed(row, status, headers, body, "its candidate's content is not a list of parts")
    return _reply(row, call, headers, body, payload, candidate, parts, blocked)


def thought(part: Object) -> bool:
    """Whether a part is the model's thinking."""
    return part.get("thought") is True


def call_in(call: ModelCall, index: int, part: Object) -> ToolCall | None:
    """Return the tool call in a part, if there is one.

    Args:
        call: What was asked.
        index: Which tool call of the answer this would be.
        part: Of the answer.
    """
    found = part.get("functionCall")
    if not is_object(found):
        return None
    name = text_in(found.get("name"))
    stated = found.get("args")
    arguments = "{}" if stated is None else json_text(stated)
    return ToolCall(text_in(found.get("id")) or made_id(call, index, name, arguments), name, arguments)


def _reply(
    row: Provider,
    call: ModelCall,
    headers: Mapping[str, str],
    body: bytes,
    payload: Object,
    candidate: Object,
    parts: list[Object],
    blocked: str,
) -> Reply:
    text = "".join(text_in(part.get("text")) for part in parts if not thought(part))
    reasoning = "".join(text_in(part.get("text")) for part in parts if thought(part))
    calls: list[ToolCall] = []
    for part in parts:
        found = call_in(call, len(calls), part)
        if found is not None:
            calls.append(found)
    said = candidate.get("finishReason") or blocked
    finish = "content_filter" if blocked else _FINISH.get(text_in(said), "other")
    if finish == "stop" and calls:
        finish = "tool_calls"
    usage, usage_read = _usage(payload.get("usageMetadata"), candidate)
    model = clean(text_in(payload.get("modelVersion")), 200)
    return Reply(
        text=text,
        message=assistant(text, calls, provider=row.name, model=call.model, own=_own(parts)),
        finish=finish,
        usage=usage,
        model=model,
        request_id=clean(text_in(payload.get("responseId")), 200) or request_id(row, headers),
        raw=body,
        reasoning=reasoning,
        warnings=tuple(notes(text, finish, said, usage_read=usage_read, more=_remarks(candidate, parts, blocked))),
    )


def _own(parts: list[Object]) -> bytes:
    """Return the turn as it came where text and calls are not all of it: thoughts, their signatures, code, images."""
    plain = all(
        part.keys() == {"text"} or (part.keys() == {"functionCall"} and "id" in object_at(part, "functionCall"))
        for part in parts
    )
    if plain:
        return b""
    try:
        return msgspec.json.encode(parts)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return b""


def _remarks(candidate: Object, parts: list[Object], blocked: str) -> tuple[str, ...]:
    found: list[str] = []
    if blocked:
        found.append(f"the prompt was blocked: {clean(blocked, 40)}")
    # Such as the call that could not be read, after MALFORMED_FUNCTION_CALL.
    message = clean(text_in(candidate.get("finishMessage")), 200)
    if message:
        found.append(f"the provider says: {message}")
    others = {key for part in parts for key in ("inlineData", "executableCode", "codeExecutionResult") if key in part}
    if others:
        found.append(f"the answer also holds {', '.join(sorted(others))}, which is not text")
    return tuple(found)


def _usage(found: object, candidate: Object) -> tuple[Usage, bool]:
    """Return the usage in neutral terms, and whether all that was stated could be read.

    Thoughts are not in `candidatesTokenCount`, results of the provider's own tools not in `promptTokenCount`; a count
    of 0 is left out (google-genai `GenerateContentResponseUsageMetadata`, section 4 of the provider facts).
    """
    if found is None:
        return Usage(), True
    if not is_object(found):
        return Usage(), False
    names = (
        "promptTokenCount", "toolUsePromptTokenCount", "candidatesTokenCount", "thoughtsTokenCount",
        "cachedContentTokenCount",
    )  # fmt: skip
    stated = [found.get(name) for name in names]
    prompt, tools, answer, thinking, cached = counts = [count(value) for value in stated]
    complete = all((one is None) == (value is None) for one, value in zip(counts, stated, strict=True))
    known = prompt is not None and complete
    searches = object_at(candidate, "groundingMetadata").get("webSearchQueries")
    tier = text_in(found.get("serviceTier")).lower()
    return Usage(
        input=prompt + (tools or 0) if prompt is not None else None,
        output=(answer or 0) + (thinking or 0) if known or answer is not None else None,
        cached_input=cached,
        reasoning=thinking,
        input_audio=_audio(found.get("promptTokensDetails")),
        cached_audio=_audio(found.get("cacheTokensDetails")),
        output_audio=_audio(found.get("candidatesTokensDetails")),
        searches=len(searches) if isinstance(searches, list) and searches else None,
        tier="" if tier == "standard" else clean(tier, 40),
    ), complete


def _audio(details: object) -> int | None:
    return next((count(one.get("tokenCount")) for one in objects_in(details) if one.get("modality") == "AUDIO"), None)
