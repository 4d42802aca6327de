"""Playing one run in this process, and the child process that plays on demand."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

import msgspec

from kitaru import Runtime
from kitaru.errors import KitaruError
from kitaru.runtime.execution import Execution
from kitaru.store.protocol import Append, Recorded, Sink
from kitaru.store.sqlite import SqliteStore
from tests.runtime.laws import flows
from tests.runtime.laws.specs import Node

HANG: Final = 20.0
"""Seconds after which a run counts as hanging."""
GRACE: Final = 1.0


class Task(msgspec.Struct, frozen=True):
    """What to play: the store's file, the spec, a resume or the first time, on which loop, with which latencies."""

    path: str
    spec: Node
    resume: bool
    loop: str = "asyncio"
    seed: int = 0
    slow: float = 1.0
    kill_at: int = 0
    """The count of acknowledged events at which the process kills itself; 0 for never."""


class Played(msgspec.Struct):
    """What came of it. `seen` and `ran` by run."""

    result: Any = None
    error: str = ""
    hang: str = ""
    seen: list[tuple[str, list[str], Any]] = msgspec.field(default_factory=list)
    ran: list[tuple[str, str, int]] = msgspec.field(default_factory=list)


def play(task: Task) -> Played:
    """Play a task on a loop of its own."""
    flows.notes = notes = flows.Notes()
    notes.chance, notes.slow, notes.resumed = random.Random(task.seed), task.slow, task.resume
    with asyncio.Runner(loop_factory=_factory(task.loop)) as runner:
        played = runner.run(_play(task))
    played.seen, played.ran = list(notes.seen), list(notes.ran)
    return played


async def _play(task: Task) -> Played:
    if task.loop == "eager":
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]  # Python 3.12
    played = Played()
    flow = (flows.threaded if task.spec[0] == "thread" else flows.asynchronous).options(run_id=flows.RUN)
    store = Mortal(task.path, task.kill_at) if task.kill_at else SqliteStore(task.path, durability="process")
    async with Runtime(store, recover=False, replay_grace=GRACE, patience=2.0) as runtime:
        if task.resume:
            await store.rebuild()
            handle = await runtime.resume(flows.RUN, flow)
        else:
            handle = await runtime.start(flow, json.dumps(task.spec), 1)
        waiting = asyncio.ensure_future(handle.result())
        await asyncio.wait([waiting], timeout=HANG)
        if not waiting.done():
            played.hang = "; ".join(stuck(one) for one in runtime._core._executions.values()) or "nothing in memory"
            waiting.cancel()
        elif error := waiting.exception():
            played.error = f"{type(error).__name__}: {error}"
        else:
            played.result = waiting.result()
    return played


def stuck(execution: Execution) -> str:
    """What a run that does not go on waits for."""
    turns = execution.turns
    recorded = [(turn.number, sorted(turn.keys)) for turn in list(turns.recorded)[:2]]
    return (
        f"{execution.run}: open {len(turns.open)}, asked {sorted(turns.asked_keys())}, "
        f"waiting {sorted(turns.waiting())}, recorded {recorded}, flights {sorted(execution.flights)}"
    )


def _factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if loop == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return None


class Mortal(SqliteStore):
    """A store whose process is killed as soon as a number of events has been acknowledged."""

    def __init__(self, path: str, kill_at: int) -> None:
        super().__init__(path, durability="process")
        self.left = kill_at

    def submit(self, append: Append) -> None:
        append.sink = Counting(self, append.sink)
        super().submit(append)


class Counting:
    """A sink that counts for a `Mortal` store. All of one sink's appends of a batch must reach it together."""

    def __init__(self, store: Mortal, sink: Sink) -> None:
        self.store = store
        self.sink = sink

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counting) and other.sink is self.sink

    def __hash__(self) -> int:
        return id(self.sink)

    def acknowledged(self, appends: list[Append]) -> None:
        self.store.left -= sum(len(append.events) for append in appends)
        if self.store.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.sink.acknowledged(appends)

    def noticed(self, run: str, events: list[Recorded]) -> None:
        self.sink.noticed(run, events)


def main() -> None:
    """Play the tasks that come as lines of JSON, and answer each with one."""
    decoder = msgspec.json.Decoder(Task)
    for line in sys.stdin.buffer:
        try:
            played = play(decoder.decode(line))
        except (KitaruError, OSError) as error:
            played = Played(error=f"outside the run: {type(error).__name__}: {error}")
        sys.stdout.buffer.write(msgspec.json.encode(played) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
