"""What runs take in memory: many at the same time, and one that is long."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import sys
from pathlib import Path
from typing import Final

from benchmarks import stores
from benchmarks.workload import Figures, Line, Samples, Workload

RUNS: Final = 200
STEPS: Final = 20
PORTIONS: Final = 1_000
AT_ONCE: Final = 100
_MIB: Final = 1 << 20


def concurrent(folder: Path) -> Figures:
    return asyncio.run(_concurrent(folder / "concurrent.db"))


async def _concurrent(file: Path) -> Figures:
    from benchmarks.flows import in_sequence
    from kitaru import Runtime

    async with Runtime(stores.url(file), recover=False) as runtime:

        async def one(run: str) -> None:
            await (await runtime.start(in_sequence.options(run_id=run), STEPS)).result()

        await one("warm")
        before = _forget_the_peak()
        await asyncio.gather(*[one(f"measured-{number}") for number in range(RUNS)])
        added = _peak() - before
    return {"added": added / _MIB}


def live(folder: Path) -> Figures:
    """A long run as it happens. Its store is what the other parts read."""
    return asyncio.run(_live(folder / "long.db"))


async def _live(file: Path) -> Figures:
    from benchmarks.flows import PARK, in_portions
    from kitaru import Runtime

    async with Runtime(stores.url(file), recover=False, durability="process") as runtime:
        await (await runtime.start(in_portions.options(run_id="warm"), 2, AT_ONCE)).result()
        os.environ[PARK] = "1"
        before = _forget_the_peak()
        await runtime.start(in_portions.options(run_id="measured"), PORTIONS, AT_ONCE)
        await stores.reached(runtime, "measured", PORTIONS * AT_ONCE + 2)
        added = _peak() - before
    return {"added": added / _MIB, "log": _log(file) / _MIB}


def decoded(folder: Path) -> Figures:
    """The run's events in memory once, decoded one by one, and nothing beside."""
    from kitaru.store.batch import decode_event

    connection = sqlite3.connect(folder / "long.db")
    before = _forget_the_peak()
    events = [decode_event(data) for (data,) in connection.execute("SELECT data FROM events ORDER BY id")]
    added = _peak() - before
    connection.close()
    assert len(events) > PORTIONS * AT_ONCE
    return {"added": added / _MIB}


def resumed(folder: Path) -> Figures:
    """The same run resumed: all but its last step is handed back from the log."""
    return asyncio.run(_resumed(folder / "long.db"))


async def _resumed(file: Path) -> Figures:
    from benchmarks.flows import in_portions
    from kitaru import Runtime

    async with Runtime(stores.url(file), recover=False) as runtime:
        await (await runtime.start(in_portions.options(run_id="warm-too"), 2, AT_ONCE)).result()
        before = _forget_the_peak()
        await (await runtime.resume("measured", in_portions)).result()
        added = _peak() - before
    return {"added": added / _MIB}


def _log(file: Path) -> float:
    connection = sqlite3.connect(file)
    ((size,),) = connection.execute("SELECT sum(length(data)) FROM events")
    connection.close()
    return float(size)


def _forget_the_peak() -> int:
    """Begin to look for a new peak of this process's memory; gives the bytes that it has now."""
    gc.collect()
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    if sys.platform != "linux":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def lines(samples: Samples) -> list[Line]:
    return [
        Line(f"{RUNS} concurrent runs of {STEPS} steps add", "MiB", samples["concurrent.added"], at_most=20),
        Line(f"a run of {PORTIONS * AT_ONCE:,} steps adds, live", "MiB", samples["live.added"]),
        Line("its log, encoded", "MiB", samples["live.log"]),
        Line("limit: its events decoded, once", "MiB", samples["decoded.added"]),
        Line("the same run adds, resumed", "MiB", samples["resumed.added"]),
        Line("live of decoded once", "", samples.ratio("live.added", "decoded.added"), at_most=1.0),
        Line("resumed of decoded once", "", samples.ratio("resumed.added", "decoded.added"), at_most=2.0),
    ]


WORKLOAD: Final = Workload(
    "what runs take in memory, at their peak",
    {"concurrent": concurrent, "live": live, "decoded": decoded, "resumed": resumed},
    lines,
)
