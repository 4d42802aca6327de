"""How an artifact's content stands in its row: compressed where that saves enough, else as it is.

Digests are those of the content, so they tell too whether what was decompressed is what was stored.
"""

from __future__ import annotations

import zlib
from typing import Final

_LEVEL: Final = 1
_SHORTEST: Final = 64
"""Bytes below which nothing is gained."""
LARGEST: Final = 256 << 20
"""Bytes of a content beyond which it is not compressed: a store from elsewhere may hold a bomb."""
_SAVED: Final = 8
"""Less than this part saved is not worth a decompression at each reading."""


def pressed(content: bytes) -> tuple[bytes, int]:
    """Return what to store of a content, and 1 where that is compressed, else 0."""
    if _SHORTEST <= len(content) <= LARGEST:
        data = zlib.compress(content, _LEVEL, -zlib.MAX_WBITS)
        if len(data) <= len(content) - len(content) // _SAVED:
            return data, 1
    return content, 0


def content_of(data: bytes, compressed: object) -> bytes:
    """Return an artifact's content from its row.

    Args:
        data: What is stored.
        compressed: What stands beside it.

    Returns:
        The content; of a damaged row the data itself, whose digest is another one than the content's.
    """
    if not compressed:
        return data
    press = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = press.decompress(data, LARGEST)
    except zlib.error:
        return data
    return content if press.eof else data
