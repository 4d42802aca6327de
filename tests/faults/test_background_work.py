"""Work in the background outlives what fails under it: it is tried again, and `Runtime.health` shows it meanwhile."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from pathlib import Path

import pytest

import kitaru
from kitaru import Runtime, checkpoint, flow
from kitaru.runtime.host import Ask
from kitaru.store.protocol import Append
from tests.runtime.runs import PATIENCE, until

resumed = asyncio.Event()


@checkpoint
async def double(number: int) -> int:
    return number * 2


@flow
async def doubled(number: int) -> int:
    if not resumed.is_set():
        await asyncio.Event().wait()
    return await double(number)


@pytest.fixture
async def parked(tmp_path: Path) -> Path:
    """A store with two parked runs of a loaded flow, `first` and `second`."""
    resumed.clear()
    path = tmp_path / "runs.db"
    async with Runtime(f"sqlite:///{path}", recover=False) as runtime:
        for run in ("first", "second"):
            await runtime.start(doubled.options(run_id=run), 1)
    resumed.set()
    return path


def change(path: Path, *statements: str) -> None:
    """Change a store's tables from outside."""
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def works(runtime: Runtime) -> list[str]:
    """The background work that fails now."""
    return [problem.work for problem in runtime.health().problems]


async def completed(runtime: Runtime, run: str) -> bool:
    return (await runtime._core.store.run(run)).status == "completed"


async def test_recovery_outlives_a_store_that_cannot_be_read(parked: Path) -> None:
    change(parked, "ALTER TABLE owned RENAME TO away")
    async with Runtime(f"sqlite:///{parked}", recover_every=0.02) as runtime:
        assert works(runtime) == ["recovery"]

        async def tried_again() -> bool:
            return runtime.health().problems[0].count > 2

        await until(tried_again)
        assert "owned" in runtime.health().problems[0].error
        change(parked, "ALTER TABLE away RENAME TO owned")
        await until(lambda: completed(runtime, "second"))
        assert runtime.health().ok


async def test_a_run_that_cannot_be_resumed_keeps_no_other_from_it(parked: Path) -> None:
    with sqlite3.connect(parked) as connection:
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'events'")
        triggers = [f"DROP TRIGGER {name}" for (name,) in found]
    damage = "UPDATE events SET data = x'00' WHERE seq = 1 AND run = (SELECT no FROM runs WHERE id = 'first')"
    change(parked, *triggers, damage)
    async with Runtime(f"sqlite:///{parked}", recover_every=0.02) as runtime:
        await until(lambda: completed(runtime, "second"))
        assert works(runtime) == ["run first"]


async def test_a_heartbeat_that_fails_is_tried_again(parked: Path) -> None:
    resumed.clear()
    async with Runtime(f"sqlite:///{parked}", lease=0.3) as runtime:

        async def beats() -> bool:
            return runtime.health().ok

        async def fails() -> bool:
            return works(runtime) == ["store"]

        change(parked, "CREATE TRIGGER no BEFORE UPDATE ON owners BEGIN SELECT RAISE(ABORT, 'no heart'); END")
        await until(fails)
        assert "no heart" in runtime.health().problems[0].error
        change(parked, "DROP TRIGGER no")
        await until(beats)
        resumed.set()


async def test_one_runs_fault_keeps_no_answer_from_the_others(runtime: Runtime) -> None:
    class Faulty:
        told: Exception | None = None

        def acknowledged(self, appends: list[Append]) -> None:
            raise ZeroDivisionError(len(appends))

        def broken(self, error: Exception) -> None:
            self.told = error

    host, faulty = runtime._core.host(), Faulty()
    ask = Ask(asyncio.get_running_loop().create_future())
    host.deliver([Append("r", 1, [], host.sink, context=faulty), Append("s", 1, [], host.sink, context=ask)])
    assert ask.future.done()
    assert isinstance(faulty.told, ZeroDivisionError)


def test_the_background_loop_outlives_what_ends_other_loops() -> None:
    resumed.set()
    assert doubled.run(1).wait(timeout=PATIENCE) == 2
    background = kitaru.default_runtime()._core._background
    assert background is not None
    background.loop.call_soon_threadsafe(sys.exit, 3)
    assert doubled.run(2).wait(timeout=PATIENCE) == 4
