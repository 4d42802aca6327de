"""What comes back, in neutral terms: a reply, its pieces as they stream, the attempts behind it."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from kitaru.adapters.message import Message, ToolCall
from kitaru.errors import AnswerError, ModelError

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "error", "other"]


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one call used. Input and output are totals, the other tokens parts of them. None: not stated.

    Args:
        input: Tokens read, cached and cache-writing ones included.
        output: Tokens produced, thinking included.
        cached_input: Part of `input` that came from the provider's cache.
        cache_write: Part of `input` that was written to it.
        reasoning: Part of `output` spent on thinking.
        cache_write_1h: Part of `cache_write` that is kept for an hour instead of the shortest time.
        input_audio: Part of `input`.
        cached_audio: Part of `cached_input`.
        output_audio: Part of `output`.
        billed_input: What is charged for instead of `input` (cohere's billed units).
        billed_output: What is charged for instead of `output`.
        searches: Web searches that the provider made and charges for.
        tier: The provider's word for the service tier that answered; empty for the usual one.
    """

    input: int | None = None
    output: int | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    cache_write_1h: int | None = None
    input_audio: int | None = None
    cached_audio: int | None = None
    output_audio: int | None = None
    billed_input: int | None = None
    billed_output: int | None = None
    searches: int | None = None
    tier: str = ""


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a provider answered.

    Args:
        text: The answer's text; empty where there is none.
        message: What to append to the conversation for the next turn: text, tool calls, opaque parts.
        finish: Why the model stopped.
        usage: What it used.
        model: The model that answered, by its own account.
        request_id: The provider's name for the request; empty where it gave none.
        raw: The body as it arrived, decompressed, any echo of a credential masked; of a stream, the body that the
            plain form of the same answer would have had.
        refusal: The model's own words of refusal, where the provider tells them apart.
        reasoning: The model's thinking, as far as the provider shows it.
        stated_cost: USD that the provider says it charges, as a decimal number; empty where it does not say.
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
    reasoning: str = ""
    stated_cost: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """What the model wants to have called."""
        return self.message.tool_calls


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of an answer that streams.

    Args:
        kind: What the piece belongs to.
        text: More of it; of a tool call, more of its arguments.
        index: Which tool call, counted from 0.
        id: The tool call's id, in its first piece.
        name: The tool's name, in its first piece.
    """

    kind: Literal["text", "reasoning", "refusal", "tool_call"]
    text: str = ""
    index: int = 0
    id: str = ""
    name: str = ""


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
    who = f"{provider}/{reply.model}" if reply.model else provider
    error = AnswerError(f"{who} gave no finished answer: {what}{where}", hint=hint)
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
            return "it asks for a tool instead of giving text", "Use kitaru.llm.reply(...), which gives the tool calls."
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
