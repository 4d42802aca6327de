"""The recorded form of a secret value: a keyed digest in its place. The value itself is kept elsewhere, or nowhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

import msgspec
from msgspec.msgpack import Decoder

from kitaru.store.codec import codes

MASK: Final = "**********"
_RAW: Final = frozenset(
    {codes.BIG_INT, codes.DECIMAL, codes.UUID, codes.TEXT, codes.BYTEARRAY, codes.EXCEPTION, codes.CONSTANT}
)
"""Extensions whose data is no msgpack."""

revealing: Final[ContextVar[Callable[[bytes], object] | None]] = ContextVar("kitaru_revealing", default=None)
"""Gives the value that a digest stands for, or None: what decoding puts in its place."""


class Hidden:
    """Stands for a secret value whose digest is recorded. Encodable; equal secrets have equal digests."""

    __slots__ = ("digest",)

    def __init__(self, digest: bytes) -> None:
        self.digest = digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hidden) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash((Hidden, self.digest))

    def __repr__(self) -> str:
        return MASK


def revealed(digest: bytes) -> object:
    """The value that a digest stands for in this context, or a `Hidden` where nobody knows it."""
    reveal = revealing.get()
    value = reveal(digest) if reveal is not None else None
    return Hidden(digest) if value is None else value


def hidden_in(data: bytes) -> list[bytes]:
    """The digests that a recorded value holds in the place of secrets, each once.

    Args:
        data: What `encode` returned; what is damaged holds none.
    """
    found: dict[bytes, None] = {}

    def look(code: int, part: memoryview) -> None:
        raw = bytes(part)
        if code == codes.SECRET:
            found[raw] = None
        elif code not in _RAW:
            read(raw)

    read = Decoder(ext_hook=look).decode
    with contextlib.suppress(msgspec.DecodeError, RecursionError):
        read(data)
    return list(found)
