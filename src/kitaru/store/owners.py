"""Owners: the processes that may append to runs, and how a dead or stuck one is told from a living one.

Each owner has one row and one file that it keeps locked. A free lock means that the process is gone. A held lock with
an old heartbeat means that it is stuck. Wall clock time plays no part: heartbeats are on the clock of this boot.
"""
# what is put into SQL text is a constant list of columns

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
import weakref
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

from kitaru.store import files
from kitaru.store.names import new_run_id

COLUMNS: Final = "no, name, pid, boot, beat, lease"


class Health(Enum):
    """What is known of an owner."""

    ALIVE = "alive"
    STUCK = "stuck"
    DEAD = "dead"


class OwnerRow(NamedTuple):
    """An owner as the store records it. `beat` and `lease` are seconds, `beat` on the clock of boot `boot`."""

    no: int
    name: str
    pid: int
    boot: str
    beat: float
    lease: float


def boot_clock() -> float:
    """Seconds since this machine started, sleep included where the system tells."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def boot_id() -> str:
    """A name for this boot of the machine, or "" where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class OwnerLock:
    """The file that says, by being locked, that this owner lives.

    `flock` belongs to the open file and not to the process, so two stores in one process are two owners, and closing
    one file never frees the other's lock.

    Args:
        folder: Where lock files live; made when missing.
    """

    def __init__(self, folder: Path) -> None:
        files.make_folder(folder)
        while True:
            self.name = new_run_id()
            self._path = folder / self.name
            self._fd = files.open_file(self._path, os.O_RDWR | os.O_EXCL)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            # Somebody who clears away dead owners may have taken the file between its creation and its lock; from here
            # on nobody does, because a file is removed under its own exclusive lock only.
            if self._still_there():
                break
            os.close(self._fd)
        _close_in_children(self)

    def _still_there(self) -> bool:
        return _is_at(self._path, self._fd)

    @property
    def is_lost(self) -> bool:
        """Whether others take this owner for dead, because its file was removed or replaced."""
        return self._fd >= 0 and not self._still_there()

    def close(self) -> None:
        """Remove the file and free the lock."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                if self._still_there():
                    self._path.unlink()
            self.drop()

    def drop(self) -> None:
        """Close this process's hold on the lock, leaving the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except OSError:
        return False


def _close_in_children(lock: OwnerLock) -> None:
    # A forked child shares the lock and would keep a dead parent looking alive.
    alive = weakref.ref(lock)

    def drop() -> None:
        held = alive()
        if held is not None:
            held.drop()

    os.register_at_fork(after_in_child=drop)


class Owner:
    """This store as an owner: nobody until it first creates or claims a run.

    Args:
        folder: Where lock files live.
        lease: Seconds after which it counts as stuck without a heartbeat.
        clock: Seconds since boot.
    """

    def __init__(self, folder: Path, lease: float, clock: Callable[[], float]) -> None:
        self.folder = folder
        self.boot = boot_id()
        self.clock = clock
        self.name = ""
        self.no = 0
        self._lease = lease
        self._lock: OwnerLock | None = None
        self._recorded = False
        self._is_cleared = False
        self._next_beat = 0.0

    def appear(self) -> None:
        """Take a lock, unless there is one."""
        if self._lock is None:
            self._lock = OwnerLock(self.folder)
            self.name = self._lock.name

    def record(self, db: sqlite3.Connection) -> Callable[[], None] | None:
        """Write the row, within the caller's transaction, and clear away dead owners.

        Returns:
            What to do once the transaction is committed; None when the row was there.
        """
        if self._lock is None or self._recorded:
            return None
        now = self.clock()
        dead = clear_dead(db, self.folder, keep=self.name)
        cursor = db.execute(
            "INSERT INTO owners (name, pid, boot, beat, lease) VALUES (?, ?, ?, ?, ?)",
            (self.name, os.getpid(), self.boot, now, self._lease),
        )
        assert cursor.lastrowid is not None
        self.no = cursor.lastrowid

        def recorded() -> None:
            self._recorded = True
            self._next_beat = now + self._lease / 3
            remove_files(self.folder, dead)

        return recorded

    def is_due(self) -> bool:
        """Whether it is time for a heartbeat."""
        return self._recorded and self.clock() >= self._next_beat

    def beat(self, db: sqlite3.Connection) -> None:
        """Write a heartbeat, in a transaction of its own."""
        now = self.clock()
        self._is_cleared = db.execute("UPDATE owners SET beat = ? WHERE no = ?", (now, self.no)).rowcount == 0
        self._next_beat = now + self._lease / 3

    @property
    def is_lost(self) -> bool:
        """Whether others take this owner for dead although it lives."""
        return self._is_cleared or (self._lock is not None and self._lock.is_lost)

    def resign(self, db: sqlite3.Connection) -> None:
        """Give up every run and the row, within the caller's transaction."""
        db.execute("DELETE FROM owned WHERE owner = ?", (self.no,))
        db.execute("DELETE FROM owners WHERE no = ?", (self.no,))

    def health_of(self, other: OwnerRow) -> Health:
        """What is known of an owner, this one included."""
        if other.name == self.name:
            return Health.ALIVE
        return health(other, self.folder, now=self.clock(), boot=self.boot)

    def close(self) -> None:
        """Free the lock."""
        if self._lock is not None:
            self._lock.close()


def is_free(folder: Path, name: str) -> bool:
    """Whether nobody holds an owner's lock."""
    try:
        fd = os.open(folder / name, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        # Shared, so that two who look at the same moment do not take each other for the owner.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def health(owner: OwnerRow, folder: Path, *, now: float, boot: str) -> Health:
    """What is known of an owner.

    Args:
        owner: Its row.
        folder: Where lock files live.
        now: The boot clock, seconds.
        boot: This boot's id.
    """
    if is_free(folder, owner.name):
        return Health.DEAD
    if owner.boot == boot and now - owner.beat > owner.lease:
        return Health.STUCK
    return Health.ALIVE


def read_owners(connection: sqlite3.Connection) -> list[OwnerRow]:
    """All recorded owners."""
    return [OwnerRow(*row) for row in connection.execute(f"SELECT {COLUMNS} FROM owners")]


def clear_dead(connection: sqlite3.Connection, folder: Path, *, keep: str) -> list[str]:
    """Remove the rows of dead owners, within the caller's write transaction.

    Args:
        connection: A connection inside a write transaction.
        folder: Where lock files live.
        keep: The caller's own name.

    Returns:
        Names whose files may be removed once the transaction is committed.
    """
    rows = read_owners(connection)
    dead = [owner for owner in rows if owner.name != keep and is_free(folder, owner.name)]
    for owner in dead:
        connection.execute("DELETE FROM owned WHERE owner = ?", (owner.no,))
        connection.execute("DELETE FROM owners WHERE no = ?", (owner.no,))
    known = {owner.name for owner in rows}
    # A process can also die between making its file and committing its row.
    strays = [file.name for file in folder.iterdir() if file.name not in known and file.name != keep]
    return [owner.name for owner in dead] + [name for name in strays if is_free(folder, name)]


def remove_files(folder: Path, names: list[str]) -> None:
    """Remove the lock files of dead owners: of these names, those whose lock can be taken now."""
    for name in names:
        with contextlib.suppress(OSError):
            _remove_if_free(folder / name)


def _remove_if_free(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        # A file that looked free may belong to a process that was about to lock it. While this lock is held that
        # process waits, and then finds its file gone; where it was faster, this raises and the file stays.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(path, fd):
            path.unlink()
    finally:
        os.close(fd)
