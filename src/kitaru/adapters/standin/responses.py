"""OpenAI's responses API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

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
from kitaru.adapters.standin.deciding import Answer, ToolUse, identity, sealed
from kitaru.adapters.standin.flavours import FLAVOURS
from kitaru.adapters.standin.responses_checks import check
from kitaru.adapters.standin.wire import CREATED, EVENTS, JSON, Around, bearer, encoded, event, halves, payload_of

_TYPES: Final[dict[Trouble, str]] = {
    "rate": "requests",
    "quota": "insufficient_quota",
    "server": "server_error",
    "overloaded": "server_error",
    "upstream": "server_error",
}


class Responses(msgspec.Struct, frozen=True):
    """The endpoint.

    Args:
        provider: `openai`, or `azure`, which serves it under its own address.
    """

    provider: str = "openai-responses"

    def credential(self, arrived: Arrived) -> str:
        """Return the key: azure's has a header of its own."""
        return (arrived.headers.get("api-key", "") if self.provider == "azure" else "") or bearer(arrived.headers)

    def understand(self, arrived: Arrived, around: Around) -> Ask:
        """Read a request."""
        body = payload_of(arrived, "We could not parse the JSON body of your request.")
        model, given = body.get("model"), body.get("input")
        if not (isinstance(model, str) and model):
            raise refused("Missing required parameter: 'model'.", "missing_required_parameter", "model")
        items: list[Object] = [{"role": "user", "content": given}] if isinstance(given, str) else objects(given)
        if not items or (isinstance(given, list) and len(items) != len(given)):
            raise refused("Missing required parameter: 'input'.", "missing_required_parameter", "input")
        limit = body.get("max_output_tokens")
        if limit is not None and (number(limit) or 0) < 1:
            raise refused("Invalid 'max_output_tokens': integer below minimum value.", "integer_below_min_value",
                          "max_output_tokens")  # fmt: skip
        form = child(body, "text", "format")
        choice = body.get("tool_choice")
        instructions = body.get("instructions")
        system = [("system", instructions)] if isinstance(instructions, str) else []
        reasons = around.options.reasons(model)
        return Ask(
            model=model,
            messages=tuple(system + [_message(item) for item in items]),
            body=body,
            limit=number(limit),
            stream=body.get("stream") is True,
            tools=offers([tool for tool in objects(body.get("tools")) if tool.get("type") == "function"]),
            choice="none" if choice == "none" else "auto" if among(choice, (None, "auto")) else "required",
            named=string(choice.get("name")) if is_object(choice) else "",
            parallel=body.get("parallel_tool_calls") is not False,
            results=_results(items),
            form="schema"
            if form.get("type") == "json_schema"
            else "json"
            if form.get("type") == "json_object"
            else "text",
            schema=child(form, "schema") or None,
            thinks=not among(child(body, "reasoning").get("effort"), ("none", "minimal"))
            and (reasons or bool(child(body, "reasoning"))),
        )

    def check(self, arrived: Arrived, ask: Ask, around: Around) -> None:  # noqa: ARG002 - all of it is in the body
        """Find what the API would not take."""
        check(ask, around)

    def whole(self, ask: Ask, answer: Answer, around: Around) -> bytes:
        """Return the answer in one piece."""
        return encoded(self._response(ask, answer, _output(ask, answer, around), _status(answer)))

    def frames(self, ask: Ask, answer: Answer, around: Around) -> list[bytes]:
        """Return the answer as a stream: its last event holds all of it."""
        output = _output(ask, answer, around)
        found: list[bytes] = []

        def say(kind: str, more: Object) -> None:
            found.append(event(kind, {"type": kind, "sequence_number": len(found)} | more))

        say("response.created", {"response": self._response(ask, answer, [], "in_progress")})
        say("response.in_progress", {"response": self._response(ask, answer, [], "in_progress")})
        for at, item in enumerate(output):
            place: Object = {"output_index": at}
            begun = item | _EMPTY[string(item["type"])] | {"status": "in_progress"}
            say("response.output_item.added", place | {"item": begun})
            for kind, more in _parts(item, place, answer):
                say(kind, more)
            say("response.output_item.done", place | {"item": item})
        status = _status(answer)
        say(f"response.{status}", {"response": self._response(ask, answer, output, status)})
        return found

    def media(self, ask: Ask) -> str:
        """Return the content type."""
        return EVENTS if ask.stream else JSON

    def headers(self, name: str, problem: Problem | None) -> dict[str, str]:
        """Return the request's id, and how long to wait."""
        found = {"x-request-id": name, "openai-processing-ms": "12", "openai-version": "2020-10-01"}
        if self.provider == "azure":
            found["apim-request-id"] = name
        if problem is not None and problem.wait is not None and problem.status in {429, 503}:
            found["retry-after"] = f"{problem.wait:g}"
        return found

    def problem(self, trouble: Trouble, ask: Ask | None) -> Problem:  # noqa: ARG002 - the same whatever was asked
        """Return what OpenAI says to some trouble."""
        status, message, code = FLAVOURS["openai"].says(trouble)
        return Problem(trouble=trouble, status=status, message=message, code=code)

    def failure(self, problem: Problem, name: str) -> bytes:  # noqa: ARG002 - no body here has the request's id
        """Return the body of a refusal."""
        kind = _TYPES.get(problem.trouble, "invalid_request_error")
        return encoded(
            {"error": {"message": problem.message, "type": kind, "param": problem.param, "code": problem.code}}
        )

    def within(self, problem: Problem, ask: Ask, name: str) -> bytes:
        """Return a response that failed."""
        return encoded(self._failed(problem, ask, name))

    def stray(self, problem: Problem, ask: Ask, name: str) -> list[bytes]:
        """Return the event of an error, and the response that failed."""
        told: Object = {"type": "error", "sequence_number": 99, "code": "server_error", "message": problem.message}
        failed: Object = {
            "type": "response.failed",
            "sequence_number": 100,
            "response": self._failed(problem, ask, name),
        }
        return [event("error", told | {"param": None}), event("response.failed", failed)]

    def _failed(self, problem: Problem, ask: Ask, name: str) -> Object:
        answer = Answer(name=name, finish="stop")
        error = {"code": "server_error", "message": problem.message}
        return self._response(ask, answer, [], "failed") | {"error": error, "usage": None}

    def _response(self, ask: Ask, answer: Answer, output: list[Object], status: str) -> Object:
        reason = {"length": "max_output_tokens", "filter": "content_filter"}.get(answer.finish)
        body = ask.body
        text = child(body, "text")
        prompt, made = answer.prompt + answer.cached, answer.output
        usage: Object = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": answer.cached, "cache_write_tokens": 0},
            "output_tokens": made,
            "output_tokens_details": {"reasoning_tokens": answer.thought},
            "total_tokens": prompt + made,
        }
        return {
            "id": f"resp_{answer.name}",
            "object": "response",
            "created_at": CREATED,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": reason} if status == "incomplete" else None,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "metadata": body.get("metadata") or {},
            "model": ask.model,
            "output": output,
            "parallel_tool_calls": ask.parallel,
            "previous_response_id": body.get("previous_response_id"),
            "reasoning": {"effort": child(body, "reasoning").get("effort"), "summary": None},
            "service_tier": "default",
            "store": body.get("store") is not False,
            "temperature": body.get("temperature", 1.0),
            "text": text or {"format": {"type": "text"}},
            "tool_choice": body.get("tool_choice") or "auto",
            "tools": body.get("tools") or [],
            "top_p": body.get("top_p", 1.0),
            "truncation": "disabled",
            "usage": None if status == "in_progress" else usage,
            "user": None,
        }


_EMPTY: Final[dict[str, Object]] = {
    "message": {"content": []},
    "function_call": {"arguments": ""},
    "reasoning": {"summary": []},
}


def reasoning_id(call: str) -> str:
    """Return the id of the reasoning that led to a call, by the id of the call's item."""
    return call.replace("fc_", "rs_", 1)


def _item_id(call: ToolUse) -> str:
    return f"fc_{identity('plain', call.seed)}"


def _status(answer: Answer) -> str:
    return "incomplete" if answer.finish in {"length", "filter"} else "completed"


def _output(ask: Ask, answer: Answer, around: Around) -> list[Object]:
    status = _status(answer)
    found: list[Object] = []
    if answer.thinking:
        # A call's item and the reasoning before it belong together: they come back both, or neither.
        made = reasoning_id(_item_id(answer.calls[0])) if answer.calls else f"rs_{answer.name}"
        item: Object = {"id": made, "type": "reasoning", "summary": []}
        if child(ask.body, "reasoning").get("summary") is not None:
            item["summary"] = [{"type": "summary_text", "text": answer.thinking}]
        if "reasoning.encrypted_content" in strings(ask.body.get("include")):
            item["encrypted_content"] = sealed(answer.thinking)
        found.append(item)
        around.memory.keep([_item_id(call) for call in answer.calls], made)
    part: Object = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
    if answer.refusal:
        part = {"type": "refusal", "refusal": answer.refusal}
    if answer.text or answer.refusal or not (answer.calls or answer.finish == "length"):
        message: Object = {"id": f"msg_{answer.name}", "type": "message", "status": status, "role": "assistant"}
        found.append(message | {"content": [part]})
    for call in answer.calls:
        use: Object = {"id": _item_id(call), "type": "function_call", "status": "completed", "name": call.name}
        found.append(use | {"call_id": identity("call", call.seed), "arguments": call.arguments})
    return found


def _parts(item: Object, place: Object, answer: Answer) -> Iterator[tuple[str, Object]]:
    at = place | {"item_id": item["id"]}
    match item["type"]:
        case "message":
            at |= {"content_index": 0}
            (part,) = objects(item["content"])
            if part["type"] == "refusal":
                yield "response.content_part.added", at | {"part": {"type": "refusal", "refusal": ""}}
                yield "response.refusal.delta", at | {"delta": answer.refusal}
                yield "response.refusal.done", at | {"refusal": answer.refusal}
            else:
                yield "response.content_part.added", at | {"part": part | {"text": ""}}
                for piece in answer.pieces:
                    padding = "x" * (1 + len(piece) % 7)
                    yield "response.output_text.delta", at | {"delta": piece, "logprobs": [], "obfuscation": padding}
                yield "response.output_text.done", at | {"text": part["text"], "logprobs": []}
            yield "response.content_part.done", at | {"part": part}
        case "function_call":
            given = string(item["arguments"])
            for piece in halves(given):
                yield "response.function_call_arguments.delta", at | {"delta": piece}
            yield "response.function_call_arguments.done", at | {"name": item["name"], "arguments": given}
        case _:
            for nth, part in enumerate(objects(item["summary"])):
                here, text = at | {"summary_index": nth}, string(part["text"])
                yield "response.reasoning_summary_part.added", here | {"part": part | {"text": ""}}
                for piece in halves(text, 24):
                    yield "response.reasoning_summary_text.delta", here | {"delta": piece}
                yield "response.reasoning_summary_text.done", here | {"text": text}
                yield "response.reasoning_summary_part.done", here | {"part": part}


def _message(item: Object) -> tuple[str, str]:
    match item.get("type", "message"):
        case "function_call":
            return "assistant", ""
        case "function_call_output":
            return "tool", text_of(item.get("output"))
        case "reasoning":
            return "assistant", ""
        case _:
            return string(item.get("role")), text_of(item.get("content"))


def _results(items: list[Object]) -> tuple[Result, ...]:
    names = {
        string(item.get("call_id")): string(item.get("name")) for item in items if item.get("type") == "function_call"
    }
    found: list[Result] = []
    for item in reversed(items):
        if item.get("type") != "function_call_output":
            break
        call = string(item.get("call_id"))
        found.append(Result(call, names.get(call, ""), text_of(item.get("output"))))
    return tuple(reversed(found))
