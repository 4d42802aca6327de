"""OpenAI's chat completions, with the accents of all who speak them."""

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
    objects,
    offers,
    refused,
    string,
    strings,
    text_of,
    within,
)
from kitaru.adapters.standin.chat_checks import check, limit_of
from kitaru.adapters.standin.deciding import REFUSAL, Answer, ToolUse, identity, signature
from kitaru.adapters.standin.flavours import Flavour
from kitaru.adapters.standin.wire import CREATED, EVENTS, JSON, Around, bearer, data, encoded, event, halves, payload_of

_DONE: Final = b"data: [DONE]\n\n"
_FINISHES: Final = {"length": "length", "tool_calls": "tool_calls", "filter": "content_filter"}
_TYPES: Final[dict[Trouble, str]] = {
    "rate": "requests",
    "quota": "insufficient_quota",
    "server": "server_error",
    "overloaded": "server_error",
    "upstream": "server_error",
}


class Chat(msgspec.Struct, frozen=True):
    """The endpoint of one provider.

    Args:
        flavour: The provider.
    """

    flavour: Flavour

    @property
    def provider(self) -> str:
        """Its name."""
        return self.flavour.name

    def credential(self, arrived: Arrived) -> str:
        """Return the key: azure's has a header of its own."""
        return (arrived.headers.get("api-key", "") if self.provider == "azure" else "") or bearer(arrived.headers)

    def understand(self, arrived: Arrived, around: Around) -> Ask:  # noqa: ARG002 - nothing around it matters here
        """Read a request."""
        body = payload_of(arrived, "We could not parse the JSON body of your request.")
        model = arrived.model or body.get("model")
        messages = body.get("messages")
        if not (isinstance(model, str) and model):
            raise refused("you must provide a model parameter")
        if not (isinstance(messages, list) and messages and all(is_object(message) for message in messages)):
            raise refused("'messages' has to be a list of at least one message")
        form = child(body, "response_format")
        schema = form.get("json_schema", form.get("schema"))
        if is_object(schema):
            schema = schema.get("schema", schema)
        choice = body.get("tool_choice")
        return Ask(
            model=model,
            messages=tuple(
                (string(message.get("role")), text_of(message.get("content"))) for message in objects(messages)
            ),
            body=body,
            limit=limit_of(body),
            stop=strings(body.get("stop")),
            stream=body.get("stream") is True,
            tools=offers(body.get("tools")),
            choice="none" if choice == "none" else "auto" if among(choice, (None, "auto")) else "required",
            named=string(within(choice, "function", "name")),
            parallel=body.get("parallel_tool_calls") is not False,
            results=_results(objects(messages)),
            form="schema" if is_object(schema) else "json" if form.get("type") == "json_object" else "text",
            schema=schema if is_object(schema) else None,
            thinks=self.flavour.thinks(body, model),
        )

    def check(self, arrived: Arrived, ask: Ask, around: Around) -> None:
        """Find what the provider would not take."""
        if "/deployments/" in arrived.path and not arrived.query.get("api-version"):
            raise refused("Resource not found", "404", status=404)
        check(self.flavour, ask, around)

    def whole(self, ask: Ask, answer: Answer, around: Around) -> bytes:
        """Return the answer in one piece."""
        self._remember(answer, around)
        choice: Object = {"index": 0, "message": self._message(answer), "finish_reason": self._finish(answer)}
        if self.provider == "openrouter":
            choice |= {"native_finish_reason": self._finish(answer), "logprobs": None}
        elif self.provider == "azure":
            choice |= {"logprobs": None, "content_filter_results": _SAFE}
        elif self.provider != "mistral":
            choice["logprobs"] = None
        body = self._head(ask, answer, "chat.completion") | {"choices": [choice], "usage": self._usage(answer)}
        if self.provider == "groq":
            body["x_groq"] = {"id": f"req_{answer.name}"}
        elif self.provider == "azure":
            body["prompt_filter_results"] = [{"prompt_index": 0, "content_filter_results": _SAFE}]
        # Deepseek keeps a connection open with empty lines until the answer is there.
        slow = b"\n\n" if self.provider == "deepseek" and around.options.comments else b""
        return slow + encoded(body)

    def frames(self, ask: Ask, answer: Answer, around: Around) -> list[bytes]:
        """Return the answer as a stream."""
        self._remember(answer, around)
        found = list(self._chunks(ask, answer))
        if around.options.comments and self.flavour.comment:
            found = [self.flavour.comment, found[0], self.flavour.comment, *found[1:]]
        return found

    def media(self, ask: Ask) -> str:
        """Return the content type."""
        return EVENTS if ask.stream else JSON

    def headers(self, name: str, problem: Problem | None) -> dict[str, str]:
        """Return the request's id, and how long to wait."""
        found = {self.flavour.id_header: name}
        if self.provider == "azure":
            found["x-request-id"] = name
        if self.provider in {"openai", "groq"}:
            found |= {"x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "499",
                      "x-ratelimit-reset-requests": "120ms"}  # fmt: skip
        if problem is not None and problem.wait is not None and problem.status in self.flavour.waits:
            found["retry-after"] = f"{problem.wait:g}"
        return found

    def problem(self, trouble: Trouble, ask: Ask | None) -> Problem:  # noqa: ARG002 - the same whatever was asked
        """Return what the provider says to some trouble."""
        status, message, code = self.flavour.says(trouble)
        param = "messages" if trouble == "context" else "prompt" if trouble == "filter" else None
        details: object = None
        if trouble == "filter" and self.provider == "azure":
            details = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": _SAFE}
        return Problem(trouble=trouble, status=status, message=message, code=code, param=param, details=details)

    def failure(self, problem: Problem, name: str) -> bytes:  # noqa: ARG002 - no body here has the request's id
        """Return the body of a refusal."""
        return encoded(self._error(problem))

    def within(self, problem: Problem, ask: Ask, name: str) -> bytes:  # noqa: ARG002 - the same for every request
        """Return the body of an error under status 200."""
        return encoded(self._error(problem))

    def stray(self, problem: Problem, ask: Ask, name: str) -> list[bytes]:
        """Return an error in the middle of a stream, and what follows it."""
        match self.provider:
            case "groq":
                error = child(self._error(problem), "error")
                failed = {"failed_generation": "<function=broken", "status_code": problem.status}
                return [event("error", {"error": error | failed})]
            case "perplexity":
                return [event("error", self._error(problem))]
            case "openrouter":
                answer = Answer(name=name, finish="stop")
                chunk = self._chunk(ask, answer, {"content": ""}, None)
                return [data(chunk | {"error": {"code": problem.status, "message": problem.message}}), _DONE]
            case "mistral":
                return [data(self._chunk(ask, Answer(name=name, finish="stop"), {"content": ""}, "error")), _DONE]
            case _:
                return [data(self._error(problem))]

    def _error(self, problem: Problem) -> Object:
        match self.provider:
            case "mistral":
                if problem.trouble == "auth":
                    return {"detail": problem.message}
                message = problem.details if problem.status == 422 and problem.details else problem.message
                kind = "invalid_request_error" if problem.trouble == "invalid" else f"{problem.trouble}_error"
                return {
                    "object": "error",
                    "message": message,
                    "type": kind,
                    "param": problem.param,
                    "code": problem.code,
                }
            case "openrouter":
                found: Object = {"code": problem.status, "message": problem.message}
                return {"error": found | ({"metadata": problem.details} if problem.details else {})}
            case _:
                kind = _TYPES.get(problem.trouble, "invalid_request_error")
                error: Object = {"message": problem.message, "type": kind, "param": problem.param, "code": problem.code}
                if self.provider == "groq":
                    error.pop("param")
                if self.provider == "azure" and problem.details:
                    error |= {"status": problem.status, "innererror": problem.details}
                return {"error": error}

    def _finish(self, answer: Answer) -> str:
        if answer.finish == "filter" and not self.flavour.filters:
            return self.flavour.stop
        if answer.finish == "tool_calls" and self.provider == "perplexity":
            return "stop"
        return _FINISHES.get(answer.finish, self.flavour.stop)

    def _head(self, ask: Ask, answer: Answer, kind: str) -> Object:
        prefix = {"mistral": "", "openrouter": "gen-"}.get(self.provider, "chatcmpl-")
        head: Object = {"id": f"{prefix}{answer.name}", "object": kind, "created": CREATED, "model": ask.model}
        match self.provider:
            case "openrouter":
                # The model that answers may be another one than was asked.
                head |= {"model": f"{ask.model}-2026-01-01", "provider": "StandIn", "system_fingerprint": None}
            case "perplexity":
                head |= {
                    "citations": ["https://example.org/page"],
                    "search_results": [{"title": "A page", "url": "https://example.org/page", "date": None}],
                }
            case "mistral":
                pass
            case _:
                head["system_fingerprint"] = "fp_standin"
        return head

    def _message(self, answer: Answer) -> Object:
        text = None if answer.calls and not answer.text else answer.text
        message: Object = {"role": "assistant", "content": text}
        if answer.refusal:
            if self.flavour.refusals:
                message |= {"content": None, "refusal": answer.refusal}
            else:
                message["content"] = REFUSAL
        elif self.flavour.refusals:
            message["refusal"] = None
        if self.provider in {"openai", "azure", "openai-compatible"}:
            message["annotations"] = []
        if answer.thinking:
            message |= self._thought(answer.thinking, text)
        if answer.calls:
            message["tool_calls"] = [self._call(call) for call in answer.calls]
        elif self.provider == "mistral":
            message["tool_calls"] = None
        return message

    def _thought(self, thinking: str, text: str | None) -> Object:
        match self.flavour.thinking:
            case "chunks":
                chunks: list[Object] = [{"type": "thinking", "thinking": [{"type": "text", "text": thinking}]}]
                return {"content": chunks + ([{"type": "text", "text": text}] if text else [])}
            case "details":
                return {"reasoning": thinking, "reasoning_details": details_of(thinking)}
            case "":
                return {}
            case name:
                return {name: thinking}

    def _call(self, call: ToolUse) -> Object:
        function = {"name": call.name, "arguments": call.arguments}
        return {"id": identity(self.flavour.ids, call.seed), "type": "function", "function": function}

    def _remember(self, answer: Answer, around: Around) -> None:
        if not (answer.calls and answer.thinking):
            return
        said: object = details_of(answer.thinking) if self.flavour.thinking == "details" else answer.thinking
        calls = [f"{self.provider} {identity(self.flavour.ids, call.seed)}" for call in answer.calls]
        around.memory.keep(calls, said)

    def _usage(self, answer: Answer) -> Object:
        prompt, completion = answer.prompt + answer.cached, answer.output
        usage: Object = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        read, thought = {"cached_tokens": answer.cached}, {"reasoning_tokens": answer.thought}
        match self.provider:
            case "mistral" | "together":
                return usage
            case "perplexity":
                cost = {"input_tokens_cost": 0.001, "output_tokens_cost": 0.002, "request_cost": 0.005}
                return usage | {
                    "reasoning_tokens": answer.thought,
                    "citation_tokens": 0,
                    "num_search_queries": 1,
                    "search_context_size": "low",
                    "cost": cost | {"total_cost": 0.008},
                }
            case "groq":
                times = {"queue_time": 0.01, "prompt_time": 0.01, "completion_time": 0.05, "total_time": 0.06}
                return usage | times | {"prompt_tokens_details": read, "completion_tokens_details": thought}
            case "deepseek":
                hits = {"prompt_cache_hit_tokens": answer.cached, "prompt_cache_miss_tokens": answer.prompt}
                return usage | hits | {"prompt_tokens_details": read, "completion_tokens_details": thought}
            case "openrouter":
                found = usage | {"prompt_tokens_details": read, "completion_tokens_details": thought}
                return found | {"cost": 0.00125, "is_byok": False, "cost_details": {"upstream_inference_cost": None}}
            case _:
                silent = {"audio_tokens": 0}
                return usage | {
                    "prompt_tokens_details": read | silent,
                    "completion_tokens_details": thought | silent,
                }

    def _chunk(self, ask: Ask, answer: Answer, delta: Object, finish: str | None) -> Object:
        choice: Object = {"index": 0, "delta": delta, "finish_reason": finish}
        if self.provider != "mistral":
            choice["logprobs"] = None
        if self.provider == "openrouter":
            choice["native_finish_reason"] = finish
        return self._head(ask, answer, "chat.completion.chunk") | {"choices": [choice]}

    def _chunks(self, ask: Ask, answer: Answer) -> Iterator[bytes]:
        wanted = within(ask.body, "stream_options", "include_usage") is True
        usage = self._usage(answer)
        said: list[str] = []

        def chunk(delta: Object, finish: str | None = None, **more: object) -> bytes:
            body = self._chunk(ask, answer, delta, finish)
            if self.provider == "perplexity":
                said.append(string(delta.get("content")))
                choice = objects(body["choices"])[0]
                choice["message"] = {"role": "assistant", "content": "".join(said)}
                body["type"] = "end_of_stream" if finish else "message"
            if self.provider == "openai":
                # Padding, so that a chunk's length tells nothing of its text.
                body["obfuscation"] = signature(answer.name, str(delta))[: 1 + len(str(delta)) % 12]
            # Where it is told at the end of a stream, it is null before: always here, and there if it is asked for.
            if self.provider == "deepseek" or (self.flavour.usage == "asked" and wanted):
                body["usage"] = None
            return data(body | more)

        if self.provider == "azure":
            first = self._head(ask, answer, "") | {"id": "", "model": "", "choices": []}
            yield data(first | {"prompt_filter_results": [{"prompt_index": 0, "content_filter_results": _SAFE}]})
        opening: Object = {
            "role": "assistant",
            "content": None if self.provider == "deepseek" and answer.thinking else "",
        }
        if self.flavour.refusals:
            opening["refusal"] = None
        begun: Object = {"x_groq": {"id": f"req_{answer.name}"}} if self.provider == "groq" else {}
        yield chunk(opening, None, **begun)
        for at, word in enumerate(answer.thinking.split(" ") if answer.thinking else ()):
            yield chunk(self._thinking_delta(f" {word}" if at else word, last=False))
        if answer.thinking and self.flavour.thinking == "details":
            yield chunk(self._thinking_delta(answer.thinking, last=True))
        if answer.refusal:
            yield chunk({"refusal": answer.refusal} if self.flavour.refusals else {"content": REFUSAL})
        for piece in answer.pieces:
            yield chunk(self._text_delta(piece))
        for delta in self._call_deltas(answer):
            yield chunk(
                {"tool_calls": delta} | ({"content": None} if self.provider in {"openrouter", "deepseek"} else {})
            )
        finish = self._finish(answer)
        match self.flavour.usage:
            case "finish":
                yield chunk({"content": ""}, finish, usage=usage)
            case "x_groq":
                yield chunk({}, finish, x_groq={"id": f"req_{answer.name}", "usage": usage})
            case "always":
                yield chunk({"content": ""}, finish)
                yield chunk({"role": "assistant", "content": ""}, finish, usage=usage)
            case _:
                yield chunk({}, finish)
                if wanted:
                    yield data(self._head(ask, answer, "chat.completion.chunk") | {"choices": [], "usage": usage})
        yield _DONE

    def _text_delta(self, piece: str) -> Object:
        if self.flavour.thinking == "reasoning_content":
            return {"content": piece, "reasoning_content": None}
        return {"content": piece}

    def _thinking_delta(self, piece: str, *, last: bool) -> Object:
        match self.flavour.thinking:
            case "chunks":
                return {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": piece}]}]}
            case "details":
                # The signature comes after all of the text, with the same index.
                part: Object = {"type": "reasoning.text", "index": 0, "format": "anthropic-claude-v1"}
                if last:
                    return {"content": "", "reasoning_details": [part | {"signature": signature(piece)}]}
                return {"content": "", "reasoning": piece, "reasoning_details": [part | {"text": piece}]}
            case "reasoning_content":
                return {"content": None, "reasoning_content": piece}
            case _:
                return {"reasoning": piece}

    def _call_deltas(self, answer: Answer) -> Iterator[list[Object]]:
        if self.flavour.whole_calls:
            if answer.calls:
                yield [{"index": at, **self._call(call)} for at, call in enumerate(answer.calls)]
            return
        for at, call in enumerate(answer.calls):
            empty = {"name": call.name, "arguments": ""}
            yield [{"index": at, **self._call(call), "function": empty}]
        # Piece by piece in turn, as calls in parallel may come.
        rows = [list(halves(call.arguments)) for call in answer.calls]
        for turn in range(max(map(len, rows), default=0)):
            for at, row in enumerate(rows):
                if turn < len(row):
                    yield [{"index": at, "function": {"arguments": row[turn]}}]


_SAFE: Final[Object] = {
    kind: {"filtered": False, "severity": "safe"} for kind in ("hate", "self_harm", "sexual", "violence")
}


def details_of(thinking: str) -> list[Object]:
    """Return thinking in openrouter's form, signed."""
    return [
        {
            "type": "reasoning.text",
            "text": thinking,
            "signature": signature(thinking),
            "format": "anthropic-claude-v1",
            "index": 0,
        }
    ]


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
        found.append(Result(call, names.get(call, string(message.get("name"))), text_of(message.get("content"))))
    return tuple(reversed(found))
