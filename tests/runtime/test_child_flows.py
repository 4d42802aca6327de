"""A flow called by a flow: a run of its own."""

from __future__ import annotations

import asyncio

import pytest

import kitaru
from kitaru import RunCancelledError, Runtime, checkpoint, flow
from kitaru.store.events import ChildStarted, StepFailed
from tests.runtime.runs import PATIENCE, of_type, resumed, stopped, until


@checkpoint
async def double(number: int) -> int:
    return number * 2


@flow
async def child(number: int) -> int:
    return await double(number)


@flow
async def parent(numbers: list[int]) -> list[int]:
    return list(await asyncio.gather(*(child(number) for number in numbers)))


async def test_a_child_is_a_run_of_its_own_with_a_derived_id(runtime: Runtime) -> None:
    assert await (await runtime.start(parent.options(run_id="r"), [1, 2])).result() == [2, 4]
    started = await of_type(runtime, "r", ChildStarted)
    rows = {row.id: row for row in await runtime._core.store.runs()}
    assert {event.child for event in started} == rows.keys() - {"r"}
    assert all(rows[event.child].parent == "r" for event in started)


async def test_the_same_parent_and_key_give_the_same_child(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True
    ran: list[str] = []

    @checkpoint
    async def step() -> str:
        ran.append("step")
        return "x"

    @flow
    async def inner() -> str:
        found = await step()
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return found

    @flow
    async def outer() -> str:
        return await inner()

    await stopped(store_url, outer, "r", reached)
    first_time = False
    assert await resumed(store_url, outer, "r") == "x"
    assert ran == ["step"]
    async with Runtime(store_url, recover=False) as reader:
        assert len(await reader._core.store.runs()) == 2


async def test_a_finished_child_is_not_asked_again(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True
    ran: list[str] = []

    @flow
    async def inner() -> str:
        ran.append("inner")
        return "x"

    @flow
    async def outer() -> str:
        found = await inner()
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return found

    await stopped(store_url, outer, "r", reached)
    first_time = False
    assert await resumed(store_url, outer, "r") == "x"
    assert ran == ["inner"]


async def test_a_childs_failure_is_raised_in_its_parent(runtime: Runtime) -> None:
    @flow
    async def fails() -> None:
        raise ValueError("broken")

    @flow
    async def outer() -> str:
        try:
            await fails()
        except ValueError as error:
            return str(error)
        return "no error"

    assert await (await runtime.start(outer.options(run_id="r"))).result() == "broken"
    assert len(await of_type(runtime, "r", StepFailed)) == 1


async def test_a_cancelled_child_fails_its_parents_call(runtime: Runtime) -> None:
    reached = asyncio.Event()

    @flow
    async def waits() -> None:
        reached.set()
        await asyncio.Event().wait()

    @flow
    async def outer() -> str:
        try:
            await waits()
        except RunCancelledError:
            return "the child was cancelled"
        return "no error"

    handle = await runtime.start(outer.options(run_id="r"))
    await reached.wait()
    (started,) = await of_type(runtime, "r", ChildStarted)
    await runtime.cancel(started.child)
    assert await handle.result() == "the child was cancelled"


async def test_a_child_that_its_parent_gives_up_is_cancelled(runtime: Runtime) -> None:
    cleaned = asyncio.Event()

    @flow
    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    @flow
    async def outer() -> str:
        try:
            await asyncio.wait_for(waits(), 0.2)
        except TimeoutError:
            return "given up"
        return "in time"

    assert await (await runtime.start(outer.options(run_id="r"))).result() == "given up"
    await asyncio.wait_for(cleaned.wait(), PATIENCE)
    (started,) = await of_type(runtime, "r", ChildStarted)

    async def cancelled() -> bool:
        return (await runtime._core.store.run(started.child)).status == "cancelled"

    await until(cancelled)


async def test_a_child_given_up_while_it_starts_does_not_go_on_alone(runtime: Runtime) -> None:
    @flow
    async def waits() -> None:
        await asyncio.Event().wait()

    for passes in range(0, 12, 2):

        @flow
        async def hasty(passes: int) -> str:
            task = waits().submit().task
            for _ in range(passes):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await kitaru.sleep(0.01)
            return "given up"

        assert await (await runtime.start(hasty, passes)).result() == "given up"

    async def none_runs() -> bool:
        return not await runtime._core.store.runs(status=("running",), limit=None)

    await until(none_runs)


async def test_two_levels_down_resumes_too(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True

    @flow
    async def third() -> str:
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return "bottom"

    @flow
    async def second() -> str:
        return await third()

    @flow
    async def first() -> str:
        return await second()

    await stopped(store_url, first, "r", reached)
    first_time = False
    assert await resumed(store_url, first, "r") == "bottom"


async def test_a_sync_flow_may_call_an_async_one_and_the_other_way_round(runtime: Runtime) -> None:
    @flow
    def middle(number: int) -> int:
        return child(number).load() + 1

    @flow
    async def outer() -> int:
        return await middle(3)

    assert await (await runtime.start(outer)).result() == 7


async def test_a_handle_can_be_an_input_of_a_child(runtime: Runtime) -> None:
    @flow
    async def outer() -> int:
        return await child(double(2).ref)

    assert await (await runtime.start(outer)).result() == 8


async def test_a_parked_child_parks_its_parent_instead_of_failing_it(runtime: Runtime) -> None:
    reached, first_time = asyncio.Event(), True

    @flow
    async def inner() -> str:
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return "x"

    @flow
    async def outer() -> str:
        return await inner()

    handle = await runtime.start(outer.options(run_id="r"))
    await reached.wait()
    (started,) = await of_type(runtime, "r", ChildStarted)
    await (await runtime.resume(started.child, inner)).park()
    with pytest.raises(kitaru.RunParkedError):
        await handle.result()
    assert await of_type(runtime, "r", StepFailed) == []
    first_time = False
    assert await (await runtime.resume("r", outer)).result() == "x"
