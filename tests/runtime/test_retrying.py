"""Retrying a failed run: only what failed it runs again."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import pytest

from kitaru import RunCancelledError, Runtime, checkpoint, flow
from kitaru.errors import RunError
from kitaru.store.events import RunRetried
from tests.runtime.runs import of_type


async def test_only_the_failed_step_runs_again(runtime: Runtime) -> None:
    ran: list[str] = []

    @checkpoint
    async def step(name: str) -> str:
        ran.append(name)
        if name == "b" and ran.count("b") == 1:
            raise ValueError("this once")
        return name

    @flow
    async def three() -> str:
        return await step("a") + await step("b") + await step("c")

    handle = await runtime.start(three.options(run_id="r"))
    with pytest.raises(ValueError, match="this once"):
        await handle.result()
    assert await (await runtime.retry("r", three)).result() == "abc"
    assert ran == ["a", "b", "b", "c"]


async def test_after_a_gather_only_the_failure_and_what_had_not_ended_run_again(runtime: Runtime) -> None:
    ran: Counter[int] = Counter()
    go = asyncio.Event()

    @checkpoint
    async def step(number: int) -> int:
        ran[number] += 1
        if number == 3 and ran[3] == 1:
            await go.wait()
            raise ValueError("this once")
        return number

    @flow
    async def together() -> int:
        asyncio.get_running_loop().call_later(0.05, go.set)
        return sum(await asyncio.gather(*(step(number) for number in range(6))))

    handle = await runtime.start(together.options(run_id="r"))
    with pytest.raises(ValueError, match="this once"):
        await handle.result()
    assert await (await runtime.retry("r", together)).result() == 15
    assert ran == {0: 1, 1: 1, 2: 1, 3: 2, 4: 1, 5: 1}


async def test_after_a_task_group_what_the_failure_cancelled_runs_again(runtime: Runtime) -> None:
    ran: Counter[str] = Counter()

    @checkpoint
    async def step(name: str) -> str:
        ran[name] += 1
        if ran[name] == 1:
            if name == "slow":
                await asyncio.Event().wait()
            if name == "bad":
                raise ValueError("this once")
        return name

    @flow
    async def grouped() -> list[str]:
        first = await step("first")
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(step(name)) for name in ("slow", "bad")]
        return [first, *(task.result() for task in tasks)]

    handle = await runtime.start(grouped.options(run_id="r"))
    with pytest.raises(ExceptionGroup):
        await handle.result()
    async with asyncio.timeout(5):
        assert await (await runtime.retry("r", grouped)).result() == ["first", "slow", "bad"]
    assert ran == {"first": 1, "slow": 2, "bad": 2}


async def test_after_a_bug_of_the_flows_own_no_step_runs_again(runtime: Runtime) -> None:
    ran: list[str] = []
    mended = False

    @checkpoint
    async def step() -> int:
        ran.append("step")
        return 1

    @flow
    async def buggy() -> int:
        found = await step()
        if not mended:
            raise TypeError("a bug")
        return found

    handle = await runtime.start(buggy.options(run_id="r"))
    with pytest.raises(TypeError, match="a bug"):
        await handle.result()
    mended = True
    assert await (await runtime.retry("r", buggy)).result() == 1
    assert ran == ["step"]


async def test_a_failure_that_the_flow_handled_is_kept(runtime: Runtime) -> None:
    ran: list[str] = []

    @checkpoint
    async def handled() -> None:
        ran.append("handled")
        raise KeyError("expected")

    @checkpoint
    async def fatal() -> str:
        ran.append("fatal")
        if ran.count("fatal") == 1:
            raise ValueError("this once")
        return "done"

    @flow
    async def both() -> str:
        with contextlib.suppress(KeyError):
            await handled()
        return await fatal()

    handle = await runtime.start(both.options(run_id="r"))
    with pytest.raises(ValueError, match="this once"):
        await handle.result()
    assert await (await runtime.retry("r", both)).result() == "done"
    assert ran == ["handled", "fatal", "fatal"]


async def test_a_failure_wrapped_by_the_flow_is_still_the_cause(runtime: Runtime) -> None:
    ran: list[str] = []

    @checkpoint
    async def fatal() -> str:
        ran.append("fatal")
        if len(ran) == 1:
            raise ValueError("this once")
        return "done"

    @flow
    async def wraps() -> str:
        try:
            return await fatal()
        except ValueError as error:
            raise RuntimeError("could not do it") from error

    handle = await runtime.start(wraps.options(run_id="r"))
    with pytest.raises(RuntimeError, match="could not do it"):
        await handle.result()
    assert await (await runtime.retry("r", wraps)).result() == "done"


async def test_a_run_can_fail_and_be_retried_again_and_again(runtime: Runtime) -> None:
    ran: list[int] = []

    @checkpoint
    async def fatal() -> int:
        ran.append(1)
        if len(ran) < 4:
            raise ValueError(f"failure {len(ran)}")
        return len(ran)

    @flow
    async def once() -> int:
        return await fatal()

    handle = await runtime.start(once.options(run_id="r"))
    for number in (1, 2, 3):
        with pytest.raises(ValueError, match=f"failure {number}"):
            await handle.result()
        handle = await runtime.retry("r", once)
    assert await handle.result() == 4
    assert len(await of_type(runtime, "r", RunRetried)) == 3


async def test_a_follower_of_a_retried_run_gets_its_last_result(runtime: Runtime, store_url: str) -> None:
    ran: list[int] = []

    @checkpoint
    async def fatal() -> str:
        ran.append(1)
        if len(ran) == 1:
            raise ValueError("this once")
        return "done"

    @flow
    async def once() -> str:
        return await fatal()

    handle = await runtime.start(once.options(run_id="r"))
    with pytest.raises(ValueError, match="this once"):
        await handle.result()
    await (await runtime.retry("r", once)).result()
    async with Runtime(store_url, recover=False) as other:
        assert await (await other.resume("r", once)).result() == "done"


async def test_a_cancelled_run_can_go_on(runtime: Runtime) -> None:
    ran: list[str] = []
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def step(name: str) -> str:
        ran.append(name)
        if name == "b" and first_time:
            reached.set()
            await asyncio.Event().wait()
        return name

    @flow
    async def two() -> str:
        return await step("a") + await step("b")

    handle = await runtime.start(two.options(run_id="r"))
    await reached.wait()
    await handle.cancel()
    with pytest.raises(RunCancelledError):
        await handle.result()
    first_time = False
    async with asyncio.timeout(5):
        assert await (await runtime.retry("r", two)).result() == "ab"
    assert ran == ["a", "b", "b"]


async def test_a_run_that_did_not_fail_is_not_retried(runtime: Runtime) -> None:
    @flow
    async def quick() -> None: ...

    await (await runtime.start(quick.options(run_id="r"))).result()
    with pytest.raises(RunError, match="is completed"):
        await runtime.retry("r", quick)


async def test_a_failed_child_runs_again_with_its_parent(runtime: Runtime) -> None:
    ran: Counter[str] = Counter()

    @checkpoint
    async def step(name: str) -> str:
        ran[name] += 1
        if name == "fatal" and ran[name] == 1:
            raise ValueError("this once")
        return name

    @flow
    async def child() -> str:
        return await step("kept") + await step("fatal")

    @flow
    async def parent() -> str:
        return await step("own") + await child()

    handle = await runtime.start(parent.options(run_id="r"))
    with pytest.raises(ValueError, match="this once"):
        await handle.result()
    assert await (await runtime.retry("r", parent)).result() == "ownkeptfatal"
    assert ran == {"own": 1, "kept": 1, "fatal": 2}


async def test_what_an_earlier_retry_mended_is_kept_by_a_later_one(runtime: Runtime) -> None:
    ran: Counter[str] = Counter()
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def flaky() -> str:
        ran["flaky"] += 1
        if ran["flaky"] == 1:
            raise ValueError("this once")
        return "mended"

    @checkpoint
    async def waits() -> str:
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return "waited"

    @flow
    async def both() -> list[str]:
        return [await flaky(), await waits()]

    handle = await runtime.start(both.options(run_id="r"))
    with pytest.raises(ValueError, match="this once"):
        await handle.result()
    handle = await runtime.retry("r", both)
    await reached.wait()
    await handle.cancel()
    with pytest.raises(RunCancelledError):
        await handle.result()
    first_time = False
    assert await (await runtime.retry("r", both)).result() == ["mended", "waited"]
    assert ran == {"flaky": 2}
