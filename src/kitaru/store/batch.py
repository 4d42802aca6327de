"""One write transaction: appends and jobs applied to the tables between BEGIN and COMMIT.

Everything here runs in the writer's thread. The number of SQL statements is kept low on purpose: sqlite3 gives up the
interpreter lock around each, and beside a busy event loop getting it back takes milliseconds.
"""
# what is put into SQL text is question marks

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Final, NamedTuple, cast

import msgspec

from kitaru.errors import (
    EncodeError,
    FencedError,
    KitaruError,
    NotFoundError,
    RunError,
    RunExistsError,
    UsageError,
)
from kitaru.store import chain, secrets
from kitaru.store.artifacts import closure, is_node, named_by
from kitaru.store.entity import Entity
from kitaru.store.events import (
    FINISHED,
    STATUS_AFTER,
    AnyEvent,
    RunCancelled,
    RunParked,
    RunPruned,
    RunStarted,
    Status,
)
from kitaru.store.names import valid_run_id
from kitaru.store.pieces import JOINED, SMALLEST, Pieces, ids_in
from kitaru.store.pressed import content_of, pressed
from kitaru.store.protocol import Append, Held, Problem, Recorded, Sink, Turn

encode_event: Final = msgspec.msgpack.Encoder().encode
UNDECODABLE: Final = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)
"""Errors of decoding bytes that are no event."""
decode_event: Final[Callable[[bytes], AnyEvent]] = msgspec.msgpack.Decoder(AnyEvent).decode

_SIZES: Final = (128, 64, 32, 16, 8, 4, 2, 1)
_LEAVES: Final[frozenset[Status]] = FINISHED | {"parked"}
"""Statuses that end ownership."""


class HeadMovedError(Exception):
    """Another process appended to a run of this batch since its head was last read."""


class Head(Entity):
    """A run's last event as this store knows it, and the epoch under which it may append."""

    run: str
    no: int
    epoch: int
    seq: int
    turn: int
    digest: bytes
    sink: Sink | None
    flushed: int
    shared: int = 0
    closed: Status | None = None
    created: RunStarted | None = None

    def copy(self) -> Head:
        """A head to work on within one transaction."""
        return Head(self.run, self.no, self.epoch, self.seq, self.turn, self.digest, self.sink, self.seq)


class Found(NamedTuple):
    """A run as the tables have it."""

    no: int
    status: Status
    epoch: int
    seq: int
    turn: int
    digest: bytes
    owner: int | None


class Change(NamedTuple):
    """What a lifecycle event makes of a run's projection."""

    status: Status
    updated: float
    note: str


class Transaction:
    """What one write transaction knows and has yet to write.

    Args:
        connection: The writing connection, inside a transaction.
        held: Heads of the runs that this store owns; changed only by `settle`.
        owner: This store's row in `owners`, 0 while it has none.
        pieces: What the writer remembers of stored pieces.
    """

    def __init__(self, connection: sqlite3.Connection, held: dict[str, Head], owner: int, pieces: Pieces) -> None:
        self.connection = connection
        self.heads: dict[str, Head] = {}
        self.touched: set[str] = set()
        self.rows = 0
        self.bytes = 0
        self.after: list[Callable[[], None]] = []
        """Called once the transaction is on disk, before anything is acknowledged."""
        self._held = held
        self._owner = owner
        self._pieces = pieces
        self._joined: dict[bytes, tuple[int, ...]] = {}
        """The pieces of the joined artifacts that this transaction has met."""
        self._next_no = 0
        self._taken: set[str] = set()
        self._names: list[object] = []
        self._events: list[object] = []
        self._changes: dict[str, Change] = {}
        self._artifacts: dict[bytes, bytes] = {}
        self._refs: list[object] = []
        self._kept: dict[str, list[Held]] = {}
        self._forgotten: list[str] = []

    def apply(self, appends: Sequence[Append]) -> None:
        """Take appends in, each alone failing by its `error`, and write them.

        Raises:
            HeadMovedError: A head is not where this store left it.
            sqlite3.Error: The database refused.
        """
        if any(append.new for append in appends):
            self._look_up([append.run for append in appends if append.new])
        for append in appends:
            try:
                self._take(append)
            except KitaruError as error:
                append.error = error
        self.flush()

    def _look_up(self, runs: list[str]) -> None:
        for at in range(0, len(runs), 500):
            part = runs[at : at + 500]
            found = self.connection.execute(f"SELECT id FROM runs WHERE id IN ({','.join('?' * len(part))})", part)
            self._taken.update(run for (run,) in found)
        if self._next_no == 0:
            (self._next_no,) = self.connection.execute("SELECT coalesce(max(no), 0) + 1 FROM runs").fetchone()

    def _take(self, append: Append) -> None:
        run = append.run
        if append.new:
            head = self._create(append)
        else:
            head = self.heads.get(run) or self._working(run)
            if head.closed is not None:
                raise RunError(f"run {run} has {_ended(head.closed)}")
            if append.epoch != head.epoch:
                raise _fenced(run, append.epoch, head.epoch)
        own = append.turn
        if own is Turn.NONE:
            turn = 0
        elif own is Turn.SHARED:
            turn = head.shared or head.turn + 1
        else:
            turn = head.turn + 1
        self.write(head, append.events, turn, append.artifacts)
        if append.new:
            self._next_no += 1
        if own is not Turn.NONE:
            head.turn = turn
            head.shared = turn if own is Turn.SHARED else 0
        append.seq = head.seq - len(append.events) + 1
        append.turn_no = turn
        if append.held:
            self._kept.setdefault(run, []).extend(append.held)
        if append.forget:
            self._forgotten.append(run)

    def _create(self, append: Append) -> Head:
        run = valid_run_id(append.run)
        events = append.events
        if not events or type(events[0]) is not RunStarted:
            raise UsageError(f"the first event of a new run must be its RunStarted (run {run})")
        if run in self._taken or run in self.heads or run in self._held:
            raise RunExistsError(f"a run {run} exists already", hint="Follow or resume it, or choose another id.")
        head = Head(run, self._next_no, 1, 0, 0, chain.origin(run), append.sink, 0)
        head.created = events[0]
        return head

    def _working(self, run: str) -> Head:
        held = self._held.get(run)
        if held is not None:
            return held.copy()
        found = self.find(run)
        if found.status in FINISHED:
            raise RunError(f"run {run} has {_ended(found.status)}")
        raise FencedError(
            f"this process does not own run {run} (its epoch is {found.epoch}); what was to be appended is dropped",
            hint="Claim the run before appending to it.",
        )

    def head(self, run: str, found: Found) -> Head:
        """The head to work on of a run that somebody else may own."""
        known = self.heads.get(run)
        if known is not None and known.closed is None:
            return known
        held = self._held.get(run)
        sink = held.sink if held is not None else None
        return Head(run, found.no, found.epoch, found.seq, found.turn, found.digest, sink, found.seq)

    def find(self, run: str) -> Found:
        """A run as the tables have it.

        Raises:
            NotFoundError: No such run.
        """
        row = self.connection.execute(
            "SELECT no, status, epoch, seq, turn, digest, owner FROM runs JOIN heads ON heads.run = no "
            "LEFT JOIN owned ON owned.run = no WHERE id = ?",
            (run,),
        ).fetchone()
        if row is None:
            raise NotFoundError(f"there is no run {run}", hint="`kitaru runs` lists them.")
        return Found(*row)

    def write(
        self, head: Head, events: Sequence[AnyEvent], turn: int, artifacts: Mapping[bytes, bytes] | None = None
    ) -> None:
        """Take in events of one run, all or none; `flush` writes them.

        Raises:
            EncodeError: An event has no encoding.
            NotFoundError: An event names an artifact that is neither given nor stored.
            RunError: Events follow the one that ends the run.
        """
        try:
            datas = [encode_event(event) for event in events]
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise EncodeError(f"an event of run {head.run} cannot be recorded: {error}") from error
        change, status = self._lifecycle(head, events)
        self._name_artifacts(head, events, artifacts)
        seq, digest, no = head.seq, head.digest, head.no
        rows = self._events
        link = chain.link
        for data in datas:
            seq += 1
            digest = link(digest, seq, turn, data)
            if seq == 1:
                self._names += (no, seq, turn, data, digest, head.run)
            else:
                rows += (no, seq, turn, data, digest)
            self.bytes += len(data)
        self.rows += len(datas)
        head.seq, head.digest = seq, digest
        self.heads[head.run] = head
        if change is not None:
            self._changes[head.run] = change
            head.closed = status

    def _lifecycle(self, head: Head, events: Sequence[AnyEvent]) -> tuple[Change | None, Status | None]:
        change: Change | None = None
        for event in events:
            if change is not None and change.status in FINISHED:
                raise RunError(f"events follow the one by which run {head.run} has {_ended(change.status)}")
            status = STATUS_AFTER.get(type(event))
            if status is not None:
                change = Change(status, event.at, note_of(event))
        return change, change.status if change is not None and change.status in _LEAVES else None

    def _name_artifacts(self, head: Head, events: Sequence[AnyEvent], artifacts: Mapping[bytes, bytes] | None) -> None:
        names = [digest for event in events for digest in named_by(event)]
        if not names and not artifacts:
            return
        given = artifacts or {}
        pending = self._artifacts

        def read(digest: bytes) -> bytes | None:
            data = given.get(digest)
            return data if data is not None else pending.get(digest) or self._read(digest)

        for digest in names:
            if digest not in given and digest not in pending and self._read(digest) is None:
                raise NotFoundError(
                    f"an event of run {head.run} names artifact {digest.hex()[:16]}, which is not stored",
                    hint="Pass its content with the append.",
                )
        for digest in closure(names, read, self._known_to(head.no)):
            self._refs += (digest, head.no)
        pending.update(given)
        self.bytes += sum(map(len, given.values()))

    def _read(self, digest: bytes) -> bytes | None:
        """A stored artifact's content; nothing of a joined one, which names no other artifact."""
        row = self.connection.execute("SELECT data, compressed FROM artifacts WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            return None
        data, how = row
        if how == JOINED:
            self._joined[digest] = tuple(dict.fromkeys(ids_in(data)))
            return b""
        return content_of(data, how)

    def _known_to(self, no: int) -> Callable[[bytes], bool]:
        def known(digest: bytes) -> bool:
            sql = "SELECT 1 FROM refs WHERE digest = ? AND run = ?"
            return self.connection.execute(sql, (digest, no)).fetchone() is not None

        return known

    def flush(self) -> None:
        """Write what was taken in.

        Raises:
            HeadMovedError: A head is not where this store left it.
            sqlite3.Error: The database refused.
        """
        db = self.connection
        moved: list[object] = []
        born: list[object] = []
        runs: list[object] = []
        owned: list[object] = []
        freed: list[object] = []
        changes: list[object] = []
        for run, head in self.heads.items():
            change = self._changes.get(run)
            if head.flushed == head.seq:
                continue
            self.touched.add(run)
            if head.flushed == 0:
                born += (head.no, head.epoch, head.seq, head.turn, head.digest)
                started = head.created
                assert started is not None
                assert change is not None
                runs += (head.no, run, started.flow.name, change.status, started.at, change.updated)
                runs += (started.parent and started.parent.run, started.origin and started.origin.run, change.note)
                if head.closed is None:
                    owned += (head.no, self._owner)
            else:
                moved += (head.seq, head.turn, head.digest, head.no, head.epoch, head.flushed)
                if change is not None:
                    changes += (head.no, change.status, change.updated, change.note)
                if head.closed is not None:
                    freed.append(head.no)
            head.flushed = head.seq
            head.created = None
        if spread(db, _move_heads, 6, moved) != len(moved) // 6:
            raise HeadMovedError
        spread(db, _insert_heads, 5, born)
        spread(db, _insert_runs, 9, runs)
        spread(db, _insert_named, 6, self._names)
        spread(db, _insert_events, 5, self._events)
        stored: list[object] = []
        for digest, content in self._artifacts.items():
            if len(content) < SMALLEST or is_node(content):
                stored += (digest, *pressed(content))
            elif self._read(digest) is None:
                self._pieces.refresh(db)
                layout = self._pieces.layout(db, content)
                stored += (digest, layout.data, layout.how)
                self._joined[digest] = layout.pieces
        spread(db, _insert_artifacts, 3, stored)
        spread(db, _insert_refs, 2, self._refs)
        if self._joined:
            spread(db, _insert_piece_refs, 2, self._piece_refs())
        spread(db, _change_runs, 4, changes)
        spread(db, _insert_owned, 2, owned)
        spread(db, _delete_owned, 1, freed)
        for run, held in self._kept.items():
            secrets.hold(db, run, held)
        for run in self._forgotten:
            secrets.forget(db, run)
        for written in (
            self._names, self._events, self._refs, self._artifacts, self._changes, self._kept, self._forgotten
        ):  # fmt: skip
            written.clear()

    def _piece_refs(self) -> list[object]:
        refs: list[object] = []
        for digest, no in zip(self._refs[::2], self._refs[1::2], strict=True):
            pieces = self._joined.get(cast("bytes", digest))
            if pieces:
                refs += self._pieces.new_refs(cast("int", no), pieces)
        return refs

    def settle(self) -> None:
        """Make the heads of this transaction, now committed, the ones this store holds."""
        for run, head in self.heads.items():
            if head.closed is not None or head.sink is None:
                self._held.pop(run, None)
            else:
                head.shared = 0
                self._held[run] = head


def note_of(event: AnyEvent) -> str:
    """What a listing says beside the status that an event leads to."""
    return event.reason if isinstance(event, (RunParked, RunCancelled)) else ""


def flow_of(event: AnyEvent) -> str:
    """The flow that a run's first remaining event names."""
    if isinstance(event, RunStarted):
        return event.flow.name
    return event.flow if isinstance(event, RunPruned) else ""


def read_events(
    rows: Iterable[tuple[int, int, bytes]], fail: Callable[[int, Exception], KitaruError]
) -> list[Recorded]:
    """Decode rows of seq, turn and data.

    Args:
        rows: The rows.
        fail: Makes the error for an event that cannot be decoded, from its seq and the cause.
    """
    found = []
    for seq, turn, data in rows:
        try:
            found.append(Recorded(seq, turn, decode_event(data)))
        except UNDECODABLE as error:
            raise fail(seq, error) from error
    return found


def readable_events(rows: Iterable[tuple[int, int, bytes]], run: str) -> tuple[list[Recorded], list[Problem]]:
    """Decode the rows of seq, turn and data that can be decoded, and say what is wrong with the others.

    Args:
        rows: The rows.
        run: Whose they are.
    """
    found, problems = [], []
    for seq, turn, data in rows:
        try:
            found.append(Recorded(seq, turn, decode_event(data)))
        except UNDECODABLE as error:
            problems.append(Problem(run, seq, f"the event cannot be decoded: {error}"))
    return found, problems


def spread(db: sqlite3.Connection, statement: Callable[[int], str], width: int, values: list[object]) -> int:
    """Execute a statement over many rows in as few executions as will do.

    Args:
        db: The connection.
        statement: Gives the SQL for a number of rows.
        width: Values a row.
        values: The values of all rows, one after the other.

    Returns:
        How many rows changed.
    """
    if not values:
        return 0
    changed = at = 0
    left = len(values) // width
    for size in _SIZES:
        while left >= size:
            end = at + size * width
            changed += db.execute(statement(size), values[at:end]).rowcount
            at = end
            left -= size
    return changed


def _values(width: int, rows: int) -> str:
    return ",".join((f"({','.join('?' * width)})",) * rows)


@cache
def _insert_events(rows: int) -> str:
    return f"INSERT INTO events (run, seq, turn, data, digest) VALUES {_values(5, rows)}"


@cache
def _insert_named(rows: int) -> str:
    return f"INSERT INTO events (run, seq, turn, data, digest, name) VALUES {_values(6, rows)}"


@cache
def _insert_artifacts(rows: int) -> str:
    return f"INSERT OR IGNORE INTO artifacts (digest, data, compressed) VALUES {_values(3, rows)}"


@cache
def _insert_refs(rows: int) -> str:
    return f"INSERT OR IGNORE INTO refs (digest, run) VALUES {_values(2, rows)}"


@cache
def _insert_piece_refs(rows: int) -> str:
    return f"INSERT OR IGNORE INTO piece_refs (piece, run) VALUES {_values(2, rows)}"


@cache
def _insert_heads(rows: int) -> str:
    return f"INSERT INTO heads (run, epoch, seq, turn, digest) VALUES {_values(5, rows)}"


@cache
def _insert_runs(rows: int) -> str:
    columns = "no, id, flow, status, created, updated, parent, origin, note"
    return f"INSERT INTO runs ({columns}) VALUES {_values(9, rows)}"


@cache
def _insert_owned(rows: int) -> str:
    return f"INSERT OR REPLACE INTO owned (run, owner) VALUES {_values(2, rows)}"


@cache
def _delete_owned(rows: int) -> str:
    return f"DELETE FROM owned WHERE run IN ({','.join('?' * rows)})"


# Written as FROM (VALUES ...) and not as WITH: sqlite3 counts changed rows only where a statement begins with UPDATE.
@cache
def _change_runs(rows: int) -> str:
    return (
        "UPDATE runs SET status = new.column2, updated = new.column3, note = new.column4 "
        f"FROM (VALUES {_values(4, rows)}) AS new WHERE runs.no = new.column1"
    )


@cache
def _move_heads(rows: int) -> str:
    if rows == 1:
        return "UPDATE heads SET seq = ?, turn = ?, digest = ? WHERE run = ? AND epoch = ? AND seq = ?"
    return (
        "UPDATE heads SET seq = new.column1, turn = new.column2, digest = new.column3 "
        f"FROM (VALUES {_values(6, rows)}) AS new "
        "WHERE heads.run = new.column4 AND heads.epoch = new.column5 AND heads.seq = new.column6"
    )


def _ended(status: Status) -> str:
    return {"parked": "left memory (parked)", "pruned": "been pruned"}.get(status, f"ended ({status})")


def _fenced(run: str, epoch: int, newest: int) -> FencedError:
    return FencedError(
        f"run {run} belongs to epoch {newest} now, so an append under epoch {epoch} is dropped",
        hint="Another process claimed the run; follow it there.",
    )
