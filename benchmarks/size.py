"""Bytes on disk a step, with an outcome of 100 bytes: every table and index counted, the WAL copied back."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Final

from benchmarks import stores
from benchmarks.workload import Figures, Line, Samples, Workload

STEPS: Final = 10_000


def kitaru(folder: Path) -> Figures:
    file = folder / "kitaru.db"
    asyncio.run(_run(file))
    beside = [other for other in (Path(f"{file}-wal"), Path(f"{file}-shm")) if other.exists()]
    if beside:
        raise stores.BadStoreError(f"the store was not closed in order: {beside} are left")
    stores.check(file, ["measured"], STEPS)
    bare = sum(len(data) + len(digest) for _, _, _, data, digest in stores.rows(file))
    return {
        "bytes": file.stat().st_size / STEPS,
        "bare": bare / STEPS,
        "index": _pages(file, "events_run_seq") / STEPS,
    }


async def _run(file: Path) -> None:
    from benchmarks.flows import in_sequence
    from kitaru import Runtime

    async with Runtime(stores.url(file), recover=False, durability="process") as runtime:
        await (await runtime.start(in_sequence.options(run_id="measured"), STEPS)).result()


def _pages(file: Path, name: str) -> float:
    connection = sqlite3.connect(file)
    try:
        (found,) = connection.execute("SELECT sum(pgsize) FROM dbstat WHERE name = ?", (name,)).fetchone()
        return float(found or 0)
    except sqlite3.OperationalError:
        # Not every build of SQLite has this table.
        return 0.0
    finally:
        connection.close()


def lines(samples: Samples) -> list[Line]:
    return [
        Line("the whole file", "bytes/step", samples["kitaru.bytes"], at_most=260),
        Line("limit: events and digests alone", "bytes/step", samples["kitaru.bare"]),
        Line("of which the index by run and seq", "bytes/step", samples["kitaru.index"]),
    ]


WORKLOAD: Final = Workload(f"one run of {STEPS:,} steps with outcomes of 100 bytes", {"kitaru": kitaru}, lines)
