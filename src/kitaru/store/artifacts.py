"""Which artifacts an event names, and artifacts that name others.

A conversation is kept as a chain of small artifacts, each naming its parent and one message. Such an artifact is a
*node*: its first bytes say so and list the digests it names, so the store can keep, check and collect a whole chain
from the one digest that an event holds.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Final

import msgspec

from kitaru.store.events import AnyEvent, Copied, Ref, StepCompleted

DIGEST_SIZE: Final = 32

# 0xc1 is the one byte that no msgpack value starts with, so an encoded value is never taken for a node.
_MARK: Final = b"\xc1kn\x01"

_decode: Final = msgspec.msgpack.Decoder(AnyEvent).decode


def node(names: Sequence[bytes], body: bytes = b"") -> bytes:
    """The content of an artifact that names others.

    Args:
        names: Digests of the artifacts it names, at most 255.
        body: Whatever else it holds.

    Returns:
        The content; `content_digest` of it is its own digest.
    """
    return b"".join((_MARK, bytes((len(names),)), *names, body))


def read_node(data: bytes) -> tuple[tuple[bytes, ...], bytes] | None:
    """The digests that a node names and its body, or None when the artifact is a plain value."""
    if not is_node(data):
        return None
    start = len(_MARK) + 1
    end = start + data[start - 1] * DIGEST_SIZE
    return tuple(data[at : at + DIGEST_SIZE] for at in range(start, end, DIGEST_SIZE)), data[end:]


def is_node(data: bytes) -> bool:
    """Whether an artifact names others."""
    return data.startswith(_MARK)


def named_by(event: AnyEvent) -> list[bytes]:
    """Digests of the artifacts that an event names itself (not those a node names in turn)."""
    if type(event) is StepCompleted and type(event.inputs) is bytes and type(event.outcome) is bytes:
        return []
    if type(event) is Copied:
        return named_by(_decode(event.event))
    found: list[bytes] = []
    one, many = _fields(type(event))
    for name in one:
        value = getattr(event, name)
        if type(value) is Ref:
            found.append(value.digest)
    for name in many:
        found += [ref.digest for ref in getattr(event, name)]
    return found


@cache
def _fields(kind: type[AnyEvent]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The fields of an event type that may hold a reference, and those that hold a tuple of them."""
    fields = msgspec.structs.fields(kind)
    many = tuple(field.name for field in fields if field.type == tuple[Ref, ...])
    return tuple(f.name for f in fields if f.name not in many and Ref in typing.get_args(f.type)), many


def closure(
    roots: Iterable[bytes], read: Callable[[bytes], bytes | None], known: Callable[[bytes], bool]
) -> set[bytes]:
    """All artifacts reachable from some, except those known already and what hangs from them.

    Args:
        roots: Digests to start from.
        read: Gives an artifact's content, or None when there is none.
        known: Whether a digest needs no look.
    """
    found: set[bytes] = set()
    todo = list(roots)
    while todo:
        digest = todo.pop()
        if digest in found or known(digest):
            continue
        data = read(digest)
        if data is None:
            continue
        found.add(digest)
        inner = read_node(data)
        if inner is not None:
            todo.extend(inner[0])
    return found
