"""1,000 trivial steps in one run, one after the other, every outcome on disk before the flow sees it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks import limits, stores
from benchmarks.harness import ROOT, environment
from benchmarks.workload import Figures, Line, Samples, Workload

STEPS: Final = 1_000
_TRACED: Final = 50
_MARK: Final = "step is acknowledged"
_FLUSHED: Final = re.compile(
    r"^(\d+) +(?:fdatasync|fsync)\(\d+<[^>]*-wal>\) += 0|^(\d+) +<\.\.\. (?:fdatasync|fsync) resumed>\) += 0"
)


def kitaru(folder: Path) -> Figures:
    file = folder / "kitaru.db"
    figures = asyncio.run(steps_in_sequence(file, STEPS))
    stores.check(file, ["measured"], STEPS)
    return figures


async def steps_in_sequence(file: Path, steps: int, run: str = "measured") -> Figures:
    """Run so many steps in a store, after a few to warm up: steps a second, and the processor's share of a step."""
    from benchmarks.flows import in_sequence
    from kitaru import Runtime

    async with Runtime(stores.url(file), recover=False) as runtime:
        await (await runtime.start(in_sequence.options(run_id=f"{run}-warm"), 50)).result()
        processor = time.process_time()
        began = time.perf_counter()
        handle = await runtime.start(in_sequence.options(run_id=run), steps)
        await handle.result()
        took = time.perf_counter() - began
        busy = time.process_time() - processor
    return {"rate": steps / took, "busy": busy / steps * 1e6}


def aiosqlite(folder: Path) -> Figures:
    return {"rate": limits.in_aiosqlite(folder / "aiosqlite.db", stores.rows(folder / "kitaru.db"))}


def sqlite3(folder: Path) -> Figures:
    return {"rate": limits.in_this_thread(folder / "sqlite3.db", stores.rows(folder / "kitaru.db"))}


def flushes(folder: Path) -> Figures:
    """Whether a flush of the log came before each acknowledgement, as strace sees it. Nothing where there is none."""
    strace = shutil.which("strace")
    if strace is None:
        return {}
    trace = folder / "trace"
    command = [strace, "-f", "-y", "-e", "trace=fdatasync,fsync,write", "-s", "64", "-o", str(trace)]
    done = subprocess.run(
        [*command, sys.executable, "-m", "benchmarks.sequential", str(folder / "traced.db")],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    acknowledged, flushed = _before_each_mark(trace.read_text().splitlines())
    if acknowledged != _TRACED:
        raise RuntimeError(f"strace saw {acknowledged} steps of {_TRACED}")
    return {"share": flushed / acknowledged}


def _before_each_mark(lines: Sequence[str]) -> tuple[int, int]:
    """How many marks there are, and how many had a finished flush of the log since the one before."""
    marks = flushed = 0
    fresh = False
    pending: set[str] = set()
    for line in lines:
        thread = line.split(maxsplit=1)[0]
        if _MARK in line and "resumed" not in line:
            marks += 1
            flushed += fresh
            fresh = False
        elif "-wal>" in line and "unfinished" in line:
            pending.add(thread)
        elif found := _FLUSHED.match(line):
            if found[1] or thread in pending:
                fresh = True
            pending.discard(thread)
    return marks, flushed


async def _marked(file: Path) -> None:
    """A run that says to the system when it has got each outcome."""
    import kitaru as library
    from benchmarks.flows import step

    @library.flow
    async def marking() -> None:
        number = os.open(os.devnull, os.O_WRONLY)
        for count in range(_TRACED):
            await step(count)
            os.write(number, _MARK.encode())
        os.close(number)

    async with library.Runtime(stores.url(file), recover=False) as runtime:
        await (await runtime.start(marking)).result()


def lines(samples: Samples) -> list[Line]:
    ours, wrapped, bare = "kitaru.rate", "aiosqlite.rate", "sqlite3.rate"
    return [
        Line("kitaru", "steps/s", samples[ours]),
        Line("limit: aiosqlite, execute and commit", "rows/s", samples[wrapped]),
        Line("limit: sqlite3 in the same thread", "rows/s", samples[bare]),
        Line("kitaru of aiosqlite", "", samples.ratio(ours, wrapped), at_least=1.0),
        Line("kitaru of sqlite3", "", samples.ratio(ours, bare), at_least=0.5),
        Line("processor time", "us/step", samples["kitaru.busy"]),
        Line("flushed before acknowledged", "of steps", samples["flushes.share"], at_least=1.0),
    ]


WORKLOAD: Final = Workload(
    "1,000 steps one after the other, synchronous=FULL",
    {"kitaru": kitaru, "aiosqlite": aiosqlite, "sqlite3": sqlite3},
    lines,
    prepared={"flushes": flushes},
)

if __name__ == "__main__":
    asyncio.run(_marked(Path(sys.argv[1])))
