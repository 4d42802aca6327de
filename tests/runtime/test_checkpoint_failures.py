"""How a checkpoint fails, and when its start is recorded."""

from __future__ import annotations

import asyncio

import pytest

from kitaru import Runtime, StepError, checkpoint, flow
from kitaru.store.events import StepCompleted, StepStarted
from tests.runtime.runs import PATIENCE, keys_of, of_type, resumed, run_of, stopped, until


class RefusedError(Exception):
    """An exception whose constructor wants more than its args hold."""

    def __init__(self, reason: str, *, code: int) -> None:
        super().__init__(f"refused: {reason}")
        self.code = code


# -- failures ---------------------------------------------------------------------------------------------------------


async def test_an_exception_is_rebuilt_alike_on_the_first_run_and_on_resume(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True
    seen: list[RefusedError] = []
    causes: list[BaseException | None] = []

    @checkpoint
    async def refuses() -> None:
        error = RefusedError("no key", code=41)
        error.add_note("ask the admin")
        raise error

    @flow
    async def body() -> None:
        try:
            await refuses()
        except RefusedError as error:
            seen.append(error)
            causes.append(error.__cause__)
        if first_time:
            reached.set()
            await asyncio.Event().wait()

    await stopped(store_url, body, "r", reached)
    first_time = False
    await resumed(store_url, body, "r")
    for error in seen:
        assert str(error) == "refused: no key"
        assert error.code == 41
        assert error.__notes__ == ["ask the admin"]
    # On the first run it is chained from the live one, with its traceback.
    assert isinstance(causes[0], RefusedError)
    assert causes[0].__traceback__ is not None
    assert causes[0] is not seen[0]


async def test_an_exception_of_an_unknown_class_becomes_a_step_error_on_the_first_run_too(runtime: Runtime) -> None:
    class LocalError(Exception):
        pass

    @checkpoint
    async def fails() -> None:
        raise LocalError("hidden")

    async def body() -> object:
        try:
            await fails()
        except StepError as error:
            return [str(error).splitlines()[0], error.type_name.rpartition(".")[2]]
        return None

    assert await run_of(runtime, body) == ["hidden", "LocalError"]


async def test_the_failure_of_a_flow_is_the_same_to_its_starter_and_to_a_later_reader(runtime: Runtime) -> None:
    async def body() -> object:
        raise RefusedError("no key", code=41)

    with pytest.raises(RefusedError) as first:
        await run_of(runtime, body)
    with pytest.raises(RefusedError) as later:
        await run_of(runtime, body)
    assert (str(first.value), first.value.code) == (str(later.value), later.value.code) == ("refused: no key", 41)


async def test_stop_iteration_in_a_sync_step_is_a_failure_not_a_hang(runtime: Runtime) -> None:
    @checkpoint
    def stops() -> None:
        raise StopIteration("odd")

    async def body() -> object:
        await stops()
        return None

    with pytest.raises(RuntimeError):
        async with asyncio.timeout(PATIENCE):
            await run_of(runtime, body)


# -- starts -----------------------------------------------------------------------------------------------------------


async def test_the_start_of_an_effect_is_committed_before_it_runs(runtime: Runtime) -> None:
    seen: list[list[str]] = []

    @checkpoint(effects=True)
    async def charge() -> None:
        seen.append(await keys_of(runtime, "r", StepStarted))

    async def body() -> object:
        await charge()
        return None

    await run_of(runtime, body)
    assert seen == [["charge"]]


async def test_a_plain_step_is_one_event_with_both_times(runtime: Runtime) -> None:
    @checkpoint
    async def step() -> None:
        await asyncio.sleep(0.02)

    async def body() -> object:
        await step()
        return None

    await run_of(runtime, body)
    assert await of_type(runtime, "r", StepStarted) == []
    (event,) = await of_type(runtime, "r", StepCompleted)
    assert event.at - event.started >= 0.02


async def test_the_start_of_a_long_step_is_committed_while_it_runs(runtime: Runtime) -> None:
    go = asyncio.Event()

    @checkpoint
    async def long() -> None:
        await go.wait()

    async def body() -> object:
        await long()
        return None

    running = asyncio.create_task(run_of(runtime, body))
    await until(lambda: keys_of(runtime, "r", StepStarted))
    go.set()
    await running
    assert await keys_of(runtime, "r", StepCompleted) == ["long"]
