"""A conversation, written as Anthropic's messages API wants it; field names by anthropic SDK `types/*_param.py`."""

from __future__ import annotations

import base64
import re
from typing import Final

import msgspec

from kitaru.adapters.call import ModelCall
from kitaru.adapters.call_ids import arguments_of, fitted_id, own_ids
from kitaru.adapters.fields import is_object
from kitaru.adapters.message import Document, Image, Media, Message, Part, Text, own_form
from kitaru.errors import UnsupportedError

# "messages.1.content.0.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'".
_ID: Final = re.compile(r"[a-zA-Z0-9_-]+")


class _Turn(msgspec.Struct):
    """One turn of user or assistant. Results of tools come before everything else in it, or the API refuses it."""

    role: str
    results: list[object]
    blocks: list[object]


def wire_turns(call: ModelCall, provider: str) -> tuple[list[dict[str, object]], object]:
    """Return a call's messages in turns of user and assistant that alternate, and its system prompt, None without one.

    Texts of nothing but white space are left out, as the API refuses them; so is an assistant's turn of nothing else.

    Args:
        call: The model call.
        provider: The row that is asked.

    Raises:
        UnsupportedError: A part that the API has no form for.
    """
    system: list[object] = []
    turns: list[_Turn] = []
    own = own_ids(call, provider)

    def turn(role: str) -> _Turn:
        if not turns or turns[-1].role != role:
            turns.append(_Turn(role, [], []))
        return turns[-1]

    for message in call.messages:
        match message.role:
            case "system" | "developer":
                system.extend(_texts(message, "a system message"))
            case "assistant":
                blocks = _own_blocks(message, call, provider) or _assistant_blocks(message, own)
                if blocks:
                    turn("assistant").blocks.extend(blocks)
            case "tool":
                turn("user").results.append(_result(message, own))
            case _:
                turn("user").blocks.extend(_blocks(message))
    if not turns:  # instructions alone: the API wants somebody to speak
        turns, system = [_Turn("user", [], system)], []
    messages = [{"role": one.role, "content": _content([*one.results, *one.blocks])} for one in turns]
    return messages, _content(system) if system else None


def calls_without_thinking(call: ModelCall, provider: str) -> bool:
    """Return whether the assistant's latest turn calls tools and does not begin with thinking.

    Args:
        call: The model call.
        provider: The row that is asked.
    """
    spoken = [message for message in call.messages if message.role not in ("system", "developer")]
    last = next((at for at in reversed(range(len(spoken))) if spoken[at].role == "assistant"), -1)
    first = last
    while first > 0 and spoken[first - 1].role == "assistant":
        first -= 1
    if last < 0 or not any(message.tool_calls for message in spoken[first : last + 1]):
        return False
    blocks = _own_blocks(spoken[first], call, provider)
    try:
        begins = msgspec.json.decode(blocks[0], type=_Block).type if blocks else ""
    except msgspec.MsgspecError:
        return True
    return begins not in ("thinking", "redacted_thinking")


class _Block(msgspec.Struct):
    type: str = ""


def _content(blocks: list[object]) -> object:
    """Return a single text as a string, which the API takes for a block of its own."""
    match blocks:
        case []:
            return ""
        case [{"type": "text", "text": str(text), **more}] if not more:
            return text
        case _:
            return blocks


def _own_blocks(message: Message, call: ModelCall, provider: str) -> list[msgspec.Raw]:
    own = own_form(message, provider, call.model)
    if own is None:
        return []
    try:
        blocks = msgspec.json.decode(own, type=list[msgspec.Raw])
        return [block for block in blocks if not _blank(msgspec.json.decode(block))]
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return []  # recorded by something else: text and calls are still there


def _blank(block: object) -> bool:
    text = block.get("text") if is_object(block) and block.get("type") == "text" else None
    return isinstance(text, str) and not text.strip()


def _assistant_blocks(message: Message, own: frozenset[str]) -> list[object]:
    calls = [
        {"type": "tool_use", "id": _id(one.id, own), "name": one.name, "input": arguments_of(one)}
        for one in message.tool_calls
    ]
    return [*_texts(message, "an assistant's message"), *calls]


def _texts(message: Message, where: str) -> list[object]:
    if not all(isinstance(part, Text) for part in message.parts):
        # Since 2026-10-21 a 400 (Claude docs, "Migrating to API version 2026-10-21"), and never of any effect.
        raise UnsupportedError(
            f"{where} cannot hold images or documents in Anthropic's API", hint="Put them into a user's message."
        )
    return _blocks(message)


def _blocks(message: Message) -> list[object]:
    return [_block(part) for part in message.parts if not isinstance(part, Text) or part.text.strip()]


def _result(message: Message, own: frozenset[str]) -> dict[str, object]:
    found: dict[str, object] = {
        "type": "tool_result",
        "tool_use_id": _id(message.tool_call_id, own),
        "content": message.text if message.plain else _blocks(message),
    }
    return {**found, "is_error": True} if message.is_error else found


def _id(identifier: str, own: frozenset[str]) -> str:
    return fitted_id(identifier, own, _ID, "toolu_")


def _block(part: Part) -> dict[str, object]:
    match part:
        case Text(text):
            return {"type": "text", "text": text, **part.more}
        case Image(media_type, data, url):
            source = _base64(media_type, data) if data else {"type": "url", "url": url}
            return {"type": "image", "source": source, **part.more}
        case Document():
            title = {"title": part.name} if part.name else {}
            return {"type": "document", "source": _source(part), **title, **part.more}
        case Media():
            raise UnsupportedError(f"Anthropic's API takes no {part.kind}", hint="Write down what it says.")


def _source(part: Document) -> dict[str, object]:
    """`DocumentBlockParam.source`: PDF by bytes or by address, and plain text."""
    if not part.data and part.url:
        return {"type": "url", "url": part.url}
    media_type = part.media_type.partition(";")[0].strip().lower()
    if media_type == "application/pdf":
        return _base64(media_type, part.data)
    try:
        if media_type.startswith("text/") or media_type == "application/json":
            return {"type": "text", "media_type": "text/plain", "data": part.data.decode()}
    except UnicodeDecodeError:
        media_type += " (not UTF-8)"
    raise UnsupportedError(
        f"Anthropic's API takes PDF and plain text as documents, not {media_type or 'bytes of an unknown type'}",
        hint="Convert it, or state its media type.",
    )


def _base64(media_type: str, data: bytes) -> dict[str, object]:
    return {"type": "base64", "media_type": media_type, "data": base64.b64encode(data).decode("ascii")}
