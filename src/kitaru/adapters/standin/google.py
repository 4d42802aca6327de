"""Google's generateContent and streamGenerateContent."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from kitaru.adapters.standin.asked import (
    Arrived,
    Ask,
    Object,
    Offer,
    Problem,
    Result,
    Trouble,
    child,
    is_object,
    number,
    objects,
    refused,
    string,
    strings,
)
from kitaru.adapters.standin.deciding import Answer, ToolUse, identity, signature
from kitaru.adapters.standin.google_checks import check, signed_call, spelled
from kitaru.adapters.standin.wire import EVENTS, JSON, Around, data, encoded, payload_of

_END: Final = b"\r\n\r\n"
_PROBLEMS: Final[dict[Trouble, tuple[int, str]]] = {
    "auth": (400, "API key not valid. Please pass a valid API key."),
    "rate": (429, "Resource has been exhausted (e.g. check quota)."),
    "quota": (429, "You exceeded your current quota, please check your plan and billing details."),
    "context": (400, "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576)."),
    "server": (500, "An internal error has occurred. Please retry or report."),
    "overloaded": (503, "The model is overloaded. Please try again later."),
    "upstream": (503, "The service is currently unavailable."),
}
_STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    529: "UNAVAILABLE",
}
_TYPE: Final = "type.googleapis.com/google.rpc."


class Google(msgspec.Struct, frozen=True):
    """The endpoints.

    Args:
        stream: Whether it is streamGenerateContent.
        events: Whether a stream comes as events (`alt=sse`); else it is an array that grows.
    """

    stream: bool = False
    events: bool = True
    provider: str = "google"

    def credential(self, arrived: Arrived) -> str:
        """Return the key, of the header or the query."""
        return arrived.headers.get("x-goog-api-key", "") or arrived.query.get("key", "")

    def understand(self, arrived: Arrived, around: Around) -> Ask:  # noqa: ARG002 - nothing around it matters here
        """Read a request."""
        given = payload_of(arrived, "Invalid JSON payload received. Parsing terminated before end of input.")
        found = spelled(given)
        body = found if is_object(found) else given
        contents = objects(body.get("contents"))
        if not contents:
            raise refused("* GenerateContentRequest.contents: contents is not specified")
        config = child(body, "generationConfig")
        system = _text(child(body, "systemInstruction"))
        calling = child(body, "toolConfig", "functionCallingConfig")
        mode = string(calling.get("mode")).upper()
        names = strings(calling.get("allowedFunctionNames"))
        declared = [each for tool in objects(body.get("tools")) for each in objects(tool.get("functionDeclarations"))]
        schema = config.get("responseJsonSchema", config.get("responseSchema"))
        return Ask(
            model=arrived.model,
            messages=tuple(
                ([("system", system)] if system else []) + [(_role(content), _text(content)) for content in contents]
            ),
            body=body,
            limit=number(config.get("maxOutputTokens")),
            stop=strings(config.get("stopSequences")),
            stream=self.stream,
            tools=tuple(
                Offer(string(each.get("name")), child(each, "parametersJsonSchema") or child(each, "parameters"))
                for each in declared
                if not names or each.get("name") in names
            ),
            choice="required" if mode == "ANY" else "none" if mode == "NONE" else "auto",
            results=_results(contents),
            form="schema" if is_object(schema) else "json" if config.get("responseMimeType") == JSON else "text",
            schema=schema if is_object(schema) else None,
            thinks=child(config, "thinkingConfig").get("includeThoughts") is True,
        )

    def check(self, arrived: Arrived, ask: Ask, around: Around) -> None:
        """Find what the API would not take."""
        check(arrived, ask, around)

    def whole(self, ask: Ask, answer: Answer, around: Around) -> bytes:
        """Return the answer in one piece."""
        return encoded(self._response(ask, answer, _parts(ask, answer, [answer.text], around), last=True))

    def frames(self, ask: Ask, answer: Answer, around: Around) -> list[bytes]:
        """Return the answer as a stream: nothing but the finish of its last chunk says that it is over."""
        parts = _parts(ask, answer, list(answer.pieces), around)
        chunks = [self._response(ask, answer, [part], last=False) for part in parts[:-1]]
        chunks.append(self._response(ask, answer, parts[-1:], last=True))
        if self.events:
            return [data(chunk, _END) for chunk in chunks]
        # Without `alt=sse` it is an array that grows.
        texts = [(b"," if at else b"[") + encoded(chunk) + b"\r\n" for at, chunk in enumerate(chunks)]
        return [*texts[:-1], texts[-1] + b"]\r\n"]

    def media(self, ask: Ask) -> str:
        """Return the content type."""
        return EVENTS if ask.stream and self.events else "application/json; charset=UTF-8"

    def headers(self, name: str, problem: Problem | None) -> dict[str, str]:  # noqa: ARG002 - the body has it all
        """Return what tells nothing of the request: its id is in the body."""
        return {"server-timing": "gfet4t7; dur=12", "x-standin-id": name}

    def problem(self, trouble: Trouble, ask: Ask | None) -> Problem:
        """Return what Google says to some trouble."""
        status, message = _PROBLEMS.get(trouble, (400, "Request contains an invalid argument."))
        details: list[Object] = []
        if trouble == "auth":
            details = [
                {"@type": f"{_TYPE}ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"},
                {"@type": f"{_TYPE}LocalizedMessage", "locale": "en-US", "message": message},
            ]
        elif trouble == "quota":
            violation = {
                "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
                "quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
                "quotaDimensions": {"location": "global", "model": ask.model if ask else ""},
                "quotaValue": "250",
            }
            details = [{"@type": f"{_TYPE}QuotaFailure", "violations": [violation]}]
        return Problem(trouble=trouble, status=status, message=message, details=details or None)

    def failure(self, problem: Problem, name: str) -> bytes:  # noqa: ARG002 - no body here has the request's id
        """Return the body of a refusal, over many lines as Google writes it."""
        return json.dumps(_error(problem), indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"

    def within(self, problem: Problem, ask: Ask, name: str) -> bytes:
        """Return the body of an error under status 200: where a stream was asked for, in a list."""
        if ask.stream:
            return encoded([_error(problem)])
        return self.failure(problem, name)

    def stray(self, problem: Problem, ask: Ask, name: str) -> list[bytes]:  # noqa: ARG002 - the same for every request
        """Return an error in the middle of a stream: bare, over many lines, without `data:`."""
        if not self.events:
            return [b"," + encoded(_error(problem)) + b"]"]
        return [self.failure(problem, name)]

    def _response(self, ask: Ask, answer: Answer, parts: list[Object], *, last: bool) -> Object:
        blocked = answer.finish == "filter"
        candidate: Object = {"index": 0}
        # A candidate that has nothing to say has no content.
        if parts:
            candidate["content"] = {"parts": parts, "role": "model"}
        if last:
            reason = "MAX_TOKENS" if answer.finish == "length" else "SAFETY" if answer.refusal else "STOP"
            candidate["finishReason"] = reason
            if answer.refusal:
                rating = {"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH", "blocked": True}
                candidate["safetyRatings"] = [rating]
        found: Object = {"candidates": [candidate]}
        if blocked:
            found = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}
        return found | {
            "usageMetadata": _usage(answer, last=last),
            "modelVersion": ask.model,
            "responseId": answer.name,
        }


def _error(problem: Problem) -> Object:
    status = 503 if problem.status == 529 else problem.status
    error: Object = {"code": status, "message": problem.message, "status": _STATUSES.get(status, "UNKNOWN")}
    details = problem.details if isinstance(problem.details, list) else []
    if problem.wait is not None:
        details = [*details, {"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{problem.wait:g}s"}]
    return {"error": error | ({"details": details} if details else {})}


def _role(content: Object) -> str:
    if any("functionResponse" in part for part in objects(content.get("parts"))):
        return "tool"
    return {"model": "assistant"}.get(string(content.get("role")), "user")


def _text(content: Object) -> str:
    told = [
        string(part.get("text")) or (_said(child(part, "functionResponse")) if "functionResponse" in part else "")
        for part in objects(content.get("parts"))
        if part.get("thought") is not True
    ]
    return " ".join(text for text in told if text)


def _said(response: Object) -> str:
    value = response.get("response")
    if is_object(value) and len(value) == 1 and isinstance(only := next(iter(value.values())), str):
        return only
    return msgspec.json.encode(value).decode()


def _results(contents: list[Object]) -> tuple[Result, ...]:
    found = [
        child(part, "functionResponse") for part in objects(contents[-1].get("parts")) if "functionResponse" in part
    ]
    return tuple(Result(string(each.get("id")), string(each.get("name")), _said(each)) for each in found)


def _parts(ask: Ask, answer: Answer, pieces: list[str], around: Around) -> list[Object]:
    found: list[Object] = []
    if answer.thinking:
        found.append({"text": answer.thinking, "thought": True})
    found += [{"text": piece} for piece in pieces if piece]
    first = True
    for call in answer.calls:
        part: Object = {"functionCall": _call(ask, call)}
        if first and signs(ask, around):
            # Of calls that come at once, the first alone is signed.
            part["thoughtSignature"] = signature(ask.model, signed_call(call.name, call.value))
        first = False
        found.append(part)
    if answer.thinking and answer.text and not answer.calls:
        found[-1] = found[-1] | {"thoughtSignature": signature(ask.model, "text")}
    return found


def _call(ask: Ask, call: ToolUse) -> Object:
    found: Object = {"name": call.name, "args": call.value}
    # Older models give no id, not even to two calls of one name.
    return {"id": identity("plain", call.seed), **found} if fnmatchcase(ask.model, "gemini-3*") else found


def signs(ask: Ask, around: Around) -> bool:
    """Return whether a model puts a signature under its calls."""
    thinking = child(ask.body, "generationConfig", "thinkingConfig")
    return bool(thinking) or fnmatchcase(ask.model, "gemini-[23]*") or around.options.reasons(ask.model)


def _usage(answer: Answer, *, last: bool) -> Object:
    prompt = answer.prompt + answer.cached
    found: Object = {"promptTokenCount": prompt, "totalTokenCount": prompt + (answer.output if last else 0)}
    # What would be 0 is not told at all.
    if answer.cached:
        found["cachedContentTokenCount"] = answer.cached
    if last and answer.thought:
        found["thoughtsTokenCount"] = answer.thought
    if last and answer.output > answer.thought:
        found["candidatesTokenCount"] = answer.output - answer.thought
    return found | {"promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}]}
