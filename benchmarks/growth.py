"""The sequential rate in a store that holds 1,000,000 events already, beside that in an empty one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks import stores
from benchmarks.sequential import steps_in_sequence
from benchmarks.workload import Figures, Line, Samples, Workload
from kitaru.store import codec
from kitaru.store.events import AnyEvent, FlowRef, RunCompleted, RunStarted, StepCompleted
from kitaru.store.protocol import Append, Recorded
from kitaru.store.sqlite import SqliteStore

EVENTS: Final = 1_000_000
STEPS: Final = 500
_A_RUN: Final = 2_000


def filled(folder: Path) -> Figures:
    """A store with finished runs of so many events, written through the store's own door."""
    file = folder / "full.db"
    took = asyncio.run(_fill(file))
    return {"seconds": took, "bytes": float(file.stat().st_size)}


async def _fill(file: Path) -> float:
    store = SqliteStore(file, durability="process")
    await store.open()
    began = time.perf_counter()
    for number, events in enumerate(_runs()):
        sink = _Sink(asyncio.get_running_loop())
        store.submit(Append(f"filler-{number}", 0, events, sink, new=True))
        await sink.done
    took = time.perf_counter() - began
    if problems := await store.verify("filler-0"):
        raise stores.BadStoreError(f"verify found {problems}")
    await store.close()
    return took


class _Sink:
    """Hears that an append is on disk."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.done: asyncio.Future[None] = loop.create_future()

    def acknowledged(self, appends: list[Append]) -> None:
        del appends
        self._loop.call_soon_threadsafe(self.done.set_result, None)

    def noticed(self, run: str, events: list[Recorded]) -> None:
        del run, events


def _runs() -> Iterator[list[AnyEvent]]:
    flow = FlowRef("benchmarks.flows", "in_sequence", "benchmarks/flows.py", "in_sequence")
    outcome, now = codec.encode("x" * 98), time.time()
    for _ in range(EVENTS // _A_RUN):
        events: list[AnyEvent] = [RunStarted(1, now, flow, codec.encode([_A_RUN]), b"0" * 16, "0", "3")]
        for order in range(1, _A_RUN - 1):
            inputs = codec.encode([order])
            digest = codec.fingerprint(inputs)
            key = f"step[{order}]"
            events.append(StepCompleted(1, now, key, "step", digest, digest, inputs, order, 1, now, outcome))
        events.append(RunCompleted(1, now, outcome))
        yield events


def full(folder: Path) -> Figures:
    return _measure(folder.parent / "prepared" / "full.db", f"in-{folder.name}")


def empty(folder: Path) -> Figures:
    return _measure(folder / "empty.db", "in-empty")


def _measure(file: Path, run: str) -> Figures:
    figures = asyncio.run(steps_in_sequence(file, STEPS, run))
    stores.check(file, [run], STEPS)
    return figures


def lines(samples: Samples) -> list[Line]:
    return [
        Line(f"with {EVENTS:,} events", "steps/s", samples["full.rate"]),
        Line("limit: empty", "steps/s", samples["empty.rate"]),
        Line("full of empty", "", samples.ratio("full.rate", "empty.rate"), at_least=0.85),
        Line("processor time, full of empty", "", samples.ratio("full.busy", "empty.busy")),
        Line("the full file", "bytes", samples["filled.bytes"]),
    ]


WORKLOAD: Final = Workload(
    f"the sequential rate in a store with {EVENTS:,} events",
    {"empty": empty, "full": full},
    lines,
    prepared={"filled": filled},
)
