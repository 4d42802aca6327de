"""Connections that read: one for each event loop that asks, made on first use, dropped when its loop has closed."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from typing import Any, Final, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import aiosqlite

Value: TypeAlias = int | float | str | bytes | None

T = TypeVar("T")

_FRESH: Final = 0.03


class Readers:
    """Reads a store's file from any number of event loops.

    Args:
        connect: Makes a connection; called in the thread that will use it.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _Reader] = WeakKeyDictionary()
        self._gate = threading.Lock()

    async def fetch(self, sql: str, values: Sequence[Value] = ()) -> list[tuple[object, ...]]:
        """All rows of one statement, in one read transaction that ends before this returns."""
        return await self._mine().fetch(sql, values)

    async def version(self) -> int:
        """A number that changes when anybody has committed; at most 30 ms old."""
        return await self._mine().version()

    def _mine(self) -> _Reader:
        loop = asyncio.get_running_loop()
        with self._gate:
            reader = self._by_loop.get(loop)
            if reader is None:
                for other in [each for each in self._by_loop if each.is_closed()]:
                    self._by_loop.pop(other).drop()
                reader = self._by_loop[loop] = _Reader(self._connect)
        return reader

    async def close(self) -> None:
        """Close every connection. Those of other loops end by themselves."""
        loop = asyncio.get_running_loop()
        with self._gate:
            readers = dict(self._by_loop)
            self._by_loop.clear()
        for owner, reader in readers.items():
            if owner is loop:
                await reader.close()
            else:
                reader.drop()

    def drop(self) -> None:
        """Close every connection without waiting."""
        with self._gate:
            readers = list(self._by_loop.values())
            self._by_loop.clear()
        for reader in readers:
            reader.drop()


def _shared(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task for all who wait for it: it belongs to nothing that the first of them belongs to, a run least of all."""
    return asyncio.Task(work, loop=asyncio.get_running_loop(), context=Context())


class _Reader:
    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._make = connect
        self._raw: sqlite3.Connection | None = None
        self._opening: asyncio.Task[aiosqlite.Connection] | None = None
        self._checked = 0.0
        self._version = 0
        self._looking: asyncio.Task[None] | None = None

    def _connect(self) -> sqlite3.Connection:
        self._raw = self._make()
        return self._raw

    async def _open(self) -> aiosqlite.Connection:
        connection = aiosqlite.Connection(self._connect, 64)
        # The thread only reads, and must not keep a program from ending that forgot to close its store.
        connection._thread.daemon = True
        return await connection

    async def _connection(self) -> aiosqlite.Connection:
        if self._opening is None or (self._opening.done() and self._failed(self._opening)):
            self._opening = _shared(self._open())
        # Shielded, because a cancelled connect would leave its thread behind.
        return await asyncio.shield(self._opening)

    @staticmethod
    def _failed(task: asyncio.Task[aiosqlite.Connection]) -> bool:
        return task.cancelled() or task.exception() is not None

    async def fetch(self, sql: str, values: Sequence[Value]) -> list[tuple[object, ...]]:
        connection = await self._connection()
        return [tuple(row) for row in await connection.execute_fetchall(sql, values)]

    async def version(self) -> int:
        if time.monotonic() - self._checked > _FRESH:
            if self._looking is None:
                self._looking = _shared(self._look())
            await asyncio.shield(self._looking)
        return self._version

    async def _look(self) -> None:
        try:
            ((version,),) = await self.fetch("PRAGMA data_version", ())
            assert isinstance(version, int)
            self._version = version
            self._checked = time.monotonic()
        finally:
            self._looking = None

    async def close(self) -> None:
        if self._opening is not None:
            connection = await self._connection()
            await connection.close()

    def drop(self) -> None:
        task = self._opening
        if task is None or not task.done() or self._failed(task):
            return
        # From a thread without an event loop, because `stop` reports to the loop that it finds, which may be closed.
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=task.result().stop, daemon=True).start()
