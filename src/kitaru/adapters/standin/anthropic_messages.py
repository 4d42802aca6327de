"""Anthropic's messages API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from kitaru.adapters.standin.anthropic_checks import check
from kitaru.adapters.standin.asked import (
    Arrived,
    Ask,
    Object,
    Problem,
    Result,
    Trouble,
    among,
    child,
    is_object,
    number,
    objects,
    offers,
    refused,
    string,
    strings,
    text_of,
)
from kitaru.adapters.standin.deciding import Answer, identity, sealed, signature
from kitaru.adapters.standin.wire import EVENTS, JSON, Around, bearer, encoded, event, halves, payload_of

_PROBLEMS: Final[dict[Trouble, tuple[int, str]]] = {
    "auth": (401, "invalid x-api-key"),
    "rate": (429, "This request would exceed your organization's rate limit."),
    "quota": (400, "Your credit balance is too low to access the Anthropic API."),
    "context": (400, "prompt is too long: 200001 tokens > 200000 maximum"),
    "server": (500, "Internal server error"),
    "overloaded": (529, "Overloaded"),
    "upstream": (529, "Overloaded"),
}
_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_FINISHES: Final = {"length": "max_tokens", "tool_calls": "tool_use", "filter": "refusal"}


class Anthropic(msgspec.Struct, frozen=True):
    """The endpoint."""

    provider: str = "anthropic"

    def credential(self, arrived: Arrived) -> str:
        """Return the key; with both headers, the API takes `x-api-key`."""
        return arrived.headers.get("x-api-key", "") or bearer(arrived.headers)

    def understand(self, arrived: Arrived, around: Around) -> Ask:  # noqa: ARG002 - nothing around it matters here
        """Read a request."""
        body = payload_of(arrived, "The request body is not valid JSON")
        model, messages = body.get("model"), body.get("messages")
        if not (isinstance(model, str) and model):
            raise refused("model: Field required")
        if not isinstance(messages, list):
            raise refused("messages: Field required")
        if not messages or not all(is_object(message) for message in messages):
            raise refused("messages: at least one message is required")
        limit = body.get("max_tokens")
        if limit is None:
            raise refused("max_tokens: Field required")
        if (number(limit) or 0) < 1:
            raise refused("max_tokens: Input should be greater than or equal to 1")
        system = text_of(body.get("system"))
        choice = child(body, "tool_choice")
        schema = child(body, "output_config", "format", "schema")
        thinking = child(body, "thinking").get("type")
        return Ask(
            model=model,
            messages=tuple(
                ([("system", system)] if system else []) + [_message(message) for message in objects(messages)]
            ),
            body=body,
            limit=number(limit),
            stop=strings(body.get("stop_sequences")),
            stream=body.get("stream") is True,
            tools=offers(body.get("tools"), "input_schema"),
            choice="none"
            if choice.get("type") == "none"
            else "required"
            if among(choice.get("type"), ("any", "tool"))
            else "auto",
            named=string(choice.get("name")),
            parallel=choice.get("disable_parallel_tool_use") is not True,
            results=_results(objects(messages)),
            form="schema" if schema else "text",
            schema=schema or None,
            thinks=among(thinking, ("enabled", "adaptive")),
        )

    def check(self, arrived: Arrived, ask: Ask, around: Around) -> None:
        """Find what the API would not take."""
        check(arrived, ask, around)

    def whole(self, ask: Ask, answer: Answer, around: Around) -> bytes:
        """Return the answer in one piece."""
        blocks = _blocks(ask, answer)
        _remember(blocks, around)
        return encoded(_message_of(ask, answer, blocks, _reason(ask, answer), _usage(answer)))

    def frames(self, ask: Ask, answer: Answer, around: Around) -> list[bytes]:
        """Return the answer as a stream: input tokens come first, output tokens last."""
        blocks = _blocks(ask, answer)
        _remember(blocks, around)
        begun = _usage(answer) | {"output_tokens": 1}
        begun.pop("output_tokens_details")
        message = _message_of(ask, answer, [], None, begun)
        found = [event("message_start", {"type": "message_start", "message": message}), event("ping", {"type": "ping"})]
        for at, block in enumerate(blocks):
            place: Object = {"index": at}
            found.append(_say("content_block_start", place | {"content_block": _begun(block)}))
            found += [_say("content_block_delta", place | {"delta": delta}) for delta in _deltas(block, answer)]
            found.append(_say("content_block_stop", place))
        reason: Object = {"stop_reason": _reason(ask, answer), "stop_sequence": None, "stop_details": _details(answer)}
        found.append(_say("message_delta", {"delta": reason, "usage": _usage(answer)}))
        return [*found, _say("message_stop", {})]

    def media(self, ask: Ask) -> str:
        """Return the content type."""
        return EVENTS if ask.stream else JSON

    def headers(self, name: str, problem: Problem | None) -> dict[str, str]:
        """Return the request's id, what is left of the limits, and how long to wait."""
        found = {
            "request-id": name,
            "anthropic-organization-id": "stand-in",
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "49",
            "anthropic-ratelimit-requests-reset": "2026-01-02T03:04:05Z",
        }
        if problem is not None and problem.wait is not None and problem.status in {429, 529}:
            found["retry-after"] = f"{problem.wait:g}"
        return found

    def problem(self, trouble: Trouble, ask: Ask | None) -> Problem:  # noqa: ARG002 - the same whatever was asked
        """Return what Anthropic says to some trouble."""
        status, message = _PROBLEMS.get(trouble, (400, "The request cannot be answered."))
        return Problem(trouble=trouble, status=status, message=message)

    def failure(self, problem: Problem, name: str) -> bytes:
        """Return the body of a refusal."""
        return encoded(_error(problem) | {"request_id": name})

    def within(self, problem: Problem, ask: Ask, name: str) -> bytes:  # noqa: ARG002 - the same for every request
        """Return the body of an error under status 200."""
        return self.failure(problem, name)

    def stray(self, problem: Problem, ask: Ask, name: str) -> list[bytes]:  # noqa: ARG002 - the same for every request
        """Return the event of an error."""
        return [event("error", _error(problem))]


def _error(problem: Problem) -> Object:
    known = _TYPES.get(problem.status, "api_error" if problem.status >= 500 else "invalid_request_error")
    error: Object = {"type": known, "message": problem.message}
    return {"type": "error", "error": error | ({"details": problem.details} if problem.details else {})}


def _say(kind: str, more: Object) -> bytes:
    return event(kind, {"type": kind} | more)


def _message(message: Object) -> tuple[str, str]:
    content = message.get("content")
    results = [block for block in objects(content) if block.get("type") == "tool_result"]
    told = [text_of(result.get("content")) for result in results]
    if isinstance(content, list):
        told += [string(block.get("text")) for block in objects(content) if block.get("type") == "text"]
    else:
        told.append(string(content))
    return ("tool" if results else string(message.get("role"))), " ".join(text for text in told if text)


def _results(messages: list[Object]) -> tuple[Result, ...]:
    uses = [
        block for message in messages for block in objects(message.get("content")) if block.get("type") == "tool_use"
    ]
    names = {string(use.get("id")): string(use.get("name")) for use in uses}
    last = [block for block in objects(messages[-1].get("content")) if block.get("type") == "tool_result"]
    return tuple(
        Result(call := string(block.get("tool_use_id")), names.get(call, ""), text_of(block.get("content")))
        for block in last
    )


def _reason(ask: Ask, answer: Answer) -> str:
    if answer.refusal:
        return "refusal"
    if answer.finish == "stop" and ask.stop and answer.text.endswith(tuple(f"{word}" for word in ask.stop)):
        return "stop_sequence"
    return _FINISHES.get(answer.finish, "end_turn")


def _details(answer: Answer) -> Object | None:
    refusing = answer.refusal or answer.finish == "filter"
    return {"type": "refusal", "category": None, "explanation": None} if refusing else None


def _usage(answer: Answer) -> Object:
    return {
        # What was read from a cache is not among them.
        "input_tokens": answer.prompt,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": answer.cached,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": answer.output,
        "output_tokens_details": {"thinking_tokens": answer.thought},
        "service_tier": "standard",
    }


def _message_of(ask: Ask, answer: Answer, blocks: list[Object], reason: str | None, usage: Object) -> Object:
    return {
        "id": f"msg_{answer.name}",
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": blocks,
        "stop_reason": reason,
        "stop_sequence": None,
        "stop_details": _details(answer) if reason else None,
        "usage": usage,
    }


def _blocks(ask: Ask, answer: Answer) -> list[Object]:
    found: list[Object] = []
    if answer.thinking:
        found.append({"type": "thinking", "thinking": answer.thinking, "signature": signature(answer.thinking)})
        if "redacted" in ask.text:
            found.append({"type": "redacted_thinking", "data": sealed(answer.thinking[::-1])})
    if answer.text:
        found.append({"type": "text", "text": answer.text})
    for call in answer.calls:
        use: Object = {"type": "tool_use", "id": identity("toolu", call.seed), "name": call.name, "input": call.value}
        found.append(use)
    return found


def _remember(blocks: list[Object], around: Around) -> None:
    thought = [block for block in blocks if block["type"] in {"thinking", "redacted_thinking"}]
    if thought:
        around.memory.keep([string(block["id"]) for block in blocks if block["type"] == "tool_use"], thought)


def _begun(block: Object) -> Object:
    match block["type"]:
        case "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}
        case "text":
            return {"type": "text", "text": ""}
        case "tool_use":
            return block | {"input": {}}
        case _:
            return block


def _deltas(block: Object, answer: Answer) -> Iterator[Object]:
    match block["type"]:
        case "thinking":
            for piece in halves(string(block["thinking"]), 24):
                yield {"type": "thinking_delta", "thinking": piece}
            yield {"type": "signature_delta", "signature": block["signature"]}
        case "text":
            for piece in answer.pieces:
                yield {"type": "text_delta", "text": piece}
        case "tool_use":
            (given,) = (call.arguments for call in answer.calls if identity("toolu", call.seed) == block["id"])
            yield {"type": "input_json_delta", "partial_json": ""}
            # Without arguments nothing more comes.
            for piece in halves(given) if given != "{}" else ():
                yield {"type": "input_json_delta", "partial_json": piece}
        case _:
            return
