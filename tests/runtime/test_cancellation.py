"""Cancellation: by the flow itself, of a whole run, and in the middle of an append."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter

import pytest

import kitaru
from kitaru import RunCancelledError, Runtime, checkpoint, flow
from kitaru.runtime.views.inspect import park
from kitaru.store.events import HELD, CancelRequested, RunCancelled, RunFailed, StepCancelled, StepCompleted, TimerSet
from tests.runtime.runs import PATIENCE, keys_of, log_of, of_type, resumed, stopped, until

# -- by the flow ------------------------------------------------------------------------------------------------------


async def test_a_call_that_timed_out_is_recorded_as_given_up_before_what_follows(runtime: Runtime) -> None:
    @checkpoint
    async def slow() -> None:
        await asyncio.Event().wait()

    @checkpoint
    async def after() -> str:
        return "after"

    @flow
    async def limited() -> str:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(slow(), 0.05)
        return await after()

    assert await (await runtime.start(limited.options(run_id="r"))).result() == "after"
    steps = [e for e in await log_of(runtime, "r") if isinstance(e, StepCancelled | StepCompleted)]
    assert [(type(e), e.key) for e in steps] == [(StepCancelled, "slow"), (StepCompleted, "after")]


async def test_a_call_given_up_by_the_flow_is_not_run_again_on_resume(store_url: str) -> None:
    ran: list[str] = []
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def slow() -> None:
        ran.append("slow")
        await asyncio.Event().wait()

    @flow
    async def limited() -> str:
        try:
            await asyncio.wait_for(slow(), 0.1)
        except TimeoutError:
            if first_time:
                reached.set()
                await asyncio.Event().wait()
            return "too slow"
        return "in time"

    await stopped(store_url, limited, "r", reached)
    first_time = False
    assert await resumed(store_url, limited, "r") == "too slow"
    assert ran == ["slow"]


async def test_a_race_resumes_with_the_winner_it_had(store_url: str) -> None:
    ran: list[str] = []
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def racer(name: str, wins: bool) -> str:
        ran.append(name)
        if not wins:
            await asyncio.Event().wait()
        return name

    @flow
    async def race() -> str:
        tasks = [racer("a", False).submit().task, racer("b", True).submit().task, racer("c", False).submit().task]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return done.pop().result()

    await stopped(store_url, race, "r", reached)
    first_time = False
    assert await resumed(store_url, race, "r") == "b"
    assert sorted(ran) == ["a", "b", "c"]


async def test_an_outcome_that_the_flow_gave_up_is_kept_but_never_handed_back(runtime: Runtime) -> None:
    tasks: list[asyncio.Task[int]] = []

    @checkpoint
    async def step() -> int:
        # The flow gives the call up while its outcome is on its way to the disk.
        asyncio.get_running_loop().call_soon(tasks[0].cancel)
        return 41

    @flow
    async def hasty() -> str:
        tasks.append(step().submit().task)
        try:
            await tasks[0]
        except asyncio.CancelledError:
            return "given up"
        return "seen"

    assert await (await runtime.start(hasty.options(run_id="r"))).result() == "given up"
    (given_up,) = await of_type(runtime, "r", StepCancelled)
    assert given_up.outcome is not None


# -- of a run ---------------------------------------------------------------------------------------------------------


async def test_cancelling_a_run_cancels_it(runtime: Runtime) -> None:
    reached = asyncio.Event()

    @checkpoint
    async def slow() -> None:
        reached.set()
        await asyncio.Event().wait()

    @flow
    async def waits() -> None:
        await slow()

    handle = await runtime.start(waits.options(run_id="r"))
    await reached.wait()
    await handle.cancel("not needed any more")
    with pytest.raises(RunCancelledError, match="r was cancelled: not needed any more"):
        await handle.result()
    assert await handle.status() == "cancelled"
    assert await of_type(runtime, "r", StepCancelled) == []


async def test_cancelling_a_run_runs_its_cleanup_with_durable_steps(runtime: Runtime) -> None:
    ran: list[str] = []
    reached = asyncio.Event()

    @checkpoint
    async def slow() -> None:
        reached.set()
        await asyncio.Event().wait()

    @checkpoint
    async def refund() -> None:
        ran.append("refund")

    @flow
    async def books() -> None:
        try:
            await slow()
        finally:
            await refund()

    handle = await runtime.start(books.options(run_id="r"))
    await reached.wait()
    await handle.cancel()
    with pytest.raises(RunCancelledError):
        await handle.result()
    assert ran == ["refund"]
    assert await keys_of(runtime, "r", StepCompleted) == ["refund"]


async def test_a_run_cancelled_twice_is_cancelled_once(runtime: Runtime) -> None:
    reached, cleaning, go = asyncio.Event(), asyncio.Event(), asyncio.Event()
    ran: list[int] = []

    @checkpoint
    async def cleanup() -> None:
        ran.append(1)
        cleaning.set()
        await go.wait()

    @flow
    async def waits() -> None:
        try:
            reached.set()
            await asyncio.Event().wait()
        finally:
            await cleanup()

    handle = await runtime.start(waits)
    await reached.wait()
    await handle.cancel()
    await cleaning.wait()
    await handle.cancel()
    go.set()
    with pytest.raises(RunCancelledError):
        await handle.result()
    assert ran == [1]


async def test_cancelling_a_finished_run_is_an_error(runtime: Runtime) -> None:
    @flow
    async def quick() -> None: ...

    handle = await runtime.start(quick)
    await handle.result()
    with pytest.raises(kitaru.KitaruError, match="completed"):
        await handle.cancel()


async def test_cancelling_a_run_cancels_its_child(runtime: Runtime) -> None:
    reached = asyncio.Event()
    cleaned: list[str] = []

    @checkpoint
    async def slow() -> None:
        reached.set()
        await asyncio.Event().wait()

    @flow
    async def child() -> None:
        try:
            await slow()
        finally:
            cleaned.append("child")

    @flow
    async def parent() -> None:
        await child()

    handle = await runtime.start(parent.options(run_id="r"))
    await reached.wait()
    await handle.cancel()
    with pytest.raises(RunCancelledError):
        await handle.result()

    async def all_ended() -> bool:
        return not await runtime._core.store.runs(status=("running",))

    await until(all_ended)
    assert {row.status for row in await runtime._core.store.runs()} == {"cancelled"}
    assert cleaned == ["child"]


booked: list[str] = []


@checkpoint
async def book(what: str) -> str:
    booked.append(what)
    return what


@flow
async def trip(how: str) -> None:
    await book("flight")
    try:
        if how == "event":
            await asyncio.Event().wait()
        elif how == "sleep":
            await kitaru.sleep(600)
        else:
            await nested()
    except asyncio.CancelledError:
        await book("no flight")
        raise


@flow
async def nested() -> None:
    try:
        await kitaru.sleep(600)
    finally:
        await book("no hotel")


async def parked_trip(url: str, how: str, *, reason: str = "its runtime closed") -> None:
    """A run of `trip` that left memory where it waits."""
    booked.clear()
    sign = StepCompleted if how == "event" else TimerSet
    async with Runtime(url, recover=False) as first:
        handle = await first.start(trip.options(run_id="r"), how)

        async def waits() -> bool:
            return any([await of_type(first, row.id, sign) for row in await first._core.store.runs()])

        await until(waits)
        await park(handle, reason)


@pytest.mark.parametrize("how", ["event", "sleep", "child"])
async def test_cancelling_a_run_that_nobody_owns_runs_its_cleanup(how: str, store_url: str) -> None:
    await parked_trip(store_url, how)
    async with Runtime(store_url, recover=False, replay_grace=0.1) as second:
        await second.cancel("r", "too late", flow=trip)
        with pytest.raises(RunCancelledError, match="too late"):
            await (await second.resume("r", trip)).result()
        assert sorted(booked) == ["flight", "no flight", *["no hotel"] * (how == "child")]
        assert {row.status for row in await second._core.store.runs()} == {"cancelled"}


async def test_cancelling_a_run_now_closes_it_without_its_cleanup(store_url: str) -> None:
    await parked_trip(store_url, "sleep")
    async with Runtime(store_url, recover=False) as second:
        await second.cancel("r", "too late", now=True)
        assert (await second._core.store.run("r")).status == "cancelled"
        (event,) = await of_type(second, "r", RunCancelled)
        assert event.reason == "too late"
    assert booked == ["flight"]


@pytest.mark.parametrize("reason", ["its runtime closed", f"{HELD} by a user"])
async def test_a_cancel_where_the_flow_is_not_to_be_found_is_performed_by_whoever_hosts_it(
    reason: str, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await parked_trip(store_url, "sleep", reason=reason)
    async with Runtime(store_url, recover=False) as second:
        with monkeypatch.context() as absent:
            absent.delattr(sys.modules[__name__], "trip")
            await second.cancel("r", "too late")
            assert (await second._core.store.run("r")).status == "parked"
            assert booked == ["flight"]
    async with Runtime(store_url, recover=False) as third:
        assert await third.recover() == ["r"]
        with pytest.raises(RunCancelledError, match="too late"):
            await (await third.resume("r", trip)).result()
    assert booked == ["flight", "no flight"]


async def test_a_cancel_by_another_process_is_noticed(store_url: str) -> None:
    reached = asyncio.Event()

    @flow
    async def waits() -> None:
        reached.set()
        await asyncio.Event().wait()

    async with Runtime(store_url) as owner, Runtime(store_url, recover=False) as other:
        handle = await owner.start(waits.options(run_id="r"))
        await reached.wait()
        await other.cancel("r", "from elsewhere")
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(RunCancelledError, match="from elsewhere"):
                await handle.result()


async def test_a_crash_in_the_middle_of_a_cancels_cleanup_goes_on_cleaning_up(store_url: str) -> None:
    ran: list[str] = []
    reached, first_time = asyncio.Event(), True
    at_work = asyncio.Event()

    @checkpoint
    async def slow() -> None:
        ran.append("slow")
        at_work.set()
        await asyncio.Event().wait()

    @checkpoint
    async def clean(what: str) -> None:
        ran.append(what)
        if what == "second" and first_time:
            reached.set()
            await asyncio.Event().wait()

    @flow
    async def tidy() -> None:
        try:
            await slow()
        finally:
            for what in ("first", "second", "third"):
                await clean(what)

    async with Runtime(store_url) as first:
        handle = await first.start(tidy.options(run_id="r"))
        await at_work.wait()
        await handle.cancel("stop it")
        await reached.wait()
    first_time = False
    with pytest.raises(RunCancelledError, match="stop it"):
        await resumed(store_url, tidy, "r")
    assert ran == ["slow", "first", "second", "second", "third"]
    async with Runtime(store_url, recover=False) as reader:
        assert len(await of_type(reader, "r", CancelRequested)) == 1
        assert (await reader._core.store.run("r")).status == "cancelled"


async def test_a_cancel_that_met_finished_steps_is_resumed_where_it_struck(store_url: str) -> None:
    """The run is cancelled after each number of passes of the loop, and stopped in its cleanup; the cleanup goes on."""
    for passes in range(0, 40, 3):
        reached, state = asyncio.Event(), {"first": True}
        ran, tidy = _counting_flow(reached, state)
        run = f"r{passes}"
        async with Runtime(store_url, recover=False, replay_grace=0.2) as first:
            handle = await first.start(tidy.options(run_id=run))
            for _ in range(passes):
                await asyncio.sleep(0)
            await handle.cancel()
            waiting = asyncio.create_task(reached.wait())
            ended = asyncio.create_task(handle.result())
            await asyncio.wait({waiting, ended}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            finished = ended.done()
            waiting.cancel()
            ended.cancel()
            if finished and not ended.cancelled():
                ended.exception()
        if finished:
            continue
        state["first"] = False
        with pytest.raises(RunCancelledError):
            await resumed(store_url, tidy, run)
        counts = Counter(ran)
        assert max(counts[name] for name in counts if name.startswith("step")) <= 2, ran
        async with Runtime(store_url, recover=False) as reader:
            done = Counter(await keys_of(reader, run, StepCompleted))
            assert set(done.values()) == {1}, done


def _counting_flow(reached: asyncio.Event, state: dict[str, bool]) -> tuple[list[str], kitaru.Flow[[], None]]:
    ran: list[str] = []

    @checkpoint
    async def step(number: int) -> int:
        ran.append(f"step{number}")
        await asyncio.sleep(0)
        return number

    @checkpoint
    async def clean(seen: int) -> None:
        ran.append(f"clean{seen}")

    @checkpoint
    async def last() -> None:
        if state["first"]:
            reached.set()
            await asyncio.Event().wait()

    @flow
    async def tidy() -> None:
        seen = 0
        try:
            while seen < 200:
                seen += 1
                await step(seen)
        finally:
            await clean(seen)
            await last()

    return ran, tidy


async def test_a_recorded_cancel_is_delivered_when_the_run_is_resumed(store_url: str) -> None:
    reached, ran, first_time = asyncio.Event(), [], True

    @checkpoint
    async def one() -> None:
        ran.append("one")

    @checkpoint
    async def two() -> None:
        ran.append("two")
        if first_time:
            reached.set()
            await asyncio.Event().wait()

    @checkpoint
    async def clean() -> None:
        ran.append("clean")

    @flow
    async def tidy() -> None:
        await one()
        try:
            await two()
        finally:
            await clean()

    await stopped(store_url, tidy, "r", reached)
    async with Runtime(store_url, recover=False) as other:
        await other._core.store.post("r", CancelRequested(1, time.time(), "asked for while nobody ran it"))
    first_time = False
    with pytest.raises(RunCancelledError, match="asked for while nobody ran it"):
        await resumed(store_url, tidy, "r")
    assert ran == ["one", "two", "clean"]


async def test_a_flow_that_swallows_its_cancellation_completes(runtime: Runtime) -> None:
    reached = asyncio.Event()

    @flow
    async def stubborn() -> str:
        try:
            reached.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "finished anyway"
        return "never"

    handle = await runtime.start(stubborn)
    await reached.wait()
    await handle.cancel()
    assert await handle.result() == "finished anyway"


# -- in the middle of an append ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pause", [*range(8), 0.0004, 0.0008, 0.0015, 0.003, 0.006, 0.01])
async def test_giving_a_step_up_at_any_moment_loses_and_duplicates_nothing(store_url: str, pause: float) -> None:
    """`pause` is a number of passes of the loop, or seconds, after which the flow gives the step up."""
    ran: list[str] = []
    seen: list[str] = []
    reached, fate = asyncio.Event(), ""

    @checkpoint
    async def step() -> str:
        ran.append("step")
        await asyncio.sleep(0)
        return "seen"

    @flow
    async def hasty() -> str:
        task = step().submit().task
        if not fate:
            for _ in range(pause if isinstance(pause, int) else 0):
                await asyncio.sleep(0)
            if isinstance(pause, float):
                await asyncio.sleep(pause)
        if fate in ("", "never began"):
            task.cancel()
        try:
            found = await (asyncio.wait_for(task, 0.02) if fate == "given up" else task)
        except (asyncio.CancelledError, TimeoutError):
            found = "given up"
        seen.append(found)
        if not fate:
            reached.set()
            await asyncio.Event().wait()
        return found

    await stopped(store_url, hasty, "r", reached)
    async with Runtime(store_url, recover=False) as reader:
        outcomes = [type(e) for e in await log_of(reader, "r") if isinstance(e, StepCancelled | StepCompleted)]
    # What the flow saw is what the log says.
    assert outcomes[-1:] == ([StepCompleted] if seen == ["seen"] else [StepCancelled] if ran else [])
    fate = "seen" if seen == ["seen"] else "given up" if ran else "never began"
    assert await resumed(store_url, hasty, "r") == seen[0]
    assert len(ran) <= 1


async def test_a_flow_that_raises_cancelled_error_of_its_own_fails(runtime: Runtime) -> None:
    @flow
    async def odd() -> None:
        raise asyncio.CancelledError("made up")

    handle = await runtime.start(odd.options(run_id="r"))
    with pytest.raises(kitaru.KitaruError):
        await handle.result()
    assert len(await of_type(runtime, "r", RunFailed)) == 1


async def test_a_cancelled_await_of_a_flow_parks_its_run() -> None:
    reached = asyncio.Event()

    @flow
    async def waits() -> None:
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(waits())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    store = kitaru.default_runtime()._core.store

    async def parked() -> bool:
        return [row.status for row in await store.runs()] == ["parked"]

    await until(parked)
