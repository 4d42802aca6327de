"""Durable calls on threads that are not the flow's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import anyio.to_thread
import pytest

import kitaru
from kitaru import Runtime, UsageError, checkpoint, flow
from kitaru.store.events import StepCompleted
from tests.runtime.runs import PATIENCE, keys_of


@checkpoint
def double(number: int) -> int:
    return number * 2


@checkpoint
async def treble(number: int) -> int:
    return number * 3


@flow
async def child() -> int:
    return await treble(1)


CALLS: dict[str, Callable[[], Any]] = {
    "a sync step": lambda: double(1).load(),
    "an async step": lambda: treble(1),
    "a submitted step": lambda: double.submit(1),
    "an async step in a loop of its own": lambda: asyncio.run(_on_a_loop_of_its_own()),
    "sleep": lambda: kitaru.sleep(1),
    "save": lambda: kitaru.save("a", 1),
    "now": kitaru.now,
    "log": lambda: kitaru.log(a=1),
}
WITH_CONTEXT: dict[str, Callable[[], Any]] = {
    "a model call": lambda: kitaru.llm("hello", model="test/echo"),
    "a child flow": child,
    "a started flow": child.run,
}


async def _on_a_loop_of_its_own() -> int:
    return await treble(1)


def on_a_pool_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(PATIENCE)


def refusal(call: Callable[[], Any]) -> str:
    """What a call is refused with."""
    try:
        call()
    except UsageError as error:
        return str(error)
    return "not refused"


def test_calls_in_a_pool_thread_with_the_context_of_a_sync_flow_are_refused() -> None:
    @flow
    def threaded() -> dict[str, str]:
        context = copy_context()
        said: dict[str, str] = on_a_pool_thread(
            lambda: {n: context.run(refusal, c) for n, c in (CALLS | WITH_CONTEXT).items()}
        )
        return said

    said = threaded.run().wait(PATIENCE)
    assert {name for name, text in said.items() if "not the flow's own thread" not in text} == set()
    assert "test_foreign_threads.py:" in said["a sync step"]


def test_calls_in_a_plain_thread_of_a_sync_flow_are_refused() -> None:
    @flow
    def threaded() -> dict[str, str]:
        said: dict[str, str] = on_a_pool_thread(lambda: {name: refusal(call) for name, call in CALLS.items()})
        return said

    said = threaded.run().wait(PATIENCE)
    assert {name for name, text in said.items() if "would not be recorded" not in text} == set()
    assert "submit()" in said["a sync step"]


@pytest.mark.parametrize("run_sync", [asyncio.to_thread, anyio.to_thread.run_sync], ids=["asyncio", "anyio"])
async def test_calls_in_a_thread_of_an_async_flow_are_refused(
    runtime: Runtime, run_sync: Callable[[Callable[[], Any]], Any]
) -> None:
    @flow
    async def threaded() -> dict[str, str]:
        said: dict[str, str] = await run_sync(lambda: {n: refusal(c) for n, c in (CALLS | WITH_CONTEXT).items()})
        return said

    said = await (await runtime.start(threaded)).result()
    assert {name for name, text in said.items() if "not the flow's own thread" not in text} == set()


async def test_calls_in_an_executor_of_an_async_flow_are_refused(runtime: Runtime) -> None:
    @flow
    async def threaded() -> dict[str, str]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, lambda: {name: refusal(call) for name, call in CALLS.items()})

    said = await (await runtime.start(threaded)).result()
    assert {name for name, text in said.items() if "would not be recorded" not in text} == set()


@pytest.mark.parametrize("started", [False, True])
async def test_waiting_in_another_thread_for_a_call_of_the_flow_is_refused(runtime: Runtime, started: bool) -> None:
    @flow
    async def threaded() -> object:
        call = treble(1)
        if started:
            call.submit()
        try:
            return await asyncio.to_thread(call.load)
        finally:
            await call

    with pytest.raises(UsageError, match="not the flow's own thread"):
        await (await runtime.start(threaded)).result()


def test_waiting_in_another_thread_for_a_submitted_call_of_a_sync_flow_is_refused() -> None:
    @flow
    def threaded() -> object:
        return on_a_pool_thread(double.submit(1).load)

    with pytest.raises(UsageError, match="not the flow's own thread"):
        threaded.run().wait(PATIENCE)


@pytest.mark.parametrize("is_async", [False, True])
async def test_threads_with_a_checkpoints_context_call_steps_inside_it(runtime: Runtime, is_async: bool) -> None:
    def many() -> int:
        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(copy_context().run, lambda: double(1).load()) for _ in range(8)]
            return sum(one.result(PATIENCE) for one in found)

    @checkpoint
    def work() -> int:
        return many()

    @checkpoint
    async def async_work() -> int:
        return await asyncio.to_thread(many)

    @flow
    async def threaded() -> int:
        return await (async_work if is_async else work)()

    handle = await runtime.start(threaded)
    assert await handle.result() == 16
    inside = [key for key in await keys_of(runtime, handle.id, StepCompleted) if ">" in key]
    assert len(inside) == len(set(inside)) == 8


async def test_a_plain_thread_in_a_checkpoint_is_refused_with_the_way_to_start_it(runtime: Runtime) -> None:
    @checkpoint
    def work() -> object:
        return on_a_pool_thread(lambda: double(1).load())

    @flow
    async def threaded() -> object:
        return await work()

    with pytest.raises(UsageError, match="copy_context"):
        await (await runtime.start(threaded)).result()


async def test_a_checkpoint_in_a_thread_is_a_plain_call_while_no_run_is_live() -> None:
    assert await asyncio.to_thread(lambda: double(4).load()) == 8


async def test_a_request_on_a_servers_loop_calls_a_checkpoint_plainly_while_runs_are_live(tmp_path: Any) -> None:
    go = threading.Event()

    @flow
    def waits() -> int:
        go.wait(PATIENCE)
        return 1

    async def serve() -> int:
        async with Runtime(f"sqlite:///{tmp_path}/served.db") as runtime:
            handle = await runtime.start(waits)
            try:
                return await double(4)
            finally:
                go.set()
                await handle.result()

    assert await asyncio.to_thread(asyncio.run, serve()) == 8
