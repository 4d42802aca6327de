"""The stores that workloads write: where they are, what is in them, and whether they hold what they should."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from kitaru import Runtime
from kitaru.store.events import StepCompleted
from kitaru.store.sqlite import SqliteStore

Row: TypeAlias = tuple[int, int, int, bytes, bytes]
"""A row of the events: run, seq, turn, data, digest."""


class BadStoreError(Exception):
    """A store is not what a workload should have left, so its figures mean nothing."""


def url(file: Path) -> str:
    """A store's URL."""
    return f"sqlite:///{file}"


def check(file: Path, runs: Sequence[str], steps: int) -> None:
    """Make sure that nothing was saved at the cost of a promise.

    Args:
        file: The store, closed.
        runs: The runs that the workload made.
        steps: How many steps each has.

    Raises:
        BadStoreError: A chain is broken, or a step lacks its outcome, fingerprint, code digest, order or turn.
    """
    asyncio.run(_check(file, runs, steps))


async def _check(file: Path, runs: Sequence[str], steps: int) -> None:
    store = SqliteStore(file)
    await store.open()
    try:
        for run in runs:
            if problems := await store.verify(run):
                raise BadStoreError(f"verify found {problems}")
            recorded = await store.events(run)
            done = [(turn, event) for _, turn, event in recorded if isinstance(event, StepCompleted)]
            if len(done) != steps or len({event.key for _, event in done}) != steps:
                raise BadStoreError(f"run {run} has {len(done)} steps instead of {steps}")
            if not all(turn and event.fingerprint and event.code and event.inputs for turn, event in done):
                raise BadStoreError(f"run {run} has a step without turn, fingerprint, code digest or inputs")
            if sorted(event.order for _, event in done) != list(range(1, steps + 1)):
                raise BadStoreError(f"run {run} has steps without an order")
    finally:
        await store.close()


async def reached(runtime: Runtime, run: str, seq: int) -> None:
    """Wait until a run's log has come to an event."""
    while not await runtime._core.store.watch(run, after=seq - 1, timeout=5):
        continue


def rows(file: Path, *, least: int = 64) -> list[Row]:
    """The events of a store that hold a step's outcome, as they stand in its table.

    Args:
        file: The store, closed.
        least: The bytes from which an event counts as one with an outcome.
    """
    connection = sqlite3.connect(file)
    try:
        sql = "SELECT run, seq, turn, data, digest FROM events WHERE turn > 0 AND length(data) >= ? ORDER BY id"
        return connection.execute(sql, (least,)).fetchall()
    finally:
        connection.close()
