"""What a store does when the disk, the process or another process fails at the worst moment."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from kitaru.errors import FencedError, StoreClosedError, StoreError, StoreFullError
from kitaru.store.sqlite import SqliteStore
from tests.faults.vfs import FULL, IOERR_FSYNC, IOERR_WRITE, FaultVfs, Kind, Operation
from tests.store.logs import Listener, started, step

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}/src{os.pathsep}{ROOT}"}


def python(code: str, *args: str) -> list[str]:
    return [sys.executable, "-c", code, *args]


def start(code: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        python(code, *args), stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=ENVIRONMENT
    )


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


async def recorded(path: Path) -> dict[str, int]:
    """Each run's last seq in a file, which must be sound."""
    store = SqliteStore(path)
    await store.open()
    try:
        assert await store.verify() == []
        return {row.id: row.seq for row in await store.runs(limit=None)}
    finally:
        await store.close()
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()


# Killed at each operation. A child counts its own operations, tells of every acknowledgement, and kills itself at one.
KILLED = """
import asyncio, os, signal, sys
from kitaru.store.sqlite import SqliteStore
from tests.faults.vfs import FaultVfs
from tests.store.logs import Listener, started, step

def fault(kind, path, number):
    if number == at:
        os.kill(os.getpid(), signal.SIGKILL)

async def main(path):
    store = SqliteStore(path)
    await store.open()
    listener = Listener(store)
    for run in range(4):
        await listener.create(f"run{run}")
        os.write(1, b"c")
    for number in range(3):
        await listener.together([listener.prepare(f"run{run}", 1, step(number)) for run in range(4)])
        os.write(1, b"a")
    await store.close()

children = []
for at in range(int(sys.argv[2]), int(sys.argv[3])):
    path = os.path.join(sys.argv[1], str(at), "k.db")
    os.makedirs(os.path.dirname(path))
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(path + ".acks", os.O_CREAT | os.O_WRONLY, 0o600), 1)
        with FaultVfs(fault).installed():
            asyncio.run(main(path))
        os._exit(0)
    os.waitpid(pid, 0)
"""


async def test_a_process_killed_at_any_operation_loses_nothing_acknowledged(tmp_path: Path) -> None:
    done = await asyncio.to_thread(
        subprocess.run, python(KILLED, str(tmp_path), "0", "80"), env=ENVIRONMENT, timeout=60, check=False
    )
    assert done.returncode == 0
    kills = 0
    for folder in inside(tmp_path):
        acks = acknowledged(folder)
        if acks == b"ccccaaa":
            continue
        kills += 1
        runs = await recorded(folder / "k.db")
        created, batches = acks.count(b"c"), acks.count(b"a")
        # One more than was acknowledged may be there, and a batch is there whole or not at all.
        assert created <= len(runs) <= created + 1
        if created == 4:
            assert set(runs.values()) in ({1 + batches}, {2 + batches})
    assert kills > 40


def inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def acknowledged(folder: Path) -> bytes:
    return (folder / "k.db.acks").read_bytes()


class Disk:
    """A fault that begins once it is switched on, at some operation of its kind, on files that end so."""

    def __init__(self, kind: Kind, code: int, *, skip: int = 0, times: int = 1 << 30, only: str = "") -> None:
        self.kind = kind
        self.code = code
        self.skip = skip
        self.times = times
        self.only = only
        self.on = False

    def __call__(self, kind: Kind, path: str, number: int) -> int | None:
        if not self.on or kind != self.kind or not path.endswith(self.only):
            return None
        self.skip -= 1
        if self.skip >= 0 or not self.times:
            return None
        self.times -= 1
        return self.code


@contextlib.asynccontextmanager
async def on(path: Path, disk: Disk) -> AsyncIterator[tuple[SqliteStore, Listener]]:
    with FaultVfs(disk).installed():
        store = SqliteStore(path)
        await store.open()
        listener = Listener(store)
        await listener.create("tides")
        await listener.create("moon")
        try:
            yield store, listener
        finally:
            disk.on = False
            await store.close()


@pytest.mark.parametrize("skip", range(6))
@pytest.mark.parametrize(("code", "error"), [(FULL, StoreFullError), (IOERR_WRITE, StoreError)])
async def test_a_write_that_fails_leaves_nothing_half_done_and_the_store_usable(
    tmp_path: Path, skip: int, code: int, error: type[StoreError]
) -> None:
    disk = Disk("write", code, skip=skip)
    async with on(tmp_path / "k.db", disk) as (store, listener):
        disk.on = True
        appends = [listener.prepare(run, 1, step(1), step(2)) for run in ("tides", "moon")]
        await listener.together(appends)
        disk.on = False
        assert [isinstance(append.error, error) for append in appends] == [True, True]
        assert [row.seq for row in await store.runs()] == [1, 1]
        assert (await listener.append("tides", 1, step(1))).seq == 2
    assert await recorded(tmp_path / "k.db") == {"tides": 2, "moon": 1}


@pytest.mark.parametrize("skip", range(2))
async def test_after_a_failed_flush_nothing_is_written_any_more(tmp_path: Path, skip: int) -> None:
    disk = Disk("sync", IOERR_FSYNC, skip=skip, times=1)
    async with on(tmp_path / "k.db", disk) as (store, listener):
        disk.on = True
        errors = []
        for number in range(4):
            appends = [listener.prepare(run, 1, step(number)) for run in ("tides", "moon")]
            await listener.together(appends)
            errors += [append.error for append in appends]
        before, after = errors[: 2 * skip], errors[2 * skip :]
        assert before == [None] * (2 * skip)
        assert all(isinstance(error, StoreClosedError) for error in after)
        assert "flush" in str(after[0])
        with pytest.raises(StoreClosedError):
            await store.post("tides", step(9))
        assert [row.seq for row in await store.runs()] == [1 + skip, 1 + skip]
    runs = await recorded(tmp_path / "k.db")
    assert set(runs.values()) <= {1 + skip, 2 + skip}


async def test_a_flush_that_fails_in_a_checkpoint_closes_the_store_too(tmp_path: Path) -> None:
    disk = Disk("sync", IOERR_FSYNC, only=".db")
    async with on(tmp_path / "k.db", disk) as (store, listener):
        disk.on = True
        checkpoint_next(store)
        # The checkpoint may come before the first append or after it.
        await listener.tried("tides", 1, step(1))
        after = await listener.tried("tides", 1, step(2))
    assert isinstance(after.error, StoreClosedError)


def checkpoint_next(store: SqliteStore) -> None:
    """Let the writer believe that the WAL has grown large."""
    writer = store._writer
    assert writer is not None
    writer._pages = 10_000


def survivors(log: Sequence[Operation], cut: int, chance: random.Random) -> dict[str, bytearray]:
    """Files after a power cut: all that was synced, and of the rest what chance kept, torn at 512 bytes."""
    files: dict[str, bytearray] = {}
    waiting: dict[str, list[Operation]] = {}
    for operation in log[:cut]:
        if operation.kind == "sync":
            for each in waiting.pop(operation.path, []):
                put(files, each)
        else:
            waiting.setdefault(operation.path, []).append(operation)
    for lost in waiting.values():
        for each in lost:
            if chance.random() < 0.5:
                put(files, each)
            elif each.data and chance.random() < 0.5:
                put(files, each._replace(data=each.data[: chance.randrange(0, len(each.data), 512)]))
    return files


def put(files: dict[str, bytearray], operation: Operation) -> None:
    data = files.setdefault(operation.path, bytearray())
    if operation.kind == "truncate":
        del data[operation.offset :]
        return
    assert operation.data is not None
    data.extend(bytes(max(0, operation.offset - len(data))))
    data[operation.offset : operation.offset + len(operation.data)] = operation.data


async def test_a_power_cut_at_any_moment_loses_nothing_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    marks: list[tuple[int, int]] = []
    with FaultVfs(record=True).installed() as vfs:
        store = SqliteStore(path)
        await store.open()
        listener = Listener(store)
        await listener.create("tides")
        start_at = vfs.count
        for number in range(12):
            append = await listener.append("tides", 1, step(number, os.urandom(1500)))
            marks.append((vfs.count, append.seq))
            if number == 5:
                checkpoint_next(store)
        await store.close()
    chance = random.Random(7)
    images = 0
    for cut in range(start_at, len(vfs.log) + 1):
        for _ in range(2):
            folder = tmp_path / f"image{images}"
            folder.mkdir()
            images += 1
            for name, data in survivors(vfs.log, cut, chance).items():
                if not name.endswith("-journal"):
                    (folder / Path(name).name).write_bytes(data)
            acknowledged_seq = max((seq for count, seq in marks if count <= cut), default=1)
            seqs = seqs_in(folder / "k.db")
            assert seqs[:acknowledged_seq] == list(range(1, acknowledged_seq + 1))
            assert len(seqs) <= acknowledged_seq + 1
            shutil.rmtree(folder)
    assert images > 100


def seqs_in(path: Path) -> list[int]:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [seq for (seq,) in connection.execute("SELECT seq FROM events ORDER BY seq")]
    finally:
        connection.close()


OWNER = """
import asyncio, sys
from kitaru.store.sqlite import SqliteStore
from tests.store.logs import Listener, started, step

async def main(path, lease):
    store = SqliteStore(path, lease=float(lease))
    await store.open()
    listener = Listener(store)
    await listener.create("tides")
    print("owns", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        append = await listener.tried("tides", 1, step(1))
        print(type(append.error).__name__, flush=True)
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_an_owner_that_was_stopped_past_its_lease_is_fenced_when_it_goes_on(tmp_path: Path) -> None:
    owner = start(OWNER, str(tmp_path / "k.db"), "0.4")
    try:
        assert await asyncio.to_thread(told, owner) == "owns"
        owner.send_signal(signal.SIGSTOP)
        store = SqliteStore(tmp_path / "k.db")
        await store.open()
        while (await store.run("tides")).live:
            await store.watch("tides", after=9, timeout=0.05)
        lease = await store.claim("tides", Listener(store), python="3.11")
        owner.send_signal(signal.SIGCONT)
        await asyncio.to_thread(tell, owner, "append")
        assert await asyncio.to_thread(told, owner) == FencedError.__name__
        assert (lease.epoch, (await store.run("tides")).seq) == (2, 2)
        await store.close()
    finally:
        owner.kill()
        owner.communicate()


async def test_the_runs_of_a_killed_owner_can_be_claimed_at_once(tmp_path: Path) -> None:
    owner = start(OWNER, str(tmp_path / "k.db"), "3600")
    assert await asyncio.to_thread(told, owner) == "owns"
    owner.kill()
    await asyncio.to_thread(owner.communicate)
    store = SqliteStore(tmp_path / "k.db")
    await store.open()
    assert (await store.claim("tides", Listener(store), python="3.11")).epoch == 2
    await store.close()


RACER = """
import asyncio, sys
from kitaru.errors import RunOwnedError
from kitaru.store.sqlite import SqliteStore
from tests.store.logs import Listener

async def main(path):
    store = SqliteStore(path)
    await store.open()
    listener = Listener(store)
    print("ready", flush=True)
    sys.stdin.readline()
    won = []
    for number in range(200):
        try:
            won.append((await store.claim(f"run{number}", listener, python="3.11")).run)
        except RunOwnedError:
            pass
    print(" ".join(won), flush=True)
    sys.stdin.readline()
    await store.close()

asyncio.run(main(sys.argv[1]))
"""


async def test_of_two_processes_that_claim_the_same_runs_exactly_one_gets_each(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    store = SqliteStore(path)
    await store.open()
    listener = Listener(store)
    names = [f"run{number}" for number in range(200)]
    await listener.together([listener.prepare(name, 0, started(), new=True) for name in names])
    await store.close()
    racers = [start(RACER, str(path)) for _ in range(2)]
    try:
        for racer in racers:
            assert await asyncio.to_thread(told, racer) == "ready"
        for racer in racers:
            tell(racer, "go")
        won = [(await asyncio.to_thread(told, racer)).split() for racer in racers]
    finally:
        for racer in racers:
            racer.communicate("stop\n", timeout=20)
    assert sorted(won[0] + won[1]) == sorted(names)
    assert set((await recorded(path)).values()) == {2}


TRACED = """
import asyncio, os, sys
from kitaru.store.sqlite import SqliteStore
from tests.store.logs import Listener, step

async def main(path):
    store = SqliteStore(path)
    await store.open()
    listener = Listener(store)
    await listener.create("tides")
    for number in range(10):
        await listener.append("tides", 1, step(number))
        os.write(9, b"ack")
    await store.close()

os.dup2(os.open(os.devnull, os.O_WRONLY), 9)
asyncio.run(main(sys.argv[1]))
"""


def can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    tried = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False)
    return tried.returncode == 0


@pytest.mark.skipif(not can_trace(), reason="needs strace and permission to trace")
def test_each_acknowledgement_follows_a_flush_of_the_wal(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-o", str(trace), "-e", "trace=pwrite64,fdatasync,fsync,write"]
    done = subprocess.run([*command, *python(TRACED, str(tmp_path / "k.db"))], env=ENVIRONMENT, timeout=60, check=False)
    assert done.returncode == 0
    unflushed, flushes, acks = False, 0, 0
    for line in trace.read_text(errors="replace").splitlines():
        if re.search(r"pwrite64\(\d+<[^>]*k\.db-wal>", line):
            unflushed = True
        elif re.search(r"f(?:data)?sync\(\d+<[^>]*k\.db-wal>", line):
            unflushed = False
            flushes += 1
        elif re.search(r"write\(9<", line):
            assert not unflushed, line
            assert flushes > acks
            acks += 1
    assert acks == 10
