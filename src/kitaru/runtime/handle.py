"""The handle of a run, wherever it runs."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast
from zlib import crc32

from kitaru.errors import RunCancelledError, RunError, RunParkedError, UsageError
from kitaru.runtime.arguments import Duration, seconds_of
from kitaru.runtime.call import settle_from_anywhere
from kitaru.store import codec
from kitaru.store.events import FINISHED, AnyEvent, RunCancelled, RunCompleted, RunFailed, RunRetried, Status

if TYPE_CHECKING:
    from kitaru.runtime.core import Core
    from kitaru.runtime.execution import Execution
    from kitaru.runtime.flow import FlowWork

T = TypeVar("T")


class RunHandle(Generic[T]):
    """A run: wait for its result, look at it, cancel it. Giving up a wait never touches the run."""

    def __init__(self, runtime: Core, run: str, work: FlowWork, execution: Execution | None) -> None:
        self._runtime = runtime
        self._work = work
        self._execution = execution
        self.id = run
        """The run's id."""

    def __hash__(self) -> int:
        # Not from the address, so that sets of handles iterate in the same order in every process.
        return crc32(self.id.encode())

    async def result(self) -> T:
        """The flow's result, when it has one.

        Raises:
            Exception: What the flow failed with.
            RunCancelledError: The run was cancelled.
            RunParkedError: It left memory first; it can be resumed.
        """
        execution = self._execution
        if execution is None:
            return cast(T, await follow(self._runtime, self.id, self._work))
        return cast(T, self._work.decode_outcome(await _awaited(execution.finished)))

    def wait(self, timeout: Duration | None = None) -> T:
        """The flow's result, in sync code.

        Args:
            timeout: How long to wait at most: seconds, a `timedelta`, or a text such as "5m".

        Raises:
            TimeoutError: It took longer; the run continues.
            UsageError: On an event loop's thread. In a notebook's cell only where the run is on that loop.
            Exception: As `result`.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            # A cell is over before the next one begins, so nothing of the user's waits for the kernel's loop.
            elsewhere = self._execution is None or self._execution.host.loop is not loop
            if not (elsewhere and in_notebook()):
                raise UsageError(
                    "RunHandle.wait() on an event loop's thread would block it", hint="Use `await handle.result()`."
                )
        seconds = None if timeout is None else min(seconds_of(timeout, "wait: timeout"), threading.TIMEOUT_MAX)
        if self._execution is not None:
            return cast(T, self._work.decode_outcome(self._execution.finished.result(seconds)))
        return cast(T, self._runtime.background(follow(self._runtime, self.id, self._work)).result(seconds))

    @property
    def exec_id(self) -> str:
        """The run's id, under the name that public guides use."""
        return self.id

    async def status(self) -> Status:
        """The run's status, from its log."""
        return (await self._runtime.store.run(self.id)).status

    async def cancel(self, reason: str = "") -> None:
        """Ask for the run to be cancelled: its flow sees a cancellation and its cleanup code runs.

        Raises:
            RunError: The run has finished.
        """
        from kitaru.runtime.flow import Flow

        await self._runtime.cancel(self.id, reason, flow=Flow(self._work))

    def park_soon(self) -> None:
        """Have the run leave memory, if it is in this process. It can be resumed."""
        execution = self._execution
        if execution is not None and not execution.finished.done():
            execution.host.loop.call_soon_threadsafe(execution.leave, "nobody waits for it any more")

    async def park(self) -> None:
        """Have the run leave memory, and wait until it has."""
        execution = self._execution
        if execution is not None:
            self.park_soon()
            await left(execution)

    def __repr__(self) -> str:
        return f"<run {self.id} of {self._work.name}>"


def in_notebook() -> bool:
    """Whether this code was typed into IPython, whose cells run on an event loop."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


async def outermost(starting: Coroutine[Any, Any, RunHandle[T]]) -> T:
    """Start a run and wait for its result; giving up the wait, also while it starts, parks the run."""
    task = asyncio.ensure_future(starting)
    try:
        return await (await asyncio.shield(task)).result()
    except asyncio.CancelledError:
        task.add_done_callback(_park_started)
        raise


def _park_started(starting: asyncio.Task[RunHandle[Any]]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        starting.result().park_soon()


async def left(execution: Execution) -> None:
    """Wait until a run has left this process's memory, on whichever loop it was."""
    await ended(execution.finished)


async def _awaited(source: Future[bytes]) -> bytes:
    await ended(source)
    return source.result()


async def ended(source: Future[Any]) -> None:
    """Wait until a future is done. Unlike with `asyncio.wrap_future`, cancelling the wait leaves the future alone."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    source.add_done_callback(lambda _: settle_from_anywhere(done))
    await done


async def follow(runtime: Core, run: str, work: FlowWork) -> object:
    """Wait for the result of a run that another process runs."""
    after = 0
    while True:
        events = await runtime.store.watch(run, after=after, timeout=1.0)
        end: AnyEvent | None = None
        for recorded in events:
            after = recorded.seq
            if isinstance(recorded.event, RunCompleted | RunFailed | RunCancelled):
                end = recorded.event
            elif isinstance(recorded.event, RunRetried):
                end = None
        if isinstance(end, RunCompleted):
            return work.decode_outcome(await runtime.value(end.outcome))
        if isinstance(end, RunFailed):
            raise codec.decode_exception(await runtime.value(end.error), module=work.module)
        if isinstance(end, RunCancelled):
            raise RunCancelledError(f"run {run} was cancelled" + (f": {end.reason}" if end.reason else ""))
        if not events:
            row = await runtime.store.run(run)
            if not row.live and row.status not in FINISHED:
                raise RunParkedError(
                    f"run {run} is {row.status}, and no living process runs it",
                    hint=f"Resume it: `kitaru resume {run}`.",
                )
            if row.status == "pruned":
                raise RunError(f"run {run} was pruned; its result is gone")
