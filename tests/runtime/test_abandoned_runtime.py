"""Applications that end without closing their runtime."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest

import kitaru
from kitaru import Runtime, checkpoint, flow
from tests.runtime.runs import resumed

REACHED: list[asyncio.Event] = []


@checkpoint
async def step(number: int) -> int:
    for event in REACHED:
        event.set()
        await asyncio.Event().wait()
    return number


@checkpoint
async def outer() -> int:
    return sum(await asyncio.gather(step(1), step(2)))


@flow
async def gathered() -> int:
    return sum(await asyncio.gather(*[step(n) for n in range(3)], outer()))


@flow
async def grouped() -> int:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_later(n)) for n in range(3)]
    return sum(task.result() for task in tasks)


@flow
async def in_anyio() -> int:
    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(_later, number)
    return 3


@flow
async def limited() -> int:
    async with kitaru.timeout(60):
        return sum(await kitaru.map(_later, range(3), limit=2))


@flow
async def parent() -> int:
    handle = await gathered.start()
    return await grouped() + await handle.result()


@flow
def sync() -> int:
    return sum(call.load() for call in [step.submit(n) for n in range(3)])


async def _later(number: int) -> int:
    cleaned = asyncio.create_task(asyncio.sleep(0))
    try:
        return await step(number)
    finally:
        await cleaned


FLOWS: dict[str, Any] = {
    "gathered": (gathered, 6),
    "grouped": (grouped, 3),
    "anyio": (in_anyio, 3),
    "limited": (limited, 3),
    "parent": (parent, 9),
    "sync": (sync, 3),
}


def test_the_tasks_of_its_runs_print_nothing_and_the_runs_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    printed: list[dict[str, Any]] = []

    async def application() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: printed.append(context))
        runtime = Runtime(url, recover=False)
        for name, (work, _) in FLOWS.items():
            reached = asyncio.Event()
            REACHED[:] = [reached]
            await runtime.start(work.options(run_id=name))
            await reached.wait()
        raise RuntimeError("the application died")

    with pytest.raises(RuntimeError, match="the application died"):
        asyncio.run(application())
    assert printed == []

    REACHED.clear()
    for name, (work, result) in FLOWS.items():
        assert asyncio.run(resumed(url, work, name)) == result
