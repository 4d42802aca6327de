"""200 runs of 20 steps at the same time: how well runs share commits."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from benchmarks import limits, stores
from benchmarks.sequential import STEPS as IN_SEQUENCE
from benchmarks.sequential import steps_in_sequence
from benchmarks.workload import Figures, Line, Samples, Workload

RUNS: Final = 200
STEPS: Final = 20


def kitaru(folder: Path) -> Figures:
    file = folder / "kitaru.db"
    figures = asyncio.run(_run(file))
    stores.check(file, [f"measured-{number}" for number in range(RUNS)], STEPS)
    return figures


async def _run(file: Path) -> Figures:
    from benchmarks.flows import in_sequence
    from kitaru import Runtime

    async with Runtime(stores.url(file), recover=False) as runtime:

        async def one(run: str) -> None:
            await (await runtime.start(in_sequence.options(run_id=run), STEPS)).result()

        await asyncio.gather(*[one(f"warm-{number}") for number in range(RUNS // 4)])
        processor, loop = time.process_time(), time.thread_time()
        began = time.perf_counter()
        await asyncio.gather(*[one(f"measured-{number}") for number in range(RUNS)])
        took = time.perf_counter() - began
        loop = time.thread_time() - loop
        others = time.process_time() - processor - loop
    total = RUNS * STEPS
    return {"rate": total / took, "loop": loop / total * 1e6, "writer": others / total * 1e6}


def sequential(folder: Path) -> Figures:
    return asyncio.run(steps_in_sequence(folder / "sequential.db", IN_SEQUENCE))


def sqlite3(folder: Path) -> Figures:
    return {"rate": limits.in_this_thread(folder / "sqlite3.db", stores.rows(folder / "kitaru.db"), at_once=RUNS)}


def lines(samples: Samples) -> list[Line]:
    ours, one_by_one = "kitaru.rate", "sequential.rate"
    return [
        Line("kitaru", "steps/s", samples[ours], at_least=30_000, quiet=True),
        Line("the same, sequential", "steps/s", samples[one_by_one]),
        Line("concurrent of sequential", "", samples.ratio(ours, one_by_one), at_least=10),
        Line(f"limit: sqlite3, {RUNS} rows a commit", "rows/s", samples["sqlite3.rate"]),
        Line("kitaru of sqlite3", "", samples.ratio(ours, "sqlite3.rate")),
        Line("processor time, the loop's thread", "us/step", samples["kitaru.loop"]),
        Line("processor time, other threads", "us/step", samples["kitaru.writer"]),
    ]


WORKLOAD: Final = Workload(
    f"{RUNS} runs of {STEPS} steps at the same time, synchronous=FULL",
    {"kitaru": kitaru, "sequential": sequential, "sqlite3": sqlite3},
    lines,
)
