"""One database has one set of lock files, whatever path leads to it, and a store notices when its files are gone."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.errors import RunOwnedError, StoreClosedError, StoreError
from kitaru.store.owners import OwnerLock, clear_dead, is_free, remove_files
from kitaru.store.place import is_mount_point
from kitaru.store.sqlite import SqliteStore
from tests.cases import cases
from tests.store.logs import Listener, step

# -- paths -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def opened(path: str | Path) -> AsyncIterator[tuple[SqliteStore, Listener]]:
    store = SqliteStore(path)
    await store.open()
    try:
        yield store, Listener(store)
    finally:
        await store.close()


def linked_file(path: Path, number: int) -> Path:
    link = path.with_name(f"link{number}.db")
    link.symlink_to(path.name)
    return link


def linked_folder(path: Path, number: int) -> Path:
    link = path.parent.parent / f"folder{number}"
    link.symlink_to(path.parent.absolute(), target_is_directory=True)
    return link / path.name


def through_a_sibling(path: Path, number: int) -> Path:
    sibling = path.parent / f"sibling{number}"
    sibling.mkdir()
    return sibling / ".." / path.name


def relative(path: Path, number: int) -> Path:
    return Path(os.path.relpath(path))


FORMS: list[Callable[[Path, int], Path]] = [linked_file, linked_folder, through_a_sibling, relative]


@settings(max_examples=cases(60))
@given(first=st.booleans(), forms=st.lists(st.sampled_from(FORMS), min_size=1, max_size=4))
async def test_every_path_to_a_database_sees_the_same_owners(
    tmp_path_factory: pytest.TempPathFactory, first: bool, forms: list[Callable[[Path, int], Path]]
) -> None:
    real = tmp_path_factory.mktemp("paths") / "data" / "k.db"
    real.parent.mkdir()
    other = real
    for number, form in enumerate(forms):
        other = form(other, number)
    # Also where the link is there before the file that it leads to.
    one, two = (other, real) if first else (real, other)
    async with opened(one) as (_, listener), opened(two) as (store, claimant):
        await listener.create("tides")
        assert (await store.run("tides")).live
        with pytest.raises(RunOwnedError):
            await store.claim("tides", claimant, python="3.11")
    assert {file.name for file in real.parent.glob("*.owners")} == {"k.db.owners"}


async def test_a_relative_path_means_the_folder_in_which_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    store = SqliteStore("sqlite:///k.db")
    monkeypatch.chdir(tmp_path / "other")
    await store.open()
    await store.close()
    assert (tmp_path / "k.db").exists()


async def test_a_store_stays_with_its_file_when_the_link_to_it_is_turned(tmp_path: Path) -> None:
    for name in ("blue", "green"):
        (tmp_path / name).mkdir()
    current = tmp_path / "current"
    current.symlink_to("blue")
    async with opened(current / "k.db") as (_, listener):
        await listener.create("tides")
        current.unlink()
        current.symlink_to("green")
        assert (await listener.append("tides", 1, step())).seq == 2
    assert not (tmp_path / "green" / "k.db").exists()


async def test_a_file_with_two_names_of_its_own_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "k.db") as (_, listener):
        await listener.create("tides")
        os.link(tmp_path / "k.db", tmp_path / "second.db")
        with pytest.raises(StoreError, match="hard links") as caught:
            await SqliteStore(tmp_path / "second.db").open()
        assert "-samefile" in str(caught.value.hint)
        assert (await listener.append("tides", 1, step())).seq == 2
    assert not (tmp_path / "second.db-wal").exists()
    (tmp_path / "second.db").unlink()
    async with opened(tmp_path / "k.db") as (store, _):
        assert (await store.run("tides")).seq == 2


async def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path(os.devnull)):
        with pytest.raises(StoreError, match="not a regular file"):
            await SqliteStore(path).open()


def test_a_file_that_is_mounted_without_its_folder_is_recognised() -> None:
    mounts = b"27 1 254:0 / / rw - ext4 /dev/vda rw\n41 27 254:0 /x/k.db /data/a\\040b.db rw - ext4 /dev/vda rw\n"
    assert is_mount_point("/data/a b.db", mounts)
    assert not is_mount_point("/data/b.db", mounts)


# -- files that go away ------------------------------------------------------------------------------------------------


def delete(path: Path) -> None:
    path.unlink()


def delete_all(path: Path) -> None:
    shutil.rmtree(path.parent)


def replace(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def delete_wal(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def delete_locks(path: Path) -> None:
    shutil.rmtree(f"{path}.owners")


def move_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


DAMAGES: list[Callable[[Path], None]] = [delete, delete_all, replace, empty, delete_wal, delete_locks, move_folder]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_nothing_is_acknowledged_once_the_files_of_a_store_are_gone(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "data" / "k.db"
    async with opened(path) as (store, listener):
        await listener.create("tides")
        damage(path)
        await look_is_over(store)
        for _ in range(2):
            late = await listener.tried("tides", 1, step())
            assert isinstance(late.error, StoreClosedError)
            assert str(path) in str(late.error)
        with pytest.raises(StoreClosedError):
            await store.rebuild()


async def look_is_over(store: SqliteStore) -> None:
    """Wait until the writer takes its last look at the files for too old."""
    writer = store._writer
    assert writer is not None
    await asyncio.sleep(max(0.0, writer._seen_until - time.monotonic()))


async def test_an_idle_owner_notices_at_its_heartbeat_that_its_file_is_gone(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "k.db", lease=0.03)
    await store.open()
    await Listener(store).create("tides")
    assert (await store.run("tides")).live
    (tmp_path / "k.db").unlink()
    writer = store._writer
    assert writer is not None
    # The thread that beats has nothing else to do.
    while writer._broken is None:
        with contextlib.suppress(StoreClosedError):
            await store.watch("tides", after=1, timeout=0.02)
    assert isinstance(writer._broken, StoreClosedError)
    await store.close()


@pytest.mark.parametrize("damage", [delete, delete_all, replace, delete_wal, move_folder])
async def test_who_follows_a_run_in_a_file_that_is_gone_does_not_wait_for_ever(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "data" / "k.db"
    async with opened(path) as (_, listener), opened(path) as (follower, _):
        await listener.create("tides")
        assert await follower.watch("tides", after=0, timeout=5)
        damage(path)
        with pytest.raises(StoreClosedError):
            await follower.watch("tides", after=1, timeout=0.01)
        with pytest.raises(StoreClosedError):
            await follower.unowned(())


# -- lock files --------------------------------------------------------------------------------------------------------


def database() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE owners (no, name, pid, boot, beat, lease)")
    db.execute("CREATE TABLE owned (run, owner)")
    return db


def test_a_lock_file_that_is_locked_after_it_looked_free_is_not_removed(tmp_path: Path) -> None:
    file = tmp_path / "abcdefghijklmnop"
    fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    strays = clear_dead(database(), tmp_path, keep="")
    assert strays == [file.name]
    fcntl.flock(fd, fcntl.LOCK_EX)
    remove_files(tmp_path, strays)
    assert file.exists()
    os.close(fd)
    remove_files(tmp_path, strays)
    assert not file.exists()


def test_no_lock_is_lost_while_others_clear_away_dead_owners(tmp_path: Path) -> None:
    stop = threading.Event()

    def clean() -> None:
        db = database()
        while not stop.is_set():
            remove_files(tmp_path, clear_dead(db, tmp_path, keep=""))

    cleaners = [threading.Thread(target=clean) for _ in range(2)]
    for cleaner in cleaners:
        cleaner.start()
    try:
        for _ in range(cases(1_000)):
            lock = OwnerLock(tmp_path)
            assert not lock.is_lost
            assert not is_free(tmp_path, lock.name)
            lock.close()
    finally:
        stop.set()
        for cleaner in cleaners:
            cleaner.join()
