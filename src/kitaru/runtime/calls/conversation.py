"""A conversation: the forms in which people write one, the form that is recorded, and how it is stored once.

Recorded is a chain of nodes, each naming its parent and one message. A message is recorded in neutral terms, made of
plain types: `{"role", "content"}` where it is text only, else with parts, tool calls, and what only its own provider
understands. Bytes stay bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from kitaru.errors import CorruptStoreError, UsageError
from kitaru.runtime.call import Call
from kitaru.runtime.calls.parts import part_from
from kitaru.runtime.work import stand_in
from kitaru.store import codec
from kitaru.store.artifacts import node, read_node

if TYPE_CHECKING:
    from kitaru.adapters import Message as NeutralMessage
    from kitaru.adapters import Part

Message: TypeAlias = dict[str, Any]
Nodes: TypeAlias = dict[bytes, bytes]

ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})

_KEYS: Final = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "is_error", "opaque", "cache_control", "more"}
)
# What servers and SDKs write into an assistant's message beside it.
_REPORTED: Final = frozenset(
    {
        "refusal", "annotations", "audio", "id", "index", "reasoning", "reasoning_content", "reasoning_details",
        "images", "provider_specific_fields", "thinking_blocks", "logprobs", "citations",
    }
)  # fmt: skip

# What of it means something to a model: it goes back to the servers that take it.
_TAKEN_BACK: Final = ("reasoning", "reasoning_content", "reasoning_details", "thinking_blocks")


def normalised(prompt: object, system: str | None, name: str) -> list[Message]:
    """A prompt as messages in the form that is recorded, oldest first.

    Handles among them are left for the codec to resolve.

    Args:
        prompt: A text, or messages: mappings with `role` and `content`, in OpenAI's form or the neutral one, with parts
            in OpenAI's or Anthropic's form; or Message, Reply and ToolCall objects.
        system: A system message to go before them.
        name: What errors call the model call.

    Raises:
        UsageError: It is nothing of the kind. Names the message's number and what is wrong, and shows no content.
    """
    if system is not None and not isinstance(system, str | Call):
        raise UsageError(f"{name}: system is {_a(system)}, not a text")
    messages: list[Message] = [{"role": "system", "content": system}] if system is not None else []
    if isinstance(prompt, str | Call):
        return [*messages, {"role": "user", "content": prompt}]
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray | memoryview):
        raise UsageError(f"{name}: a prompt is a text or a list of messages, not {_a(prompt)}")
    if not prompt:
        raise UsageError(f"{name}: the prompt has no messages", hint='Such as [{"role": "user", "content": "..."}].')
    for number, message in enumerate(prompt):
        at = f"{name}: message {number}"
        if (
            type(message) is dict
            and message.keys() == {"role", "content"}
            and isinstance(message["content"], str | Call)
        ):
            _check_role(message["role"], at)
            if message["role"] != "tool":
                messages.append(dict(message))
                continue
        messages.append(_normal(message, at))
    return messages


def neutral(messages: Sequence[Mapping[str, Any]]) -> tuple[NeutralMessage, ...]:
    """Recorded messages as adapters take them, their handles resolved.

    Raises:
        UsageError: A handle stood for something else than a text.
    """
    from kitaru.adapters import Message as NeutralMessage

    found = []
    for number, message in enumerate(messages):
        content = message.get("content", "")
        if message["role"] == "tool" and not isinstance(content, str | list):
            message = {**message, "content": _json(content, f"message {number}")}
        try:
            found.append(msgspec.convert(message, NeutralMessage))
        except msgspec.ValidationError as error:
            raise UsageError(
                f"message {number} holds a handle whose value is no text: {error}",
                hint='Put the text of it into the message: f"{...}".',
            ) from None
    return tuple(found)


def without_more(messages: list[Message]) -> list[Message]:
    """Recorded messages without the further fields of turns and parts, which logs of before do not have."""
    if not any("more" in one for message in messages for one in (message, *_parts(message))):
        return messages
    found = []
    for message in messages:
        parts = [{key: part[key] for key in part if key != "more"} for part in _parts(message)]
        plain = {key: message[key] for key in message if key != "more"}
        found.append({**plain, "content": parts} if parts else plain)
    return found


def _parts(message: Message) -> list[Any]:
    content = message["content"]
    return content if isinstance(content, list) else []


def public_message(message: NeutralMessage) -> dict[str, object]:
    """A message as people read and append it: OpenAI's form, and what only its own provider understands in `opaque`.

    It is made of what JSON knows, so that a conversation can be kept anywhere; `normalised` gives the message back.
    """
    content: object = message.content
    if not isinstance(message.content, str):
        content = [_public_part(part) for part in message.content]
    public: dict[str, object] = {"role": message.role, "content": content}
    if message.tool_calls:
        public["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    for key in ("tool_call_id", "name", "is_error"):
        if value := getattr(message, key):
            public[key] = value
    if message.more:
        public |= message.more
    if message.opaque is not None:
        opaque = message.opaque
        public["opaque"] = {
            "provider": opaque.provider,
            "model": opaque.model,
            **_public_bytes(opaque.data),
            "digest": opaque.digest.hex(),
        }
    return public


# ---- from people's form ---------------------------------------------------------------------------------------------


def _normal(message: object, at: str) -> Message:
    if isinstance(message, msgspec.Struct):
        message = _from_object(message, at)
    if not isinstance(message, Mapping) or "role" not in message:
        raise UsageError(f"{at} has no role or no content", hint='Write {"role": "user", "content": "..."}.')
    role = message["role"]
    _check_role(role, at)
    _check_keys(message, role, at)
    calls = _tool_calls(message.get("tool_calls"), role, at)
    opaque = _opaque(message.get("opaque"), role, at)
    content = _content(message, role, at, empty=bool(calls or opaque))
    if mark := message.get("cache_control"):
        content = _marked(content, mark)
    normal: Message = {"role": role, "content": content}
    if calls:
        normal["tool_calls"] = calls
    if role == "tool":
        call_id = message.get("tool_call_id")
        if not isinstance(call_id, str) or not call_id:
            raise UsageError(
                f"{at} answers no tool call: it has no tool_call_id",
                hint='Write {"role": "tool", "tool_call_id": call.id, "content": "..."}.',
            )
        normal["tool_call_id"] = call_id
    name = message.get("name")
    if name is not None and not isinstance(name, str):
        raise UsageError(f"{at}: its name is {_a(name)}, not a text")
    if name:
        normal["name"] = name
    if message.get("is_error"):
        normal["is_error"] = True
    if opaque:
        normal["opaque"] = opaque
    stated = message.get("more")
    more = {key: message[key] for key in _TAKEN_BACK if message.get(key)} | (stated if isinstance(stated, dict) else {})
    if more and role == "assistant":
        normal["more"] = more
    return normal


def _from_object(message: msgspec.Struct, at: str) -> Mapping[str, object]:
    """A Message, a Reply (whose message counts) or a ToolCall."""
    from kitaru.adapters import Message as NeutralMessage

    inner = getattr(message, "message", message)
    if isinstance(inner, NeutralMessage):
        return msgspec.structs.asdict(inner)
    if isinstance(inner, Mapping):
        return inner
    if _is_tool_call(inner):
        return {"role": "assistant", "content": "", "tool_calls": [inner]}
    raise UsageError(
        f"{at} is {_a(message)}", hint='Write {"role": "user", "content": "..."}, or append reply.message.'
    )


def _check_role(role: object, at: str) -> None:
    if not isinstance(role, str) or role not in ROLES:
        shown = repr(role) if isinstance(role, str) and len(role) < 40 else _a(role)
        hint = "Write its result as a message with the role tool." if role == "function" else ""
        raise UsageError(f"{at} has the role {shown}", hint=hint or f"Roles: {', '.join(sorted(ROLES))}.")


def _check_keys(message: Mapping[Any, object], role: str, at: str) -> None:
    known = _KEYS | _REPORTED if role == "assistant" else _KEYS
    for key, value in message.items():
        if key in known or not value:
            continue
        if key == "function_call":
            raise UsageError(f"{at} has a function_call", hint="Write tool_calls=[{id, name, arguments}] instead.")
        import difflib

        close = difflib.get_close_matches(str(key), sorted(_KEYS), n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"A message has {', '.join(sorted(_KEYS))}."
        raise UsageError(f"{at} has {str(key)[:40]!r}, which means nothing", hint=hint)
    for key, owner in (
        ("tool_call_id", "tool"),
        ("is_error", "tool"),
        ("tool_calls", "assistant"),
        ("opaque", "assistant"),
        ("more", "assistant"),
    ):
        if message.get(key) and role != owner:
            raise UsageError(f"{at} has {key}, which belongs to the role {owner}, not {role}")


def _content(message: Mapping[str, object], role: str, at: str, *, empty: bool) -> object:
    content = message.get("content")
    if content is None and (empty or (role == "assistant" and "content" in message)):
        return ""
    if "content" not in message:
        raise UsageError(f"{at} has no role or no content", hint='Write {"role": "user", "content": "..."}.')
    if isinstance(content, str | Call):
        return content
    if content in ([], ()) and role != "tool":
        return ""
    is_list = isinstance(content, Sequence) and not isinstance(content, bytes | bytearray | memoryview)
    if is_list and isinstance(content, Sequence) and (role != "tool" or _looks_like_parts(content)):
        return [part_from(part, f"{at}, part {number}") for number, part in enumerate(content)]
    if role == "tool":
        return _json(content, at)
    raise UsageError(f"{at}: its content is {_a(content)}, neither a text nor a list of parts")


def _marked(content: object, mark: object) -> list[Any]:
    """Return content whose last part bears a message's `cache_control`, as LiteLLM reads it."""
    parts: list[Any] = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return [*parts[:-1], {**parts[-1], "more": {**parts[-1].get("more", {}), "cache_control": mark}}]


def _looks_like_parts(content: Sequence[object]) -> bool:
    """A tool's result may be a list of its own."""
    from kitaru.adapters import Document, Image, Media, Text

    types = ("text", "image", "image_url", "input_text", "input_image", "document")
    return bool(content) and all(
        isinstance(part, Text | Image | Document | Media)
        or (isinstance(part, Mapping) and (part.get("type") in types or _is_media(part)))
        for part in content
    )


def _is_media(part: Mapping[Any, object]) -> bool:
    return part.get("type") == "media" and part.get("kind") in ("audio", "video")


def _json(value: object, at: str) -> str:
    try:
        return msgspec.json.encode(value, enc_hook=_for_json).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{at}: its content cannot be written as JSON: {error}", hint="Give a tool's result as text or plain data."
        ) from None


def _for_json(value: Any) -> object:
    found = stand_in(value)
    if found is not value:
        return found
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    raise TypeError(f"a {type(value).__name__} is not plain data")


def _tool_calls(calls: object, role: str, at: str) -> list[Message]:
    if not calls or role != "assistant":
        return []
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise UsageError(f"{at}: its tool_calls are {_a(calls)}, not a list")
    return [_tool_call(call, f"{at}, tool call {number}") for number, call in enumerate(calls)]


def _tool_call(call: object, at: str) -> Message:
    stated: Any = call
    if _is_tool_call(call):
        stated = {"id": stated.id, "name": stated.name, "arguments": stated.arguments}
    if not isinstance(stated, Mapping):
        raise UsageError(f"{at} is {_a(call)}", hint="Write {id, name, arguments}, or append reply.message.")
    inner = stated.get("function", stated)
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(name, str) or not name:
        raise UsageError(f"{at} has no name", hint="Write {id, name, arguments}, or append reply.message.")
    call_id = stated.get("id")
    if not isinstance(call_id, str) or not call_id:
        raise UsageError(f"{at} has no id", hint="Its result names it by its id.")
    arguments = inner.get("arguments")
    if arguments is None:
        arguments = "{}"
    elif isinstance(arguments, Mapping):
        arguments = _json(arguments, at)
    elif not isinstance(arguments, str):
        raise UsageError(f"{at}: its arguments are {_a(arguments)}, neither JSON text nor a mapping")
    return {"id": call_id, "name": name, "arguments": arguments}


def _is_tool_call(value: object) -> bool:
    return isinstance(value, msgspec.Struct) and {"id", "name", "arguments"} <= set(value.__struct_fields__)


def _opaque(opaque: object, role: str, at: str) -> Message | None:
    if not opaque or role != "assistant":
        return None
    stated: Any = opaque
    if isinstance(opaque, msgspec.Struct):
        stated = {name: getattr(opaque, name) for name in opaque.__struct_fields__}
    try:
        data, digest = stated.get("data"), stated["digest"]
        if data is None:
            data = base64.b64decode(stated["data_base64"], validate=True)
        data = data.encode() if isinstance(data, str) else data
        digest = bytes.fromhex(digest) if isinstance(digest, str) else digest
        provider, model = stated["provider"], stated["model"]
        if not (isinstance(provider, str) and isinstance(model, str)):
            raise TypeError
        if not (isinstance(data, bytes) and isinstance(digest, bytes)):
            raise TypeError
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UsageError(
            f"{at}: its opaque part is not as a reply gave it",
            hint="Append reply.message as it is, or leave opaque out.",
        ) from None
    return {"provider": provider, "model": model, "data": data, "digest": digest}


def _public_part(part: Part) -> dict[str, object]:
    from kitaru.adapters import Document, Media, Text

    if isinstance(part, Text):
        return {"type": "text", "text": part.text, **part.more}
    source: dict[str, object] = {"type": "url", "url": part.url}
    if part.url and part.media_type:
        source["media_type"] = part.media_type
    elif not part.url:
        source = {"type": "base64", "media_type": part.media_type, "data": base64.b64encode(part.data).decode()}
    if isinstance(part, Media):
        return {"type": "media", "kind": part.kind, "source": source, **part.more}
    if isinstance(part, Document):
        return {"type": "document", "source": source, **({"title": part.name} if part.name else {}), **part.more}
    return {"type": "image", "source": source, **({"detail": part.detail} if part.detail else {}), **part.more}


def _public_bytes(data: bytes) -> dict[str, object]:
    try:
        return {"data": data.decode()}
    except UnicodeDecodeError:
        return {"data_base64": base64.b64encode(data).decode()}


def _a(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


# ---- stored once ----------------------------------------------------------------------------------------------------


def chained(messages: Sequence[Message]) -> tuple[bytes, Nodes]:
    """The digest of a conversation's last node, and all its nodes by digest, oldest first."""
    nodes: Nodes = {}
    parent: bytes | None = None
    for message in messages:
        content = node([parent] if parent is not None else [], codec.encode(message))
        parent = codec.content_digest(content)
        nodes[parent] = content
    assert parent is not None
    return parent, nodes


async def unchained(head: bytes, read: Callable[[bytes], Awaitable[bytes]]) -> list[Message]:
    """The messages of a chain, oldest first.

    Args:
        head: The digest of its last node.
        read: Gives an artifact's content.
    """
    messages: list[Message] = []
    digest: bytes | None = head
    while digest is not None:
        found = read_node(await read(digest))
        if found is None:
            raise CorruptStoreError(f"artifact {digest.hex()[:16]} is no part of a conversation")
        names, body = found
        message: Any = codec.decoder()(body)
        messages.append(message)
        digest = names[0] if names else None
    return messages[::-1]
