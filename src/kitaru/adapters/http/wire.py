"""A connection's bytes in both directions, on asyncio's transports: reads and writes that wait no longer than told."""

from __future__ import annotations

import asyncio
from typing import Final, cast

# Beyond this many bytes unread, the peer is to wait.
_MOST_UNREAD: Final = 256 * 1024


class Wire(asyncio.Protocol):
    """One connection. Read and written by one task at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._unread = bytearray()
        self._ended = False
        self._error: Exception | None = None
        self._lost = False
        self._reading: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._paused = False
        self._full = False

    # -- what asyncio tells -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """The peer sent something."""
        self._unread += data
        if len(self._unread) > _MOST_UNREAD and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        _wake(self._reading)

    def eof_received(self) -> bool:
        """The peer will send nothing more."""
        self._ended = True
        _wake(self._reading)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        self._lost = self._ended = True
        self._error = error
        _wake(self._reading)
        _wake(self._writing)

    def pause_writing(self) -> None:
        """There is too much that the peer has not taken."""
        self._full = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._full = False
        _wake(self._writing)

    # -- what its user asks -------------------------------------------------------------------------------------------

    @property
    def stirred(self) -> bool:
        """Whether anything came that nobody has read, be it the end: nothing more is to be sent over it."""
        return bool(self._unread) or self._ended

    async def read(self, timeout: float | None) -> bytes:
        """Return what has arrived; nothing at the end.

        Args:
            timeout: Seconds.

        Raises:
            TimeoutError: Nothing arrived.
            OSError: The connection broke.
        """
        if not self._unread and not self._ended:
            self._reading = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(timeout):
                    await self._reading
            finally:
                self._reading = None
        if not self._unread and self._error is not None:
            raise self._error
        data = bytes(self._unread)
        self._unread.clear()
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes, timeout: float | None) -> None:
        """Send, and return when the system has taken nearly all of it.

        Args:
            data: Any length.
            timeout: Seconds.

        Raises:
            TimeoutError: The peer does not take it.
            OSError: The connection broke.
        """
        if not self._lost and self._transport is not None:
            self._transport.write(data)
        if self._full and not self._lost:
            self._writing = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(timeout):
                    await self._writing
            finally:
                self._writing = None
        if self._lost:
            raise self._error or ConnectionResetError("the connection is closed")

    def close(self) -> None:
        """Close at once: after an exchange there is nothing left to be sent."""
        if self._transport is not None:
            self._transport.abort()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
