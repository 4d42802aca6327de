"""OpenAI's chat completions, as spoken by OpenAI and by the whole compatible family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from kitaru.adapters.adapter import StreamParser
from kitaru.adapters.call import ModelCall
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.failures import decode, failure, failure_within, malformed, not_json, request_id
from kitaru.adapters.fields import Object, count, is_object
from kitaru.adapters.message import Message
from kitaru.adapters.provider import Provider
from kitaru.adapters.reply import FinishReason, Reply, Usage
from kitaru.adapters.request import address, body_of, key_of, post
from kitaru.adapters.secret import clean

if TYPE_CHECKING:
    import httpx

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


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """How a provider's request differs from OpenAI's.

    Args:
        max_tokens: The field for the token limit. All servers of the family know this one; some only this one.
    """

    max_tokens: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"


class OpenAIChat(msgspec.Struct, frozen=True):
    """The adapter: pure translation between neutral terms and this wire format.

    Args:
        row: The provider spoken to.
        dialect: How its requests differ.
    """

    row: Provider
    dialect: Dialect = Dialect()

    def build_request(self, call: ModelCall, endpoint: Endpoint, *, stream: bool = False) -> httpx.Request:
        """Return the request for a call.

        Raises:
            UsageError: The call or the address cannot be right.
            CredentialError: A key is needed and missing, or cannot be sent in a header.
        """
        del stream
        url = address(self.row, endpoint.base_url, "/chat/completions")
        settings = call.settings
        fields: dict[str, object] = {
            "model": call.model,
            "messages": [{"role": message.role, "content": message.text} for message in call.messages],
            self.dialect.max_tokens: settings.max_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "stop": list(settings.stop) or None,
            "seed": settings.seed,
        }
        body = body_of(call, fields, _OWN_FIELDS)
        key = key_of(self.row, endpoint, url)
        return post(self.row, url, body, endpoint, {"authorization": f"Bearer {key}"} if key else {})

    def parse_response(self, call: ModelCall, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
        """Return the reply held by a response, finished or not.

        Args:
            call: What was asked.
            status: HTTP status.
            headers: By lower-case name.
            body: The whole body, decompressed.

        Raises:
            CredentialError: The key was refused.
            ProviderError: An error, also one inside a success, or a body that is not what the API promises.
        """
        del call
        if not 200 <= status < 300:
            raise failure(self.row, status, headers, body)
        try:
            payload = decode(body)
        except ValueError as error:
            raise malformed(self.row, status, headers, body, not_json(str(error))) from None
        if not is_object(payload):
            raise malformed(self.row, status, headers, body, "the body is not a JSON object")
        # Openrouter and proxies report upstream failures inside a 200, in the body or in the choice.
        if payload.get("error"):
            raise failure_within(self.row, status, headers, payload["error"])
        choices = payload.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not is_object(choice):
            raise malformed(self.row, status, headers, body, "the body holds no choice")
        if choice.get("error"):
            raise failure_within(self.row, status, headers, choice["error"])
        message = choice.get("message")
        if not is_object(message):
            raise malformed(self.row, status, headers, body, "its choice holds no message")
        text = _text(message.get("content"))
        if text is None:
            raise malformed(self.row, status, headers, body, "its message's content is not text")
        return _reply(self.row, headers, body, payload, choice, message, text)

    def parse_stream(self, call: ModelCall, status: int, headers: Mapping[str, str]) -> StreamParser:
        """Return a parser for the body of a streamed success."""
        raise NotImplementedError


def _reply(
    row: Provider, headers: Mapping[str, str], body: bytes, payload: Object, choice: Object, message: Object, text: str
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


def _text(content: object) -> str | None:
    """Return the text of a message: a string, or the `text` parts of a list (mistral, some gateways)."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") for part in content if is_object(part) and part.get("type") in ("text", "output_text")]
    return "".join(part for part in parts if isinstance(part, str))


def _usage(found: object) -> tuple[Usage, bool]:
    """Return the usage in neutral terms, and whether all that was stated could be read. An odd one spoils no answer."""
    if found is None:
        return Usage(), True
    if not is_object(found):
        return Usage(), False
    # openai SDK `types/completion_usage.py`: prompt_tokens holds the cached ones, completion_tokens the reasoning.
    prompt = found.get("prompt_tokens_details")
    completion = found.get("completion_tokens_details")
    prompt, completion = (prompt if is_object(prompt) else {}), (completion if is_object(completion) else {})
    stated = (
        found.get("prompt_tokens"),
        found.get("completion_tokens"),
        prompt.get("cached_tokens"),
        prompt.get("cache_write_tokens"),
        completion.get("reasoning_tokens"),
    )
    known, produced, cached, written, thought = counts = [count(value) for value in stated]
    complete = all((count is None) == (value is None) for count, value in zip(counts, stated, strict=True))
    return Usage(known, produced, cached, written, thought), complete
