"""A conversation in neutral terms: messages, their parts, tool calls, and what only its own provider understands."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]


class Text(msgspec.Struct, frozen=True, tag="text", omit_defaults=True):
    """A piece of text.

    Args:
        text: The text.
        more: Further fields as the caller wrote them, such as `cache_control`, for providers that have them.
    """

    text: str
    more: dict[str, object] = {}


class Image(msgspec.Struct, frozen=True, tag="image", omit_defaults=True):
    """An image: its bytes, or the address that the provider is to fetch it from.

    Args:
        media_type: Such as `image/png`; always known where there are bytes.
        data: The bytes.
        url: The address, where there are no bytes.
        detail: How closely to look, in the provider's own word; empty for its default.
        more: As of `Text`.
    """

    media_type: str = ""
    data: bytes = b""
    url: str = ""
    detail: str = ""
    more: dict[str, object] = {}


class Document(msgspec.Struct, frozen=True, tag="document", omit_defaults=True):
    """A document, such as a PDF: its bytes, or the address that the provider is to fetch it from."""

    media_type: str = ""
    data: bytes = b""
    url: str = ""
    name: str = ""
    more: dict[str, object] = {}


class Media(msgspec.Struct, frozen=True, tag="media", omit_defaults=True):
    """A recording: its bytes, or the address that the provider is to fetch it from.

    Args:
        kind: Sound alone, or a film.
        media_type: Such as `audio/wav`; always known where there are bytes.
        data: The bytes.
        url: The address, where there are no bytes.
        more: As of `Text`.
    """

    kind: Literal["audio", "video"]
    media_type: str = ""
    data: bytes = b""
    url: str = ""
    more: dict[str, object] = {}


Part: TypeAlias = Text | Image | Document | Media


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the model wants to have called.

    Args:
        id: Names the call, and later its result. Made up by the adapter where the provider gives none.
        name: The tool's name.
        arguments: A JSON text, as the model wrote it; not necessarily valid.
    """

    id: str
    name: str
    arguments: str = "{}"


class Opaque(msgspec.Struct, frozen=True):
    """An assistant's turn in its provider's own JSON: thinking blocks, signatures, reasoning items, in their order.

    Sent back byte for byte to the same provider and model, and to no other.

    Args:
        provider: The row that gave it.
        model: The model that was asked.
        data: The JSON.
        digest: Of the text and tool calls that it stands for: an edited message is not sent as it was.
    """

    provider: str
    model: str
    data: bytes
    digest: bytes


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a conversation.

    Args:
        role: Who speaks.
        content: The text, or parts.
        tool_calls: What an assistant wants to have called.
        tool_call_id: The call that a `tool` message answers.
        name: The tool's name in a `tool` message, else the speaker's.
        is_error: A `tool` message that reports a failure.
        opaque: An assistant's turn in its provider's own form.
        more: Further fields of an assistant's turn as the caller wrote them, such as `reasoning_content`, for providers
            that take them back.
    """

    role: Role
    content: str | tuple[Part, ...] = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    is_error: bool = False
    opaque: Opaque | None = None
    more: dict[str, object] = {}

    @property
    def text(self) -> str:
        """The text of all parts, a line break between two."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, Text))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The content as parts, without empty texts."""
        if isinstance(self.content, str):
            return (Text(self.content),) if self.content else ()
        return self.content

    @property
    def plain(self) -> bool:
        """Whether a text says all of the content."""
        return all(isinstance(part, Text) and not part.more for part in self.parts)


def assistant(
    text: str, calls: Iterable[ToolCall] = (), *, provider: str = "", model: str = "", own: bytes = b""
) -> Message:
    """Return an assistant's message.

    Args:
        text: What it said.
        calls: What it wants to have called.
        provider: Who said it.
        model: The model that was asked.
        own: The turn in the provider's own JSON, where text and calls are not all of it.
    """
    calls = tuple(calls)
    opaque = Opaque(provider, model, own, _digest(text, calls)) if own else None
    return Message("assistant", text, calls, opaque=opaque)


def own_form(message: Message, provider: str, model: str) -> bytes | None:
    """Return the provider's own JSON of an assistant's turn where it may be sent back, else None.

    Args:
        message: From the conversation.
        provider: The row that is asked now.
        model: The model that is asked now.
    """
    opaque = message.opaque
    if opaque is None or (opaque.provider, opaque.model) != (provider, model):
        return None
    return opaque.data if opaque.digest == _digest(message.text, message.tool_calls) else None


def _digest(text: str, calls: tuple[ToolCall, ...]) -> bytes:
    stated = msgspec.json.encode([text.encode("utf-8", "surrogatepass"), [[c.id, c.name, c.arguments] for c in calls]])
    return hashlib.blake2b(stated, digest_size=16).digest()
