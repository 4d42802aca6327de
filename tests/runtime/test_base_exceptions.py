"""Exceptions that are no `Exception`: those that the code of a run raises are failures, those from outside park it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest

import kitaru
from kitaru import Checkpoint, Runtime, StepError, checkpoint, flow
from kitaru.store.events import RunFailed, RunParked, StepCancelled, StepFailed
from tests.runtime.runs import keys_of, log_of, of_type, resumed, run_of, stopped


class HaltError(BaseException):
    """One of a user's own."""


@checkpoint
async def awaits_a_cancelled_task() -> None:
    asleep = asyncio.ensure_future(asyncio.sleep(60))
    asleep.cancel()
    await asleep


@checkpoint
async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()


@checkpoint
async def cancels_itself_last() -> str:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    return "not reached in plain asyncio either"


@checkpoint
def raises_a_cancellation() -> None:
    raise asyncio.CancelledError("by hand")


@checkpoint(timeout=60)
def raises_a_cancellation_in_the_pool() -> None:
    raise asyncio.CancelledError("by hand")


@checkpoint
async def exits() -> None:
    sys.exit("no such option")


@checkpoint
def exits_in_a_thread() -> None:
    sys.exit("no such option")


@checkpoint
async def interrupts() -> None:
    raise KeyboardInterrupt


@checkpoint
async def leaves_a_generator() -> None:
    raise GeneratorExit


@checkpoint
async def halts() -> None:
    raise HaltError("halt")


@checkpoint
async def nests() -> None:
    await cancels_itself()


@checkpoint
async def groups() -> None:
    raise BaseExceptionGroup("several", [HaltError("halt"), asyncio.CancelledError("by hand")])


OWN: dict[Checkpoint[[], Any], str] = {
    awaits_a_cancelled_task: "CancelledError: ",
    cancels_itself: "CancelledError: ",
    cancels_itself_last: "CancelledError: ",
    raises_a_cancellation: "CancelledError: by hand",
    raises_a_cancellation_in_the_pool: "CancelledError: by hand",
    exits: "SystemExit: no such option",
    exits_in_a_thread: "SystemExit: no such option",
    interrupts: "KeyboardInterrupt: ",
    leaves_a_generator: "GeneratorExit: ",
    halts: "HaltError: halt",
    nests: "CancelledError: ",
    groups: "BaseExceptionGroup: several (2 sub-exceptions)",
}


def described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("step", OWN, ids=lambda step: step.name)
async def test_what_a_step_raises_itself_is_its_failure_now_and_on_resume(
    store_url: str, step: Checkpoint[[], Any]
) -> None:
    reached, first_time = asyncio.Event(), True

    @flow
    async def body() -> str:
        try:
            await step()
        except BaseException as error:
            seen = described(error)
        else:
            seen = "nothing raised"
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return seen

    await stopped(store_url, body, "r", reached)
    first_time = False
    assert await resumed(store_url, body, "r") == OWN[step]
    async with Runtime(store_url, recover=False) as runtime:
        assert [e.final for e in await of_type(runtime, "r", StepFailed) if e.key == step.name] == [True]
        assert await of_type(runtime, "r", StepCancelled) == []


async def test_a_cancellation_of_the_steps_own_ends_with_the_step(runtime: Runtime) -> None:
    async def body() -> object:
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(asyncio.CancelledError):
            await cancels_itself()
        return task.cancelling()

    assert await run_of(runtime, body) == 0


async def test_a_cancellation_that_the_step_did_not_wait_for_ends_with_the_step(runtime: Runtime) -> None:
    @checkpoint
    async def raises_before_it_strikes() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        raise ValueError("first")

    async def body() -> object:
        with pytest.raises(ValueError, match="first"):
            await raises_before_it_strikes()
        await asyncio.sleep(0)
        return "undisturbed"

    assert await run_of(runtime, body) == "undisturbed"


@pytest.mark.parametrize("retries", [0, 1])
async def test_a_cancellation_from_outside_that_strikes_with_the_steps_own_is_the_flows(
    runtime: Runtime, retries: int
) -> None:
    """Asyncio raises one `CancelledError` for both."""

    @checkpoint(retries=retries, backoff=0.0)
    async def raises_before_both_strike() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel, context=Context())
        task.cancel()
        raise ValueError("not seen")

    async def body() -> bool:
        task = asyncio.create_task(raises_before_both_strike())
        await asyncio.wait([task])
        return task.cancelled()

    assert await run_of(runtime, body) is True
    assert await keys_of(runtime, "r", StepCancelled) == ["raises_before_both_strike"]
    assert [event.final for event in await of_type(runtime, "r", StepFailed)] == [False] * retries


async def test_a_cancellation_that_the_step_did_not_wait_for_does_not_strike_its_retry(runtime: Runtime) -> None:
    attempts = 0

    @checkpoint(retries=1, backoff=0.0)
    async def raises_once() -> str:
        nonlocal attempts
        attempts += 1
        task = asyncio.current_task()
        assert task is not None
        if attempts == 1:
            task.cancel()
            raise ValueError("first")
        return "done"

    async def body() -> object:
        return await raises_once()

    assert await run_of(runtime, body) == "done"


async def test_a_cancellation_that_the_flow_asked_for_before_the_step_is_no_failure_of_it(runtime: Runtime) -> None:
    @checkpoint
    async def waits() -> None:
        await asyncio.Event().wait()

    async def part() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await waits()

    async def body() -> None:
        await asyncio.wait([asyncio.ensure_future(part())])

    await run_of(runtime, body)
    assert await of_type(runtime, "r", StepFailed) == []
    assert len(await keys_of(runtime, "r", StepCancelled)) == 1


async def test_a_cancellation_of_the_steps_own_is_retried(runtime: Runtime) -> None:
    calls = 0

    @checkpoint(retries=1, backoff=0.0)
    async def once() -> str:
        nonlocal calls
        calls += 1
        task = asyncio.current_task()
        assert task is not None
        if calls == 1:
            task.cancel()
            await asyncio.Event().wait()
        return "done"

    async def body() -> object:
        return await once()

    assert await run_of(runtime, body) == "done"
    assert [event.final for event in await of_type(runtime, "r", StepFailed)] == [False]


async def test_a_timeout_inside_a_step_is_the_steps_own_affair(runtime: Runtime) -> None:
    @checkpoint
    async def patient() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            return "too late"
        return "in time"

    async def body() -> object:
        return await patient()

    assert await run_of(runtime, body) == "too late"


@pytest.mark.parametrize("step", [exits, interrupts, leaves_a_generator, exits_in_a_thread], ids=lambda step: step.name)
async def test_in_a_task_an_exit_is_a_step_error_because_asyncio_would_end_the_loop(
    runtime: Runtime, step: Checkpoint[[], Any]
) -> None:
    async def part() -> None:
        await step()

    async def body() -> object:
        ends = await asyncio.gather(step(), part(), step().submit().task, return_exceptions=True)
        return [end.type_name for end in ends if isinstance(end, StepError)]

    assert await run_of(runtime, body) == [OWN[step].partition(":")[0]] * 3


async def test_an_exit_in_a_task_of_a_step_is_the_steps_failure(runtime: Runtime) -> None:
    @checkpoint
    async def parts() -> None:
        async def part() -> None:
            sys.exit("no such option")

        await asyncio.gather(part())

    async def body() -> object:
        with pytest.raises(StepError, match="no such option"):
            await parts()
        return "caught"

    assert await run_of(runtime, body) == "caught"


def exit_now() -> None:
    sys.exit("no such option")


def cancel_now() -> None:
    raise asyncio.CancelledError("by hand")


def halt_now() -> None:
    raise HaltError("halt")


@pytest.mark.parametrize("how", [exit_now, cancel_now, halt_now], ids=lambda how: how.__name__)
@pytest.mark.parametrize("kind", ["async", "sync", "child"])
async def test_what_a_flow_raises_itself_fails_its_run(runtime: Runtime, how: Callable[[], None], kind: str) -> None:
    @flow
    async def asynchronous() -> None:
        how()

    @flow
    def threaded() -> None:
        how()

    @flow
    async def parent() -> None:
        await asynchronous()

    run = {"async": asynchronous, "sync": threaded, "child": parent}[kind]
    handle = await runtime.start(run.options(run_id="r"))
    with pytest.raises(StepError):
        await handle.result()
    assert await handle.status() == "failed"
    assert len(await of_type(runtime, "r", RunFailed)) == 1


async def test_a_result_may_hold_cancellations_and_exits(runtime: Runtime) -> None:
    async def body() -> object:
        return await asyncio.gather(cancels_itself(), halts(), return_exceptions=True)

    result = await run_of(runtime, body)
    assert isinstance(result, list)
    assert [type(one) for one in result] == [asyncio.CancelledError, HaltError]


async def test_a_sync_flow_catches_what_its_steps_raise_themselves(runtime: Runtime) -> None:
    steps = (cancels_itself, exits, exits_in_a_thread, halts)

    @flow
    def threaded() -> list[str]:
        seen = []
        for step in steps:
            for call in (step, step.submit):
                try:
                    call().load()
                except BaseException as error:
                    seen.append(described(error))
        return seen

    handle = await runtime.start(threaded)
    assert await handle.result() == [OWN[step] for step in steps for _ in range(2)]


def on_signal(number: int, frame: object) -> None:
    sys.exit(f"signal {number}")


@pytest.mark.parametrize(
    ("number", "handler", "error"),
    [
        (signal.SIGTERM, on_signal, SystemExit),
        (signal.SIGINT, on_signal, SystemExit),
        (signal.SIGINT, signal.default_int_handler, KeyboardInterrupt),
    ],
)
def test_what_a_signal_raises_in_a_step_parks_the_run_and_ends_the_process(
    tmp_path: Path, number: signal.Signals, handler: Any, error: type[BaseException]
) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    interrupted = True

    @checkpoint
    async def busy() -> str:
        if interrupted:
            os.kill(os.getpid(), number)
        return "done"

    @flow
    async def body() -> str:
        return await busy()

    async def first() -> None:
        signal.signal(number, handler)
        async with kitaru.Runtime(url, recover=False) as runtime:
            await (await runtime.start(body.options(run_id="r"))).result()

    async def second() -> tuple[object, list[object]]:
        async with kitaru.Runtime(url, recover=False) as runtime:
            log = await log_of(runtime, "r")
            return await (await runtime.resume("r", body)).result(), [type(event) for event in log]

    before = signal.getsignal(number)
    try:
        with pytest.raises(error):
            asyncio.run(first())
    finally:
        signal.signal(number, before)
    interrupted = False
    result, kinds = asyncio.run(second())
    assert result == "done"
    assert RunParked in kinds
    assert not {StepFailed, StepCancelled} & set(kinds)
