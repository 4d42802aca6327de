"""A store in one SQLite file."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import re
import sqlite3
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final, TypeVar

from kitaru.errors import CorruptStoreError, NotFoundError, StoreClosedError, UsageError
from kitaru.store import failures, jobs, maintenance, queries, schema
from kitaru.store.batch import Transaction, read_events, readable_events
from kitaru.store.codec import content_digest
from kitaru.store.events import AnyEvent
from kitaru.store.owners import boot_clock
from kitaru.store.protocol import Append, Head, Lease, Problem, Pruned, Rebuilt, Recorded, RunRow, Sink
from kitaru.store.readers import Readers
from kitaru.store.secrets import SqliteSecrets
from kitaru.store.signals import Signals
from kitaru.store.writer import Job, Writer, forked

T = TypeVar("T")

_PREFIX: Final = "sqlite:///"
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_IN_QUERY: Final = re.compile(r"([?&;][^=&;]*(?:pass|pwd|key|token|secret)[^=&;]*=)[^&;]*", re.IGNORECASE)
_GLANCE: Final = 0.08
_LAST_WORDS: Final = 5.0
_AT_ONCE: Final = 5_000


class SqliteStore:
    """A log of runs in one SQLite file, shared by any number of processes on one host's local disk.

    It belongs to no event loop: it may be opened in one and used from others.

    Args:
        path: The file, or a URL such as `sqlite:///runs.db` (relative) or `sqlite:////var/lib/runs.db`.
        durability: `full`: what is acknowledged survives a power cut. `process`: it survives a killed process only.
        lease: Seconds without a heartbeat after which an owner counts as stuck.
        busy_timeout: Seconds to wait for another process that writes.
        clock: Seconds since boot; heartbeats are told by it.

    Raises:
        UsageError: The URL is not one of SQLite's, or names no file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: schema.Durability = "full",
        lease: float = 30.0,
        busy_timeout: float = 5.0,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._path = str(path_of(path))
        self._durability: schema.Durability = durability
        self._lease = lease
        self._busy_timeout = busy_timeout
        self._clock = clock
        self._signals = Signals()
        self._gate = threading.Lock()
        self._writer: Writer | None = None
        self._readers: Readers | None = None
        self._finalizer: weakref.finalize[..., SqliteStore] | None = None
        self._secrets = SqliteSecrets(self._path, self._connect_to_read, self._write_and_wait)

    @property
    def url(self) -> str:
        """Where it lives, as the user would write it."""
        return f"{_PREFIX}{self._path}"

    @property
    def path(self) -> str:
        """The database file, absolute."""
        return self._path

    @property
    def place(self) -> str:
        """The database file, absolute."""
        return self._path

    def exists(self) -> bool:
        """Whether the file is there already."""
        return Path(self._path).exists()

    @property
    def secrets(self) -> SqliteSecrets:
        """The sealed values beside the log; usable while the store is open."""
        return self._secrets

    @property
    def trouble(self) -> str:
        """What its own upkeep failed with last, or why it takes no writes any more; empty where all is well."""
        writer = self._writer
        return "" if writer is None else writer.trouble

    async def open(self) -> None:
        """Open or create the file, migrating an older schema after a backup. Idempotent.

        A file that cannot be written is opened for reading, and every append fails.

        Raises:
            StoreReadOnlyError: It does not exist and cannot be made, or needs a migration and cannot be written.
            StoreBusyError: Another process holds it.
            CorruptStoreError: It is damaged, or no database.
            SchemaError: A newer Kitaru wrote it; it is left untouched.
            StoreError: It is another program's database, or the disk fails.
        """
        with self._gate:
            writer = self._writer
            if writer is None or (writer.ready.done() and writer.ready.exception() is not None):
                writer = self._begin()
        self._ours()
        # Shielded: the others who wait for it need it still, where this one is cancelled.
        await asyncio.shield(asyncio.wrap_future(writer.ready))

    def _begin(self) -> Writer:
        path, patience = self._path, self._busy_timeout
        writer = Writer(path, durability=self._durability, lease=self._lease, busy_timeout=patience, clock=self._clock)
        writer.committed = self._signals.announce
        writer.start()
        readers = Readers(
            lambda: schema.connect_reader(
                writer.path, busy_timeout=patience, read_only=writer.read_only, immutable=writer.immutable
            )
        )
        self._writer, self._readers = writer, readers
        self._finalizer = weakref.finalize(self, _abandon, writer, readers)
        self._finalizer.atexit = False
        atexit.register(writer.stop_and_wait, _LAST_WORDS)
        return writer

    async def close(self) -> None:
        """Write what was submitted, acknowledge it, give up ownership, and close. Idempotent."""
        writer, readers = self._writer, self._readers
        if writer is None:
            return
        self._ours()
        self._writer = self._readers = None
        self._secrets.close()
        try:
            if readers is not None:
                await readers.close()
        finally:
            writer.stop()
            atexit.unregister(writer.stop_and_wait)
            if self._finalizer is not None:
                self._finalizer.detach()
        await asyncio.shield(asyncio.wrap_future(writer.stopped))

    def submit(self, append: Append) -> None:
        """Queue an append; its sink hears of it when it is on disk or has failed. Any thread; never blocks.

        Args:
            append: What to append. Must not be changed until it is acknowledged.

        Raises:
            StoreClosedError: The store is not open.
            ForkedProcessError: This is a forked child of the process that opened it.
        """
        writer = self._writer
        if writer is None:
            raise self._not_open()
        writer.put(append)

    async def claim(self, run: str, sink: Sink, *, python: str, unasked: bool = False) -> Lease:
        """Become the run's owner under a new epoch, recording `RunClaimed`, if nobody living owns it.

        A wait that is cancelled leaves the run unowned.

        Args:
            run: The run's id.
            sink: Hears of what others append to the run.
            python: This interpreter's version, recorded.
            unasked: Whether nobody named this run, recorded.

        Raises:
            NotFoundError: No such run.
            RunOwnedError: A living process owns it (this one included).
            RunError: The run has finished.
        """
        writer = self._ours()
        job = Job(jobs.claim(writer, run, sink, python, unasked))
        writer.put(job)
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            job.future.add_done_callback(lambda done: _give_back(writer, done))
            raise

    async def release(self, run: str, epoch: int) -> None:
        """Stop owning a run without an event. Does nothing when the epoch is no longer the newest.

        Args:
            run: The run's id.
            epoch: The epoch under which this store owns it.
        """
        await self._write(lambda writer: jobs.release(writer, run, epoch))

    async def post(self, run: str, event: AnyEvent) -> int:
        """Append an event without owning the run; its owner notices it.

        Returns:
            The event's seq.

        Raises:
            NotFoundError: No such run.
            RunError: The run has finished.
            UsageError: The event is one that only the store writes.
        """
        return await self._write(lambda writer: jobs.post(writer, run, event))

    async def retry(self, run: str, event: AnyEvent) -> int:
        """Append a `RunRetried` to a failed or cancelled run, which makes it parked again.

        Returns:
            The event's seq.

        Raises:
            NotFoundError: No such run.
            RunError: The run is neither failed nor cancelled.
        """
        return await self._write(lambda writer: jobs.retry(writer, run, event))

    async def events(self, run: str, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """A run's events with `seq` greater than `after`, in order; none when there is no such run.

        Raises:
            CorruptStoreError: An event cannot be decoded.
        """
        fail = functools.partial(failures.undecodable, self._path, run)
        found: list[Recorded] = []
        while limit is None or len(found) < limit:
            # In portions, so that a long log is never held as rows and as events at once.
            portion = _AT_ONCE if limit is None else min(_AT_ONCE, limit - len(found))
            rows = await self._reading(queries.events(self._open_readers(), run, after, portion))
            found += read_events(rows, fail)
            if len(rows) < portion:
                break
            after = found[-1].seq
        return found

    async def readable(self, run: str) -> tuple[list[Recorded], list[Problem]]:
        """A run's events as far as they can be decoded, in order, and what is wrong with the others."""
        found: list[Recorded] = []
        problems: list[Problem] = []
        after, more = 0, True
        while more:
            try:
                rows = await self._reading(queries.events(self._open_readers(), run, after, _AT_ONCE))
            except CorruptStoreError as error:
                return found, [*problems, Problem(run, after + 1, error.message)]
            decoded, wrong = readable_events(rows, run)
            found += decoded
            problems += wrong
            more = len(rows) == _AT_ONCE
            after = rows[-1][0] if rows else after
        return found, problems

    async def watch(self, run: str, *, after: int, timeout: float) -> list[Recorded]:
        """As `events`, but wait up to `timeout` seconds for the first one to come, whichever process appends it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        with self._signals.listening(run) as signal:
            while True:
                version = await self._reading(self._open_readers().version())
                found = await self.events(run, after=after)
                if found:
                    return found
                while not signal.is_set():
                    left = deadline - loop.time()
                    if left <= 0:
                        await self._see_that_all_is_there()
                        return []
                    try:
                        async with asyncio.timeout(min(left, _GLANCE)):
                            await signal.wait()
                    except TimeoutError:
                        if await self._reading(self._open_readers().version()) != version:
                            break
                signal.clear()

    async def artifact(self, digest: bytes) -> bytes:
        """An artifact's content.

        Raises:
            NotFoundError: No such artifact.
            CorruptStoreError: Its content does not have that digest.
        """
        data = await self._reading(queries.artifact(self._open_readers(), digest))
        if content_digest(data) != digest:
            raise failures.corrupt(self._path, f"artifact {digest.hex()} holds other content than its digest says")
        return data

    async def run(self, run: str) -> RunRow:
        """One run by its whole id.

        Raises:
            NotFoundError: No such run.
        """
        writer = self._ours()
        found = await self._reading(queries.run(self._open_readers(), writer, run))
        if found is None:
            raise NotFoundError(f"there is no run {run}", hint="`kitaru runs` lists them.")
        return found

    async def find(self, name: str) -> str:
        """The id that a user's name for a run means.

        Args:
            name: The id, a unique prefix of it, `last` (the newest run that no other run started), `last~1`, ...

        Raises:
            NotFoundError: Nothing answers to it.
            AmbiguousError: Several runs do; the message lists them.
        """
        return await self._reading(queries.find(self._open_readers(), name))

    async def runs(
        self,
        *,
        status: Sequence[str] = (),
        flow: str | None = None,
        since: float | None = None,
        limit: int | None = 20,
        before: str | None = None,
    ) -> list[RunRow]:
        """Runs, newest first.

        Args:
            status: Only these; also knows `interrupted`: running, but owned by nobody living.
            flow: Only runs of this flow.
            since: Only runs created then or later, UTC epoch seconds.
            limit: At most so many; None for all.
            before: The id after which the page starts.

        Raises:
            NotFoundError: There is no run `before`.
        """
        return await self._reading(
            queries.runs(
                self._open_readers(), self._ours(), status=status, flow=flow, since=since, limit=limit, before=before
            )
        )

    async def unowned(self, flows: Sequence[str]) -> list[str]:
        """Ids, oldest first, of unfinished runs that nobody living owns and nobody parked on purpose (with a reason
        that begins with `HELD`); of child runs only those whose parent has finished.

        Args:
            flows: Only runs of these flows; of any when empty.
        """
        await self._see_that_all_is_there()
        return await self._reading(queries.unowned(self._open_readers(), self._ours(), flows))

    async def heads(self) -> list[Head]:
        """The head of every run, in the order of their creation."""
        return await self._reading(queries.heads(self._open_readers()))

    async def verify(self, run: str | None = None, *, heads: Sequence[Head] = ()) -> list[Problem]:
        """Check the digest chain of one run or all, the artifacts they name, and heads kept elsewhere.

        Args:
            run: Only this one.
            heads: What `heads` gave earlier and was kept outside the file.

        Raises:
            NotFoundError: There is no such run.
        """
        return await self._maintain(lambda connection: maintenance.verify(connection, run, heads))

    async def rebuild(self) -> Rebuilt:
        """Make every projection again from the events that can be read, in one transaction."""
        path = self._ours().path
        return await self._alone(lambda connection: maintenance.rebuild(connection, path))

    async def prune(self, *, older_than: float, run: str | None = None) -> Pruned:
        """Remove finished, unowned runs last touched before `older_than`, or the one named, and what only they name.

        Each leaves a tombstone with its head digest.

        Args:
            older_than: UTC epoch seconds; not looked at for a run that is named.
            run: Only this one.

        Raises:
            NotFoundError: No such run.
            RunError: The run named has not finished, or is owned.
        """
        total = Pruned(0, 0, 0)
        targets = await self._reading(queries.prunable(self._open_readers(), older_than, run))
        for target in targets:
            removed = await self._alone(functools.partial(maintenance.prune, run=target))
            total = Pruned(*map(sum, zip(total, removed, strict=True)))
        return total

    # Below: how the above reach the writer and the readers.

    def _ours(self) -> Writer:
        writer = self._writer
        if writer is None:
            raise self._not_open()
        if writer.pid != os.getpid():
            raise forked(self._path)
        return writer

    def _open_readers(self) -> Readers:
        self._ours()
        if self._readers is None:
            raise self._not_open()
        return self._readers

    async def _see_that_all_is_there(self) -> None:
        """Refuse to wait for what nobody can write any more: the open files are not those that others see."""
        gone = await asyncio.to_thread(self._ours().gone)
        if gone is not None:
            raise gone

    def _not_open(self) -> StoreClosedError:
        return StoreClosedError(
            f"the store {self._path} is not open", hint="Use the runtime inside `async with kitaru.Runtime(...):`."
        )

    async def _reading(self, query: Coroutine[object, object, T]) -> T:
        try:
            return await query
        except (sqlite3.Error, OSError) as error:
            raise failures.translate(error, self._path) from error

    async def _write(self, work: Callable[[Writer], Callable[[Transaction], T]]) -> T:
        writer = self._ours()
        job = Job(work(writer))
        writer.put(job)
        return await asyncio.wrap_future(job.future)

    async def _alone(self, work: Callable[[sqlite3.Connection], T]) -> T:
        writer = self._ours()
        job: Job[T] = Job(alone=work)
        writer.put(job)
        return await asyncio.wrap_future(job.future)

    def _write_and_wait(self, work: Callable[[sqlite3.Connection], T]) -> T:
        writer = self._ours()
        job = Job(lambda tx: work(tx.connection))
        writer.put(job)
        return job.future.result()

    def _connect_to_read(self) -> sqlite3.Connection:
        writer = self._ours()
        return schema.connect_reader(
            writer.path, busy_timeout=self._busy_timeout, read_only=writer.read_only, immutable=writer.immutable
        )

    async def _maintain(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._ours()

        def run() -> T:
            connection = self._connect_to_read()
            try:
                return work(connection)
            finally:
                connection.close()

        return await self._reading(asyncio.to_thread(run))


def path_of(path: str | os.PathLike[str]) -> Path:
    """The absolute path that a store's path or URL means.

    Args:
        path: A path, or `sqlite:///` and a path.

    Raises:
        UsageError: It is another kind of URL, or names no file.
    """
    text = os.fspath(path)
    if text.startswith(_PREFIX):
        text = text[len(_PREFIX) :]
    elif _URL.match(text):
        raise UsageError(
            f"{without_password(text)} is no SQLite store", hint="Write it as sqlite:///runs.db, or give a path."
        )
    if not text or text == ":memory:" or "\0" in text:
        raise UsageError("a store needs a file: several connections share it", hint="Write it as sqlite:///runs.db.")
    return Path(text).expanduser().absolute()


def without_password(url: str) -> str:
    """A store's URL as it may be shown: the password, in front of the host or in the query, is masked."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme, mark, rest = url.partition(":/")
    user, at, host = rest.rpartition("@")
    if at:
        rest = f"{user.partition(':')[0]}:***@{host}" if ":" in user else rest
    return _IN_QUERY.sub(r"\1***", f"{scheme}{mark}{rest}")


def _give_back(writer: Writer, claimed: Future[Lease]) -> None:
    if claimed.cancelled() or claimed.exception() is not None:
        return
    lease = claimed.result()
    with contextlib.suppress(StoreClosedError):
        writer.put(Job(jobs.release(writer, lease.run, lease.epoch)))


def _abandon(writer: Writer, readers: Readers) -> None:
    # Runs wherever the garbage collector happens to, so it waits for nobody.
    if writer.pid != os.getpid():
        return
    writer.stop()
    atexit.unregister(writer.stop_and_wait)
    readers.drop()
