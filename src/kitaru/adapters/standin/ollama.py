"""Ollama's own API: chat, and what it knows of models."""

from __future__ import annotations

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
    within,
)
from kitaru.adapters.standin.deciding import REFUSAL, Answer
from kitaru.adapters.standin.wire import JSON, Around, bearer, encoded, missing, payload_of

_LINES: Final = "application/x-ndjson"
_MADE: Final = "2026-01-02T03:04:05.000000Z"
_DIGEST: Final = "sha256:" + "5f" * 32
_SIZE: Final = 4_000_000
_PROBLEMS: Final[dict[Trouble, tuple[int, str]]] = {
    "auth": (401, "unauthorized"),
    "rate": (429, "too many requests"),
    "quota": (402, "you have reached your usage limit, upgrade for more"),
    "context": (400, "the input length exceeds the context length"),
    "server": (500, "llama runner process has terminated: exit status 2"),
    "overloaded": (503, "server busy, please try again.  maximum pending requests exceeded"),
    "upstream": (502, "upstream is not reachable"),
}


class Ollama(msgspec.Struct, frozen=True):
    """The endpoint."""

    provider: str = "ollama"

    def credential(self, arrived: Arrived) -> str:
        """Return the key: the cloud wants one, a local server none."""
        return bearer(arrived.headers)

    def understand(self, arrived: Arrived, around: Around) -> Ask:  # noqa: ARG002 - nothing around it matters here
        """Read a request: without a word on it, the answer is a stream."""
        body = payload_of(arrived, "invalid character looking for beginning of value")
        model, messages = body.get("model"), objects(body.get("messages"))
        if not (isinstance(model, str) and model):
            raise refused("model is required")
        if not messages:
            raise refused("messages is required")
        options = child(body, "options")
        form = body.get("format")
        limit = number(options.get("num_predict"))
        return Ask(
            model=model,
            messages=tuple((string(message.get("role")), string(message.get("content"))) for message in messages),
            body=body,
            limit=limit if limit is not None and limit > 0 else None,
            stop=strings(options.get("stop")),
            stream=body.get("stream") is not False,
            tools=offers(body.get("tools")),
            results=_results(messages),
            form="schema" if is_object(form) else "json" if form == "json" else "text",
            schema=form if is_object(form) else None,
            thinks=body.get("think") in (True, "low", "medium", "high", "max"),
        )

    def check(self, arrived: Arrived, ask: Ask, around: Around) -> None:  # noqa: ARG002 - all of it is in the body
        """Find what the API would not take: it is silent about most."""
        if not around.knows(ask.model):
            raise missing(f"model '{ask.model}' not found")
        for message in objects(ask.body.get("messages")):
            if not among(message.get("role"), ("system", "user", "assistant", "tool")):
                raise refused(f"invalid role: {message.get('role')!r}")
            if not isinstance(message.get("content", ""), str):
                raise refused(
                    "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string"
                )
            for image in strings(message.get("images")):
                if image.startswith("data:"):
                    raise refused("illegal base64 data at input byte 4")
            for call in objects(message.get("tool_calls")):
                if not is_object(within(call, "function", "arguments")):
                    raise refused(
                        "json: cannot unmarshal string into Go struct field ToolCallFunction.messages.tool_calls."
                        "function.arguments of type api.ToolCallFunctionArguments"
                    )
        if not (ask.body.get("format") in (None, "", "json") or is_object(ask.body.get("format"))):
            raise refused('invalid format: expected "json" or a JSON schema')

    def whole(self, ask: Ask, answer: Answer, around: Around) -> bytes:  # noqa: ARG002 - nothing is remembered
        """Return the answer in one piece."""
        message: Object = {"role": "assistant", "content": _text(answer)}
        if answer.thinking:
            message["thinking"] = answer.thinking
        if answer.calls:
            message["tool_calls"] = _calls(answer)
        return encoded(_line(ask, message) | _end(answer))

    def frames(self, ask: Ask, answer: Answer, around: Around) -> list[bytes]:  # noqa: ARG002 - nothing is remembered
        """Return the answer as lines of JSON."""
        lines = [
            _line(ask, {"role": "assistant", "content": "", "thinking": f" {word}" if at else word})
            for at, word in enumerate(answer.thinking.split(" ") if answer.thinking else ())
        ]
        pieces = answer.pieces or ((REFUSAL,) if answer.refusal else ())
        lines += [_line(ask, {"role": "assistant", "content": piece}) for piece in pieces]
        if answer.calls:
            lines.append(_line(ask, {"role": "assistant", "content": "", "tool_calls": _calls(answer)}))
        lines.append(_line(ask, {"role": "assistant", "content": ""}) | _end(answer))
        return [encoded(line) + b"\n" for line in lines]

    def media(self, ask: Ask) -> str:
        """Return the content type."""
        return _LINES if ask.stream else f"{JSON}; charset=utf-8"

    def headers(self, name: str, problem: Problem | None) -> dict[str, str]:  # noqa: ARG002 - it sends none
        """Return what only tests read: the API names no request."""
        return {"x-standin-id": name}

    def problem(self, trouble: Trouble, ask: Ask | None) -> Problem:  # noqa: ARG002 - the same whatever was asked
        """Return what Ollama says to some trouble."""
        status, message = _PROBLEMS.get(trouble, (400, "bad request"))
        return Problem(trouble=trouble, status=status, message=message)

    def failure(self, problem: Problem, name: str) -> bytes:  # noqa: ARG002 - no body here has the request's id
        """Return the body of a refusal."""
        return encoded({"error": problem.message})

    def within(self, problem: Problem, ask: Ask, name: str) -> bytes:  # noqa: ARG002 - the same for every request
        """Return the body of an error under status 200."""
        return self.failure(problem, name)

    def stray(self, problem: Problem, ask: Ask, name: str) -> list[bytes]:  # noqa: ARG002 - the same for every request
        """Return the line of an error; nothing follows it."""
        return [self.failure(problem, name) + b"\n"]


def _line(ask: Ask, message: Object) -> Object:
    return {"model": ask.model, "created_at": _MADE, "message": message, "done": False}


def _end(answer: Answer) -> Object:
    # A stop with calls is a stop as well: nothing but the calls tells.
    end: Object = {"done": True, "done_reason": "length" if answer.finish == "length" else "stop"}
    times = {"total_duration": 21_000_000, "load_duration": 1_000_000, "prompt_eval_duration": 5_000_000}
    end |= times | {"eval_duration": 15_000_000, "eval_count": answer.output}
    # A prompt that was read before is not counted again.
    return end | ({} if answer.cached else {"prompt_eval_count": answer.prompt})


def _text(answer: Answer) -> str:
    return answer.text or (REFUSAL if answer.refusal else "")


def _calls(answer: Answer) -> list[Object]:
    return [{"function": {"name": call.name, "arguments": call.value}} for call in answer.calls]


def _results(messages: list[Object]) -> tuple[Result, ...]:
    found: list[Result] = []
    for message in reversed(messages):
        if message.get("role") != "tool":
            break
        found.append(Result("", string(message.get("tool_name")), string(message.get("content"))))
    return tuple(reversed(found))


def tags(models: tuple[str, ...]) -> Object:
    """Return the list of models that are there."""
    return {"models": [_model() | {"name": name, "model": name} for name in models]}


def shown(name: str) -> Object:
    """Return what is known of a model."""
    info = {"general.architecture": "standin", "general.parameter_count": 1_000_000, "standin.context_length": 8192}
    capabilities = ["completion", "tools", "vision", "thinking"]
    return {
        "modelfile": f"FROM {name}\n",
        "parameters": "",
        "template": "{{ .Prompt }}",
        "details": _model()["details"],
        "model_info": info,
        "capabilities": capabilities,
        "modified_at": _MADE,
    }


def pulled() -> list[bytes]:
    """Return the lines that tell of a model's download."""
    layer: Object = {"status": f"pulling {_DIGEST[7:19]}", "digest": _DIGEST, "total": _SIZE}
    lines: list[Object] = [{"status": "pulling manifest"}, layer]
    lines += [layer | {"completed": _SIZE * quarter // 4} for quarter in (1, 2, 3, 4)]
    lines += [{"status": status} for status in ("verifying sha256 digest", "writing manifest", "success")]
    return [encoded(line) + b"\n" for line in lines]


def _model() -> Object:
    details = {
        "parent_model": "",
        "format": "gguf",
        "family": "standin",
        "families": ["standin"],
        "parameter_size": "1M",
        "quantization_level": "Q4_0",
    }
    return {"modified_at": _MADE, "size": _SIZE, "digest": _DIGEST[7:], "details": details}
