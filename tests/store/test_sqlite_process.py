"""A store and the process around it: threads, loops, forks, exits, locks held by others."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kitaru.errors import (
    FencedError,
    ForkedProcessError,
    RunOwnedError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
)
from kitaru.store.owners import OwnerLock, is_free
from kitaru.store.protocol import Append, Recorded
from kitaru.store.sqlite import SqliteStore
from tests.store.logs import Listener, kept, ref, started, step

ROOT = Path(__file__).resolve().parents[2]


class Collector:
    """A sink for use from any thread."""

    def __init__(self) -> None:
        self.done: list[Append] = []
        self.all = threading.Event()
        self.expected = -1

    def acknowledged(self, appends: list[Append]) -> None:
        self.done += appends
        if len(self.done) == self.expected:
            self.all.set()

    def noticed(self, run: str, events: list[Recorded]) -> None:
        raise AssertionError("nobody else appends")


def child(code: str, *args: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        check=False,
    )


async def test_appends_from_many_threads_are_all_kept_in_each_runs_order(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "k.db")
    await store.open()
    listener = Listener(store)
    for number in range(8):
        await listener.create(f"run{number}")
    sink = Collector()
    sink.expected = 8 * 100

    def work(number: int) -> None:
        for each in range(100):
            store.submit(Append(f"run{number}", 1, [step(each)], sink))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert await asyncio.to_thread(sink.all.wait, 20)
    assert [append.error for append in sink.done] == [None] * 800
    for number in range(8):
        events = await store.events(f"run{number}", after=1)
        assert [each.event for each in events] == [step(each) for each in range(100)]
    await store.close()


async def test_one_runs_data_that_does_not_fit_does_not_harm_its_neighbours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = SqliteStore(tmp_path / "k.db")
    await store.open()
    listener = Listener(store)
    await listener.create("big")
    await listener.create("small")
    limit_pages(store, 60)
    huge = os.urandom(400_000)
    appends = [
        listener.prepare("small", 1, step(1)),
        listener.prepare("big", 1, step(1, ref(huge)), artifacts=kept(huge)),
        listener.prepare("big", 1, step(2)),
        listener.prepare("small", 1, step(2)),
    ]
    await listener.together(appends)
    assert [type(append.error) for append in appends] == [type(None), StoreFullError, StoreFullError, type(None)]
    assert "one by one" in caplog.text
    limit_pages(store, 10_000)
    again = await listener.tried("big", 1, step(1, ref(huge)), artifacts=kept(huge))
    assert (again.error, again.seq) == (None, 2)
    assert await store.verify() == []
    await store.close()


def limit_pages(store: SqliteStore, pages: int) -> None:
    """A full disk, for the writer's connection."""
    writer = store._writer
    assert writer is not None
    writer._connection.execute(f"PRAGMA max_page_count = {pages}")


async def test_a_file_held_by_another_process_fails_the_append_and_not_the_store(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "k.db", busy_timeout=0.05)
    await store.open()
    listener = Listener(store)
    await listener.create("tides")
    holder = sqlite3.connect(tmp_path / "k.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    blocked = await listener.tried("tides", 1, step(1))
    readable = await store.events("tides")
    holder.execute("ROLLBACK")
    holder.close()
    assert isinstance(blocked.error, StoreBusyError)
    assert len(readable) == 1
    assert (await listener.append("tides", 1, step(1))).seq == 2
    await store.close()


async def test_a_forked_child_is_refused_and_the_parent_unharmed(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "k.db")
    await store.open()
    listener = Listener(store)
    await listener.create("tides")
    append = listener.prepare("tides", 1, step())
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        refused = 0
        try:
            store.submit(append)
        except ForkedProcessError:
            refused += 1
        try:
            store.run("tides").send(None)
        except ForkedProcessError:
            refused += 1
        os.write(writing, b"%d" % refused)
        os._exit(0)
    ended(pid)
    assert os.read(reading, 1) == b"2"
    os.close(reading)
    os.close(writing)
    assert (await listener.append("tides", 1, step())).seq == 2
    await store.close()


async def test_a_childs_copy_of_a_lock_does_not_keep_a_dead_parent_alive(tmp_path: Path) -> None:
    lock = OwnerLock(tmp_path)
    ready, release = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(ready[1], b"r")
        os.read(release[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    assert not is_free(tmp_path, lock.name)
    lock.drop()
    free = is_free(tmp_path, lock.name)
    os.write(release[1], b"x")
    ended(pid)
    for fd in (*ready, *release):
        os.close(fd)
    assert free


def ended(pid: int) -> None:
    os.waitpid(pid, 0)


def names(folder: str) -> set[str]:
    return {file.name for file in Path(folder).iterdir()}


FORGETFUL = """
import asyncio, sys
from kitaru.store.sqlite import SqliteStore
from tests.store.logs import Listener, started, step

async def main():
    global store
    store = SqliteStore(sys.argv[1])
    await store.open()
    listener = Listener(store)
    await listener.create("tides")
    await store.events("tides")
    for number in range(200):
        store.submit(listener.prepare("tides", 1, step(number)))
    {end}

asyncio.run(main())
"""


@pytest.mark.parametrize("end", ["pass", "raise SystemExit(0)"])
def test_a_program_that_forgets_to_close_ends_and_loses_nothing(tmp_path: Path, end: str) -> None:
    before = time.monotonic()
    result = child(FORGETFUL.replace("{end}", end), str(tmp_path / "k.db"))
    assert (result.returncode, result.stderr) == (0, "")
    assert time.monotonic() - before < 10

    async def look() -> tuple[int, bool]:
        store = SqliteStore(tmp_path / "k.db")
        await store.open()
        row = await store.run("tides")
        await store.close()
        return row.seq, row.live

    assert asyncio.run(look()) == (201, False)


def test_a_store_that_is_forgotten_ends_its_threads(tmp_path: Path) -> None:
    async def use() -> threading.Thread:
        store = SqliteStore(tmp_path / "k.db")
        await store.open()
        await store.runs()
        assert store._writer is not None
        return store._writer._thread

    thread = asyncio.run(use())
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_what_a_closed_loop_had_submitted_is_on_disk(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "k.db")

    async def first() -> None:
        await store.open()
        listener = Listener(store)
        await listener.create("tides")
        for number in range(100):
            store.submit(listener.prepare("tides", 1, step(number)))

    async def second() -> int:
        row = await store.watch("tides", after=100, timeout=10)
        await store.close()
        return row[-1].seq

    asyncio.run(first())
    assert asyncio.run(second()) == 101


async def test_reads_cancelled_at_any_moment_leave_the_store_usable(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "k.db")
    await store.open()
    await Listener(store).create("tides")
    for passes in range(12):
        reading = asyncio.create_task(store.runs())
        for _ in range(passes):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert len(await store.runs()) == 1
    await store.close()


async def test_writes_cancelled_at_any_moment_leave_no_transaction_open(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "k.db")
    await store.open()
    listener = Listener(store)
    await listener.create("tides")
    for passes in range(12):
        await store.release("tides", (await store.run("tides")).epoch)
        claiming = asyncio.create_task(store.claim("tides", listener, python="3.11"))
        for _ in range(passes):
            await asyncio.sleep(0)
        claiming.cancel()
        (result,) = await asyncio.gather(claiming, return_exceptions=True)
        if isinstance(result, BaseException):
            await store.post("tides", step())
            assert not (await store.run("tides")).live
    assert await store.verify() == []
    await store.close()


class Clock:
    """A boot clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_living_owner_that_stays_silent_past_its_lease_can_be_fenced(tmp_path: Path) -> None:
    stuck_clock, clock = Clock(), Clock()
    stuck = SqliteStore(tmp_path / "k.db", lease=30, clock=stuck_clock)
    store = SqliteStore(tmp_path / "k.db", lease=30, clock=clock)
    await stuck.open()
    await store.open()
    theirs = Listener(stuck)
    await theirs.create("tides")
    await theirs.create("moon")
    clock.now += 30
    with pytest.raises(RunOwnedError):
        await store.claim("tides", Listener(store), python="3.11")
    clock.now += 1
    assert not (await store.run("tides")).live
    assert (await store.claim("tides", Listener(store), python="3.11")).epoch == 2
    fenced = await theirs.tried("tides", 1, step())
    kept_run = await theirs.tried("moon", 1, step())
    assert isinstance(fenced.error, FencedError)
    assert kept_run.error is None
    await stuck.close()
    assert (await store.run("tides")).live
    await store.close()


async def test_wall_clock_time_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, store = SqliteStore(tmp_path / "k.db"), SqliteStore(tmp_path / "k.db")
    await owner.open()
    await store.open()
    await Listener(owner).create("tides")
    real = time.time
    for jump in (-3600.0, 366 * 86400.0):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        with pytest.raises(RunOwnedError):
            await store.claim("tides", Listener(store), python="3.11")
        await store.post("tides", step())
    assert [each.seq for each in await store.events("tides")] == [1, 2, 3]
    await owner.close()
    await store.close()


async def test_what_dead_owners_left_is_cleared_away(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    result = child(FORGETFUL.replace("{end}", "import os; os._exit(0)"), str(path))
    assert result.returncode == 0
    left = names(f"{path}.owners")
    assert len(left) == 1
    store = SqliteStore(path)
    await store.open()
    assert not (await store.run("tides")).live
    await Listener(store).create("moon")
    now = names(f"{path}.owners")
    assert len(now) == 1
    assert now.isdisjoint(left)
    await store.close()
    assert names(f"{path}.owners") == set()


async def test_a_store_that_is_not_open_says_so(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "k.db")
    with pytest.raises(StoreClosedError):
        await store.runs()
    with pytest.raises(StoreClosedError):
        store.submit(Listener(store).prepare("tides", 0, started(), new=True))
