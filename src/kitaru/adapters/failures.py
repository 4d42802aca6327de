"""From an error answer to an exception: the shapes in which providers of any wire format report failure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from kitaru.adapters.call import Message, Reply, Usage
from kitaru.adapters.compatible import Provider
from kitaru.adapters.retry import retry_after
from kitaru.adapters.secret import clean, excerpt
from kitaru.errors import AnswerError, CredentialError, ModelError, ProviderError

# Codes that stand for a status when the error comes inside HTTP 200, where the status says nothing.
_PASSING_CODES: Final = frozenset({"rate_limit_exceeded", "server_error", "overloaded", "slow_down", "timeout"})


class Complaint(NamedTuple):
    """What an error object says, made fit for a terminal."""

    message: str = ""
    code: str = ""
    kind: str = ""
    param: str = ""


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
    `{detail: ...}`; messages that are objects themselves are shown as JSON.
    """
    if isinstance(payload, list) and payload:
        payload = payload[0]
    if isinstance(payload, str):
        return Complaint(clean(payload))
    if not isinstance(payload, dict):
        return Complaint()
    inner = payload.get("error")
    if isinstance(inner, dict):
        payload = inner
    elif inner and isinstance(inner, str):
        payload = {"message": inner, **{key: value for key, value in payload.items() if key in ("code", "type")}}
    message = payload.get("message") or payload.get("detail") or payload.get("msg")
    return Complaint(
        _line(message, 500),
        _line(payload.get("code"), 100),
        _line(payload.get("type"), 100),
        _line(payload.get("param"), 100),
    )


def failure(row: Provider, status: int, headers: Mapping[str, str], body: bytes) -> ModelError:
    """Return the exception for an answer whose status is not a success.

    Args:
        row: Who answered.
        status: HTTP status.
        headers: By lower-case name.
        body: Decompressed.
    """
    name = request_id(row, headers)
    try:
        said = complaint(decode(body))
    except ValueError:
        said = Complaint()
    label = said.code or said.kind
    message = f"{row.name} answered {status}"
    if label:
        message += f" ({label})"
    if said.message:
        message += f": {said.message}"
    elif body:
        message += f", and not in the API's form: {excerpt(body)}"
    message += f" (request {name})" if name else ""
    if status == 401:
        refused = CredentialError(message, hint=_key_hint(row))
        refused.status, refused.request_id = status, name or None
        return refused
    if status == 400 and label == "content_filter":  # azure reports a filtered prompt as a 400
        reply = Reply("", Message("assistant", ""), "content_filter", Usage(), "", name, body)
        filtered = AnswerError(message, hint="Word the request differently, or ask another model.")
        filtered.reply = reply
        return filtered
    return ProviderError(
        message,
        status=status,
        request_id=name or None,
        retryable=_retryable(row, status, headers, said),
        retry_after=retry_after(headers),
        provider_code=label or None,
        hint=_hint(row, status, headers, said),
    )


def failure_within(row: Provider, status: int, headers: Mapping[str, str], payload: object) -> ProviderError:
    """Return the exception for an error object that came inside a success."""
    said = complaint({"error": payload})
    name = request_id(row, headers)
    inner = int(said.code) if said.code.isascii() and said.code.isdigit() and len(said.code) == 3 else 0
    passing = inner >= 500 or inner in row.retryable or bool({said.code, said.kind} & _PASSING_CODES)
    label = said.code or said.kind
    return ProviderError(
        f"{row.name} answered {status}, but with an error inside"
        + (f" ({label})" if label else "")
        + (f": {said.message}" if said.message else "")
        + (f" (request {name})" if name else ""),
        status=status,
        request_id=name or None,
        retryable=passing and not _quota(row, said),
        retry_after=retry_after(headers),
        provider_code=label or None,
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
        hint="Check the base URL: most end in /v1." if page or not why.startswith(_NOT_JSON) else None,
    )


_NOT_JSON: Final = "the body is not JSON"


def not_json(reason: str) -> str:
    """Return the reason for `malformed` when a body is no JSON."""
    return f"{_NOT_JSON} ({reason})" if reason else _NOT_JSON


def _retryable(row: Provider, status: int, headers: Mapping[str, str], said: Complaint) -> bool:
    if _quota(row, said):
        return False
    if 200 <= status < 400:
        return False
    match headers.get("x-should-retry", "").strip().lower():  # openai SDK `_base_client.py`: the server knows best
        case "true":
            return True
        case "false":
            return False
        case _:
            return status in row.retryable or status >= 500


def _quota(row: Provider, said: Complaint) -> bool:
    return not row.quota_codes.isdisjoint((said.code, said.kind))


def _hint(row: Provider, status: int, headers: Mapping[str, str], said: Complaint) -> str | None:
    if _quota(row, said):
        return "The quota is spent: waiting does not help, look at the account's billing."
    if 300 <= status < 400:
        target = urlsplit(headers.get("location", ""))
        to = f" (to {clean(f'{target.scheme}://{target.hostname}', 100)})" if target.hostname else ""
        return f"Redirects{to} are not followed, so that no key travels along: name the final address as base URL."
    if status == 403:
        return "The key is known but may not do this: check its permissions, the project, and the region."
    if status == 404:
        return "Check the model's name, and that the base URL is complete: most end in /v1."
    if status == 413 or said.code == "context_length_exceeded":
        return "The request is too long for the model: shorten it, or choose a model with a longer context."
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
