"""One boundary while it runs live."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from msgspec import field

from kitaru.runtime.call import Call
from kitaru.runtime.keys import name_of
from kitaru.runtime.raised import raised_inside
from kitaru.runtime.replay import Record
from kitaru.store.entity import Entity
from kitaru.store.events import (
    Blob,
)

if TYPE_CHECKING:
    from kitaru.runtime.execution import Execution

_STRIKES: Final = "_must_cancel"
"""A task's attribute: whether it gets a cancellation as soon as it waits. It has no public name."""


class Flight(Entity):
    """One boundary while it runs live."""

    execution: Execution
    call: Call[Any]
    order: int
    party: object
    key: str = ""
    started: float = 0.0
    attempt: int = 0
    announced: bool = False
    announcement: asyncio.Future[None] | None = None
    """Done when the start is on disk, where the work has not waited for that yet."""
    code: bytes = b""
    fingerprint: bytes = b""
    data: bytes = b""
    inputs: Blob = b""
    record: Record | None = None
    """What the log holds of it from a process that died."""
    ended: bool = False
    """Its outcome has been appended."""
    result: object = None
    """What the work wants to remember of its performance until the event is made."""
    unrecorded: Callable[[Exception], Exception] | None = None
    """Given by work whose result may not get lost: what to fail with where it cannot be recorded."""
    thread: asyncio.Future[object] | None = None
    """The pool's thread that still runs a sync attempt which has timed out."""
    task: asyncio.Task[Any] | None = None
    """The task that performs it."""
    own_cancels: int = 0
    """How often the work has cancelled that task itself, and not taken it back."""
    _cancels: int = 0
    known: list[Record] = field(default_factory=list)
    """Finished children of an attempt that the process died in, to be reused by the attempt that repeats it."""

    def __post_init__(self) -> None:
        call = self.call
        inputs = call.inputs
        self.key = call.key
        self.started = time.time()
        self.code = call.work.version(self.execution)
        self.fingerprint = inputs.fingerprint
        self.data = self.inputs = inputs.data or b""

    def begin(self, task: asyncio.Task[Any]) -> None:
        """The running task, `task`, performs it from now on."""
        self.task = task
        # One that was asked for and has not struck yet comes from outside.
        self._cancels = task.cancelling() - getattr(task, _STRIKES, False)

    def raised(self, error: BaseException) -> bool:
        """Whether the work itself raised `error`, which the calling frame caught: then it has failed."""
        if isinstance(error, asyncio.CancelledError):
            assert self.task is not None
            return not self.execution.leaving and self.task.cancelling() - self._cancels <= self.own_cancels
        return raised_inside(error)

    async def forget_cancels(self) -> None:
        """Take back what the work has asked of its own task: it has ended."""
        task, own, self.own_cancels = self.task, self.own_cancels, 0
        assert task is not None
        pending = getattr(task, _STRIKES, False) and task.cancelling() - self._cancels <= own
        for _ in range(own):
            asyncio.Task.uncancel(task)
        if pending:
            try:
                await asyncio.sleep(0)  # where it strikes
            except asyncio.CancelledError:
                if task.cancelling() > self._cancels:
                    # Together with one from outside, which has come meanwhile.
                    raise

    def finished_child(self, call: Call[Any]) -> Record | None:
        """The first unclaimed one of those that is the same call; equal ones can stand for each other."""
        asked = (call.work.kind, call.work.name, call.inputs.fingerprint)
        for record in self.known:
            if not record.claimed and (record.event.kind, name_of(record.key), record.event.fingerprint) == asked:
                return record
        return None


def running_task(loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any]:
    """The task that runs on `loop` now: inside a boundary there is one."""
    task = asyncio.current_task(loop)
    assert task is not None
    return task
