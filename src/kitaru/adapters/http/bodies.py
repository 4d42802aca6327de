"""Reading a body without letting it grow beyond a limit, counted after decompression.

The HTTP library's own decoders inflate a whole piece at once, a thousandfold if a hostile server likes.
"""

from __future__ import annotations

import zlib
from typing import Protocol


class BodyTooLargeError(Exception):
    """The body is longer than may be read."""


class BodyUnreadableError(Exception):
    """The body is compressed in a way that was not asked for, or damaged."""


class Reader(Protocol):
    """Turns the pieces of a body as sent into the pieces of the body as meant."""

    def feed(self, piece: bytes) -> bytes:
        """Return what this piece stands for.

        Raises:
            BodyTooLargeError: All pieces so far exceed the limit.
            BodyUnreadableError: It cannot be decompressed.
        """
        ...

    def finish(self) -> bytes:
        """Return what is left at the end.

        Raises:
            BodyUnreadableError: The compressed data stop short.
        """
        ...


def decoder(encoding: str, limit: int) -> Reader:
    """Return a reader for a body.

    Args:
        encoding: The response's `content-encoding`.
        limit: The most bytes that are read, after decompression.

    Raises:
        BodyUnreadableError: The encoding is not one that is asked for.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return _Plain(limit)
        case "gzip" | "x-gzip":
            return _Inflated(limit, zlib.MAX_WBITS | 16)
        case "deflate":
            return _Inflated(limit, zlib.MAX_WBITS)
        case other:
            raise BodyUnreadableError(f"content-encoding {other[:40]!r} was not asked for")


class _Plain:
    def __init__(self, limit: int) -> None:
        self._left = limit

    def feed(self, piece: bytes) -> bytes:
        self._left -= len(piece)
        if self._left < 0:
            raise BodyTooLargeError
        return piece

    def finish(self) -> bytes:
        return b""


class _Inflated:
    def __init__(self, limit: int, wbits: int) -> None:
        self._left = limit
        self._wbits = wbits
        self._zlib = zlib.decompressobj(wbits)
        self._begun = False

    def feed(self, piece: bytes) -> bytes:
        try:
            # One byte more than is left, so that "exactly full" and "too large" differ; 0 would mean no limit.
            found = self._zlib.decompress(piece, self._left + 1)
        except zlib.error as error:
            if self._begun or self._wbits != zlib.MAX_WBITS:
                raise BodyUnreadableError(str(error)) from None
            # Some servers mean raw deflate by "deflate".
            self._wbits = -zlib.MAX_WBITS
            self._zlib = zlib.decompressobj(self._wbits)
            return self.feed(piece)
        self._begun = self._begun or bool(piece)
        self._left -= len(found)
        if self._left < 0:
            raise BodyTooLargeError
        return found

    def finish(self) -> bytes:
        rest = self._zlib.flush()
        if self._begun and not self._zlib.eof:
            raise BodyUnreadableError("the compressed data stop short")
        return rest
