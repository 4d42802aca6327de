"""A whole reply in the log: its message, as the next turn of the conversation holds it, and the record of the call.

So an answer stands in the store once, and a caller who appends `reply.message` to the conversation adds nothing.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import msgspec

from kitaru.adapters.fields import object_at, objects_in
from kitaru.errors import DecodeError, UsageError
from kitaru.runtime.calls.conversation import Message, neutral, normalised, public_message
from kitaru.runtime.calls.packed import needs_outcome, unpack
from kitaru.runtime.calls.reply import Reply, ToolCall
from kitaru.store import codec
from kitaru.store.artifacts import read_node
from kitaru.store.events import LlmCompleted, LlmRecord

if TYPE_CHECKING:
    from kitaru.adapters import Message as NeutralMessage
    from kitaru.adapters import Reply as ModelReply


_LOGPROBS: Final = re.compile(rb'"logprobs(?:Result)?"\s*:\s*(?:\{|\[\s*[{\[])')
"""Most answers say that they have none, and need not be looked at."""


def as_recorded(reply: ModelReply, record: LlmRecord, *, raw: bool = False) -> tuple[Message | Reply, LlmRecord]:
    """Return what the outcome is, and the record of the call beside it.

    Args:
        reply: What the provider answered.
        record: The call's record as it is without the outcome.
        raw: The provider's own answer is wanted in the reply.

    Returns:
        The message in the form in which conversations are recorded. The whole reply, where its text is another than its
        message's, or where it holds more than the message.
    """
    body = _body(reply.raw) if raw or _LOGPROBS.search(reply.raw) else None
    logprobs = _logprobs(body)
    if raw or logprobs is not None or reply.text != reply.message.text:
        whole = _reply(reply.text, reply.message, record, reply.reasoning, reply.refusal)
        return msgspec.structs.replace(whole, logprobs=logprobs, raw=body if raw else None), record
    beside = msgspec.structs.replace(record, reasoning=reply.reasoning, refusal=reply.refusal, whole=True)
    return normalised([public_message(reply.message)], None, "reply")[0], beside


def reply_of(data: bytes, record: LlmRecord) -> Reply:
    """Return the reply that an outcome and its call's record stand for.

    Args:
        data: The outcome: an encoded message, or the node that holds it.
        record: Its `whole` is set.
    """
    message = _message_in(data)
    try:
        (said,) = neutral([message])
    except (UsageError, TypeError, LookupError) as error:
        raise DecodeError(f"the recorded reply holds no message: {error}") from None
    return _reply(said.text, said, record, record.reasoning, record.refusal)


def outcome_of(data: bytes) -> bytes:
    """Return an outcome without what its node names: equal for equal answers, whatever was said before."""
    found = read_node(data)
    return data if found is None else found[1]


def response_of(event: LlmCompleted, response: bytes, outcome: bytes) -> bytes:
    """Return the body that a provider answered.

    Args:
        event: The end of the call.
        response: What it holds, or names, of the body.
        outcome: What it holds, or names, as outcome.

    Raises:
        CorruptStoreError, DecodeError: It cannot be had any more.
    """
    if not needs_outcome(response):
        return unpack(response)
    value: Any = codec.decoder()(outcome_of(outcome))
    return unpack(response, said_in(value, event.llm))


def said_in(value: str | Message, record: LlmRecord) -> list[str | bytes]:
    """Return what an outcome has in common with the body that it was read from.

    Args:
        value: A text, or a message as conversations are recorded.
        record: The call's record.
    """
    if isinstance(value, str):
        return [value]
    content, opaque = value["content"], value.get("opaque")
    # First what may hold the others: the turn as its provider wrote it.
    said: list[str | bytes] = [opaque["data"]] if opaque is not None else []
    said += [content if isinstance(content, str) else "", record.reasoning, record.refusal or ""]
    said += [call["arguments"] for call in value.get("tool_calls", ())]
    return said


def _body(raw: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(raw.removeprefix(b"\xef\xbb\xbf"), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _logprobs(body: object) -> object:
    """Return the probabilities of tokens in an answer of any wire format, None where there are none."""
    first = next(iter(objects_in(object_at(body).get("choices"))), {})
    candidate = next(iter(objects_in(object_at(body).get("candidates"))), {})
    parts = [part for item in objects_in(object_at(body).get("output")) for part in objects_in(item.get("content"))]
    places = (first, object_at(body), *parts)
    return next(filter(None, (place.get("logprobs") for place in places)), None) or candidate.get("logprobsResult")


def _message_in(data: bytes) -> Message:
    found: Any = codec.decoder()(outcome_of(data))
    if not isinstance(found, dict):
        raise DecodeError("the recorded reply holds no message")
    return found


def _reply(text: str, message: NeutralMessage, record: LlmRecord, reasoning: str, refusal: str | None) -> Reply:
    return Reply(
        text=text,
        message=public_message(message),
        finish=record.finish,
        usage=record.usage,
        model=record.answered_by,
        provider=record.provider,
        request_id=record.request_id,
        latency=record.latency,
        cost=Decimal(record.cost) if record.cost else None,
        warnings=record.warnings,
        tool_calls=tuple(ToolCall(call.id, call.name, call.arguments) for call in message.tool_calls),
        reasoning=reasoning,
        refusal=refusal,
    )
