"""The keys of boundaries in tasks: named by the user's functions, whatever combinator makes the tasks."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import anyio
import pytest

import kitaru
from kitaru import Flow, Runtime, checkpoint, flow
from kitaru.store.events import StepCompleted
from tests.runtime.runs import keys_of, resumed, stopped

RAN: list[int] = []


@checkpoint
async def step(number: int) -> int:
    RAN.append(number)
    return number * 2


def mapping(limit: int | None, reached: asyncio.Event | None) -> Flow[..., Any]:
    """A flow that maps a local function, and whose first process does not get beyond that."""

    @checkpoint
    async def last() -> None:
        if reached is not None:
            reached.set()
            await asyncio.Event().wait()

    @flow
    async def mapped() -> list[int]:
        async def one(number: int) -> int:
            return await step(number)

        found = await kitaru.map(one, range(3), limit=limit)
        await last()
        return found

    return mapped


@pytest.mark.parametrize(("limit", "later"), [(None, 2), (2, None), (1, 3)])
async def test_another_limit_of_a_map_changes_no_key(tmp_path: Path, limit: int | None, later: int | None) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    RAN.clear()
    reached = asyncio.Event()
    await stopped(url, mapping(limit, reached), "tides", reached)
    assert await resumed(url, mapping(later, None), "tides") == [0, 2, 4]
    assert RAN == [0, 1, 2]


async def test_a_local_function_names_its_task_without_the_functions_around_it(runtime: Runtime) -> None:
    @flow
    async def around() -> int:
        async def inner() -> int:
            return await step(1)

        return await asyncio.create_task(inner())

    handle = await runtime.start(around)
    assert await handle.result() == 2
    assert await keys_of(runtime, handle.id, StepCompleted) == ["~inner/step"]


@pytest.mark.parametrize("limit", [None, 2])
async def test_a_mapped_object_that_is_no_coroutine_has_the_same_keys_with_a_limit(
    runtime: Runtime, limit: int | None
) -> None:
    class Later:
        def __init__(self, number: int) -> None:
            self.number = number

        def __await__(self) -> Generator[Any, Any, int]:
            return step(self.number).__await__()

    @flow
    async def mapped() -> list[int]:
        return await kitaru.map(Later, range(2), limit=limit)

    handle = await runtime.start(mapped)
    assert await handle.result() == [0, 2]
    keys = await keys_of(runtime, handle.id, StepCompleted)
    assert sorted(keys) == ["map/~_wrap_awaitable/step", "map/~_wrap_awaitable[1]/step"]


@pytest.mark.parametrize("limit", [None, 2])
async def test_a_log_with_keys_of_an_earlier_version_is_resumed_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    RAN.clear()
    reached = asyncio.Event()
    make: Callable[[asyncio.Event | None], Flow[..., Any]] = lambda event: mapping(limit, event)  # noqa: E731
    with monkeypatch.context() as patch:
        # The one thing that tells such a log: its first event does not say otherwise.
        patch.setattr("kitaru.runtime.core.OWN_NAMES", 0)
        await stopped(url, make(reached), "tides", reached)
    async with Runtime(url, recover=False) as runtime:
        keys = await keys_of(runtime, "tides", StepCompleted)
        assert all(("_limited" if limit else "mapping.<locals_.mapped.<locals_.one") in key for key in keys)
        assert await (await runtime.resume("tides", make(None))).result() == [0, 2, 4]
        fork = await runtime.replay("tides", flow=make(None))
        assert await fork.handle.result() == [0, 2, 4]
        assert RAN == [0, 1, 2]


@pytest.mark.parametrize("durable", [True, False])
async def test_what_a_failed_map_with_a_limit_never_came_to_is_not_complained_of(
    runtime: Runtime, durable: bool
) -> None:
    @checkpoint
    async def fails(number: int) -> int:
        raise ValueError(f"no {number}")

    async def one(number: int) -> int:
        return await fails(number)

    @flow
    async def mapped() -> list[int]:
        return await kitaru.map(fails if durable else one, range(3), limit=1)

    with pytest.raises(ValueError, match="no 0"):
        await (await runtime.start(mapped)).result()
    gc.collect()


async def test_a_task_of_an_anyio_group_is_named_by_its_function(runtime: Runtime) -> None:
    @flow
    async def grouped() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(twice, 1)
            group.start_soon(twice, 2)

    await (await runtime.start(grouped.options(run_id="r"))).result()
    assert sorted(await keys_of(runtime, "r", StepCompleted)) == ["~twice/step", "~twice[1]/step"]


async def twice(number: int) -> int:
    return await step(number)


async def test_what_as_completed_is_given_begins_in_the_order_given(runtime: Runtime) -> None:
    """Not in that of a set of coroutines: some end before they come to a boundary."""

    async def at_once(number: int) -> int:
        return number if number % 2 else await step(number)

    @flow
    async def ordered(as_dict: bool) -> list[int]:
        work = [at_once(number) for number in range(12)] + [step(number) for number in range(12)]
        found = [await one for one in asyncio.as_completed(dict.fromkeys(work) if as_dict else work)]
        return found[:6]

    for number in range(4):
        handle = await runtime.start(ordered.options(run_id=f"r{number}"), number % 2 == 1)
        assert await handle.result() == [1, 3, 5, 7, 9, 11]
        assert len(set(await keys_of(runtime, f"r{number}", StepCompleted))) == 18


async def test_kitaru_as_completed_gives_coroutines_as_they_finish(runtime: Runtime) -> None:
    gate = asyncio.Event()

    async def last() -> int:
        await gate.wait()
        return 0

    @flow
    async def mixed() -> list[int]:
        found = []
        async for one in kitaru.as_completed([last(), step(1), step(2)]):
            found.append(await one)
            if len(found) == 2:
                gate.set()
        return found

    assert await (await runtime.start(mixed)).result() == [2, 4, 0]


async def test_an_awaitable_that_as_completed_is_given_begins_no_coroutine_twice(runtime: Runtime) -> None:
    class Wrapped:
        def __await__(self) -> Generator[Any, Any, int]:
            return step(9).__await__()

    @flow
    async def mixed() -> list[int]:
        work: list[Awaitable[int]] = [twice(0), twice(1), Wrapped(), twice(2)]
        found = [await one for one in asyncio.as_completed(work)]
        return [*sorted(found), await asyncio.create_task(twice(3))]

    assert await (await runtime.start(mixed.options(run_id="r"))).result() == [0, 2, 4, 18, 6]
    keys = await keys_of(runtime, "r", StepCompleted)
    # The ordinal of the last one has been this since the first release: logs hold it.
    assert sorted(keys) == [
        "~_wrap_awaitable/step", "~twice/step", "~twice[1]/step", "~twice[2]/step", "~twice[5]/step"
    ]  # fmt: skip
