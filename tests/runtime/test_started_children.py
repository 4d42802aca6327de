"""A run that a flow starts without waiting for it: started once, resumed with its parent, and what ends it."""

from __future__ import annotations

import asyncio

import pytest

import kitaru
from kitaru import RunCancelledError, RunHandle, Runtime, UsageError, checkpoint, flow
from kitaru.store.events import CancelRequested, ChildStarted
from tests.runtime.runs import PATIENCE, of_type, resumed, stopped, until


@checkpoint
async def double(number: int) -> int:
    return number * 2


@flow
async def child(number: int) -> int:
    return await double(number)


async def status_of(runtime: Runtime, run: str) -> str:
    return (await runtime._core.store.run(run)).status


async def test_a_run_started_in_a_flow_is_a_child_with_a_derived_id(runtime: Runtime) -> None:
    @flow
    async def outer() -> list[object]:
        handle = await child.start(2)
        return [handle.id, await handle.result()]

    run, value = await (await runtime.start(outer.options(run_id="r"))).result()
    assert value == 4
    (started,) = await of_type(runtime, "r", ChildStarted)
    assert started.child == run
    assert (await runtime._core.store.run(str(run))).parent == "r"


async def test_a_resume_starts_no_second_run_and_asks_the_child_nothing_again(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True
    ran: list[str] = []

    @flow
    async def inner() -> str:
        ran.append("inner")
        return "x"

    @flow
    async def outer() -> list[str]:
        handle = await inner.start()
        found = [handle.id, await handle.result(), await handle.status()]
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return found

    await stopped(store_url, outer, "r", reached)
    first_time = False
    run, value, status = await resumed(store_url, outer, "r")
    assert (value, status) == ("x", "completed")
    assert ran == ["inner"]
    async with Runtime(store_url, recover=False) as reader:
        assert {row.id for row in await reader._core.store.runs()} == {"r", run}


async def test_a_child_that_nobody_waits_for_resumes_with_its_parent(store_url: str) -> None:
    reached, first_time, done = asyncio.Event(), True, asyncio.Event()

    @flow
    async def inner() -> None:
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        done.set()

    @flow
    async def outer() -> str:
        await inner.start()
        await reached.wait()
        await asyncio.wait_for(done.wait(), PATIENCE)
        return "both"

    await stopped(store_url, outer, "r", reached)
    first_time = False
    assert await resumed(store_url, outer, "r") == "both"


async def test_a_parent_that_ends_cancels_the_children_that_have_not(runtime: Runtime) -> None:
    cleaned: list[str] = []

    @flow
    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("cleaned")

    @flow
    async def outer() -> str:
        return (await waits.start()).id

    run = await (await runtime.start(outer)).result()
    assert cleaned == ["cleaned"]
    assert await status_of(runtime, run) == "cancelled"


async def test_a_parent_that_fails_or_is_cancelled_cancels_its_children_too(runtime: Runtime) -> None:
    started = asyncio.Event()

    @flow
    async def waits() -> None:
        await asyncio.Event().wait()

    @flow
    async def outer(fails: bool) -> None:
        await waits.start()
        if fails:
            raise ValueError("broken")
        started.set()
        await asyncio.Event().wait()

    with pytest.raises(ValueError, match="broken"):
        await (await runtime.start(outer.options(run_id="failing"), fails=True)).result()
    handle = await runtime.start(outer.options(run_id="cancelled"), fails=False)
    await started.wait()
    await handle.cancel()
    with pytest.raises(RunCancelledError):
        await handle.result()
    for run in ("failing", "cancelled"):
        (event,) = await of_type(runtime, run, ChildStarted)
        assert await status_of(runtime, event.child) == "cancelled"


async def test_an_abandoned_child_outlives_its_parent(runtime: Runtime) -> None:
    go = asyncio.Event()

    @flow
    async def waits() -> str:
        await go.wait()
        return "x"

    @flow
    async def outer() -> str:
        return (await waits.options(on_parent_end="abandon").start()).id

    run = await (await runtime.start(outer)).result()
    assert await status_of(runtime, run) == "running"
    go.set()
    assert await (await runtime.resume(run, waits)).result() == "x"


restarted = asyncio.Event()


@flow
async def left_behind() -> str:
    if not restarted.is_set():
        await asyncio.Event().wait()
    return "x"


async def recovered(store_url: str, run: str) -> str:
    """How a run ends that the next process goes on with unasked."""
    async with Runtime(store_url, recover=False, replay_grace=0.1) as second:
        assert await second.recover() == [run]

        async def ended() -> bool:
            return await status_of(second, run) in ("completed", "cancelled")

        await until(ended)
        return await status_of(second, run)


async def test_recovery_goes_on_with_an_abandoned_child_of_an_ended_parent(store_url: str) -> None:
    restarted.clear()

    @flow
    async def outer() -> str:
        return (await left_behind.options(on_parent_end="abandon").start()).id

    async with Runtime(store_url, recover=False) as first:
        run = await (await first.start(outer)).result()
    restarted.set()
    assert await recovered(store_url, run) == "completed"


cleaning = asyncio.Event()


@checkpoint
async def cleans() -> None:
    cleaning.set()
    if not restarted.is_set():
        await asyncio.Event().wait()


@flow
async def slow_to_end() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await cleans()


async def test_recovery_cancels_a_child_that_had_not_ended_when_its_parent_failed_without_it(store_url: str) -> None:
    restarted.clear()
    cleaning.clear()

    @flow
    async def fails() -> None:
        raise ValueError("broken")

    @flow
    async def outer() -> None:
        await asyncio.gather(slow_to_end(), fails())

    async with Runtime(store_url, recover=False, patience=0.1) as first:
        with pytest.raises(ValueError, match="broken"):
            await (await first.start(outer.options(run_id="r"))).result()
        run = next(event.child for event in await of_type(first, "r", ChildStarted) if event.key == "slow_to_end")
        await cleaning.wait()
    restarted.set()
    assert await recovered(store_url, run) == "cancelled"


async def test_an_id_of_the_callers_own_is_the_childs_and_a_foreign_run_is_not_cancelled(runtime: Runtime) -> None:
    go = asyncio.Event()

    @flow
    async def waits() -> str:
        await go.wait()
        return "x"

    @flow
    async def outer() -> str:
        return (await waits.options(run_id="chat").start()).id

    before = await runtime.start(waits.options(run_id="chat"))
    assert await (await runtime.start(outer)).result() == "chat"
    assert await of_type(runtime, "chat", CancelRequested) == []
    go.set()
    assert await before.result() == "x"


async def test_runtime_start_in_a_flow_starts_a_child(runtime: Runtime) -> None:
    @flow
    async def outer() -> int:
        return await (await runtime.start(child, 3)).result()

    assert await (await runtime.start(outer.options(run_id="r"))).result() == 6
    assert len(await of_type(runtime, "r", ChildStarted)) == 1


async def test_a_sync_flow_starts_a_child_by_run_and_waits_for_it(runtime: Runtime) -> None:
    @flow
    def outer() -> list[object]:
        first, second = child.run(1), runtime.run(child, 2)
        return [first.wait(), second.wait(timeout=PATIENCE)]

    assert await (await runtime.start(outer.options(run_id="r"))).result() == [2, 4]
    assert len(await of_type(runtime, "r", ChildStarted)) == 2


async def test_a_wait_with_a_timeout_in_a_sync_flow_times_out_on_a_resume_too(store_url: str) -> None:
    reached, release = asyncio.Event(), asyncio.Event()
    first_time = True

    @checkpoint
    async def pause() -> None:
        if first_time:
            reached.set()
            await asyncio.Event().wait()

    @flow
    async def waits() -> None:
        if first_time:
            await release.wait()

    @flow
    def outer() -> str:
        handle, found = waits.run(), ""
        try:
            handle.wait(timeout=0.05)
        except TimeoutError as error:
            found = str(error)
        pause().load()
        return found

    await stopped(store_url, outer, "r", reached)
    first_time = False
    assert "has no result after 0.05 s" in await resumed(store_url, outer, "r")


@pytest.mark.parametrize("how", ["flow.start", "runtime.start", "flow.run"])
async def test_a_start_inside_a_checkpoint_is_refused(how: str, runtime: Runtime) -> None:
    @checkpoint
    async def starting() -> None:
        await (child.start(1) if how == "flow.start" else runtime.start(child, 1))

    @checkpoint
    def starting_plainly() -> None:
        child.run(1)

    @flow
    async def outer() -> None:
        await (starting_plainly() if how == "flow.run" else starting())

    with pytest.raises(UsageError, match="inside the checkpoint starting"):
        await (await runtime.start(outer)).result()


async def test_a_start_in_another_runtime_is_refused_in_a_flow(runtime: Runtime) -> None:
    @flow
    async def outer() -> None:
        await kitaru.default_runtime().start(child, 1)

    with pytest.raises(UsageError, match="another runtime"):
        await (await runtime.start(outer)).result()


async def test_run_in_an_async_flow_and_start_in_a_sync_one_name_each_other(runtime: Runtime) -> None:
    @flow
    async def outer() -> None:
        child.run(1)

    @flow
    def outer_plain() -> object:
        return child.start(1)

    with pytest.raises(UsageError) as running:
        await (await runtime.start(outer)).result()
    assert "await child.start(" in str(running.value)
    with pytest.raises(UsageError) as starting:
        await (await runtime.start(outer_plain)).result()
    assert "child.run(" in str(starting.value)


async def test_a_childs_failure_is_raised_by_its_handle_and_run_again_by_a_retry(runtime: Runtime) -> None:
    good = False

    @flow
    async def sometimes() -> str:
        if not good:
            raise ValueError("broken")
        return "x"

    @flow
    async def outer() -> str:
        return await (await sometimes.start()).result()

    with pytest.raises(ValueError, match="broken"):
        await (await runtime.start(outer.options(run_id="r"))).result()
    good = True
    assert await (await runtime.retry("r", outer)).result() == "x"
    assert len(await runtime._core.store.runs()) == 2


async def test_a_retry_lets_children_go_on_that_ended_with_their_parent(runtime: Runtime) -> None:
    good = False

    @flow
    async def waits() -> str:
        if not good:
            await asyncio.Event().wait()
        return "x"

    @flow
    async def outer() -> str:
        handle = await waits.start()
        if not good:
            raise ValueError("broken")
        return await handle.result()

    with pytest.raises(ValueError, match="broken"):
        await (await runtime.start(outer.options(run_id="r"))).result()
    good = True
    assert await (await runtime.retry("r", outer)).result() == "x"


async def test_a_child_that_left_memory_parks_the_parent_that_waits_for_it(runtime: Runtime) -> None:
    reached, first_time = asyncio.Event(), True

    @flow
    async def inner() -> str:
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return "x"

    @flow
    async def outer() -> str:
        return await (await inner.start()).result()

    handle = await runtime.start(outer.options(run_id="r"))
    await reached.wait()
    parent = runtime._core.live_run("r")
    assert parent is not None

    async def asks() -> bool:
        return "inner.result" in parent.flights

    await until(asks)
    (started,) = await of_type(runtime, "r", ChildStarted)
    await (await runtime.resume(started.child, inner)).park()
    with pytest.raises(kitaru.RunParkedError):
        await handle.result()
    first_time = False
    assert await (await runtime.resume("r", outer)).result() == "x"


async def test_the_order_in_which_children_end_is_repeated_on_a_resume(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True
    gates = {name: asyncio.Event() for name in "ab"}

    @flow
    async def inner(name: str) -> str:
        await gates[name].wait()
        return name

    @flow
    async def outer() -> list[str]:
        handles: list[RunHandle[str]] = [await inner.start(name) for name in "ab"]
        found = []
        gates["b"].set()
        for done in asyncio.as_completed([handle.result() for handle in handles]):
            found.append(await done)
            gates["a"].set()
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return found

    await stopped(store_url, outer, "r", reached)
    first_time = False
    assert await resumed(store_url, outer, "r") == ["b", "a"]


async def test_a_cancellation_of_a_child_by_its_parent_is_asked_for_once(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True

    @flow
    async def waits() -> None:
        await asyncio.Event().wait()

    @flow
    async def outer() -> str:
        handle = await waits.start()
        await handle.cancel("enough")
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return handle.id

    await stopped(store_url, outer, "r", reached)
    first_time = False
    run = await resumed(store_url, outer, "r")
    async with Runtime(store_url, recover=False) as reader:
        assert [event.reason for event in await of_type(reader, run, CancelRequested)] == ["enough"]


async def test_a_start_that_is_given_up_leaves_no_run_behind(runtime: Runtime) -> None:
    @flow
    async def waits() -> None:
        await asyncio.Event().wait()

    @flow
    async def hasty(passes: int) -> str:
        task = asyncio.ensure_future(waits.options(on_parent_end="abandon").start())
        for _ in range(passes):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return "given up" if task.cancelled() else "started"

    given_up = [await (await runtime.start(hasty, passes)).result() for passes in range(0, 12, 2)].count("given up")
    assert given_up

    async def left() -> bool:
        return len(await runtime._core.store.runs(status=("running",), flow="waits")) == 6 - given_up

    await until(left)


def test_an_unknown_fate_is_refused() -> None:
    with pytest.raises(UsageError, match="on_parent_end='keep'"):
        child.options(on_parent_end="keep")  # type: ignore[arg-type]  # the mistake under test


async def test_a_set_of_childrens_handles_iterates_alike_in_a_resume_and_a_replay(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True
    seen: list[list[int]] = []

    @flow
    async def outer() -> int:
        handles = {await child.start(number) for number in range(8)}
        seen.append([await double(await handle.result()) for handle in handles])
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return len(handles)

    await stopped(store_url, outer, "r", reached)
    first_time = False
    assert await resumed(store_url, outer, "r") == 8
    async with Runtime(store_url, recover=False) as runtime:
        assert await (await runtime.replay("r", flow=outer)).handle.result() == 8
    assert seen == [seen[0]] * 3
