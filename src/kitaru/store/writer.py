"""The one thread that writes to a store: it takes what is queued, commits it together, and acknowledges it.

Nothing is acknowledged before its COMMIT has returned. A batch that fails is tried again one by one where one run's
data may be at fault; after a failed flush nothing is written any more.
"""
# what is put into SQL text is question marks

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

from kitaru.errors import (
    CorruptStoreError,
    ForkedProcessError,
    KitaruError,
    StoreClosedError,
    StoreError,
    StoreReadOnlyError,
)
from kitaru.store import failures, schema
from kitaru.store.batch import Head, HeadMovedError, Transaction, read_events
from kitaru.store.filelock import FileLock
from kitaru.store.owners import Owner
from kitaru.store.pieces import Pieces
from kitaru.store.place import OpenFiles, real_path, refuse_second_names
from kitaru.store.protocol import Append, Recorded, Sink
from kitaru.store.schema import transaction

T = TypeVar("T")

MOST_AT_ONCE: Final = 2_000
_EVENTS_AFTER: Final = "SELECT seq, turn, data FROM events WHERE run = ? AND seq > ? ORDER BY seq"
_POLL: Final = 0.2
_SEEN: Final = 0.01
"""Seconds for which a look at the files is good: each is a dozen system calls, a third of a quick commit's time."""
_IDLE: Final = 0.5
# In pages of the WAL, as estimated: when to copy it back into the file, if there is nothing else to do and if there is.
_CHECKPOINT_IDLE: Final = 200
_CHECKPOINT_BUSY: Final = 1_000
# Before this version, a commit and a checkpoint in two processes may meet so that a commit is lost.
_WAL_RESET_MENDED: Final = (3, 51, 3)

_OF_ALL: Final = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_READONLY", "SQLITE_IOERR", "SQLITE_CANTOPEN")
"""Errors that come from the file and not from what is written to it."""

log: Final = logging.getLogger("kitaru.store")


class Job(Generic[T]):
    """A write other than an append.

    Args:
        work: Done inside a transaction that it may share with others, so it raises a KitaruError only before it writes.
            `alone` gives it the writer outside any transaction instead.
    """

    __slots__ = ("alone", "future", "work")

    def __init__(
        self, work: Callable[[Transaction], T] | None = None, alone: Callable[[sqlite3.Connection], T] | None = None
    ) -> None:
        self.work = work
        self.alone = alone
        self.future: Future[T] = Future()


class _Stop:
    """The last thing in the queue."""


class Writer:
    """The writing thread of one store.

    Args:
        path: The database file, absolute; its real path once it is open.
        durability: `full` or `process`.
        lease: Seconds after which an owner without heartbeat counts as stuck.
        busy_timeout: Seconds to wait for another process.
        clock: The boot clock.
    """

    def __init__(
        self,
        path: str,
        *,
        durability: schema.Durability,
        lease: float,
        busy_timeout: float,
        clock: Callable[[], float],
    ) -> None:
        self.path = path
        self.owner = Owner(Path(f"{path}.owners"), lease, clock)
        self._busy_timeout = busy_timeout
        self.read_only = False
        self.immutable = False
        self.committed: Callable[[set[str]], object] = len
        self._durability: schema.Durability = durability
        self._queue: SimpleQueue[Append | Job[object] | _Stop] = SimpleQueue()
        self._gate = threading.Lock()
        self.pid = os.getpid()
        self.ready: Future[None] = Future()
        """Done when the file is open, or failed."""
        self.stopped: Future[None] = Future()
        self._accepting = False
        self._broken: StoreError | None = None
        self.trouble = ""
        """What the upkeep failed with last, or why nothing is written any more; empty where all is well."""
        self._held: dict[str, Head] = {}
        self._noticed: list[tuple[Sink, str, list[Recorded]]] = []
        self._next_poll = 0.0
        self._seen_until = 0.0
        self._version = 0
        self._pieces = Pieces()
        self._pages = 0
        self._db: sqlite3.Connection | None = None
        self._file_lock: FileLock | None = None
        self._files: OpenFiles | None = None
        self._thread = threading.Thread(target=self._main, name="kitaru-writer", daemon=True)

    # Any thread.

    def start(self) -> None:
        """Begin."""
        self._accepting = True
        self._thread.start()

    def put(self, item: Append | Job[T]) -> None:
        """Queue a write.

        Raises:
            StoreClosedError: The writer has been stopped.
            ForkedProcessError: This is a forked child.
        """
        if os.getpid() != self.pid:
            raise forked(self.path)
        with self._gate:
            if not self._accepting:
                raise StoreClosedError(
                    f"the store {self.path} is not open",
                    hint="Use the runtime inside `async with kitaru.Runtime(...):`.",
                )
            self._queue.put(item)  # type: ignore[arg-type]  # Job is invariant; the queue only hands it back

    def stop(self) -> None:
        """Let the thread finish what is queued, give up ownership, and end. Idempotent; nothing in a forked child."""
        if os.getpid() != self.pid:
            return
        with self._gate:
            if self._accepting:
                self._accepting = False
                self._queue.put(_Stop())

    def stop_and_wait(self, seconds: float) -> None:
        """`stop`, then wait for the thread at most so long."""
        self.stop()
        if os.getpid() == self.pid and threading.current_thread() is not self._thread:
            self._thread.join(seconds)

    # The writer's thread.

    def _main(self) -> None:
        try:
            self._open()
        except BaseException as error:
            with self._gate:
                self._accepting = False
            failed = failures.translate(error, self.path) if isinstance(error, Exception) else error
            self.ready.set_exception(failed)
            self._drain(StoreClosedError(f"the store {self.path} could not be opened"))
            self.stopped.set_result(None)
            return
        self.ready.set_result(None)
        try:
            while self._round():
                pass
        finally:
            with self._gate:
                self._accepting = False
            self._drain(StoreClosedError(f"the store {self.path} was closed"))
            if self._db is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._db.close()
            self.owner.close()
            if self._file_lock is not None:
                self._file_lock.close()
            self.stopped.set_result(None)

    def _open(self) -> None:
        try:
            # Links are followed once: where one is turned to another file later, this store stays with what it opened.
            self.path = real_path(self.path)
            self.owner.folder = Path(f"{self.path}.owners")
            schema.create_file(self.path)
            refuse_second_names(self.path)
            if sqlite3.sqlite_version_info < _WAL_RESET_MENDED:
                self._file_lock = FileLock(f"{self.path}.lock", self._busy_timeout)
            schema.probe(self.path, busy_timeout=self._busy_timeout)
            self._db = schema.connect_writer(self.path, busy_timeout=self._busy_timeout, durability=self._durability)
            with self._locked():
                schema.bring_up_to_date(self._db, self.path)
            self._version = self._data_version()
            self._files = OpenFiles(self.path)
        except (sqlite3.Error, OSError) as error:
            failed = failures.translate(error, self.path)
            if not isinstance(failed, StoreReadOnlyError):
                raise
            self.immutable = schema.probe_for_reading(self.path, failed, busy_timeout=self._busy_timeout)
            self.read_only, self._broken = True, failed

    @property
    def _connection(self) -> sqlite3.Connection:
        assert self._db is not None, "nothing writes through a store that is open for reading"
        return self._db

    def gone(self) -> StoreError | None:
        """The error for files that were removed or replaced since the store was opened. Any thread; it may block."""
        path = self._files.changed() if self._files is not None else None
        return None if path is None else failures.replaced(self.path, path)

    def _see_that_all_is_there(self, *, at_once: bool = False) -> None:
        """Stop writing where others no longer see what is written here, or take this owner for dead.

        Args:
            at_once: Look, however short ago the last look was.
        """
        if not at_once and time.monotonic() <= self._seen_until:
            return
        assert self._files is not None
        gone = self._files.changed()
        if gone is None and self.owner.is_lost:
            gone = str(self.owner.folder / self.owner.name)
        if gone is not None:
            self._broken = failures.replaced(self.path, gone)
            raise self._broken
        self._seen_until = time.monotonic() + _SEEN

    def _locked(self) -> contextlib.AbstractContextManager[object]:
        return self._file_lock or contextlib.nullcontext()

    def _round(self) -> bool:
        """Take what is queued, or do what is due. False at the end."""
        try:
            first = self._queue.get(timeout=self._patience())
        except Empty:
            self._attend(idle=True)
            return True
        batch: list[Append | Job[object]] = []
        going_on = True
        item: Append | Job[object] | _Stop = first
        with contextlib.suppress(Empty):
            while True:
                if isinstance(item, _Stop):
                    going_on = False
                    break
                batch.append(item)
                if len(batch) >= MOST_AT_ONCE:
                    break
                item = self._queue.get_nowait()
        if batch:
            self._survive(batch)
        if going_on:
            self._attend(idle=False)
        else:
            self._leave()
        return going_on

    def _survive(self, batch: list[Append | Job[object]]) -> None:
        try:
            self._write(batch)
        except Exception as error:
            # A fault of ours: what others appended meanwhile is looked up again before the next write.
            log.exception("%s: a batch of %d failed", self.path, len(batch))
            self._roll_back()
            self._fail(batch, StoreError(f"the store {self.path} failed: {type(error).__name__}: {error}"))

    def _patience(self) -> float | None:
        if self._broken is not None:
            return None
        if self._held:
            return _POLL
        return _IDLE if self._pages >= _CHECKPOINT_IDLE else None

    def _attend(self, *, idle: bool) -> None:
        """Heartbeat, look for what others appended, checkpoint: whatever is due."""
        if self._broken is not None:
            return
        try:
            if self._held:
                if self.owner.is_due():
                    with self._locked():
                        self.owner.beat(self._connection)
                    self._pages += 2
                self._see_that_all_is_there()
                if idle or time.monotonic() >= self._next_poll:
                    self._poll()
            if self._pages >= (_CHECKPOINT_IDLE if idle else _CHECKPOINT_BUSY):
                self.checkpoint()
        except Exception as error:
            self._roll_back()
            text = str(self._consider(error))
            if text != self.trouble:
                # Tried again five times a second: said once.
                log.warning("%s: upkeep failed: %s", self.path, text)
            self.trouble = text
        else:
            self.trouble = ""

    def _write(self, batch: list[Append | Job[object]]) -> None:
        shared: list[Append | Job[object]] = []
        for item in batch:
            if isinstance(item, Job) and item.alone is not None:
                self._commit(shared)
                shared = []
                self._run_alone(item)
            else:
                shared.append(item)
        self._commit(shared)
        self._tell()

    def _run_alone(self, job: Job[object]) -> None:
        assert job.alone is not None
        if not job.future.set_running_or_notify_cancel():
            return
        if self._broken is not None:
            job.future.set_exception(self._broken)
            return
        try:
            with self._locked():
                # It may delete pieces.
                self._pieces.forget()
                result = job.alone(self._connection)
                self._see_that_all_is_there(at_once=True)
        except KitaruError as error:
            job.future.set_exception(error)
        except Exception as error:
            self._roll_back()
            job.future.set_exception(self._consider(error))
        else:
            self._pages += _CHECKPOINT_IDLE
            job.future.set_result(result)

    def _commit(self, items: list[Append | Job[object]]) -> None:
        """Commit these together; when that fails, one by one where it makes sense. Acknowledge all."""
        jobs = [item for item in items if isinstance(item, Job)]
        dropped = {id(job) for job in jobs if not job.future.set_running_or_notify_cancel()}
        items = [item for item in items if id(item) not in dropped] if dropped else items
        if not items:
            return
        try:
            finish = self._transact(items)
        except Exception as error:
            self._roll_back()
            failed = self._consider(error)
            if len(items) > 1 and self._broken is None and _may_be_one_alone(error):
                self._one_by_one(items)
                return
            self._fail(items, failed)
            return
        finish()
        self._acknowledge(items)

    def _one_by_one(self, items: list[Append | Job[object]]) -> None:
        log.warning("%s: a batch of %d failed and is tried again one by one", self.path, len(items))
        lost: dict[str, KitaruError] = {}
        for item in items:
            run = item.run if isinstance(item, Append) else ""
            if run in lost:
                self._fail([item], lost[run])
                continue
            try:
                finish = self._transact([item])
            except Exception as error:
                self._roll_back()
                failed = self._broken or self._consider(error)
                if run:
                    # What follows in this run may rest on what was lost.
                    lost[run] = failed
                self._fail([item], failed)
            else:
                finish()
                self._acknowledge([item])

    def _transact(self, items: Sequence[Append | Job[object]]) -> Callable[[], None]:
        """Everything from BEGIN to COMMIT. Returns what is left to do once it is on disk."""
        if self._broken is not None:
            raise self._broken
        if any(isinstance(item, Job) or item.new for item in items):
            self.owner.appear()
        with self._locked():
            try:
                return self._attempt(items, fresh=False)
            except HeadMovedError:
                self._roll_back()
                return self._attempt(items, fresh=True)

    def _attempt(self, items: Sequence[Append | Job[object]], *, fresh: bool) -> Callable[[], None]:
        db = self._connection
        self._see_that_all_is_there()
        db.execute("BEGIN IMMEDIATE")
        if fresh:
            self._look()
        recorded = self.owner.record(db)
        tx = Transaction(db, self._held, self.owner.no, self._pieces)
        results: list[tuple[Job[object], object, KitaruError | None]] = []
        appends: list[Append] = []
        for item in items:
            if isinstance(item, Append):
                item.error = None
                appends.append(item)
                continue
            tx.apply(appends)
            appends = []
            results.append((item, *_outcome(item, tx)))
        tx.apply(appends)
        db.execute("COMMIT")
        # Before the acknowledgement: what is acknowledged is in the file that others see, and so is the owner's lock.
        self._see_that_all_is_there(at_once=recorded is not None)

        def finish() -> None:
            if recorded is not None:
                recorded()
            tx.settle()
            for call in tx.after:
                call()
            self._pages += 4 + len(tx.touched) // 8 + tx.rows // 64 + tx.bytes // 3500
            for job, result, error in results:
                if error is None:
                    job.future.set_result(result)
                else:
                    job.future.set_exception(error)
            if tx.touched:
                self.committed(tx.touched)

        return finish

    def _poll(self) -> None:
        self._next_poll = time.monotonic() + _POLL
        version = self._data_version()
        if version != self._version:
            self._version = version
            self._look()
            self._tell()

    def _data_version(self) -> int:
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        assert isinstance(version, int)
        return version

    def _look(self) -> None:
        """Take over what others appended to the runs held here, and let go of those that they claimed."""
        by_no = {head.no: head for head in self._held.values()}
        rows: list[tuple[int, int, int, int, bytes, str]] = []
        numbers = list(by_no)
        for at in range(0, len(numbers), 500):
            part = numbers[at : at + 500]
            rows += self._connection.execute(
                "SELECT run, epoch, seq, turn, digest, status FROM heads JOIN runs ON no = run "
                f"WHERE run IN ({','.join('?' * len(part))})",
                part,
            )
        for no, epoch, seq, turn, digest, status in rows:
            head = by_no[no]
            if seq == head.seq and epoch == head.epoch:
                continue
            run, after = head.run, head.seq
            if epoch == head.epoch and status == "running":
                head.seq = head.flushed = seq
                head.turn, head.digest = turn, digest
            else:
                del self._held[run]
            found = self._connection.execute(_EVENTS_AFTER, (no, after))
            events = read_events(found, functools.partial(failures.undecodable, self.path, run))
            if head.sink is not None and events:
                self._noticed.append((head.sink, run, events))

    def _tell(self) -> None:
        noticed, self._noticed = self._noticed, []
        for sink, run, events in noticed:
            self._call(sink.noticed, run, events)

    def notice(self, sink: Sink, run: str, events: list[Recorded]) -> None:
        """Tell a sink, once the current batch is through, of events that it did not append."""
        self._noticed.append((sink, run, events))

    def checkpoint(self) -> None:
        """Copy the WAL back into the file, as far as no reader stands in the way."""
        with self._locked():
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        self._pages = 0

    def _leave(self) -> None:
        """Give up ownership and leave the file in order."""
        if self._broken is not None:
            return
        try:
            if self.owner.no:
                with self._locked(), transaction(self._connection):
                    self.owner.resign(self._connection)
            self.checkpoint()
            with self._locked():
                self._connection.close()
        except (sqlite3.Error, OSError, StoreError) as error:
            log.warning("%s: closing was not clean: %s", self.path, error)

    def _roll_back(self) -> None:
        self._pieces.forget()
        # SQLite has rolled back by itself after some errors.
        if self._db is not None and self._db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")

    def _consider(self, error: Exception) -> StoreError:
        """The typed error for this one; some close the store for writing."""
        failed = failures.translate(error, self.path)
        if failures.is_failed_flush(error) or isinstance(failed, CorruptStoreError):
            self._broken = failed
            self.trouble = str(failed)
        return failed

    def _fail(self, items: Sequence[Append | Job[object]], error: KitaruError) -> None:
        for item in items:
            if isinstance(item, Append):
                item.error = error
            elif not item.future.done():
                item.future.set_exception(error)
        self._acknowledge(items)

    def _acknowledge(self, items: Sequence[Append | Job[object]]) -> None:
        self._tell()
        by_sink: dict[int, list[Append]] = {}
        for item in items:
            if isinstance(item, Append):
                by_sink.setdefault(id(item.sink), []).append(item)
        for appends in by_sink.values():
            self._call(appends[0].sink.acknowledged, appends)

    def _call(self, report: Callable[..., None], *args: object) -> None:
        try:
            report(*args)
        except Exception as error:
            # A sink whose loop is gone has nobody left to tell; the log is what counts.
            if not (isinstance(error, RuntimeError) and "loop is closed" in str(error)):
                log.exception("%s: a sink failed", self.path)

    def _drain(self, error: StoreError) -> None:
        rest: list[Append | Job[object]] = []
        with contextlib.suppress(Empty):
            while True:
                item = self._queue.get_nowait()
                if not isinstance(item, _Stop):
                    rest.append(item)
        self._fail(rest, self._broken or error)


def forked(path: str) -> ForkedProcessError:
    """The error for using a store in a child of the process that opened it."""
    return ForkedProcessError(
        f"the store {path} was opened by the parent of this forked process",
        hint="Open a store of its own in the child, or start the child with the spawn method.",
    )


def _outcome(job: Job[object], tx: Transaction) -> tuple[object, KitaruError | None]:
    assert job.work is not None
    try:
        result = job.work(tx)
    except KitaruError as error:
        return None, error
    tx.flush()
    return result, None


def _may_be_one_alone(error: Exception) -> bool:
    """Whether a batch may have failed through one of its runs only."""
    if isinstance(error, StoreError):
        return False
    return not failures.error_name(error).startswith(_OF_ALL)
