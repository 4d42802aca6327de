"""Looking after a whole store: verify, rebuild, prune. Each is a function of one connection.

Damage to one run is reported with its name and keeps none of the others from being checked or rebuilt.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kitaru.errors import NotFoundError
from kitaru.store import chain, pieces, schema, soundness
from kitaru.store.artifacts import closure, named_by
from kitaru.store.batch import UNDECODABLE, decode_event, encode_event, flow_of, note_of
from kitaru.store.codec import content_digest
from kitaru.store.events import (
    FINISHED,
    SCHEMA_VERSION,
    STATUS_AFTER,
    AnyEvent,
    RunClaimed,
    RunPruned,
    RunStarted,
)
from kitaru.store.protocol import Head, Problem, Pruned, Rebuilt


def verify(connection: sqlite3.Connection, run: str | None, heads: Sequence[Head]) -> list[Problem]:
    """Check chains, heads and artifacts, a read transaction a run; and of a whole store SQLite's own structures.

    Args:
        connection: A reading connection in autocommit mode.
        run: Only this one.
        heads: Heads kept elsewhere.

    Raises:
        NotFoundError: There is no such run.
    """
    kept = {head.run: head for head in heads}
    known: dict[bytes, str] = {}
    if run is None:
        problems = soundness.problems(connection)
        names = _run_ids(connection, problems)
        problems += [found for name in names for found in _verify_run(connection, name, kept.get(name), known)]
        problems += [
            Problem(head.run, 0, f"the run is missing; elsewhere its head is event {head.seq}")
            for head in heads
            if head.run not in set(names)
        ]
        if not problems:
            lost = connection.execute(
                "SELECT DISTINCT run FROM events WHERE run NOT IN (SELECT no FROM runs) LIMIT 10"
            ).fetchall()
            problems += [Problem(f"#{no}", 0, "events without a run; `kitaru rebuild` restores it") for (no,) in lost]
        return problems
    if connection.execute("SELECT 1 FROM runs WHERE id = ?", (run,)).fetchone() is None:
        if run in kept:
            return [Problem(run, 0, f"the run is missing; elsewhere its head is event {kept[run].seq}")]
        raise NotFoundError(f"there is no run {run}", hint="`kitaru runs` lists them.")
    return _verify_run(connection, run, kept.get(run), known)


def _verify_run(connection: sqlite3.Connection, run: str, kept: Head | None, known: dict[bytes, str]) -> list[Problem]:
    connection.execute("BEGIN")
    found: list[Problem] = []
    try:
        found.extend(_problems(connection, run, kept, known))
    except sqlite3.DatabaseError as error:
        found.append(Problem(run, 0, f"the run's log cannot be read: {error}"))
    finally:
        # Ends by itself where the file is damaged.
        with contextlib.suppress(sqlite3.DatabaseError):
            connection.execute("COMMIT")
    return found


def _run_ids(connection: sqlite3.Connection, problems: list[Problem]) -> list[str]:
    """The ids of all runs; from the events where the table of runs cannot be read."""
    for sql in ("SELECT id FROM runs ORDER BY no", "SELECT name FROM events WHERE name IS NOT NULL ORDER BY run"):
        try:
            return [name for (name,) in connection.execute(sql)]
        except sqlite3.DatabaseError:
            continue
    if not problems:
        problems.append(Problem("", 0, "the list of runs cannot be read"))
    return []


def _problems(
    connection: sqlite3.Connection, run: str, kept: Head | None, known: dict[bytes, str]
) -> Iterator[Problem]:
    row = connection.execute(
        "SELECT no, seq, heads.digest FROM runs LEFT JOIN heads ON heads.run = no WHERE id = ?", (run,)
    ).fetchone()
    if row is None:
        return
    no, head_seq, head_digest = row
    digest, seq = chain.origin(run), 0
    seen_kept = kept is None
    for at, turn, data, stored, name in connection.execute(
        "SELECT seq, turn, data, digest, name FROM events WHERE run = ? ORDER BY seq", (no,)
    ):
        event, what = _decoded(data)
        if event is None:
            yield Problem(run, at, what)
        if seq == 0:
            if name != run:
                yield Problem(run, at, f"the first event belongs to run {name!r}")
            if isinstance(event, RunPruned):
                seq, digest = event.seq, event.head
                if kept is not None and kept.seq <= seq:
                    seen_kept = True
                    if kept.seq == seq and kept.digest != digest:
                        yield Problem(run, seq, "the digest of the pruned log is not the one kept elsewhere")
        if at != seq + 1:
            yield Problem(run, seq + 1, f"events {seq + 1} to {at - 1} are missing")
        elif chain.link(digest, at, turn, data) != stored:
            yield Problem(run, at, "the event was altered: its digest does not fit its content and the event before it")
        seq, digest = at, stored
        if kept is not None and kept.seq == at:
            seen_kept = True
            if kept.digest != stored:
                yield Problem(run, at, "the run was rewritten: the digest is not the one kept elsewhere")
        for named in named_by(event) if event is not None else ():
            fault = _artifact_fault(connection, named, known)
            if fault:
                yield Problem(run, at, fault)
    if head_seq is None:
        yield Problem(run, 0, "the run has no head; `kitaru rebuild` restores it")
    elif head_seq != seq:
        yield Problem(run, min(seq, head_seq) + 1, f"the last event is {seq}, but the head says {head_seq}")
    elif head_digest != digest:
        yield Problem(run, seq, "the head holds another digest than the last event")
    if not seen_kept and kept is not None:
        yield Problem(run, seq, f"the tail was cut: the last event is {seq}, elsewhere the head is event {kept.seq}")


def _decoded(data: bytes) -> tuple[AnyEvent | None, str]:
    try:
        return decode_event(data), ""
    except UNDECODABLE as error:
        return None, f"the event cannot be decoded: {error}"


def _artifact_fault(connection: sqlite3.Connection, root: bytes, known: dict[bytes, str]) -> str:
    """The first fault among an artifact and those it leads to, "" when there is none; each is looked at once."""
    if root in known:
        return known[root]
    faults: list[str] = []

    def read(digest: bytes) -> bytes | None:
        data = pieces.read(connection, digest)
        if data is None:
            faults.append(f"artifact {digest.hex()} is missing")
        elif content_digest(data) != digest:
            faults.append(f"artifact {digest.hex()} was altered: its content does not fit its digest")
        else:
            return data
        return None

    for digest in closure([root], read, lambda digest: known.get(digest) == ""):
        known[digest] = ""
    if faults:
        known[root] = faults[0]
    return known[root]


class _Projected:
    """What a run's events make of its projections."""

    def __init__(self) -> None:
        self.id = ""
        self.flow = ""
        self.status = "running"
        self.created = self.updated = 0.0
        self.parent: str | None = None
        self.origin: str | None = None
        self.note = ""
        self.epoch = 1
        self.seq = self.turn = 0
        self.digest = b""
        self.artifacts: set[bytes] = set()

    def add(self, seq: int, turn: int, digest: bytes, name: str | None, event: AnyEvent | None) -> None:
        if name is not None:
            self.id = name
        self.seq, self.digest = seq, digest
        self.turn = max(self.turn, turn)
        if event is None:
            return
        if name is not None:
            self.flow = flow_of(event)
            self.created = event.created if isinstance(event, RunPruned) else event.at
        if isinstance(event, RunStarted):
            self.parent = event.parent.run if event.parent else None
            self.origin = event.origin.run if event.origin else None
        if isinstance(event, RunClaimed):
            self.epoch = event.epoch
        status = STATUS_AFTER.get(type(event))
        if status is not None:
            self.status, self.updated, self.note = status, event.at, note_of(event)
        self.artifacts.update(named_by(event))

    def be_like(self, former: _Former | None) -> None:
        """Take over what the events that cannot be read may have said."""
        if former is None:
            return
        self.id, self.flow, self.status = former.id, former.flow, former.status
        self.created, self.updated, self.note = former.created, former.updated, former.note
        self.parent, self.origin = former.parent, former.origin
        self.epoch = max(self.epoch, former.epoch)
        if former.seq > self.seq:
            self.seq, self.turn, self.digest = former.seq, former.turn, former.digest
        self.artifacts |= former.artifacts


def rebuild(connection: sqlite3.Connection, path: str) -> Rebuilt:
    """Make `runs`, `heads`, `refs` and `piece_refs` again, in one transaction, and the events' index if it is damaged.

    A run whose events cannot all be decoded keeps what was known of it before, as far as that can be read.

    Args:
        connection: The writing connection.
        path: Its file.
    """
    problems: list[Problem] = []
    broken = soundness.made_again(connection)
    if schema.EVENTS_INDEX in broken:
        with schema.transaction(connection):
            soundness.forget(connection, schema.EVENTS_INDEX)
            schema.create_events_index(connection)
    # A connection that met a damaged page cannot write until its transaction ends, so another one reads.
    with contextlib.closing(schema.connect(path, busy_timeout=5.0)) as reader, schema.transaction(connection):
        former = _former(reader)
        for name in broken - {schema.EVENTS_INDEX}:
            soundness.forget(connection, name)
        schema.create_projections(connection)
        count = 0
        for (no,) in reader.execute("SELECT DISTINCT run FROM events ORDER BY run").fetchall():
            projected = _Projected()
            what = _project(reader, no, projected)
            if what:
                projected.be_like(former.get(no))
                problems.append(Problem(projected.id or f"#{no}", what[0], what[1]))
                if not projected.id:
                    continue
            _insert(connection, reader, no, projected)
            count += 1
    return Rebuilt(count, tuple(problems))


def _project(connection: sqlite3.Connection, no: int, projected: _Projected) -> tuple[int, str] | None:
    """Read a run's events. Returns the first one that cannot be read, and why; 0 for the whole log."""
    first: tuple[int, str] | None = None
    try:
        for seq, turn, data, digest, name in connection.execute(
            "SELECT seq, turn, data, digest, name FROM events WHERE run = ? ORDER BY seq", (no,)
        ):
            event, what = _decoded(data)
            projected.add(seq, turn, digest, name, event)
            if event is None:
                first = first or (seq, what)
    except sqlite3.DatabaseError as error:
        return first or (0, f"the run's log cannot be read: {error}")
    return first


class _Former(NamedTuple):
    id: str
    flow: str
    status: str
    created: float
    updated: float
    parent: str | None
    origin: str | None
    note: str
    epoch: int
    seq: int
    turn: int
    digest: bytes
    artifacts: frozenset[bytes]


def _former(connection: sqlite3.Connection) -> dict[int, _Former]:
    """What the projections say now, as far as they can be read."""
    refs: dict[int, set[bytes]] = {}
    with contextlib.suppress(sqlite3.DatabaseError):
        for digest, no in connection.execute("SELECT digest, run FROM refs"):
            refs.setdefault(no, set()).add(digest)
    heads: dict[int, tuple[int, int, int, bytes]] = {}
    with contextlib.suppress(sqlite3.DatabaseError):
        for no, *head in connection.execute("SELECT run, epoch, seq, turn, digest FROM heads"):
            heads[no] = (head[0], head[1], head[2], head[3])
    found = {}
    with contextlib.suppress(sqlite3.DatabaseError):
        for row in connection.execute("SELECT no, id, flow, status, created, updated, parent, origin, note FROM runs"):
            found[row[0]] = _Former._make(
                (*row[1:], *heads.get(row[0], (1, 0, 0, b"")), frozenset(refs.get(row[0], ())))
            )
    return found


def _insert(connection: sqlite3.Connection, reader: sqlite3.Connection, no: int, run: _Projected) -> None:
    connection.execute(
        "INSERT INTO runs (no, id, flow, status, created, updated, parent, origin, note) VALUES (?,?,?,?,?,?,?,?,?)",
        (no, run.id, run.flow, run.status, run.created, run.updated, run.parent, run.origin, run.note),
    )
    connection.execute(
        "INSERT INTO heads (run, epoch, seq, turn, digest) VALUES (?,?,?,?,?)",
        (no, run.epoch, run.seq, run.turn, run.digest),
    )
    found = closure(run.artifacts, functools.partial(_content, reader), lambda _: False)
    connection.executemany("INSERT OR IGNORE INTO refs (digest, run) VALUES (?, ?)", [(each, no) for each in found])
    connection.executemany(
        "INSERT OR IGNORE INTO piece_refs (piece, run) VALUES (?, ?)",
        [(piece, no) for digest in found for piece in _pieces_of(reader, digest)],
    )


def _content(reader: sqlite3.Connection, digest: bytes) -> bytes | None:
    try:
        return pieces.read(reader, digest)
    except sqlite3.DatabaseError:
        return None


def _pieces_of(reader: sqlite3.Connection, digest: bytes) -> list[int]:
    try:
        return list(pieces.pieces_of(reader, digest))
    except sqlite3.DatabaseError:
        return []


def prune(connection: sqlite3.Connection, run: str) -> Pruned:
    """Remove one finished, unowned run and the artifacts that only it names, leaving a tombstone; one transaction.

    Args:
        connection: The writing connection.
        run: The run's id. A run that is no longer finished, or is owned, is left alone.
    """
    with schema.transaction(connection):
        return _prune(connection, run)


def _prune(connection: sqlite3.Connection, run: str) -> Pruned:
    row = connection.execute(
        "SELECT no, status, flow, created, seq, digest FROM runs JOIN heads ON heads.run = no "
        "WHERE id = ? AND no NOT IN (SELECT run FROM owned)",
        (run,),
    ).fetchone()
    if row is None or row[1] not in FINISHED - {"pruned"}:
        return Pruned(0, 0, 0)
    no, _, flow, created, seq, digest = row
    now = time.time()
    data = encode_event(RunPruned(v=SCHEMA_VERSION, at=now, seq=seq, head=digest, flow=flow, created=created))
    last = chain.link(digest, seq + 1, 0, data)
    # The tombstone goes in first: the highest id stays taken, so no id is ever used twice.
    connection.execute(
        "INSERT INTO events (run, seq, turn, data, digest, name) VALUES (?, ?, 0, ?, ?, ?)",
        (no, seq + 1, data, last, run),
    )
    connection.execute("INSERT INTO tickets (run, seq) VALUES (?, ?)", (no, seq))
    events = connection.execute("DELETE FROM events WHERE run = ? AND seq <= ?", (no, seq)).rowcount
    connection.execute("DELETE FROM tickets WHERE run = ?", (no,))
    connection.execute("UPDATE heads SET epoch = 1, seq = ?, turn = 0, digest = ? WHERE run = ?", (seq + 1, last, no))
    connection.execute(
        "UPDATE runs SET status = 'pruned', updated = ?, parent = NULL, origin = NULL, note = '' WHERE no = ?",
        (now, no),
    )
    connection.execute("DELETE FROM sealed WHERE kind = 'run' AND holder = ?", (run,))
    named = connection.execute("DELETE FROM refs WHERE run = ? RETURNING digest", (no,)).fetchall()
    artifacts = 0
    held = {piece for (name,) in named for piece in pieces.pieces_of(connection, name)}
    for (name,) in named:
        sql = "DELETE FROM artifacts WHERE digest = ? AND NOT EXISTS (SELECT 1 FROM refs WHERE digest = ?)"
        artifacts += connection.execute(sql, (name, name)).rowcount
    for piece in held:
        connection.execute("DELETE FROM piece_refs WHERE piece = ? AND run = ?", (piece, no))
        sql = "DELETE FROM pieces WHERE id = ? AND NOT EXISTS (SELECT 1 FROM piece_refs WHERE piece = ?)"
        connection.execute(sql, (piece, piece))
    return Pruned(1, events, artifacts)
