"""An encoded value as an event holds it: inline, or as an artifact."""

from __future__ import annotations

from typing import Final

from kitaru.store import codec
from kitaru.store.events import Blob, Ref

INLINE_LIMIT: Final = 1024
"""Bytes up to which a value stands in its event; a larger one is an artifact."""


def blob_of(data: bytes) -> tuple[Blob, dict[bytes, bytes]]:
    """What an event holds of `data`, and the artifact to append with it if it is too large to stand there."""
    if len(data) <= INLINE_LIMIT:
        return data, {}
    digest = codec.content_digest(data)
    return Ref(digest, len(data)), {digest: data}
