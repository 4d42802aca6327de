"""A conversation, written as items of OpenAI's responses API; names by openai SDK `types/responses/*_param.py`."""

from __future__ import annotations

import base64
import re
from typing import Final

import msgspec

from kitaru.adapters.call import ModelCall
from kitaru.adapters.call_ids import fitted_id, own_ids
from kitaru.adapters.fields import is_object
from kitaru.adapters.message import Document, Image, Media, Message, Part, Text, own_form
from kitaru.errors import UnsupportedError

# "Invalid 'input[1].call_id': string too long. Expected a string with maximum length 64".
_ID: Final = re.compile(r".{1,64}", re.DOTALL)


def wire_items(call: ModelCall, provider: str) -> tuple[list[object], str | None]:
    """Return a call's messages as items, and its instructions: the system messages that it begins with.

    Args:
        call: The model call.
        provider: The row that is asked.
    """
    messages = list(call.messages)
    instructions: list[str] = []
    # JSON mode wants the word "json" among the items, and a call of instructions alone needs an item all the same.
    most = 0 if call.output.kind == "json" else len(messages) - 1
    while len(instructions) < most and messages[0].role == "system" and messages[0].plain:
        instructions.append(messages.pop(0).text)
    items: list[object] = []
    own = own_ids(call, provider)
    for message in messages:
        match message.role:
            case "assistant":
                items.extend(_own_items(message, call, provider) or _assistant_items(message, own))
            case "tool":
                items.append(_result(message, own))
            case role:
                items.append({"role": role, "content": _content(message)})
    return items, "\n\n".join(instructions) or None


def _own_items(message: Message, call: ModelCall, provider: str) -> list[object]:
    own = own_form(message, provider, call.model)
    if own is None:
        return []
    try:
        items = msgspec.json.decode(own, type=list[msgspec.Raw])
        stored = call.settings.extra.get("store") is True
        return [item for item in items if stored or not _lost(msgspec.json.decode(item))]
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return []  # recorded by something else: text and calls are still there


def _lost(item: object) -> bool:
    """Whether an item is but a name for thinking that was not stored: "Item with id 'rs_...' not found"."""
    return is_object(item) and item.get("type") == "reasoning" and not item.get("encrypted_content")


def _assistant_items(message: Message, own: frozenset[str]) -> list[object]:
    calls = [
        {"type": "function_call", "call_id": _id(one.id, own), "name": one.name, "arguments": one.arguments}
        for one in message.tool_calls
    ]
    if not all(isinstance(part, Text) for part in message.parts):
        raise UnsupportedError(
            "an assistant's message cannot hold images or documents in OpenAI's responses API",
            hint="Put them into a user's message.",
        )
    said = [{"role": "assistant", "content": message.text}] if message.text or not calls else []
    return [*said, *calls]


def _result(message: Message, own: frozenset[str]) -> dict[str, object]:
    return {
        "type": "function_call_output",
        "call_id": _id(message.tool_call_id, own),
        "output": _content(message),
    }


def _id(identifier: str, own: frozenset[str]) -> str:
    return fitted_id(identifier, own, _ID, "call_")


def _content(message: Message) -> object:
    one = message.plain and len(message.parts) < 2
    return message.text if one else [_part(part) for part in message.parts]


def _part(part: Part) -> dict[str, object]:
    match part:
        case Text(text):
            return {"type": "input_text", "text": text, **part.more}
        case Image():
            image = {"image_url": part.url or _data_url(part), "detail": part.detail or "auto"}
            return {"type": "input_image", **image, **part.more}
        case Document():
            if not part.data and part.url:
                return {"type": "input_file", "file_url": part.url, **part.more}
            name = part.name or ("document.pdf" if part.media_type == "application/pdf" else "document")
            return {"type": "input_file", "filename": name, "file_data": _data_url(part), **part.more}
        case Media():
            raise UnsupportedError(
                f"OpenAI's responses API takes no {part.kind}", hint="Ask openai/, or write it down."
            )


def _data_url(part: Image | Document) -> str:
    return f"data:{part.media_type};base64,{base64.b64encode(part.data).decode('ascii')}"
