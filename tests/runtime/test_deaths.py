"""Runs that take their process down: counted by the claims in their log, stuck after five, resumed only by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from kitaru import Runtime, checkpoint, flow
from kitaru.errors import RunStuckError
from kitaru.runtime.deaths import MOST, Deaths, deaths_of
from kitaru.runtime.history import PYTHON
from kitaru.runtime.host import submit
from kitaru.runtime.views.inspect import view
from kitaru.runtime.views.listing import listing
from kitaru.store import codec
from kitaru.store.events import (
    AnyEvent,
    CancelRequested,
    RunClaimed,
    RunParked,
    StepCompleted,
    StepStarted,
    TimerSet,
)
from kitaru.store.protocol import Append, Recorded
from tests.runtime.runs import PATIENCE, of_type, until

NO_INPUTS = codec.encode([])
CLAIMED = RunClaimed(1, 0.0, 2, "somebody", PYTHON, unasked=True)
BY_HAND = RunClaimed(1, 0.0, 2, "somebody", PYTHON)
RUNS = StepStarted(1, 0.0, "work", "step", codec.fingerprint(NO_INPUTS), b"", NO_INPUTS, 1, 1)
DONE = StepCompleted(1, 0.0, "work", "step", codec.fingerprint(NO_INPUTS), b"", NO_INPUTS, 1, 1, 0.0, b"\xc0")
PARKED = RunParked(1, 0.0, "its runtime closed")
SLEEPS = TimerSet(1, 0.0, "sleep", "sleep", b"", b"", b"", 1, 1, 0.0)
ASKED = CancelRequested(1, 0.0, "")


@pytest.mark.parametrize(
    ("events", "deaths"),
    [
        ([CLAIMED], 1),
        ([CLAIMED, CLAIMED], 2),
        ([CLAIMED, CLAIMED, CLAIMED], 2),  # since then the log would hold a step's start
        ([CLAIMED, CLAIMED, CLAIMED, RUNS], 3),
        ([CLAIMED, CLAIMED, *[CLAIMED, RUNS] * 3], 5),
        ([CLAIMED, CLAIMED, *[CLAIMED, SLEEPS] * 3], 2),
        ([CLAIMED, CLAIMED, CLAIMED, RUNS, CLAIMED, CLAIMED, RUNS], 4),
        ([CLAIMED, CLAIMED, CLAIMED, RUNS, ASKED, CLAIMED, RUNS], 4),
        ([CLAIMED, CLAIMED, CLAIMED, RUNS, DONE, CLAIMED, RUNS], 2),
        ([CLAIMED, CLAIMED, CLAIMED, RUNS, PARKED], 0),
        ([CLAIMED, CLAIMED, CLAIMED, RUNS, PARKED, CLAIMED, RUNS], 1),
        ([CLAIMED, CLAIMED, CLAIMED, RUNS, BY_HAND], 1),
    ],
)
def test_deaths_are_counted_by_claims_without_an_event_in_between(events: Sequence[AnyEvent], deaths: int) -> None:
    assert deaths_of(Recorded(seq, 0, event) for seq, event in enumerate(events, 1)).times == deaths


def test_the_step_that_ran_is_named() -> None:
    assert deaths_of([Recorded(1, 0, CLAIMED), Recorded(2, 0, RUNS)]) == Deaths(1, "work")


# -- runs --------------------------------------------------------------------------------------------------------------

going_on = asyncio.Event()


@checkpoint
async def work() -> str:
    return "done"


@flow
async def works() -> str:
    if not going_on.is_set():
        await asyncio.Event().wait()
    return await work()


async def die(runtime: Runtime, run: str) -> None:
    """Leave of a run what a process leaves that dies in a step of it."""
    host = runtime._core.host()
    lease = await runtime._core.store.claim(run, host.sink, python=PYTHON, unasked=True)
    await submit(host, Append(run, lease.epoch, [RUNS], host.sink))
    await runtime._core.store.release(run, lease.epoch)


async def parked(runtime: Runtime, run: str, deaths: int) -> None:
    """A run of a loaded flow that took its process down so often."""
    going_on.clear()
    await (await runtime.start(works.options(run_id=run))).park()
    going_on.set()
    for _ in range(deaths):
        await die(runtime, run)


async def test_after_five_deaths_a_run_is_stuck_until_somebody_resumes_it(store_url: str) -> None:
    async with Runtime(store_url, recover=False) as runtime:
        await parked(runtime, "r", MOST)
        assert await runtime.recover() == []
        assert [(one.id, one.status) for one in await listing(runtime._core, status=["stuck"])] == [("r", "stuck")]
        shown = await view(runtime._core, "r")
        assert (shown.status, shown.help) == ("stuck", "kitaru resume r")
        assert shown.note == "its process died 5 times in a row while work ran"
        with pytest.raises(RunStuckError, match="died 5 times"):
            await runtime.start(works.options(run_id="r"))
        assert await (await runtime.resume("r", works)).result() == "done"


async def test_a_resume_by_hand_counts_anew(store_url: str) -> None:
    async with Runtime(store_url, recover=False) as runtime:
        await parked(runtime, "r", MOST)
        assert await runtime.recover() == []
        host = runtime._core.host()
        lease = await runtime._core.store.claim("r", host.sink, python=PYTHON)
        await runtime._core.store.release("r", lease.epoch)
        for _ in range(MOST - 2):
            await die(runtime, "r")
        assert await runtime.recover() == ["r"]


async def test_a_run_of_which_processes_die_has_the_start_of_its_steps_committed(store_url: str) -> None:
    async with Runtime(store_url, recover=False) as runtime:
        await parked(runtime, "r", 2)
        before = len(await of_type(runtime, "r", StepStarted))
        assert await runtime.recover() == ["r"]
        assert await (await runtime.resume("r", works)).result() == "done"
        assert len(await of_type(runtime, "r", StepStarted)) == before + 1


async def test_suspects_are_started_one_at_a_time_the_least_suspicious_first(store_url: str) -> None:
    async with Runtime(store_url, recover=False) as runtime:
        for run, deaths in {"four": 4, "three": 3, "none": 0}.items():
            await parked(runtime, run, deaths)
        assert await runtime.recover() == ["none", "three"]
        handle = await runtime.resume("three", works)
        assert await handle.result() == "done"

        async def both() -> bool:
            return (await runtime._core.store.run("four")).status == "completed"

        await until(both)
        assert (await of_type(runtime, "four", RunClaimed))[-1].unasked


async def test_a_stuck_child_keeps_its_parent_from_going_on_and_fails_nothing(store_url: str) -> None:
    @flow
    async def outer() -> str:
        return await works()

    async with Runtime(store_url, recover=False) as runtime:
        going_on.clear()
        handle = await runtime.start(outer.options(run_id="parent"))

        async def started() -> bool:
            return len(await runtime._core.store.runs()) == 2

        await until(started)
        child = next(row.id for row in await runtime._core.store.runs() if row.id != "parent")
        await handle.park()
        await (await runtime.resume(child, works)).park()
        going_on.set()
        for _ in range(MOST):
            await die(runtime, child)
        with pytest.raises(RunStuckError):
            await asyncio.wait_for((await runtime.resume("parent", outer)).result(), PATIENCE)
        assert (await runtime._core.store.run("parent")).status == "running"
        assert await (await runtime.resume(child, works)).result() == "done"
        assert await (await runtime.resume("parent", outer)).result() == "done"
