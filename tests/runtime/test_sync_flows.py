"""Flows and checkpoints in plain sync code."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

import kitaru
from kitaru import Call, RunCancelledError, Runtime, UsageError, checkpoint, flow
from kitaru.store.events import StepCompleted
from tests.runtime.runs import PATIENCE, keys_of, resumed, stopped


@checkpoint
def double(number: int) -> int:
    return number * 2


@flow
def doubled(number: int) -> int:
    return double(double(number).ref).load()


def test_a_sync_flow_runs_from_a_script() -> None:
    assert doubled.run(3).wait() == 12


def test_a_call_of_a_sync_flow_gives_its_value_by_load() -> None:
    assert doubled(3).load() == 12


def test_an_async_flow_runs_from_a_script() -> None:
    @checkpoint
    async def treble(number: int) -> int:
        return number * 3

    @flow
    async def trebled(number: int) -> int:
        return await treble(number)

    assert trebled.run(2).wait(timeout=PATIENCE) == 6


def test_waiting_stops_at_its_timeout_and_the_run_goes_on() -> None:
    go = threading.Event()

    @flow
    def waits() -> str:
        go.wait(PATIENCE)
        return "done"

    handle = waits.run()
    with pytest.raises(TimeoutError):
        handle.wait(timeout=0.05)
    go.set()
    assert handle.wait(timeout=PATIENCE) == "done"


def test_a_failure_is_raised_to_whoever_waits() -> None:
    @checkpoint
    def fails() -> None:
        raise ValueError("broken")

    @flow
    def failing() -> None:
        fails()

    with pytest.raises(ValueError, match="broken"):
        failing.run().wait()


def test_submitted_steps_of_a_sync_flow_run_at_once() -> None:
    together = threading.Barrier(3, timeout=PATIENCE)

    @checkpoint
    def meet(number: int) -> int:
        together.wait()
        return number

    @flow
    def meeting() -> list[int]:
        calls = [meet.submit(number) for number in range(3)]
        return [call.load() for call in calls]

    assert meeting.run().wait(timeout=PATIENCE) == [0, 1, 2]


def test_map_submits_one_step_per_item() -> None:
    @flow
    def mapped() -> list[int]:
        return [call.load() for call in double.map([1, 2, 3])]

    assert mapped.run().wait(timeout=PATIENCE) == [2, 4, 6]


def test_a_submitted_handle_is_an_argument_of_the_next_step() -> None:
    @flow
    def chained() -> int:
        return double(double.submit(2).ref).load()

    assert chained.run().wait(timeout=PATIENCE) == 8


def test_a_sync_step_runs_on_its_flows_own_thread() -> None:
    @checkpoint
    def where() -> int:
        return threading.get_ident()

    @flow
    def same() -> bool:
        return where() == threading.get_ident()

    assert same.run().wait() is True


def test_a_sync_flow_may_call_async_steps() -> None:
    @checkpoint
    async def treble(number: int) -> int:
        await asyncio.sleep(0)
        return number * 3

    @flow
    def mixed() -> int:
        return treble(double(2).ref).load()

    assert mixed.run().wait() == 12


def test_durable_values_work_in_a_sync_flow() -> None:
    @flow
    def values() -> object:
        kitaru.sleep(0.01)
        kitaru.save("draft", [1])
        kitaru.log(stage="end")
        assert kitaru.now() <= kitaru.now()
        return kitaru.load("draft").load()

    assert values.run().wait() == [1]


async def test_a_sync_flow_resumes_where_it_was_stopped(store_url: str) -> None:
    ran: list[int] = []
    reached, loop = asyncio.Event(), asyncio.get_running_loop()
    state = {"first": True}

    @checkpoint
    def step(number: int) -> int:
        ran.append(number)
        return number

    @checkpoint
    async def gate() -> None:
        if state["first"]:
            loop.call_soon_threadsafe(reached.set)
            await asyncio.Event().wait()

    @flow
    def three() -> int:
        total = step(0).load() + step(1).load()
        gate()
        return total + step(2).load()

    await stopped(store_url, three, "r", reached)
    state["first"] = False
    assert await resumed(store_url, three, "r") == 3
    assert ran == [0, 1, 2]


async def test_a_recorded_failure_is_raised_again_in_a_sync_flow(store_url: str) -> None:
    ran: list[str] = []
    reached, loop = asyncio.Event(), asyncio.get_running_loop()
    state = {"first": True}

    @checkpoint
    def fails() -> None:
        ran.append("fails")
        raise KeyError("lost")

    @checkpoint
    async def gate() -> None:
        if state["first"]:
            loop.call_soon_threadsafe(reached.set)
            await asyncio.Event().wait()

    @flow
    def tolerant() -> str:
        try:
            fails()
        except KeyError:
            gate()
            return "told"
        return "no error"

    await stopped(store_url, tolerant, "r", reached)
    state["first"] = False
    assert await resumed(store_url, tolerant, "r") == "told"
    assert ran == ["fails"]


async def test_submitted_steps_of_a_sync_flow_resume(store_url: str) -> None:
    ran: list[int] = []
    reached, loop = asyncio.Event(), asyncio.get_running_loop()
    state = {"first": True}

    @checkpoint
    async def step(number: int) -> int:
        ran.append(number)
        if number == 3 and state["first"]:
            loop.call_later(0.1, reached.set)
            await asyncio.Event().wait()
        return number

    @flow
    def several() -> int:
        calls = [step.submit(number) for number in range(4)]
        return sum(call.load() for call in calls)

    await stopped(store_url, several, "r", reached)
    state["first"] = False
    assert await resumed(store_url, several, "r") == 6
    assert sorted(ran) == [0, 1, 2, 3, 3]


async def test_cancelling_a_sync_flow_runs_its_cleanup(runtime: Runtime) -> None:
    ran: list[str] = []
    reached, loop = asyncio.Event(), asyncio.get_running_loop()

    @checkpoint
    async def slow() -> None:
        loop.call_soon_threadsafe(reached.set)
        await asyncio.Event().wait()

    @checkpoint
    def clean() -> None:
        ran.append("clean")

    @flow
    def tidy() -> None:
        try:
            slow()
        finally:
            clean()

    handle = await runtime.start(tidy.options(run_id="r"))
    await reached.wait()
    await handle.cancel()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(RunCancelledError):
            await handle.result()
    assert ran == ["clean"]
    assert await keys_of(runtime, "r", StepCompleted) == ["clean"]


async def test_two_hundred_sync_flows_with_sync_steps_finish(runtime: Runtime) -> None:
    handles = await asyncio.gather(*(runtime.start(doubled, number) for number in range(200)))
    async with asyncio.timeout(30):
        found = await asyncio.gather(*(handle.result() for handle in handles))
    assert found == [number * 4 for number in range(200)]


async def test_sync_flows_that_wait_for_pool_steps_do_not_starve_each_other(runtime: Runtime) -> None:
    @checkpoint(timeout=20)
    def step(number: int) -> int:
        time.sleep(0.005)
        return number

    @flow
    def waits(number: int) -> int:
        return step(number).load()

    handles = await asyncio.gather(*(runtime.start(waits, number) for number in range(100)))
    async with asyncio.timeout(30):
        assert sum(await asyncio.gather(*(handle.result() for handle in handles))) == 4950


async def test_a_sync_checkpoint_of_an_async_flow_does_not_block_the_loop(runtime: Runtime) -> None:
    ticks: list[int] = []

    @checkpoint
    def slow() -> str:
        time.sleep(0.1)
        return "done"

    @flow
    async def waits() -> str:
        return await slow()

    async def tick() -> None:
        while True:
            ticks.append(1)
            await asyncio.sleep(0.01)

    ticking = asyncio.create_task(tick())
    assert await (await runtime.start(waits)).result() == "done"
    ticking.cancel()
    assert len(ticks) >= 5


async def test_running_a_flow_from_async_code_by_run_gives_a_handle_to_await() -> None:
    handle = await asyncio.to_thread(doubled.run, 2)
    assert await handle.result() == 8
    with pytest.raises(UsageError, match=r"await handle\.result"):
        handle.wait()


def test_run_in_an_async_flow_is_refused_instead_of_blocking_its_loop() -> None:
    @flow
    async def inner() -> int:
        return 1

    @flow
    async def outer() -> str:
        try:
            inner.run()
        except UsageError as error:
            return str(error)
        return "ran"

    assert "would block its loop" in outer.run().wait(timeout=PATIENCE)


def test_a_sync_flow_may_start_a_run_and_wait_for_it() -> None:
    @flow
    def outer() -> int:
        return doubled.run(1).wait()

    assert outer.run().wait(timeout=PATIENCE) == 4


def test_loading_a_call_twice_gives_the_same_value() -> None:
    @flow
    def twice() -> bool:
        call: Call[int] = double(1)
        return call.load() == call.load() == 2

    assert twice.run().wait() is True
