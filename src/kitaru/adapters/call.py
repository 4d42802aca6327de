"""A model call and its reply in neutral terms: what every wire format is translated from and to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

import msgspec

from kitaru.adapters.secret import SecretStr
from kitaru.errors import AnswerError, ModelError, UsageError

if TYPE_CHECKING:
    import httpx

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "error", "other"]

# Headers that carry a credential or belong to the adapter or to HTTP itself.
_RESERVED_HEADERS: Final = frozenset(
    {
        "accept-encoding",
        "api-key",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "host",
        "proxy-authorization",
        "transfer-encoding",
        "x-api-key",
        "x-goog-api-key",
    }
)


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a conversation.

    Fields that hold parts, tool calls and a provider's opaque parts come after these, with defaults.
    """

    role: Role
    content: str


class Settings(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the model is to answer. What is None is left to the provider.

    Args:
        temperature: Sampling temperature.
        max_tokens: The most tokens to produce, thinking included.
        top_p: Nucleus sampling.
        stop: Texts that end the answer.
        seed: For repeatable sampling, as far as the provider keeps it.
        extra: Further fields of the provider's own request body, sent as they are.
    """

    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    extra: dict[str, object] = msgspec.field(default_factory=dict)


class ModelCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is asked, of which model. Holds no address and no credential.

    Args:
        provider: Name of the provider's row.
        model: The provider's own name of the model.
        messages: The conversation, oldest first.
        settings: How to answer.
    """

    provider: str
    model: str
    messages: tuple[Message, ...]
    settings: Settings = Settings()


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where to send a call, and as whom. Never recorded.

    Args:
        base_url: The address below which the API lives, with or without a final slash; a query is kept.
        api_key: The credential, if there is one.
        headers: Further headers by name. Their values do not show in `repr`.

    Raises:
        UsageError: A header that carries a credential or belongs to HTTP, or one that cannot be sent.
    """

    base_url: str
    api_key: SecretStr | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.headers.items():
            if name.lower() in _RESERVED_HEADERS:
                raise UsageError(
                    f"the header {name!r} cannot be set by hand",
                    hint="Pass a credential as api_key=; the other reserved headers belong to the transport.",
                )
            if not name.isascii() or not name.isprintable() or not name or set(name) & set(' :"(),/;<=>?@[]{}\\'):
                raise UsageError(f"{name!r} is not a header name")
            if not value.isascii() or not value.isprintable():
                raise UsageError(
                    f"the value of header {name!r} holds a character that HTTP cannot carry",
                    hint="Headers hold printable ASCII; look for a line break.",
                )

    def __repr__(self) -> str:
        shown = self.base_url.partition("?")[0].rpartition("@")
        return f"Endpoint(base_url={shown[2]!r}, api_key={self.api_key!r}, headers={sorted(self.headers)!r})"


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens of one call. Input and output are totals, the others parts of them. None: the provider did not say."""

    input: int | None = None
    output: int | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a provider answered.

    Args:
        text: The answer's text; empty where there is none.
        message: What to append to the conversation for the next turn.
        finish: Why the model stopped.
        usage: Tokens.
        model: The model that answered, by its own account.
        request_id: The provider's name for the request; empty where it gave none.
        raw: The body as it arrived, decompressed, with any echo of a credential masked.
        refusal: The model's own words of refusal, where the provider tells them apart.
        warnings: What the caller should know although the answer is good.
    """

    text: str
    message: Message
    finish: FinishReason
    usage: Usage
    model: str
    request_id: str = ""
    raw: bytes = b""
    refusal: str | None = None
    warnings: tuple[str, ...] = ()


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One HTTP attempt.

    Args:
        started: UTC seconds since the epoch.
        seconds: How long it took.
        status: HTTP status; 0 when none arrived.
        error: What went wrong, one line; empty for the attempt that gave the answer.
        request_id: The provider's name for the request.
        possibly_billed: The request was sent, and whether it was charged for cannot be known.
    """

    started: float
    seconds: float
    status: int = 0
    error: str = ""
    request_id: str = ""
    possibly_billed: bool = False


class Adapter(Protocol):
    """A wire format spoken to one provider. Pure: no network, no clock, no retry, no logging."""

    def build_request(self, call: ModelCall, endpoint: Endpoint) -> httpx.Request:
        """Return the request for a call.

        Raises:
            UsageError: The call or the address cannot be right.
            CredentialError: A key is needed and missing, or cannot be sent.
        """
        ...

    def parse_response(self, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
        """Return the reply held by a response.

        Args:
            status: HTTP status.
            headers: By lower-case name.
            body: The whole body, decompressed.

        Raises:
            ModelError: The response is an error, cannot be understood, or is not a finished answer.
                Nothing else is raised.
        """
        ...


def require_finished(provider: str, reply: Reply) -> Reply:
    """Return the reply if its text is a finished answer.

    Args:
        provider: Who answered, for the message.
        reply: What arrived.

    Raises:
        AnswerError: A refusal, a filter, or no text. The reply is attached.
    """
    what, hint = _unfinished(reply)
    if not what:
        return reply
    where = f" (request {reply.request_id})" if reply.request_id else ""
    error = AnswerError(f"{provider}/{reply.model} gave no finished answer: {what}{where}", hint=hint)
    error.reply = reply
    raise error


def _unfinished(reply: Reply) -> tuple[str, str]:
    if reply.refusal is not None:
        return f"it refused: {reply.refusal}", "Word the request differently, or ask another model."
    if reply.finish == "content_filter":
        return "the provider's content filter stopped it", "Word the request differently, or ask another model."
    if reply.finish == "error":
        return "the provider broke off", "Call again."
    if reply.text:
        return "", ""
    match reply.finish:
        case "length":
            return (
                "the text is empty, the token limit was used up before it began",
                "Raise max_tokens: a model that thinks spends it on thinking first.",
            )
        case "tool_calls":
            return "it asks for a tool instead of giving text", "Leave tools out of `extra`, or take the whole reply."
        case "stop":
            return "", ""
        case _:
            return "the text is empty and no reason is given", "Call again, or ask another model."


def attempts_of(error: ModelError) -> tuple[Attempt, ...]:
    """Return the HTTP attempts behind a failed call, oldest first; none when nothing was sent."""
    return tuple(attempt for attempt in error.attempts if isinstance(attempt, Attempt))


def reply_of(error: AnswerError) -> Reply | None:
    """Return what arrived when it was not a finished answer, if anything did."""
    return error.reply if isinstance(error.reply, Reply) else None
