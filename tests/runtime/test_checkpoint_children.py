"""Boundaries inside a checkpoint, and what becomes of them when it is interrupted."""

from __future__ import annotations

import asyncio

import pytest

import kitaru
from kitaru import Runtime, UsageError, checkpoint, flow
from kitaru.store.events import StepCompleted
from tests.runtime.runs import keys_of, resumed, run_of, stopped

# -- inside a checkpoint ----------------------------------------------------------------------------------------------


async def test_children_of_an_interrupted_checkpoint_are_reused_by_the_attempt_that_repeats_it(store_url: str) -> None:
    ran: list[str] = []
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def child(name: str) -> str:
        ran.append(name)
        return name.upper()

    @checkpoint
    async def outer() -> list[str]:
        # Two equal calls are two calls: both were paid for.
        found = [await child("a"), await child("b"), await child("b")]
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return [*found, await child("c")]

    @flow
    async def body() -> list[str]:
        return await outer()

    await stopped(store_url, body, "r", reached)
    first_time = False
    assert await resumed(store_url, body, "r") == ["A", "B", "B", "C"]
    assert ran == ["a", "b", "b", "c"]


async def test_a_failed_child_of_an_interrupted_checkpoint_fails_again_without_running(store_url: str) -> None:
    ran: list[str] = []
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def child() -> None:
        ran.append("child")
        raise ValueError("broken")

    @checkpoint
    async def outer() -> str:
        try:
            await child()
        except ValueError as error:
            if first_time:
                reached.set()
                await asyncio.Event().wait()
            return str(error)
        return "no error"

    @flow
    async def body() -> str:
        return await outer()

    await stopped(store_url, body, "r", reached)
    first_time = False
    assert await resumed(store_url, body, "r") == "broken"
    assert ran == ["child"]


async def test_a_child_of_an_interrupted_checkpoint_is_not_taken_for_one_of_another_kind(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True

    @checkpoint(name="sleep")
    async def no_timer(seconds: float) -> str:
        return f"slept {seconds}"

    @checkpoint(name="now")
    async def no_clock() -> str:
        return "noon"

    @checkpoint
    async def outer() -> list[str]:
        if first_time:
            await kitaru.sleep(0.0)
            kitaru.now()
            reached.set()
            await asyncio.Event().wait()
        return [await no_timer(0.0), await no_clock()]

    @flow
    async def body() -> list[str]:
        return await outer()

    await stopped(store_url, body, "r", reached)
    first_time = False
    assert await resumed(store_url, body, "r") == ["slept 0.0", "noon"]


async def test_grandchildren_of_an_interrupted_checkpoint_are_reused_too(store_url: str) -> None:
    ran: list[str] = []
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def leaf() -> str:
        ran.append("leaf")
        return "leaf"

    @checkpoint
    async def middle() -> str:
        found = await leaf()
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return found

    @checkpoint
    async def outer() -> str:
        return await middle()

    @flow
    async def body() -> str:
        return await outer()

    await stopped(store_url, body, "r", reached)
    first_time = False
    assert await resumed(store_url, body, "r") == "leaf"
    assert ran == ["leaf"]


async def test_a_new_attempt_after_a_failure_calls_its_children_anew(runtime: Runtime) -> None:
    ran: list[int] = []

    @checkpoint
    async def child() -> int:
        ran.append(1)
        return len(ran)

    @checkpoint(retries=1, backoff=0)
    async def outer() -> int:
        found = await child()
        if found == 1:
            raise ValueError("try again")
        return found

    async def body() -> object:
        return await outer()

    assert await run_of(runtime, body) == 2


async def test_a_retried_run_calls_the_children_of_the_failed_checkpoint_anew(runtime: Runtime) -> None:
    ran: list[int] = []

    @checkpoint
    async def child() -> int:
        ran.append(1)
        return len(ran)

    @checkpoint
    async def outer() -> int:
        found = await child()
        if found == 1:
            raise ValueError("this once")
        return found

    @flow
    async def body() -> int:
        return await outer()

    handle = await runtime.start(body.options(run_id="r"))
    with pytest.raises(ValueError, match="this once"):
        await handle.result()
    assert await (await runtime.retry("r", body)).result() == 2


async def test_a_finished_checkpoint_is_the_replay_boundary_of_its_children(store_url: str) -> None:
    ran: list[str] = []
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def child() -> str:
        ran.append("child")
        return "x"

    @checkpoint
    async def outer() -> str:
        ran.append("outer")
        return await child() + await child()

    @flow
    async def body() -> str:
        found = await outer()
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return found

    await stopped(store_url, body, "r", reached)
    first_time = False
    assert await resumed(store_url, body, "r") == "xx"
    assert ran == ["outer", "child", "child"]


async def test_a_flow_called_inside_a_checkpoint_is_an_error(runtime: Runtime) -> None:
    @flow
    async def inner() -> None: ...

    @checkpoint
    async def outer() -> None:
        await inner()

    async def body() -> object:
        await outer()
        return None

    with pytest.raises(UsageError, match="called inside the checkpoint outer"):
        await run_of(runtime, body)


async def test_scope_inside_a_checkpoint_is_an_error(runtime: Runtime) -> None:
    @checkpoint
    async def outer() -> None:
        with kitaru.scope("part"):
            pass

    async def body() -> object:
        await outer()
        return None

    with pytest.raises(UsageError, match="outside a flow's own code"):
        await run_of(runtime, body)


async def test_scopes_keep_ordinals_apart(runtime: Runtime) -> None:
    @checkpoint
    async def step() -> None: ...

    async def body() -> object:
        await step()
        with kitaru.scope("part"):
            await step()
            await step()
        await step()
        return None

    await run_of(runtime, body)
    assert await keys_of(runtime, "r", StepCompleted) == ["step", "part/step", "part/step[1]", "step[1]"]


async def test_concurrent_children_of_a_checkpoint_are_all_recorded(runtime: Runtime) -> None:
    @checkpoint
    async def child(number: int) -> int:
        return number

    @checkpoint
    async def outer() -> int:
        return sum(await asyncio.gather(*(child(number) for number in range(5))))

    async def body() -> object:
        return await outer()

    assert await run_of(runtime, body) == 10
    assert len(await keys_of(runtime, "r", StepCompleted)) == 6
