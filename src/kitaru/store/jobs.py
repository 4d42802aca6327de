"""Writes other than a run's own appends: claim, release, post, retry. Each is a function of one transaction."""
# what is put into SQL text is a constant list of columns

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from kitaru.errors import RunError, RunOwnedError, UsageError
from kitaru.store import owners
from kitaru.store.batch import Found, Head, Transaction
from kitaru.store.events import (
    FINISHED,
    SCHEMA_VERSION,
    AnyEvent,
    RunClaimed,
    RunPruned,
    RunRetried,
    RunStarted,
)
from kitaru.store.protocol import Lease, Recorded, Sink
from kitaru.store.writer import Writer

_NOT_TO_POST: Final = (RunStarted, RunClaimed, RunRetried, RunPruned)


def claim(writer: Writer, run: str, sink: Sink, python: str, unasked: bool) -> Callable[[Transaction], Lease]:
    """Become the run's owner under a new epoch, unless a living process owns it."""

    def work(tx: Transaction) -> Lease:
        found = tx.find(run)
        if found.status in FINISHED:
            raise RunError(f"run {run} has already ended ({found.status})", hint="Replay it instead.")
        _refuse_if_owned(writer, tx, run, found)
        epoch = found.epoch + 1
        event = RunClaimed(
            v=SCHEMA_VERSION, at=time.time(), epoch=epoch, owner=writer.owner.name, python=python, unasked=unasked
        )
        head = Head(run, found.no, found.epoch, found.seq, found.turn, found.digest, sink, found.seq)
        tx.write(head, [event], 0)
        tx.flush()
        tx.connection.execute("UPDATE heads SET epoch = ? WHERE run = ?", (epoch, found.no))
        tx.connection.execute("INSERT OR REPLACE INTO owned (run, owner) VALUES (?, ?)", (found.no, writer.owner.no))
        head.epoch = epoch
        return Lease(run, epoch, head.seq)

    return work


def _refuse_if_owned(writer: Writer, tx: Transaction, run: str, found: Found) -> None:
    if found.owner is None:
        return
    if found.owner == writer.owner.no:
        raise RunOwnedError(f"run {run} is owned by this process already (pid {writer.pid})")
    row = tx.connection.execute(f"SELECT {owners.COLUMNS} FROM owners WHERE no = ?", (found.owner,)).fetchone()
    if row is None:
        return
    owner = owners.OwnerRow(*row)
    if writer.owner.health_of(owner) is owners.Health.ALIVE:
        raise RunOwnedError(
            f"run {run} is owned by a living process (pid {owner.pid})",
            hint=f"Follow it: `kitaru events {run} --follow`. Or stop that process first.",
        )


def release(writer: Writer, run: str, epoch: int) -> Callable[[Transaction], None]:
    """Stop owning a run, if the epoch is still the newest."""

    def work(tx: Transaction) -> None:
        found = tx.find(run)
        if found.owner == writer.owner.no and found.epoch == epoch:
            tx.connection.execute("DELETE FROM owned WHERE run = ?", (found.no,))
            head = tx.head(run, found)
            head.sink = None
            tx.heads[run] = head

    return work


def post(writer: Writer, run: str, event: AnyEvent) -> Callable[[Transaction], int]:
    """Append an event to a run, whoever owns it."""
    if isinstance(event, _NOT_TO_POST):
        raise UsageError(f"a {type(event).__name__} cannot be posted to run {run}")

    def work(tx: Transaction) -> int:
        found = tx.find(run)
        if found.status in FINISHED:
            raise RunError(f"run {run} has already ended ({found.status})")
        return _append(writer, tx, run, found, event)

    return work


def retry(writer: Writer, run: str, event: AnyEvent) -> Callable[[Transaction], int]:
    """Let a failed or cancelled run go on."""
    if not isinstance(event, RunRetried):
        raise UsageError(f"a retry of run {run} takes a RunRetried, not a {type(event).__name__}")

    def work(tx: Transaction) -> int:
        found = tx.find(run)
        if found.status not in {"failed", "cancelled"}:
            raise RunError(f"run {run} is {found.status}; only a failed or cancelled run can be retried")
        return _append(writer, tx, run, found, event)

    return work


def _append(writer: Writer, tx: Transaction, run: str, found: Found, event: AnyEvent) -> int:
    head = tx.head(run, found)
    tx.write(head, [event], 0)
    seq, sink = head.seq, head.sink
    if sink is not None:
        tx.after.append(lambda: writer.notice(sink, run, [Recorded(seq, 0, event)]))
    return seq
