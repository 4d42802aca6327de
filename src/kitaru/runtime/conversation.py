"""A conversation, and how it is stored once: a chain of nodes, each naming its parent and one message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from kitaru.errors import CorruptStoreError, UsageError
from kitaru.runtime.call import Call
from kitaru.store import codec
from kitaru.store.artifacts import node, read_node

Message: TypeAlias = dict[str, Any]
Nodes: TypeAlias = dict[bytes, bytes]

ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})


def normalised(prompt: object, system: str | None, name: str) -> list[Message]:
    """A prompt as messages, oldest first. Handles among them are left for the codec to resolve.

    Raises:
        UsageError: It is neither a text nor messages with a known `role` and a `content`.
    """
    messages: list[Message] = [{"role": "system", "content": system}] if system is not None else []
    if isinstance(prompt, str | Call):
        return [*messages, {"role": "user", "content": prompt}]
    if not isinstance(prompt, Sequence) or not prompt:
        raise UsageError(f"{name}: a prompt is a text or a list of messages, not {type(prompt).__name__}")
    for number, message in enumerate(prompt):
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise UsageError(
                f"{name}: message {number} has no role or no content", hint='Write {"role": "user", "content": "..."}.'
            )
        if message["role"] not in ROLES:
            raise UsageError(
                f"{name}: message {number} has the role {message['role']!r}", hint=f"Roles: {', '.join(sorted(ROLES))}."
            )
        if not isinstance(message["content"], str | Call):
            raise UsageError(
                f"{name}: the content of message {number} is a {type(message['content']).__name__}, not a text"
            )
        messages.append(dict(message))
    return messages


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
