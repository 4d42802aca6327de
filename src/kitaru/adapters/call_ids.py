"""Tool calls of providers that give them no id or want one of their own shape, or take the arguments as an object."""

from __future__ import annotations

import hashlib
import re
from typing import Final

import msgspec

from kitaru.adapters.call import ModelCall
from kitaru.adapters.fields import Object, is_object
from kitaru.adapters.message import Message, ToolCall, own_form

_MADE: Final = "kitaru_"


def made_id(call: ModelCall, index: int, name: str, arguments: str) -> str:
    """Return an id for a tool call that came without one: the same whenever the same answer is read.

    Args:
        call: What was asked; its length tells one turn of a conversation from another.
        index: Which tool call of the answer, counted from 0.
        name: The tool's name.
        arguments: A JSON text.
    """
    stated = msgspec.json.encode([len(call.messages), index, name, arguments.encode("utf-8", "surrogatepass")])
    return _MADE + hashlib.blake2b(stated, digest_size=8).hexdigest()


def is_made(identifier: str) -> bool:
    """Whether an id was made up here, so that the provider knows nothing of it."""
    return identifier.startswith(_MADE)


def own_ids(call: ModelCall, provider: str) -> frozenset[str]:
    """Return the ids of the tool calls whose turns go back as they came: there, and in the results, they stay.

    Args:
        call: The model call.
        provider: The row that is asked.
    """
    return frozenset(
        one.id
        for message in call.messages
        if message.tool_calls and own_form(message, provider, call.model) is not None
        for one in message.tool_calls
    )


def fitted_id(identifier: str, own: frozenset[str], taken: re.Pattern[str], prefix: str) -> str:
    """Return a tool call's id as a provider takes it, always the same for the same id.

    Args:
        identifier: From whatever provider.
        own: Ids that stay as they are (`own_ids`).
        taken: The whole of any other id that may stay as it is.
        prefix: How the others begin.
    """
    if identifier in own or taken.fullmatch(identifier):
        return identifier
    return prefix + hashlib.blake2b(identifier.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def arguments_of(call: ToolCall) -> Object:
    """Return a tool call's arguments as the object that some APIs want.

    What is no JSON object is kept under `arguments`: a model's slip must not make the conversation unsendable.
    """
    if not call.arguments.strip():
        return {}
    try:
        found: object = msgspec.json.decode(call.arguments)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return {"arguments": call.arguments}
    return found if is_object(found) else {"arguments": found}


def tool_names(messages: tuple[Message, ...]) -> dict[str, str]:
    """Return the names of the tools called in a conversation, by the call's id: not every result states its own."""
    return {call.id: call.name for message in messages for call in message.tool_calls}
