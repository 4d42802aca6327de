"""A conversation, written as chat completions wants it."""

from __future__ import annotations

import base64
import hashlib
import re
import string
from collections.abc import Iterable
from typing import Final

import msgspec

from kitaru.adapters.call import ModelCall
from kitaru.adapters.call_ids import own_ids
from kitaru.adapters.message import Document, Image, Media, Message, Part, Text, ToolCall, own_form
from kitaru.adapters.openai_chat.dialect import Dialect, thinks

_LETTERS: Final = string.ascii_letters + string.digits
_SHORT: Final = re.compile(r"[A-Za-z0-9]{9}")

_FORMATS: Final = {"mpeg": "mp3", "wave": "wav", "vnd.wave": "wav"}

# OpenAI: "string too long. Expected a string with maximum length 40".
_LONGEST_ID: Final = 40


def wire_messages(call: ModelCall, dialect: Dialect) -> list[object]:
    """Return the messages of a call as JSON values.

    Args:
        call: The model call.
        dialect: The server's.
    """
    messages = _merged(call.messages) if dialect.alternate else call.messages
    names = {one.id: one.name for message in messages for one in message.tool_calls}
    kept = own_ids(call, call.provider)
    fills = dialect.demands if thinks(call.settings.reasoning) else ""
    found: list[object] = []
    pictures: list[object] = []
    for at, message in enumerate(messages):
        if message.role != "tool" and pictures:
            found.append({"role": "user", "content": pictures})
            pictures = []
        match message.role:
            case "assistant":
                own = own_form(message, call.provider, call.model)
                if own is not None:
                    found.append(msgspec.Raw(own))
                    continue
                turn = _turn(message, dialect, kept)
                if fills and fills not in turn and (call.tools or message.tool_calls):
                    turn[fills] = " "  # an empty one counts as missing: LiteLLM `deepseek/chat/transformation.py`
                if dialect.prefix and at == len(messages) - 1:
                    turn["prefix"] = True
                found.append(turn)
            case "tool":
                found.append(_result(message, names, dialect, kept))
                # A tool's result is text in this format: what else it holds follows in the user's name.
                shown = [part for part in message.parts if not isinstance(part, Text)]
                if shown:
                    says = f"What the call {_id(message.tool_call_id, dialect, kept)} gave beside its text:"
                    pictures += [{"type": "text", "text": says}, *(_part(part, dialect) for part in shown)]
            case "developer":
                found.append(_said("developer" if dialect.developer else "system", message, dialect))
            case role:
                if dialect.prefix and role == "system" and at == len(messages) - 1:
                    role = "user"  # "Expected last role User or Tool": instructions that nothing follows are its prompt
                found.append(_said(role, message, dialect))
    if pictures:
        found.append({"role": "user", "content": pictures})
    return found


def _id(name: str, dialect: Dialect, kept: frozenset[str]) -> str:
    """A tool call's id as the server takes it, always the same for the same id."""
    if name in kept:
        return name
    fits = _SHORT.fullmatch(name) is not None if dialect.call_ids == "short" else 0 < len(name) <= _LONGEST_ID
    return name if fits else _hashed(name)


def made_id(response: str, position: int, dialect: Dialect) -> str:
    """Return an id for a tool call that came without one.

    Args:
        response: The response's own id.
        position: The call's place in it, from 0.
        dialect: The server's.
    """
    made = _hashed(f"{response}\0{position}")
    return made if dialect.call_ids == "short" else f"call_{made}"


def _hashed(name: str) -> str:
    number = int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest(), "big")
    letters = []
    for _ in range(9):
        number, at = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[at])
    return "".join(letters)


def _turn(message: Message, dialect: Dialect, kept: frozenset[str]) -> dict[str, object]:
    calls = [_call(one, dialect, kept) for one in message.tool_calls]
    # Content is required unless there are calls: openai SDK `chat_completion_assistant_message_param.py`.
    content = _content(message, dialect) or (None if calls else "")
    named = {"name": message.name} if message.name else {}
    turn = {"role": "assistant", "content": content, **named, **({"tool_calls": calls} if calls else {})}
    return {**turn, **message.more}


def _call(one: ToolCall, dialect: Dialect, kept: frozenset[str]) -> dict[str, object]:
    function = {"name": one.name, "arguments": one.arguments}
    return {"id": _id(one.id, dialect, kept), "type": "function", "function": function}


def _result(message: Message, names: dict[str, str], dialect: Dialect, kept: frozenset[str]) -> dict[str, object]:
    marked = any(part.more for part in message.parts)
    found: dict[str, object] = {
        "role": "tool",
        "tool_call_id": _id(message.tool_call_id, dialect, kept),
        "content": [_part(part, dialect) for part in message.parts if isinstance(part, Text)]
        if marked
        else message.text,
    }
    name = message.name or names.get(message.tool_call_id, "")
    if dialect.tool_name and name:
        found["name"] = name
    return found


def _said(role: str, message: Message, dialect: Dialect) -> dict[str, object]:
    named = {"name": message.name} if message.name else {}
    return {"role": role, "content": _content(message, dialect), **named}


def _content(message: Message, dialect: Dialect) -> object:
    # Text alone goes as a string, which every server of the family reads; lists of parts are read by few.
    if message.plain and not (dialect.text_parts and len(message.parts) > 1):
        return message.text
    return [_part(part, dialect) for part in message.parts]


def _part(part: Part, dialect: Dialect) -> dict[str, object]:
    match part:
        case Text(text):
            return {"type": "text", "text": text, **part.more}
        case Image():
            detail = {"detail": part.detail} if part.detail and dialect.image_detail else {}
            return {"type": "image_url", "image_url": {"url": part.url or _data_url(part), **detail}, **part.more}
        case Document():
            return {**_document(part, dialect), **part.more}
        case Media(kind="video"):
            return {"type": "video_url", "video_url": {"url": part.url or _data_url(part)}, **part.more}
        case Media():
            return {**_audio(part, dialect), **part.more}


def _audio(part: Media, dialect: Dialect) -> dict[str, object]:
    if dialect.audio == "text":  # mistralai SDK `audiochunk.py`
        return {"type": "input_audio", "input_audio": part.url or _base64(part)}
    if part.url:  # together SDK `chat_completion_user_message_param.py`; vLLM's "Multimodal inputs"
        return {"type": "audio_url", "audio_url": {"url": part.url}}
    # openai SDK `chat_completion_content_part_input_audio_param.py`
    ending = part.media_type.partition(";")[0].rpartition("/")[2].removeprefix("x-")
    return {"type": "input_audio", "input_audio": {"data": _base64(part), "format": _FORMATS.get(ending, ending)}}


def _document(part: Document, dialect: Dialect) -> dict[str, object]:
    match dialect.documents:
        case "file":  # openai SDK `chat_completion_content_part_param.py`
            name = {"filename": part.name or "document"}
            return {"type": "file", "file": {**name, "file_data": part.url or _data_url(part)}}
        case "document_url":  # mistralai SDK `documenturlchunk.py`
            name = {"document_name": part.name} if part.name else {}
            return {"type": "document_url", "document_url": part.url or _data_url(part), **name}
        case "file_url":  # perplexity SDK `chat_message_input.py`; its documents want bytes without the data: prefix
            name = {"file_name": part.name} if part.name else {}
            return {"type": "file_url", "file_url": {"url": part.url or _base64(part)}, **name}


def _data_url(part: Image | Document | Media) -> str:
    return f"data:{part.media_type};base64,{_base64(part)}"


def _base64(part: Image | Document | Media) -> str:
    return base64.b64encode(part.data).decode("ascii")


def _merged(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Return the messages with neighbours of one role as one, which calls, results and own forms never are."""
    found: list[Message] = []
    for message in messages:
        last = found[-1] if found else None
        if last is None or last.role != message.role or not (_plain(last) and _plain(message)):
            found.append(message)
        elif isinstance(last.content, str) and isinstance(message.content, str):
            found[-1] = Message(message.role, "\n\n".join(text for text in (last.content, message.content) if text))
        else:
            found[-1] = Message(message.role, (*last.parts, Text("\n\n"), *message.parts))
    return tuple(found)


def _plain(message: Message) -> bool:
    return not (message.tool_calls or message.role == "tool" or message.opaque or message.name or message.more)
