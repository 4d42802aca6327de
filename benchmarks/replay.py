"""Going on with a run of 10,000 recorded steps: the replay itself, and process start to the first new step."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import stores
from benchmarks.workload import STARTED, Figures, Line, Samples, Workload

STEPS: Final = 10_000
RUN: Final = "measured"
_REPEATED: Final = 5


def written(folder: Path) -> Figures:
    """Record the run, all but its last step."""
    asyncio.run(_write(folder / "kitaru.db"))
    stores.check(folder / "kitaru.db", [RUN], STEPS)
    return {}


async def _write(file: Path) -> None:
    from benchmarks.flows import PARK, long
    from kitaru import Runtime

    os.environ[PARK] = "1"
    # How the log was flushed while it was written changes nothing for whoever reads it.
    async with Runtime(stores.url(file), recover=False, durability="process") as runtime:
        await runtime.start(long.options(run_id=RUN), STEPS)
        # Before its steps stand its start and the source of its first one.
        await stores.reached(runtime, RUN, STEPS + 2)


def replayed(folder: Path) -> Figures:
    """The rate with the records in memory, several times over."""
    return asyncio.run(_replayed(folder.parent / "prepared" / "kitaru.db"))


async def _replayed(file: Path) -> Figures:
    from benchmarks.flows import long
    from kitaru import Runtime
    from kitaru.runtime import history as histories
    from kitaru.runtime.execution import Execution
    from kitaru.runtime.host import Host
    from kitaru.runtime.secrets.private import RunSecrets
    from kitaru.runtime.unrecorded import UnrecordedStore

    rates, holds = [], []
    async with Runtime(stores.url(file), recover=False) as runtime:
        store: Any = UnrecordedStore(runtime._core.store)
        host = Host(runtime._core, store, asyncio.get_running_loop())
        events = await runtime._core.events(RUN)
        for number in range(1 + 2 * _REPEATED):
            history = histories.read(RUN, events)
            assert history.started is not None
            inputs, models = (
                await runtime._core.value(history.started.inputs),
                await runtime._core.value(history.started.registry),
            )
            execution = Execution(
                host, RUN, 1, long.work, inputs, history, models, RunSecrets(runtime._core.vault, RUN)
            )
            ticker = asyncio.create_task(_longest_hold()) if number > _REPEATED else None
            await asyncio.sleep(0)
            began = time.monotonic()
            host.begin(execution)
            result = long.work.decode_outcome(await asyncio.wrap_future(execution.finished))
            assert isinstance(result, float)
            if ticker is not None:
                ticker.cancel()
                holds.append((await ticker) * 1e3)
            elif number:
                rates.append(STEPS / (result - began))
    return {"rate": median(rates), "hold": median(holds)}


async def _longest_hold() -> float:
    """The longest time between two passes of the loop, in seconds, until cancelled."""
    longest, before = 0.0, time.monotonic()
    while True:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return longest
        now = time.monotonic()
        longest, before = max(longest, now - before), now


def bare(folder: Path) -> Figures:
    """What a boundary must do at the very least: encode and digest its inputs, find its record, decode the outcome."""
    return asyncio.run(_bare(folder.parent / "prepared" / "kitaru.db"))


async def _bare(file: Path) -> Figures:
    from kitaru.runtime import history as histories
    from kitaru.store import codec
    from kitaru.store.sqlite import SqliteStore

    store = SqliteStore(file)
    await store.open()
    records = histories.read(RUN, await store.events(RUN)).records
    await store.close()
    decode = codec.decoder(str)
    rates = []
    for _ in range(_REPEATED):
        began = time.perf_counter()
        for number in range(STEPS):
            record = records["step" if not number else f"step[{number}]"]
            assert codec.fingerprint(codec.encode([number])) == record.event.fingerprint
            outcome = record.outcome
            assert isinstance(outcome, bytes)
            decode(outcome)
        rates.append(STEPS / (time.perf_counter() - began))
    return {"rate": median(rates)}


def resumed(folder: Path) -> Figures:
    """`Runtime.resume` in a process that has just started."""
    return asyncio.run(_resumed(_copy(folder)))


async def _resumed(file: Path) -> Figures:
    from benchmarks.flows import long
    from kitaru import Runtime

    async with Runtime(stores.url(file), recover=False) as runtime:
        began = time.monotonic()
        handle = await runtime.resume(RUN, long)
        first: float = await handle.result()
    return {"first": first, "resume": first - began}


def _copy(folder: Path) -> Path:
    file = folder / "kitaru.db"
    # Closed in order, so all of it is in this one file.
    shutil.copyfile(folder.parent / "prepared" / "kitaru.db", file)
    return file


def lines(samples: Samples) -> list[Line]:
    return [
        Line("kitaru, records in memory", "boundaries/s", samples["replayed.rate"], at_least=150_000),
        Line("limit: encode, digest, look up, decode", "boundaries/s", samples["bare.rate"]),
        Line("kitaru of the limit", "", samples.ratio("replayed.rate", "bare.rate")),
        Line("longest time without a pass of the loop", "ms", samples["replayed.hold"], at_most=5.0),
        Line(
            "process start to the first new step",
            "s",
            samples.apart("resumed.first", f"resumed.{STARTED}"),
            at_most=0.6,
        ),
        Line("of which from the call of resume", "s", samples["resumed.resume"]),
    ]


WORKLOAD: Final = Workload(
    f"a run of {STEPS:,} recorded steps",
    {"replayed": replayed, "bare": bare, "resumed": resumed},
    lines,
    prepared={"written": written},
)
