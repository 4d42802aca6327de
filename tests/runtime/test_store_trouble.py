"""A store that cannot be written while runs are under way."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

import kitaru
from kitaru import Runtime, checkpoint, flow
from kitaru.errors import StoreError, StoreFullError, StoreReadOnlyError
from kitaru.store.events import StepCompleted, StepFailed
from kitaru.store.sqlite import SqliteStore
from tests.runtime.runs import PATIENCE, keys_of, of_type, resumed, until


async def cap(runtime: Runtime, pages: int | None) -> None:
    """Let the store's file grow no further: by `pages`, or without end."""
    store = runtime._core.store
    assert isinstance(store, SqliteStore)

    def limit(connection: sqlite3.Connection) -> int:
        (now,) = connection.execute("PRAGMA page_count").fetchone()
        most = 1_073_741_823 if pages is None else now + pages
        connection.execute(f"PRAGMA max_page_count = {most}")
        return most

    await store._alone(limit)


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that no store makes smaller, the same for a seed."""
    return random.Random(seed).randbytes(size)


async def test_a_full_store_surfaces_from_the_result_and_the_run_goes_on_when_there_is_space(runtime: Runtime) -> None:
    ran: list[int] = []

    @checkpoint
    async def fill(number: int) -> bytes:
        ran.append(number)
        return noise(40_000, number)

    @flow
    async def filling() -> int:
        for number in range(8):
            await fill(number)
        return len(ran)

    await cap(runtime, 20)
    handle = await runtime.start(filling.options(run_id="r"))
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StoreFullError):
            await handle.result()
    done = len(await keys_of(runtime, "r", StepCompleted))
    assert 0 < done < 8
    assert await of_type(runtime, "r", StepFailed) == []
    await cap(runtime, None)
    again = await runtime.resume("r", filling)
    async with asyncio.timeout(PATIENCE):
        await again.result()
    # What was not acknowledged ran again, and nothing else did.
    assert ran == [*range(done + 1), *range(done, 8)]


async def test_a_result_that_does_not_fit_any_more_is_told_not_waited_for(runtime: Runtime) -> None:
    @flow
    async def large() -> bytes:
        return noise(400_000)

    await cap(runtime, 20)
    handle = await runtime.start(large.options(run_id="r"))
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StoreFullError):
            await handle.result()
    await cap(runtime, None)
    async with asyncio.timeout(PATIENCE):
        assert len(await (await runtime.resume("r", large)).result()) == 400_000


async def test_a_run_that_cannot_be_recorded_does_not_start(runtime: Runtime) -> None:
    ran: list[int] = []

    @flow
    async def quick(data: bytes) -> None:
        ran.append(1)

    await cap(runtime, 2)
    with pytest.raises(StoreFullError):
        await runtime.start(quick, noise(400_000))
    assert ran == []


async def test_flow_code_cannot_take_a_full_store_for_a_failed_step(runtime: Runtime) -> None:
    swallowed: list[BaseException] = []

    @checkpoint
    async def fill() -> bytes:
        return noise(400_000)

    @flow
    async def tolerant() -> str:
        try:
            await fill()
        except Exception as error:
            swallowed.append(error)
        return "went on"

    await cap(runtime, 20)
    handle = await runtime.start(tolerant.options(run_id="r"))
    with pytest.raises(StoreFullError):
        await handle.result()
    assert swallowed == []


async def test_other_runs_go_on_when_one_does_not_fit(runtime: Runtime) -> None:
    @checkpoint
    async def step(size: int) -> int:
        return len(bytes(size))

    @checkpoint
    async def fill(size: int) -> bytes:
        return noise(size)

    @flow
    async def small() -> int:
        return sum([await step(1) for _ in range(5)])

    @flow
    async def large() -> bytes:
        return await fill(2_000_000)

    await cap(runtime, 40)
    too_large = await runtime.start(large)
    with pytest.raises(StoreFullError):
        await too_large.result()
    assert await (await runtime.start(small)).result() == 5


async def test_a_full_store_in_a_sync_flow_surfaces_too(runtime: Runtime) -> None:
    @checkpoint
    def fill() -> bytes:
        return noise(400_000)

    @flow
    def plain() -> int:
        return len(fill().load())

    await cap(runtime, 20)
    handle = await runtime.start(plain.options(run_id="r"))
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StoreFullError):
            await handle.result()
    await cap(runtime, None)
    assert await (await runtime.resume("r", plain)).result() == 400_000


async def test_a_full_store_in_a_child_leaves_its_parent_resumable(runtime: Runtime) -> None:
    @checkpoint
    async def fill() -> bytes:
        return noise(400_000)

    @flow
    async def child() -> int:
        return len(await fill())

    @flow
    async def parent() -> int:
        try:
            return await child()
        except Exception:
            return -1

    await cap(runtime, 20)
    handle = await runtime.start(parent.options(run_id="r"))
    with pytest.raises(StoreFullError):
        await handle.result()
    assert await of_type(runtime, "r", StepFailed) == []
    await cap(runtime, None)
    assert await (await runtime.resume("r", parent)).result() == 400_000


async def test_a_closed_store_ends_what_runs_on_it(tmp_path: Path) -> None:
    reached, go = asyncio.Event(), asyncio.Event()

    @checkpoint
    async def step() -> int:
        reached.set()
        await go.wait()
        return 1

    @flow
    async def one() -> int:
        return await step()

    url = f"sqlite:///{tmp_path}/runs.db"
    runtime = Runtime(url, recover=False)
    await runtime.open()
    handle = await runtime.start(one.options(run_id="r"))
    await reached.wait()
    await runtime._core.store.close()
    go.set()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StoreError):
            await handle.result()
    await runtime.close()
    assert await resumed(url, one, "r") == 1


async def test_a_file_that_is_no_store_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("not a database, but long enough to be looked at " * 40)
    with pytest.raises(StoreError, match=r"notes\.db"):
        async with Runtime(f"sqlite:///{path}"):
            pass


async def test_a_folder_that_cannot_be_made_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises((StoreReadOnlyError, StoreError)):
        async with Runtime(f"sqlite:///{tmp_path}/file/runs.db"):
            pass


async def test_a_store_that_could_not_be_opened_can_be_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "runs.db"
    path.parent.write_text("x")
    runtime = Runtime(f"sqlite:///{path}")
    with pytest.raises(StoreError):
        await runtime.open()
    path.parent.unlink()
    path.parent.mkdir()
    await runtime.open()
    await runtime.close()


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """A store's file that another program writes to: whoever opens the store waits."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.close()


async def test_cancelling_the_first_use_of_a_runtime_leaves_its_opening_to_the_others(tmp_path: Path) -> None:
    runtime = Runtime(f"sqlite:///{tmp_path}/runs.db")
    with held(tmp_path / "runs.db"):
        first, second = asyncio.create_task(runtime.open()), asyncio.create_task(runtime.open())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        assert not second.done()
    await asyncio.wait_for(second, PATIENCE)
    await runtime.close()


def test_a_loop_that_ends_while_it_opens_a_runtime_leaves_the_opening_to_other_loops(tmp_path: Path) -> None:
    runtime = Runtime(f"sqlite:///{tmp_path}/runs.db")

    async def hasty() -> None:
        opening = asyncio.create_task(runtime.open())
        await asyncio.sleep(0)
        assert not opening.done()

    with held(tmp_path / "runs.db"):
        asyncio.run(hasty())
    asyncio.run(runtime.open())
    asyncio.run(runtime.close())


async def test_cancelling_whoever_opens_a_store_first_leaves_it_to_the_others(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "runs.db")
    with held(tmp_path / "runs.db"):
        first, second = asyncio.create_task(store.open()), asyncio.create_task(store.open())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
    await asyncio.wait_for(second, PATIENCE)
    assert await store.runs() == []
    await store.close()


async def test_a_run_that_leaves_takes_no_connection_with_it_that_others_wait_for(store_url: str) -> None:
    @flow
    async def saving() -> None:
        await kitaru.save("x", 1)

    @flow
    async def reading() -> object:
        return await kitaru.load("x", run="r")

    async with Runtime(store_url, recover=False) as writing:
        await (await writing.start(saving.options(run_id="r"))).result()
    async with Runtime(store_url, recover=False) as runtime:
        # The first to read on this loop is the run.
        handle = await runtime.start(reading)
        await asyncio.sleep(0)
        other = asyncio.create_task(runtime._core.store.run("r"))
        await asyncio.sleep(0)
        handle.park_soon()
        assert (await asyncio.wait_for(other, PATIENCE)).status == "completed"


async def test_a_cancelled_close_still_closes_the_store(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "runs.db")
    await store.open()
    await store.runs()
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    again = SqliteStore(tmp_path / "runs.db")
    await again.open()
    await again.close()

    async def is_left() -> bool:
        return not (tmp_path / "runs.db-wal").exists()

    # Whichever of the two lets go last removes it.
    await until(is_left)
