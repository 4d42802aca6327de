"""From an error answer to an exception: the shapes in which providers of any wire format report failure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from kitaru.adapters.fields import Object, is_object, object_at, objects_in
from kitaru.adapters.message import Message
from kitaru.adapters.provider import Provider
from kitaru.adapters.refusals import FORM
from kitaru.adapters.reply import Reply, Usage
from kitaru.adapters.retry import retry_after
from kitaru.adapters.secret import clean, excerpt
from kitaru.errors import AnswerError, CredentialError, ModelConnectionError, ModelError, ProviderError, Reason

# Codes that stand for a status when the error comes inside HTTP 200, where the status says nothing.
_PASSING_CODES: Final = frozenset(
    {
        "rate_limit_exceeded", "server_error", "overloaded", "slow_down", "timeout",  # openai and its like
        "overloaded_error", "rate_limit_error", "api_error", "timeout_error",  # anthropic
        "UNAVAILABLE", "RESOURCE_EXHAUSTED", "INTERNAL", "DEADLINE_EXCEEDED",  # google
    }
)  # fmt: skip

# Fields of request bodies that stand for a setting which may be left out.
_ADVISORY_FIELDS: Final[Mapping[str, str]] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "topP": "top_p",
    "p": "top_p",
    "seed": "seed",
    "random_seed": "seed",
    "reasoning_effort": "reasoning",
    "reasoning": "reasoning",
    "reasoning.effort": "reasoning",
    "reasoningEffort": "reasoning",  # xai
    "include_reasoning": "reasoning",
    "effort": "reasoning",
    "output_config.effort": "reasoning",
    "thinking": "reasoning",
    "thinking.type": "reasoning",
    "thinking.type.enabled": "reasoning",
    "thinking.type.disabled": "reasoning",
    "thinking.type.adaptive": "reasoning",
    "thinking_config": "reasoning",
    "thinkingConfig": "reasoning",
    "thinkingBudget": "reasoning",
    "thinkingLevel": "reasoning",
    "thinking_budget": "reasoning",
    "thinking_level": "reasoning",
    "Thinking": "reasoning",  # google: "Thinking level is not supported for this model."
    "think": "reasoning",
    "prompt_mode": "reasoning",
    "num_ctx": "context_length",
}

# "Unsupported value: 'temperature' ...", "temperature: Extra inputs are not permitted", "`top_p` is not supported",
# "\"llama3\" does not support thinking".
_REFUSAL: Final = re.compile(
    r"unsupported|not (?:be )?(?:supported|permitted|allowed|available)|(?:does|do)(?: not|n't) support|extra inputs"
    r"|unknown (?:name|field|parameter)|unrecognized|deprecated|only the default"
    # anthropic: "`temperature` may only be set to 1 when thinking is enabled", "`temperature` and `top_p` cannot both
    # be specified", "Thinking may not be enabled when tool_choice forces tool use".
    r"|may only be set|cannot both be|may not be enabled",
    re.IGNORECASE,
)

# deepseek: "This response_format type is unavailable now"; lmstudio: "'response_format.type' must be 'json_schema' or
# 'text'"; openai: "'response_format' of type 'json_schema' is not supported with this model"; google: "JSON mode is not
# enabled for this model"; groq: "json mode cannot be combined with tool/function calling"; tgi: "Grammar validation".
_FORM: Final = re.compile(
    r"response_?format|json[ _-]?(?:schema|object|mode|output)|structured[ _-]?output|guided[ _-]?(?:json|decoding)"
    r"|grammar|output_(?:config|format)|text\.format|response_?mime_?type|response_?(?:json_?)?schema",
    re.IGNORECASE,
)
_FORM_REFUSED: Final = re.compile(
    r"unavailable|must be|invalid (?:value|type)|expected one of|not (?:enabled|implemented|recogni[sz]ed|available)"
    r"|unknown variant|cannot be (?:combined|used)|can't be (?:combined|used)|input should be|no endpoints|failed to",
    re.IGNORECASE,
)

# xai answers 400 to a key that it does not know.
_KEY_REFUSED: Final = re.compile(r"incorrect api key|invalid api key", re.IGNORECASE)

_CONTEXT: Final = re.compile(
    r"context[ _](?:length|window|limit|size)|maximum context|prompt is too long|too many tokens|input (?:is )?too long"
    r"|exceeds the (?:maximum number of tokens|model's max|limit of)|input token count"
    # vllm: "longer than the maximum model length of 4096"; lmstudio: "when context the overflows"; text-generation-
    # inference: "`inputs` tokens + `max_new_tokens` must be <= 4096"; groq: "reduce the length of the messages".
    r"|maximum model length|context the overflows|tokens \+ `?max_new_tokens`? must be|reduce the length of",
    re.IGNORECASE,
)

# openai, groq: one request is larger than what a minute may hold, so waiting never helps.
_TOO_LARGE: Final = re.compile(r"request too large\b.*\blimit:? (\d+).*\brequested:? (\d+)", re.IGNORECASE | re.DOTALL)


class Complaint(NamedTuple):
    """What an error object says, made fit for a terminal."""

    message: str = ""
    code: str = ""
    kind: str = ""
    param: str = ""
    request_id: str = ""
    wait: float | None = None
    spent: bool = False
    key_refused: bool = False

    @property
    def label(self) -> str:
        """The provider's own word for the error."""
        return self.code or self.kind


def decode(body: bytes) -> object:
    """Decode JSON from outside, byte order mark or not.

    Raises:
        ValueError: It is no JSON, not UTF-8, or nested too deep.
    """
    try:
        return msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(clean(str(error), 120)) from None


def request_id(row: Provider, headers: Mapping[str, str]) -> str:
    """Return the provider's name for a request, or an empty string."""
    found = next((value for name in row.request_id_headers if (value := headers.get(name, ""))), "")
    return clean(found, 200)


def complaint(payload: object) -> Complaint:
    """Return what an error body says, whatever its shape.

    Known: `{error: {message, type, param, code}}`, `{error: "text"}`, `[{error: ...}]`, `{message, code}`,
    `{detail: ...}`, google's `{error: {code, message, status, details}}`, anthropic's `{error, request_id}`; messages
    that are objects themselves are shown as JSON.
    """
    if isinstance(payload, list) and payload:
        payload = payload[0]
    if isinstance(payload, str):
        return Complaint(clean(payload))
    if not isinstance(payload, dict):
        return Complaint()
    name = _line(payload.get("request_id"), 200)
    if not name and "error" not in payload:
        name = _line(payload.get("id"), 200)  # cohere: {id, message}
    inner = payload.get("error")
    if isinstance(inner, dict):
        payload = inner
    elif inner and isinstance(inner, str):
        payload = {"message": inner, **{key: value for key, value in payload.items() if key in ("code", "type")}}
    message = payload.get("message") or payload.get("detail") or payload.get("msg")
    details = payload.get("details")
    code = payload.get("code")
    # google: the status word says more than the number; anthropic: the detailed code more than the type.
    code = payload.get("status") if isinstance(code, int) and payload.get("status") else code
    code = object_at(details).get("error_code") or code
    param = payload.get("param")
    if isinstance(message, dict | list) or payload.get("detail"):
        param = param or _location(payload)
    upstream = object_at(payload.get("metadata")).get("raw")  # openrouter: what it was told itself
    if isinstance(message, str) and isinstance(upstream, str) and upstream:
        message = f"{clean(message, 200)}: {upstream}"
    return Complaint(
        _line(message, 500),
        _line(code, 100),
        _line(payload.get("type"), 100),
        _line(param, 100),
        name,
        _retry_delay(details),
        _daily(details),
        any(detail.get("reason") == "API_KEY_INVALID" for detail in objects_in(details)),  # google, with a 400
    )


def failure(row: Provider, status: int, headers: Mapping[str, str], body: bytes) -> ModelError:
    """Return the exception for an answer whose status is not a success.

    Args:
        row: Who answered.
        status: HTTP status.
        headers: By lower-case name.
        body: Decompressed.
    """
    try:
        said = complaint(decode(body))
    except ValueError:
        said = Complaint()
    name = request_id(row, headers) or said.request_id
    message = f"{row.name} answered {status}"
    if said.label not in ("", str(status)):  # litellm and openrouter repeat the status as their code
        message += f" ({said.label})"
    if said.message:
        message += f": {said.message}"
    elif body:
        message += f", and not in the API's form: {excerpt(body)}"
    message += f" (request {name})" if name else ""
    if status == 401 or said.key_refused or (status == 400 and _KEY_REFUSED.search(said.message)):
        refused = CredentialError(message, hint=_key_hint(row))
        refused.status, refused.request_id = status, name or None
        return refused
    # azure reports a filtered prompt as a 400; cohere a deny-listed token in prompt or answer as a 498 (its API's
    # schema says so, although it names it "invalid token"; a refused key is a 401).
    if (status == 400 and said.label == "content_filter") or (status == 498 and 498 not in row.retryable):
        reply = Reply("", Message("assistant", ""), "content_filter", Usage(), "", name, body)
        filtered = AnswerError(message, hint="Word the request differently, or ask another model.")
        filtered.reply = reply
        return filtered
    reason = _reason(row, status, said)
    return ProviderError(
        message,
        status=status,
        request_id=name or None,
        retryable=_retryable(row, status, headers, reason, said),
        retry_after=said.wait if (asked := retry_after(headers)) is None else asked,
        provider_code=said.label or None,
        reason=reason,
        refuses=_refused_setting(status, said),
        hint=_hint(row, status, headers, reason),
    )


def payload_of(row: Provider, status: int, headers: Mapping[str, str], body: bytes) -> Object:
    """Return the JSON object that a success holds.

    Raises:
        ModelError: The status is not a success, or the body is something else.
    """
    if not 200 <= status < 300:
        raise failure(row, status, headers, body)
    try:
        payload = decode(body)
    except ValueError as error:
        raise malformed(row, status, headers, body, not_json(str(error))) from None
    if not is_object(payload):
        raise malformed(row, status, headers, body, "the body is not a JSON object")
    return payload


def failure_within(row: Provider, status: int, headers: Mapping[str, str], payload: object) -> ProviderError:
    """Return the exception for an error object that came inside a success, in its body or in its stream."""
    said = complaint({"error": payload})
    name = request_id(row, headers) or said.request_id
    number = payload.get("code") if is_object(payload) else None
    stated = str(number) if isinstance(number, int) else said.code
    inner = int(stated) if stated.isascii() and stated.isdigit() and len(stated) == 3 else 0
    reason = _reason(row, inner, said)
    passing = inner >= 500 or inner in row.retryable or bool({said.code, said.kind} & _PASSING_CODES)
    if passing and reason == "other":
        reason = "rate_limit" if "rate_limit" in said.label or inner == 429 else "overloaded"
    passing = passing or not row.retryable_codes.isdisjoint((said.code, said.kind))
    return ProviderError(
        f"{row.name} answered {status}, but with an error inside"
        + (f" ({said.label})" if said.label else "")
        + (f": {said.message}" if said.message else "")
        + (f" (request {name})" if name else ""),
        status=status,
        request_id=name or None,
        retryable=passing and reason not in ("quota", "context"),
        retry_after=said.wait if (asked := retry_after(headers)) is None else asked,
        provider_code=said.label or None,
        reason=reason,
        refuses=_refused_setting(inner, said),
    )


def malformed(row: Provider, status: int, headers: Mapping[str, str], body: bytes, why: str) -> ProviderError:
    """Return the exception for a success whose body is not what the API promises.

    A body that is no JSON at all may have been cut on its way and is worth another attempt; a web page, or JSON of
    another form, comes from something that is not the API.
    """
    start = body[:512].lstrip().lower()
    page = start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")) or "html" in headers.get("content-type", "")
    name = request_id(row, headers)
    shown = f": {excerpt(body)}" if body else ""
    return ProviderError(
        f"{row.name} answered {status}, but {'with a web page' if page else why}{shown}"
        + (f" (request {name})" if name else ""),
        status=status,
        request_id=name or None,
        retryable=not page and why.startswith(_NOT_JSON),
        reason="invalid",
        hint=f"Check the base URL: {_complete(row)}." if page or not why.startswith(_NOT_JSON) else None,
    )


def cut_short(row: Provider, headers: Mapping[str, str], missing: str) -> ModelConnectionError:
    """Return the exception for a stream that ended without its end marker.

    Args:
        row: Who answered.
        headers: By lower-case name.
        missing: The end marker, as a reader of the API's documents knows it.
    """
    name = request_id(row, headers)
    return ModelConnectionError(
        f"the stream of {row.name} ended without {missing}: what arrived is not the whole answer"
        + (f" (request {name})" if name else ""),
        sent=True,
    )


_NOT_JSON: Final = "the body is not JSON"


def not_json(reason: str) -> str:
    """Return the reason for `malformed` when a body is no JSON."""
    return f"{_NOT_JSON} ({reason})" if reason else _NOT_JSON


def _reason(row: Provider, status: int, said: Complaint) -> Reason:
    text = said.message.lower()
    if said.spent or status == 402 or not row.quota_codes.isdisjoint((said.code, said.kind)):
        return "quota"
    if any(phrase in text for phrase in row.quota_phrases):
        return "quota"
    if _too_long(status, said):
        return "context"
    if _refused_setting(status, said):
        return "unsupported"
    match status:
        case 429:
            return "rate_limit"
        case 403:
            return "forbidden"
        case 404:
            return "not_found"
        case 413:
            return "context"
        case 503 | 529:
            return "overloaded"
        case _:
            return "overloaded" if status >= 500 else "other"


def _too_long(status: int, said: Complaint) -> bool:
    if status == 429:
        found = _TOO_LARGE.search(said.message)
        return found is not None and int(found[2]) > int(found[1])
    # llama.cpp has answered 500, too.
    named = any(word in said.code + said.kind for word in ("context_length", "context_size"))
    return status in (0, 400, 413, 422, 500) and (named or _CONTEXT.search(said.message) is not None)


def _refused_setting(status: int, said: Complaint) -> str:
    """Return what an error names as not taken: a setting that may be left out, or the form of the answer."""
    if status not in (400, 404, 422):
        return ""
    told = said.code in ("unsupported_value", "unsupported_parameter", "unknown_parameter", "extra_forbidden")
    refused = told or said.kind == "extra_forbidden" or _REFUSAL.search(said.message)
    form = (
        FORM if _FORM.search(f"{said.param} {said.message}") and (refused or _FORM_REFUSED.search(said.message)) else ""
    )
    if not refused or status == 404:
        return form
    if said.param:
        return _ADVISORY_FIELDS.get(said.param.removeprefix("body."), form)
    # The field that is named first, if it is the only one that could be meant.
    named = re.findall(r"[`'\"]?([A-Za-z_][A-Za-z_.]*)[`'\"]?", said.message)
    known = [_ADVISORY_FIELDS[word] for word in named if len(word) > 1 and word in _ADVISORY_FIELDS]
    return known[0] if known else form


def _retryable(row: Provider, status: int, headers: Mapping[str, str], reason: Reason, said: Complaint) -> bool:
    if reason in ("quota", "context") or 200 <= status < 400:
        return False
    match headers.get("x-should-retry", "").strip().lower():  # openai SDK `_base_client.py`: the server knows best
        case "true":
            return True
        case "false":
            return False
        case _:
            named = not row.retryable_codes.isdisjoint((said.code, said.kind))
            return named or status in row.retryable or status >= 500


def _retry_delay(details: object) -> float | None:
    """Google's `RetryInfo.retryDelay`, such as "36s"."""
    for detail in objects_in(details):
        stated = detail.get("retryDelay")
        if isinstance(stated, str) and re.fullmatch(r"\d{1,9}(\.\d{1,9})?s", stated):
            return float(stated[:-1])
    return None


def _daily(details: object) -> bool:
    """Google's `QuotaFailure` of a day's quota: a short delay may stand beside it, and does not help."""
    return any(
        "PerDay" in str(violation.get("quotaId", ""))
        for detail in objects_in(details)
        for violation in objects_in(detail.get("violations"))
    )


def _location(payload: dict[str, object]) -> str:
    """Mistral's and FastAPI's `detail: [{loc: ["body", "seed"], ...}]`."""
    for source in (payload.get("message"), payload.get("detail"), payload):
        listed = source.get("detail") if is_object(source) else source
        for one in objects_in(listed):
            place = one.get("loc")
            if isinstance(place, list) and place:
                return str(place[-1])
    return ""


def _complete(row: Provider) -> str:
    return "most end in /v1" if (row.base_url or "/v1").endswith("/v1") else f"{row.name}'s own is {row.base_url}"


def _hint(row: Provider, status: int, headers: Mapping[str, str], reason: Reason) -> str | None:
    if reason == "quota":
        return "The quota is spent: waiting does not help, look at the account's billing."
    if 300 <= status < 400:
        target = urlsplit(headers.get("location", ""))
        to = f" (to {clean(f'{target.scheme}://{target.hostname}', 100)})" if target.hostname else ""
        return f"Redirects{to} are not followed, so that no key travels along: name the final address as base URL."
    match reason:
        case "forbidden":
            return "The key is known but may not do this: check its permissions, the project, and the region."
        case "not_found":
            return f"Check the model's name, and that the base URL is complete: {_complete(row)}."
        case "context":
            return "The request is too long for the model: shorten it, or choose a model with a longer context."
        case _:
            return None


def _key_hint(row: Provider) -> str:
    where = f"the one in {row.key_env[0]}" if row.key_env else "the one passed as api_key="
    return f"Check the key ({where}) and that it belongs to the address called."


def _line(value: object, limit: int) -> str:
    match value:
        case None | "" | bool():
            return ""
        case str():
            return clean(value, limit)
        case _:
            try:
                return clean(msgspec.json.encode(value).decode(), limit)
            except (TypeError, ValueError, RecursionError):
                return "(unreadable)"
