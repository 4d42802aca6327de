"""What becomes of calls that a flow leaves behind when it ends, and of a run's id when its log is gone."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator

import pytest

from kitaru import ReplayOptions, Runtime, checkpoint, flow
from kitaru.errors import NotFoundError
from kitaru.runtime.views.report import report
from kitaru.store.events import RunCompleted, StepCancelled, StepCompleted
from tests.runtime.runs import PATIENCE, keys_of, log_of, resumed, run_of, stopped


@checkpoint
async def note(text: str) -> str:
    await asyncio.sleep(0)
    return text


@checkpoint
async def stuck() -> None:
    await asyncio.Event().wait()


# -- calls that nobody awaits -----------------------------------------------------------------------------------------


async def test_a_submitted_call_that_the_flow_does_not_await_is_recorded_as_cancelled_and_warned_of(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> str:
        stuck().submit()
        return await note("end")

    with caplog.at_level(logging.WARNING, "kitaru"):
        assert await run_of(runtime, body) == "end"
    log = await log_of(runtime, "r")
    assert [event.key for event in log if isinstance(event, StepCancelled)] == ["stuck"]
    assert isinstance(log[-1], RunCompleted)
    (warning,) = [record for record in caplog.records if record.getMessage() == "call.never_awaited"]
    assert warning.__dict__["boundary"] == "stuck"
    assert warning.__dict__["where"].startswith(f"{__file__}:")


async def test_a_submitted_call_that_has_not_begun_when_the_flow_ends_is_recorded_as_cancelled(
    runtime: Runtime,
) -> None:
    async def body() -> str:
        stuck().submit()
        return "end"

    assert await run_of(runtime, body) == "end"
    assert await keys_of(runtime, "r", StepCancelled) == ["stuck"]


async def test_a_call_submitted_by_a_sync_flow_and_not_loaded_is_recorded_as_cancelled(runtime: Runtime) -> None:
    go = threading.Event()

    @checkpoint
    def waits() -> None:
        go.wait(PATIENCE)

    @flow
    def threaded() -> str:
        waits.submit()
        return note("end").load()

    try:
        assert await (await runtime.start(threaded.options(run_id="r"))).result() == "end"
    finally:
        go.set()
    assert await keys_of(runtime, "r", StepCancelled) == ["waits"]


async def test_a_call_left_behind_stays_so_in_a_replay(runtime: Runtime) -> None:
    @flow
    async def body() -> str:
        stuck().submit()
        return await note("end")

    await (await runtime.start(body.options(run_id="r"))).result()
    fork = await runtime.replay("r", ReplayOptions(run_id="again"), body)
    assert await fork.handle.result() == "end"
    seen = await report(runtime, "r", "again")
    assert {line.key: line.verdict for line in seen.lines} == {"stuck": "reused", "note": "reused"}


async def test_a_call_left_behind_by_a_failure_runs_again_when_the_run_is_retried(store_url: str) -> None:
    broken, ran = True, 0

    @checkpoint
    async def fails() -> None:
        if broken:
            raise ValueError("broken")

    @checkpoint
    async def beside() -> str:
        nonlocal ran
        ran += 1
        if broken:
            await asyncio.Event().wait()
        return "done"

    @flow
    async def body() -> str:
        call = beside().submit()
        await asyncio.sleep(0)
        await fails()
        return await call

    async with Runtime(store_url, recover=False) as runtime:
        with pytest.raises(ValueError, match="broken"):
            await (await runtime.start(body.options(run_id="r"))).result()
        assert await keys_of(runtime, "r", StepCancelled) == ["beside"]
        broken = False
        assert await (await runtime.retry("r", body)).result() == "done"
        assert ran == 2


# -- async generators -------------------------------------------------------------------------------------------------


async def numbers() -> AsyncIterator[str]:
    try:
        for number in range(3):
            yield await note(f"number {number}")
    finally:
        await note("first cleanup")
        await note("second cleanup")


@pytest.mark.parametrize("way", ["break", "return", "raise"])
async def test_the_cleanup_of_a_generator_that_the_flow_leaves_runs_before_the_run_ends(
    store_url: str, way: str
) -> None:
    async def part() -> str:
        async for number in numbers():
            if way == "raise":
                raise ValueError(number)
            if way == "return":
                return number
            break
        return "number 0"

    @flow
    async def whole() -> str:
        return await part()

    async with Runtime(store_url, recover=False) as runtime:
        handle = await runtime.start(whole.options(run_id="whole"))
        if way == "raise":
            with pytest.raises(ValueError, match="number 0"):
                await handle.result()
        else:
            assert await handle.result() == "number 0"
        # The number, and both steps of the cleanup.
        assert len(await keys_of(runtime, "whole", StepCompleted)) == 3
        assert await keys_of(runtime, "whole", StepCancelled) == []


async def test_the_cleanup_of_a_generator_that_a_step_leaves_runs_before_the_run_ends(runtime: Runtime) -> None:
    @checkpoint
    async def takes_one() -> str:
        async for number in numbers():
            return number
        return "none"

    async def body() -> str:
        return await takes_one()

    assert await run_of(runtime, body) == "number 0"
    assert len([key for key in await keys_of(runtime, "r", StepCompleted) if ">" in key]) == 3


async def test_the_cleanup_of_a_generator_is_resumed(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True

    @flow
    async def body() -> str:
        async for _ in numbers():
            break
        await note("between")
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return await note("end")

    await stopped(store_url, body, "r", reached)
    first_time = False
    assert await resumed(store_url, body, "r") == "end"
    async with Runtime(store_url, recover=False) as runtime:
        keys = await keys_of(runtime, "r", StepCompleted)
    assert len(keys) == len(set(keys)) == 5


# -- pruned runs ------------------------------------------------------------------------------------------------------


async def test_the_id_of_a_pruned_run_is_not_used_again_and_the_error_says_why(runtime: Runtime) -> None:
    @flow
    async def body() -> str:
        return await note("end")

    await (await runtime.start(body.options(run_id="r"))).result()
    await runtime._core.store.prune(older_than=0, run="r")
    with pytest.raises(NotFoundError, match=r"(?s)run r of body was pruned on .* under another id"):
        await runtime.start(body.options(run_id="r"))
    with pytest.raises(NotFoundError, match="run r of body was pruned"):
        await runtime.replay("r", None, body)
    with pytest.raises(NotFoundError, match="no run"):
        await runtime.replay("other", None, body)
