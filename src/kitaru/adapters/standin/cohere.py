"""Cohere's chat, version 2."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from kitaru.adapters.standin.answers import tokens
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
    numbered,
    objects,
    offers,
    refused,
    string,
    strings,
    text_of,
    within,
)
from kitaru.adapters.standin.deciding import REFUSAL, Answer, ToolUse, identity
from kitaru.adapters.standin.wire import (
    EVENTS,
    JSON,
    Around,
    bearer,
    encoded,
    event,
    halves,
    missing,
    payload_of,
    unknown,
)

# `v2/client.py` of the cohere SDK.
_FIELDS: Final = frozenset(
    {
        "model", "messages", "stream", "tools", "strict_tools", "documents", "citation_options", "response_format",
        "safety_mode", "max_tokens", "stop_sequences", "temperature", "seed", "frequency_penalty", "presence_penalty",
        "k", "p", "logprobs", "tool_choice", "thinking", "priority",
    }
)  # fmt: skip
_PROBLEMS: Final[dict[Trouble, tuple[int, str]]] = {
    "auth": (401, "invalid api token"),
    "rate": (429, "You are past the per minute request limit, please wait and try again later."),
    "quota": (429, "You are using a Trial key, which is limited to 1000 API calls / month."),
    "context": (400, "too many tokens: total number of tokens in the prompt exceeds the limit"),
    "server": (500, "internal server error"),
    "overloaded": (503, "service unavailable"),
    "upstream": (500, "internal server error"),
}  # fmt: skip
_FINISHES: Final = {"length": "MAX_TOKENS", "tool_calls": "TOOL_CALL", "filter": "ERROR"}
# The priced tokens are fewer than the counted ones: the frame of the prompt is free.
_FRAME: Final = 67


class Cohere(msgspec.Struct, frozen=True):
    """The endpoint."""

    provider: str = "cohere"

    def credential(self, arrived: Arrived) -> str:
        """Return the key."""
        return bearer(arrived.headers)

    def understand(self, arrived: Arrived, around: Around) -> Ask:  # noqa: ARG002 - nothing around it matters here
        """Read a request."""
        body = payload_of(arrived, "invalid json syntax")
        model, messages = body.get("model"), body.get("messages")
        if not (isinstance(model, str) and model):
            raise refused("invalid request: model is required")
        if not (isinstance(messages, list) and messages and all(is_object(message) for message in messages)):
            raise refused("invalid request: list of messages must not be empty")
        form = child(body, "response_format")
        schema = form.get("json_schema", form.get("schema"))
        choice = body.get("tool_choice")
        return Ask(
            model=model,
            messages=tuple(
                (string(message.get("role")), _text(message.get("content"))) for message in objects(messages)
            ),
            body=body,
            limit=number(body.get("max_tokens")),
            stop=strings(body.get("stop_sequences")),
            stream=body.get("stream") is True,
            tools=offers(body.get("tools")),
            choice="required" if choice == "REQUIRED" else "none" if choice == "NONE" else "auto",
            results=_results(objects(messages)),
            form="schema" if is_object(schema) else "json" if form.get("type") == "json_object" else "text",
            schema=schema if is_object(schema) else None,
            thinks=child(body, "thinking").get("type") == "enabled",
        )

    def check(self, arrived: Arrived, ask: Ask, around: Around) -> None:  # noqa: ARG002 - all of it is in the body
        """Find what the API would not take."""
        _check(ask, around)

    def whole(self, ask: Ask, answer: Answer, around: Around) -> bytes:  # noqa: ARG002 - nothing is remembered
        """Return the answer in one piece: it does not name the model."""
        message: Object = {"role": "assistant"}
        content: list[Object] = [{"type": "thinking", "thinking": answer.thinking}] if answer.thinking else []
        if answer.text or answer.refusal:
            content.append({"type": "text", "text": answer.text or REFUSAL})
        if content:
            message["content"] = content
        if answer.calls:
            message |= {"tool_plan": _plan(answer), "tool_calls": [_call(call) for call in answer.calls]}
        return encoded(
            {"id": answer.name, "finish_reason": _finish(answer), "message": message, "usage": _usage(answer)}
        )

    def frames(self, ask: Ask, answer: Answer, around: Around) -> list[bytes]:  # noqa: ARG002 - nothing is remembered
        """Return the answer as a stream."""
        opening: Object = {
            "message": {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
        }
        found = [_say("message-start", {"id": answer.name, "delta": opening})]
        texts = [
            ("thinking", list(halves(answer.thinking, 24))),
            ("text", list(answer.pieces) or [REFUSAL] * bool(answer.refusal)),
        ]
        for at, (kind, pieces) in enumerate((kind, pieces) for kind, pieces in texts if pieces):
            found.append(_content("start", at, {"type": kind, kind: ""}))
            found += [_content("delta", at, {kind: piece}) for piece in pieces]
            found.append(_say("content-end", {"index": at}))
        if answer.calls:
            plan = _plan(answer).split(" ")
            found += [
                _say("tool-plan-delta", {"delta": {"message": {"tool_plan": f" {word}" if at else word}}})
                for at, word in enumerate(plan)
            ]
        for at, call in enumerate(answer.calls):
            made = _call(call) | {"function": {"name": call.name, "arguments": ""}}
            found.append(_say("tool-call-start", {"index": at, "delta": {"message": {"tool_calls": made}}}))
            for piece in halves(call.arguments):
                delta: Object = {"message": {"tool_calls": {"function": {"arguments": piece}}}}
                found.append(_say("tool-call-delta", {"index": at, "delta": delta}))
            found.append(_say("tool-call-end", {"index": at}))
        end: Object = {"finish_reason": _finish(answer), "usage": _usage(answer)}
        return [*found, _say("message-end", {"id": answer.name, "delta": end})]

    def media(self, ask: Ask) -> str:
        """Return the content type."""
        return EVENTS if ask.stream else JSON

    def headers(self, name: str, problem: Problem | None) -> dict[str, str]:
        """Return how long to wait; the request's id is in the body."""
        found = {"x-debug-trace-id": name, "x-endpoint-monthly-call-limit": "1000"}
        if problem is not None and problem.wait is not None and problem.status in {429, 503}:
            found["retry-after"] = f"{problem.wait:g}"
        return found

    def problem(self, trouble: Trouble, ask: Ask | None) -> Problem:  # noqa: ARG002 - the same whatever was asked
        """Return what Cohere says to some trouble."""
        status, message = _PROBLEMS.get(trouble, (400, "invalid request"))
        return Problem(trouble=trouble, status=status, message=message)

    def failure(self, problem: Problem, name: str) -> bytes:
        """Return the body of a refusal."""
        return encoded({"id": name, "message": problem.message})

    def within(self, problem: Problem, ask: Ask, name: str) -> bytes:
        """Return the body of an error under status 200."""
        if ask.stream:
            return b"".join(self.stray(problem, ask, name))
        return encoded({"id": name, "finish_reason": "ERROR", "message": {"role": "assistant"}, "usage": {}})

    def stray(self, problem: Problem, ask: Ask, name: str) -> list[bytes]:  # noqa: ARG002 - the same for every request
        """Return an end that tells of an error."""
        end: Object = {"error": problem.message, "finish_reason": "ERROR"}
        return [_say("message-end", {"id": name, "delta": end})]


def _say(kind: str, more: Object) -> bytes:
    return event(kind, {"type": kind} | more)


def _content(step: str, at: int, content: Object) -> bytes:
    return _say(f"content-{step}", {"index": at, "delta": {"message": {"content": content}}})


def _text(content: object) -> str:
    documents = [string(child(part, "document", "data").get("data")) or _data(part) for part in objects(content)]
    told = [text_of(content), *(text for text in documents if text)]
    return " ".join(text for text in told if text)


def _data(part: Object) -> str:
    value = within(part, "document", "data")
    return value if isinstance(value, str) else msgspec.json.encode(value).decode() if value is not None else ""


def _results(messages: list[Object]) -> tuple[Result, ...]:
    names = {
        string(call.get("id")): string(within(call, "function", "name"))
        for message in messages
        for call in objects(message.get("tool_calls"))
    }
    found: list[Result] = []
    for message in reversed(messages):
        if message.get("role") != "tool":
            break
        call = string(message.get("tool_call_id"))
        found.append(Result(call, names.get(call, ""), _text(message.get("content"))))
    return tuple(reversed(found))


def _plan(answer: Answer) -> str:
    return answer.text or f"I will use {' and '.join(call.name for call in answer.calls)}."


def _call(call: ToolUse) -> Object:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"{call.name}_{identity('plain', call.seed)}", "type": "function", "function": function}


def _finish(answer: Answer) -> str:
    return _FINISHES.get(answer.finish, "COMPLETE")


def _usage(answer: Answer) -> Object:
    prompt, made = float(answer.prompt + answer.cached), float(answer.output)
    return {
        "billed_units": {"input_tokens": prompt, "output_tokens": float(tokens(answer.text)) or made},
        "tokens": {"input_tokens": prompt + _FRAME, "output_tokens": made},
        "cached_tokens": float(answer.cached),
    }


def _check(ask: Ask, around: Around) -> None:
    body = ask.body
    if not around.knows(ask.model):
        raise missing(f"model '{ask.model}' not found, make sure the correct model ID was used")
    if around.options.strict and (extra := unknown(body, _FIELDS)):
        raise refused(f"unknown field: parameter '{extra[0]}' is not a valid field", status=422)
    if len(ask.stop) > 5:
        raise refused("invalid request: stop_sequences must have at most 5 items")
    if not among(choice := body.get("tool_choice"), (None, "REQUIRED", "NONE")):
        raise refused(f"invalid request: tool_choice must be one of REQUIRED, NONE, but got {choice!r}")
    if choice == "REQUIRED" and not ask.tools:
        raise refused("invalid request: tools must be specified when tool_choice is REQUIRED")
    for tool in objects(body.get("tools")):
        name = string(within(tool, "function", "name"))
        if re.fullmatch(r"[a-zA-Z0-9_-]+", name) is None:
            raise refused(f"invalid request: tool name '{name}' is not valid")
    waiting: list[str] = []
    for at, message in numbered(body.get("messages")):
        role = string(message.get("role"))
        if role not in {"system", "user", "assistant", "tool"}:
            raise refused(f"invalid request: message at index {at} has an invalid role '{role}'")
        if role == "tool":
            call = string(message.get("tool_call_id"))
            if call not in waiting:
                raise refused(
                    f"invalid request: tool_call_id '{call}' in message at index {at} was not made by the model"
                )
            waiting.remove(call)
            continue
        if waiting:
            raise refused(f"invalid request: tool call id {waiting[0]} has no tool result")
        calls = objects(message.get("tool_calls"))
        if not calls and message.get("content") in (None, "", []):
            raise refused(f"invalid request: message at index {at} must have non-empty content or tool calls.")
        waiting = [string(call.get("id")) for call in calls]
        for call_made in calls:
            if not isinstance(within(call_made, "function", "arguments"), str):
                raise refused(
                    "invalid type: parameter function.arguments is of type object but should be of type string."
                )
    if waiting:
        raise refused(f"invalid request: tool call id {waiting[0]} has no tool result")
