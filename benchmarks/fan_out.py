"""One run with 1,000 steps at the same time."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import limits, stores
from benchmarks.workload import Figures, Line, Samples, Workload

STEPS: Final = 1_000
_REPEATED: Final = 5


def kitaru(folder: Path) -> Figures:
    file = folder / "kitaru.db"
    figures = asyncio.run(_run(file))
    stores.check(file, [f"measured-{number}" for number in range(_REPEATED)], STEPS)
    return figures


async def _run(file: Path) -> Figures:
    from benchmarks.flows import in_parallel
    from kitaru import Runtime

    rates, loops, others = [], [], []
    async with Runtime(stores.url(file), recover=False) as runtime:
        await (await runtime.start(in_parallel.options(run_id="warm"), STEPS // 4)).result()
        for number in range(_REPEATED):
            processor, loop = time.process_time(), time.thread_time()
            began = time.perf_counter()
            handle = await runtime.start(in_parallel.options(run_id=f"measured-{number}"), STEPS)
            await handle.result()
            rates.append(STEPS / (time.perf_counter() - began))
            loops.append((time.thread_time() - loop) / STEPS * 1e6)
            others.append((time.process_time() - processor) / STEPS * 1e6 - loops[-1])
    return {"rate": median(rates), "loop": median(loops), "writer": median(others)}


def sqlite3(folder: Path) -> Figures:
    return {"rate": limits.in_this_thread(folder / "sqlite3.db", stores.rows(folder / "kitaru.db"), at_once=STEPS)}


def lines(samples: Samples) -> list[Line]:
    return [
        Line("kitaru", "steps/s", samples["kitaru.rate"], at_least=25_000, quiet=True),
        Line("limit: sqlite3, all rows in a commit", "rows/s", samples["sqlite3.rate"]),
        Line("kitaru of sqlite3", "", samples.ratio("kitaru.rate", "sqlite3.rate")),
        Line("processor time, the loop's thread", "us/step", samples["kitaru.loop"]),
        Line("processor time, other threads", "us/step", samples["kitaru.writer"]),
    ]


WORKLOAD: Final = Workload(
    f"one run, {STEPS:,} steps at the same time, synchronous=FULL", {"kitaru": kitaru, "sqlite3": sqlite3}, lines
)
