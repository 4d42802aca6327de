"""One boundary while it runs live."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from kitaru.runtime.call import Call
from kitaru.runtime.keys import name_of
from kitaru.runtime.replay import Record
from kitaru.store.events import (
    Blob,
)

if TYPE_CHECKING:
    from kitaru.runtime.execution import Execution


class Flight:
    """One boundary while it runs live."""

    __slots__ = ("announced", "announcement", "attempt", "call", "code", "data", "execution", "fingerprint", "inputs",
                 "key", "known", "order", "party", "record", "result", "started", "thread")  # fmt: skip

    def __init__(self, execution: Execution, call: Call[Any], order: int, party: object) -> None:
        self.execution = execution
        self.call = call
        self.key = call.key
        self.order = order
        self.party = party
        self.started = time.time()
        self.attempt = 0
        self.announced = False
        self.announcement: asyncio.Future[None] | None = None
        """Done when the start is on disk, where the work has not waited for that yet."""
        self.code = call.work.version(execution)
        self.fingerprint = call.inputs.fingerprint
        self.data: bytes = call.inputs.data or b""
        self.inputs: Blob = self.data
        self.record: Record | None = None
        """What the log holds of it from a process that died."""
        self.result: object = None
        """What the work wants to remember of its performance until the event is made."""
        self.thread: asyncio.Future[object] | None = None
        """The pool's thread that still runs a sync attempt which has timed out."""
        self.known: list[Record] = []
        """Finished children of an attempt that the process died in, to be reused by the attempt that repeats it."""

    def finished_child(self, call: Call[Any]) -> Record | None:
        """The first unclaimed one of those that is the same call; equal ones can stand for each other."""
        name, fingerprint = call.work.name, call.inputs.fingerprint
        for record in self.known:
            if not record.claimed and name_of(record.key) == name and record.event.fingerprint == fingerprint:
                return record
        return None
