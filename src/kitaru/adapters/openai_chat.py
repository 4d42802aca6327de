"""OpenAI's chat completions, as spoken by OpenAI and by the whole compatible family."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeAlias, TypeGuard
from urllib.parse import urlsplit, urlunsplit

import msgspec

from kitaru.adapters.call import Endpoint, FinishReason, Message, ModelCall, Reply, Settings, Usage, require_finished
from kitaru.adapters.compatible import Provider
from kitaru.adapters.failures import decode, failure, failure_within, malformed, not_json, request_id
from kitaru.adapters.secret import clean
from kitaru.errors import CredentialError, UsageError

if TYPE_CHECKING:
    import httpx

Body: TypeAlias = Mapping[str, object]

# Not to be set through `extra`: they have settings of their own, or change the form of the answer.
_OWN_FIELDS: Final = frozenset(
    {
        "model",
        "messages",
        "stream",
        "stream_options",
        "n",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "stop",
        "seed",
    }
)

# Every enum is open: what is not listed becomes "other". `eos`: together. `model_length`: mistral. Section 3 of the
# provider facts; openai SDK `types/chat/chat_completion.py`.
_FINISH: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "eos": "stop",
    "length": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "error": "error",
}


class OpenAIChat(msgspec.Struct, frozen=True):
    """The adapter: pure translation between neutral terms and this wire format.

    Args:
        row: The provider spoken to.
    """

    row: Provider

    def build_request(self, call: ModelCall, endpoint: Endpoint) -> httpx.Request:
        """Return the request for a call.

        Raises:
            UsageError: The call or the address cannot be right.
            CredentialError: A key is needed and missing, or cannot be sent in a header.
        """
        import httpx

        url = _url(self.row, endpoint.base_url)
        body = _encode(self.row, call)
        headers = {
            "accept": "application/json",
            "accept-encoding": "gzip, deflate",
            "content-type": "application/json",
            "user-agent": "kitaru",
        }
        headers |= {name.lower(): value for name, value in endpoint.headers.items()}
        _check_key(self.row, endpoint, url)
        if endpoint.api_key:
            headers["authorization"] = f"Bearer {endpoint.api_key.reveal().strip()}"
        try:
            return httpx.Request("POST", url, headers=headers, content=body)
        except httpx.InvalidURL:
            raise _bad_address(self.row) from None

    def parse_response(self, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
        """Return the reply held by a response.

        Args:
            status: HTTP status.
            headers: By lower-case name.
            body: The whole body, decompressed.

        Raises:
            CredentialError: The key was refused.
            ProviderError: An error, also one inside a success, or a body that is not what the API promises.
            AnswerError: A refusal, a filter, no text. The reply is attached.
        """
        if not 200 <= status < 300:
            raise failure(self.row, status, headers, body)
        try:
            payload = decode(body)
        except ValueError as error:
            raise malformed(self.row, status, headers, body, not_json(str(error))) from None
        if not _is_object(payload):
            raise malformed(self.row, status, headers, body, "the body is not a JSON object")
        # Openrouter and proxies report upstream failures inside a 200, in the body or in the choice.
        if payload.get("error"):
            raise failure_within(self.row, status, headers, payload["error"])
        choices = payload.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not _is_object(choice):
            raise malformed(self.row, status, headers, body, "the body holds no choice")
        if choice.get("error"):
            raise failure_within(self.row, status, headers, choice["error"])
        message = choice.get("message")
        if not _is_object(message):
            raise malformed(self.row, status, headers, body, "its choice holds no message")
        text = _text(message.get("content"))
        if text is None:
            raise malformed(self.row, status, headers, body, "its message's content is not text")
        return require_finished(self.row.name, _reply(self.row, headers, body, payload, choice, message, text))


def _reply(
    row: Provider, headers: Mapping[str, str], body: bytes, payload: Body, choice: Body, message: Body, text: str
) -> Reply:
    warnings: list[str] = []
    said = choice.get("finish_reason")
    finish = _FINISH.get(said, "other") if isinstance(said, str) else "other"
    if finish == "stop" and message.get("tool_calls"):
        finish = "tool_calls"  # litellm's mocks and some servers say "stop"
    if text and finish == "length":
        warnings.append("the text was cut off by the token limit")
    elif text and finish == "other":
        warnings.append(f"the provider gave {clean(str(said), 40)!r} as finish reason")
    elif not text and finish == "stop":
        warnings.append("the text is empty")
    refusal = message.get("refusal")
    usage, complete = _usage(payload.get("usage"))
    if not complete:
        warnings.append("the provider's usage could not be read in full")
    model = payload.get("model")
    return Reply(
        text=text,
        message=Message("assistant", text),
        finish=finish,
        usage=usage,
        model=clean(model, 200) if isinstance(model, str) else "",
        request_id=request_id(row, headers),
        raw=body,
        refusal=clean(refusal) if isinstance(refusal, str) and refusal else None,
        warnings=tuple(warnings),
    )


def _is_object(value: object) -> TypeGuard[Body]:
    return isinstance(value, dict)


def _text(content: object) -> str | None:
    """Return the text of a message: a string, or the `text` parts of a list (mistral, some gateways)."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") for part in content if _is_object(part) and part.get("type") in ("text", "output_text")]
    return "".join(part for part in parts if isinstance(part, str))


def _usage(found: object) -> tuple[Usage, bool]:
    """Return the usage in neutral terms, and whether all that was stated could be read. An odd one spoils no answer."""
    if found is None:
        return Usage(), True
    if not _is_object(found):
        return Usage(), False
    # openai SDK `types/completion_usage.py`: prompt_tokens holds the cached ones, completion_tokens the reasoning.
    prompt = found.get("prompt_tokens_details")
    completion = found.get("completion_tokens_details")
    prompt, completion = (prompt if _is_object(prompt) else {}), (completion if _is_object(completion) else {})
    stated = (
        found.get("prompt_tokens"),
        found.get("completion_tokens"),
        prompt.get("cached_tokens"),
        prompt.get("cache_write_tokens"),
        completion.get("reasoning_tokens"),
    )
    counts = [_count(value) for value in stated]
    complete = all((count is None) == (value is None) for count, value in zip(counts, stated, strict=True))
    return Usage(*counts), complete


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Some gateways write 12.0; no count of tokens comes near the limit.
    return int(value) if 0 <= value < 2**53 and value == int(value) else None


def _encode(row: Provider, call: ModelCall) -> bytes:
    if not call.messages:
        raise UsageError(f"the call of {call.provider}/{call.model} has no message")
    _check(call.settings)
    taken = _OWN_FIELDS & call.settings.extra.keys()
    if taken:
        raise UsageError(
            f"extra may not hold {', '.join(sorted(taken))}",
            hint="Pass a setting under its own name; replies come whole.",
        )
    settings = call.settings
    fields: dict[str, object] = {
        "model": call.model,
        "messages": [{"role": message.role, "content": message.content} for message in call.messages],
        row.max_tokens_field: settings.max_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "stop": list(settings.stop) or None,
        "seed": settings.seed,
    }
    stated = {name: value for name, value in fields.items() if value is not None}
    try:
        return msgspec.json.encode(stated | settings.extra)
    except UnicodeEncodeError:
        place = next((at for at, one in enumerate(call.messages) if not _encodable(one.content)), None)
        where = "extra, stop or the model's name" if place is None else f"message {place}"
        raise UsageError(
            f"the text of {where} holds half of a surrogate pair, which is not valid Unicode",
            hint="Decode it with errors='replace' where it is read.",
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"extra cannot be written as JSON: {error}") from None


def _check(settings: Settings) -> None:
    for name, value in (("temperature", settings.temperature), ("top_p", settings.top_p)):
        if value is not None and not math.isfinite(value):
            raise UsageError(f"{name}={value} is not a number that can be sent")
    if settings.max_tokens is not None and settings.max_tokens < 1:
        raise UsageError(f"max_tokens={settings.max_tokens}: at least 1 is needed")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _url(row: Provider, base_url: str) -> str:
    """Return the address to call. Messages never show the user, the password or the query of an address."""
    try:
        parts = urlsplit(base_url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or any(char.isspace() for char in base_url.strip()):
        raise _bad_address(row)
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            f"the base URL for {row.name} holds a user name or password", hint="Pass a credential as api_key=."
        )
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + "/chat/completions", fragment=""))


def _bad_address(row: Provider) -> UsageError:
    return UsageError(
        f"the base URL for {row.name} is not an http(s) address",
        hint="Such as https://host/v1 or http://localhost:8000/v1.",
    )


def _check_key(row: Provider, endpoint: Endpoint, url: str) -> None:
    key = endpoint.api_key.reveal().strip() if endpoint.api_key else ""
    if not key:
        if row.key_required and not _loopback(url):
            names = " or ".join(row.key_env)
            raise CredentialError(f"there is no key for {row.name}", hint=f"Set {names}, or pass api_key=.")
    # An illegal header value would be quoted in full by the HTTP library's own error.
    elif not key.isascii() or not key.isprintable() or " " in key:
        raise CredentialError(
            f"the key for {row.name} holds a character that no key has (a space, a line break, or one beyond ASCII)",
            hint="Copy it again, whole and alone.",
        )


def _loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
