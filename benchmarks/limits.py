"""What SQLite itself does with the same bytes: the rows of a store that Kitaru wrote, with nothing around it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import aiosqlite

from benchmarks.stores import Row

_TABLE: Final = (
    "CREATE TABLE events (id INTEGER PRIMARY KEY, run INTEGER NOT NULL, seq INTEGER NOT NULL, turn INTEGER NOT NULL, "
    "data BLOB NOT NULL, digest BLOB NOT NULL)"
)
_INDEX: Final = "CREATE UNIQUE INDEX events_run_seq ON events (run, seq)"
_INSERT: Final = "INSERT INTO events (run, seq, turn, data, digest) VALUES (?, ?, ?, ?, ?)"
_DURABLE: Final = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL")
_WARM: Final = 50


def in_this_thread(file: Path, rows: Sequence[Row], *, at_once: int = 1) -> float:
    """Rows a second of sqlite3 in one thread, `at_once` rows a commit. The first rows go unmeasured."""
    connection = sqlite3.connect(file, isolation_level=None)
    try:
        for statement in (*_DURABLE, _TABLE, _INDEX):
            connection.execute(statement)
        warm = _WARM * at_once if len(rows) > 2 * _WARM * at_once else 0
        for row in rows[:warm]:
            connection.execute(_INSERT, row)
        began = time.perf_counter()
        for at in range(warm, len(rows), at_once):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_INSERT, rows[at : at + at_once])
            connection.execute("COMMIT")
        return (len(rows) - warm) / (time.perf_counter() - began)
    finally:
        connection.close()


def in_aiosqlite(file: Path, rows: Sequence[Row]) -> float:
    """Rows a second of aiosqlite, an execute and a commit each. The first rows go unmeasured."""
    return asyncio.run(_in_aiosqlite(file, rows))


async def _in_aiosqlite(file: Path, rows: Sequence[Row]) -> float:
    async with aiosqlite.connect(file) as connection:
        for statement in (*_DURABLE, _TABLE, _INDEX):
            await connection.execute(statement)
        for row in rows[:_WARM]:
            await connection.execute(_INSERT, row)
            await connection.commit()
        began = time.perf_counter()
        for row in rows[_WARM:]:
            await connection.execute(_INSERT, row)
            await connection.commit()
        return (len(rows) - _WARM) / (time.perf_counter() - began)
