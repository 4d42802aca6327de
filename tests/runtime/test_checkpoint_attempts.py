"""The attempts of a checkpoint: retries, delays and timeouts."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable

import pytest

from kitaru import Runtime, StepTimeoutError, UsageError, checkpoint, flow
from kitaru.store.events import StepCompleted, StepFailed, StepStarted
from tests.runtime.runs import PATIENCE, of_type, resumed, run_of, stopped

# -- retries ----------------------------------------------------------------------------------------------------------


async def test_a_failed_attempt_is_retried_and_every_attempt_recorded(runtime: Runtime) -> None:
    attempts: list[int] = []

    @checkpoint(retries=2, backoff=0)
    async def flaky() -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise ValueError(f"attempt {len(attempts)}")
        return "done"

    async def body() -> object:
        return await flaky()

    assert await run_of(runtime, body) == "done"
    failures = await of_type(runtime, "r", StepFailed)
    assert [(f.attempt, f.final) for f in failures] == [(1, False), (2, False)]
    (completed,) = await of_type(runtime, "r", StepCompleted)
    assert completed.attempt == 3


async def test_the_last_failure_is_the_outcome(runtime: Runtime) -> None:
    attempts: list[int] = []

    @checkpoint(retries=1, backoff=0)
    async def fails() -> None:
        attempts.append(1)
        raise ValueError(f"attempt {len(attempts)}")

    async def body() -> object:
        await fails()
        return None

    with pytest.raises(ValueError, match="attempt 2"):
        await run_of(runtime, body)
    assert [f.final for f in await of_type(runtime, "r", StepFailed)] == [False, True]


async def test_only_the_named_exceptions_are_retried(runtime: Runtime) -> None:
    attempts: list[int] = []

    @checkpoint(retries=5, backoff=0, retry_on=(OSError, KeyError))
    async def picky() -> None:
        attempts.append(1)
        raise OSError("again") if len(attempts) < 3 else ValueError("not again")

    async def body() -> object:
        await picky()
        return None

    with pytest.raises(ValueError, match="not again"):
        await run_of(runtime, body)
    assert len(attempts) == 3


async def test_listed_delays_are_waited_and_the_last_one_repeats(runtime: Runtime) -> None:
    at: list[float] = []

    @checkpoint(retries=3, backoff=[0.0, 0.15])
    async def flaky() -> None:
        at.append(time.monotonic())
        if len(at) < 4:
            raise ValueError

    async def body() -> object:
        await flaky()
        return None

    await run_of(runtime, body)
    waits = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert waits[0] < 0.14
    assert waits[1] >= 0.14
    assert waits[2] >= 0.14


async def test_attempts_of_a_process_that_died_count(store_url: str) -> None:
    attempts: list[int] = []
    reached, first_time = asyncio.Event(), True

    @checkpoint(retries=2, backoff=0)
    async def flaky() -> str:
        attempts.append(1)
        if len(attempts) == 2 and first_time:
            reached.set()
            await asyncio.Event().wait()
        raise ValueError(f"attempt {len(attempts)}")

    @flow
    async def body() -> None:
        await flaky()

    await stopped(store_url, body, "r", reached)
    first_time = False
    with pytest.raises(ValueError, match="attempt 4"):
        await resumed(store_url, body, "r")
    # The one that was running is run again; it does not count twice.
    assert len(attempts) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: checkpoint(retries=-1),
        lambda: checkpoint(timeout=0),
        lambda: checkpoint(backoff=-1),
        lambda: checkpoint(backoff=[]),
        lambda: checkpoint(name="a/b"),
        lambda: checkpoint(name=""),
        lambda: checkpoint(ignore=["nobody"]),
    ],
)
def test_options_that_cannot_be_right_are_refused_where_they_are_written(wrong: Callable[[], object]) -> None:
    async def step(topic: str) -> None: ...

    def decorate() -> None:
        made = wrong()
        assert callable(made)
        made(step)

    with pytest.raises(UsageError):
        decorate()


def test_options_of_single_calls_are_checked_too() -> None:
    @checkpoint
    async def step() -> None: ...

    for wrong in ({"retries": -1}, {"timeout": 0.0}, {"backoff": -1.0}, {"name": "a>b"}):
        with pytest.raises(UsageError):
            step.options(**wrong)


# -- timeouts ---------------------------------------------------------------------------------------------------------


async def test_an_async_step_that_runs_too_long_times_out(runtime: Runtime) -> None:
    stopped_: list[str] = []

    @checkpoint(timeout=0.05)
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped_.append("cancelled")
            raise

    async def body() -> object:
        try:
            await slow()
        except StepTimeoutError as error:
            return str(error)
        return "in time"

    assert await run_of(runtime, body) == "slow (run r, slow, attempt 1) ran longer than 0.05 s"
    assert stopped_ == ["cancelled"]


async def test_a_timeout_is_a_timeout_error_to_plain_code(runtime: Runtime) -> None:
    @checkpoint(timeout=0.02)
    async def slow() -> None:
        await asyncio.Event().wait()

    async def body() -> object:
        with pytest.raises(TimeoutError):
            await slow()
        return "told"

    assert await run_of(runtime, body) == "told"


async def test_a_timeout_of_the_steps_own_is_not_taken_for_its_limit(runtime: Runtime) -> None:
    @checkpoint(timeout=30)
    async def impatient() -> None:
        raise TimeoutError("the server's")

    async def body() -> object:
        await impatient()
        return None

    with pytest.raises(TimeoutError, match="the server's") as caught:
        await run_of(runtime, body)
    assert not isinstance(caught.value, StepTimeoutError)


async def test_a_timed_out_step_is_retried(runtime: Runtime) -> None:
    attempts: list[int] = []

    @checkpoint(timeout=0.05, retries=1, backoff=0)
    async def slow_once() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            await asyncio.Event().wait()
        return "done"

    async def body() -> object:
        return await slow_once()

    assert await run_of(runtime, body) == "done"


async def test_a_sync_step_that_times_out_is_told_as_possibly_still_running(runtime: Runtime) -> None:
    go = threading.Event()

    @checkpoint(timeout=0.05)
    def slow() -> None:
        go.wait(PATIENCE)

    async def body() -> object:
        try:
            await slow()
        except StepTimeoutError as error:
            return str(error)
        return "in time"

    told = await run_of(runtime, body)
    go.set()
    assert isinstance(told, str)
    assert told.endswith("its thread is possibly still running")


async def test_no_attempt_is_spent_while_the_thread_of_a_timed_out_one_runs(runtime: Runtime) -> None:
    go, threads = threading.Event(), []

    @checkpoint(timeout=0.05, retries=2, backoff=0, effects=True)
    def slow_once() -> str:
        threads.append(threading.current_thread())
        if len(threads) == 1:
            go.wait(PATIENCE)
        return f"done by thread {len(threads)}"

    async def body() -> object:
        # Longer than all attempts would have taken.
        asyncio.get_running_loop().call_later(0.4, go.set)
        return await slow_once()

    assert await run_of(runtime, body) == "done by thread 2"
    assert [event.attempt for event in await of_type(runtime, "r", StepStarted)] == [1, 2]
    assert [event.attempt for event in await of_type(runtime, "r", StepFailed)] == [1]


async def test_a_sync_steps_time_begins_when_a_thread_runs_it(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kitaru.runtime.core.CHECKPOINT_THREADS", 1)
    go = threading.Event()

    @checkpoint
    def occupies() -> None:
        go.wait(PATIENCE)

    @checkpoint(timeout=0.1)
    def quick() -> str:
        return "done"

    async def body() -> object:
        first = occupies().submit()
        second = quick().submit()
        asyncio.get_running_loop().call_later(0.3, go.set)
        await first
        return await second

    assert await run_of(runtime, body) == "done"


async def test_a_sync_step_given_up_before_a_thread_took_it_never_runs(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kitaru.runtime.core.CHECKPOINT_THREADS", 1)
    go, ran = threading.Event(), []

    @checkpoint
    def occupies() -> None:
        go.wait(PATIENCE)

    @checkpoint(timeout=60)
    def waits_for_a_thread(name: str) -> None:
        ran.append(name)

    async def body() -> None:
        first = occupies().submit()
        given_up = waits_for_a_thread("given up").submit()
        await asyncio.sleep(0.02)
        given_up.task.cancel()
        await asyncio.wait([given_up.task])
        go.set()
        await first
        await waits_for_a_thread("wanted")

    await run_of(runtime, body)
    assert ran == ["wanted"]


async def test_overlap_lets_a_retry_start_while_the_thread_runs(runtime: Runtime) -> None:
    go, attempts = threading.Event(), []

    @checkpoint(timeout=0.1, retries=1, backoff=0, overlap=True)
    def slow_once() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            go.wait(PATIENCE)
        return "done"

    async def body() -> object:
        return await slow_once()

    try:
        assert await run_of(runtime, body) == "done"
    finally:
        go.set()
