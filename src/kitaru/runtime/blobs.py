"""An encoded value as an event holds it: inline, or as an artifact."""

from __future__ import annotations

from typing import Final

from kitaru.store import codec
from kitaru.store.artifacts import is_node
from kitaru.store.events import Blob, Ref

INLINE_LIMIT: Final = 1024
"""Bytes up to which a value stands in its event; a larger one is an artifact."""


def blob_of(data: bytes) -> tuple[Blob, dict[bytes, bytes]]:
    """What an event holds of `data`, and the artifact to append with it if it is too large to stand there.

    A node is always an artifact: the store follows what it names from its digest.
    """
    if len(data) <= INLINE_LIMIT and not is_node(data):
        return data, {}
    digest = codec.content_digest(data)
    return Ref(digest, len(data)), {digest: data}
