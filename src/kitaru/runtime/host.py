"""What a runtime keeps for one event loop: the sink of acknowledgements, the runs on that loop, and its clients."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from kitaru.runtime.foreign import live_runs
from kitaru.runtime.keys import install_task_factory
from kitaru.runtime.log import log
from kitaru.runtime.threads import report
from kitaru.store.events import CancelRequested
from kitaru.store.protocol import Append, Recorded, Store

if TYPE_CHECKING:
    from kitaru.adapters.transport import Transport
    from kitaru.runtime.core import Core
    from kitaru.runtime.execution import Execution

ANNOUNCE_AFTER: Final = 1.0
"""Seconds after which a running step's start is committed."""


class Host:
    """One event loop's share of a runtime."""

    def __init__(self, runtime: Core, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self.runtime = runtime
        self.store = store
        self.loop = loop
        self.sink = LoopSink(self)
        self.replay_grace = runtime.replay_grace
        self.patience = runtime.patience
        self.runs: dict[str, Execution] = {}
        self._chores: set[asyncio.Task[None]] = set()
        self._ticking = False
        self._transport: Transport | None = None
        self._farewell: AsyncGenerator[None, None] | None = None
        install_task_factory(loop)

    def run(self, function: Callable[[], object], context: Context) -> asyncio.Future[object]:
        """Run a sync checkpoint's body on the pool's threads, on which flows never run, in `context`."""
        future: asyncio.Future[object] = self.loop.create_future()
        job = self.runtime.pool.submit(report, self.loop, future, functools.partial(context.run, function))
        # One that nobody waits for any more, and that no thread has begun, is not begun.
        future.add_done_callback(lambda done: job.cancel() if done.cancelled() else None)
        return future

    @property
    def transport(self) -> Transport:
        """The HTTP transport of this loop, made on first use."""
        if self._transport is None:
            from kitaru.adapters.transport import Transport

            self._transport = Transport()
            if self._farewell is None:
                self._farewell = self._until_the_loop_ends()
                with contextlib.suppress(StopIteration):
                    self._farewell.asend(None).send(None)
        return self._transport

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        # A loop closes the async generators that are alive when it shuts down: the one call that it gives libraries.
        try:
            yield
        finally:
            await self.close()

    def begin(self, execution: Execution) -> None:
        """Start running a run on this loop."""
        self.runs[execution.run] = execution
        execution.start()
        if not self._ticking:
            self._ticking = True
            self.loop.call_later(ANNOUNCE_AFTER / 2, self._tick)

    def spawn(self, chore: Coroutine[Any, Any, None]) -> None:
        """Do something beside the runs of this loop, in a task that belongs to none of them."""
        task = asyncio.Task(chore, loop=self.loop, context=Context())
        self._chores.add(task)
        task.add_done_callback(self._done)

    def _done(self, chore: asyncio.Task[None]) -> None:
        self._chores.discard(chore)
        if not chore.cancelled() and (error := chore.exception()) is not None:
            self.runtime.problems.failed("background work", error)
            log().error("background.failed", exc_info=error)

    def ended(self, execution: Execution) -> None:
        """The run has left this loop."""
        self.runs.pop(execution.run, None)
        live_runs.discard(execution)
        self.runtime.ended(execution)

    async def close(self) -> None:
        """Close the clients of this loop."""
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None

    async def end_chores(self) -> None:
        """Cancel what is done beside the runs, and wait for it."""
        for chore in self._chores:
            chore.cancel()
        if self._chores:
            await asyncio.wait(self._chores)

    async def drain(self) -> None:
        """Park the runs of this loop and wait until they have left."""
        await self.end_chores()
        roots = []
        for execution in list(self.runs.values()):
            execution.leave("its runtime closed")
            if execution.root is not None:
                roots.append(execution.root)
        if roots:
            await asyncio.wait(roots)

    def _tick(self) -> None:
        if not self.runs:
            self._ticking = False
            return
        self.loop.call_later(ANNOUNCE_AFTER / 2, self._tick)
        for execution in list(self.runs.values()):
            if execution.busy:
                try:
                    execution.announce_long(ANNOUNCE_AFTER)
                except Exception as error:
                    execution.broken(error)

    def deliver(self, appends: list[Append]) -> None:
        """Hand the store's answers to the runs they concern."""
        if len(appends) == 1:
            context: Any = appends[0].context
            self._tell(getattr(context, "execution", context), appends)
            return
        by_run: dict[Any, list[Append]] = {}
        for append in appends:
            context = append.context
            execution = getattr(context, "execution", context)
            of_run = by_run.get(execution)
            if of_run is None:
                by_run[execution] = [append]
            else:
                of_run.append(append)
        for execution, of_run in by_run.items():
            self._tell(execution, of_run)

    def _tell(self, execution: Any, appends: list[Append]) -> None:
        try:
            execution.acknowledged(appends)
        except Exception as error:
            # One run's fault is not to keep their answers from the others.
            execution.broken(error)

    def notice(self, run: str, events: list[Recorded]) -> None:
        """Another process appended to a run of this loop."""
        execution = self.runs.get(run)
        if execution is None:
            return
        for recorded in events:
            if isinstance(recorded.event, CancelRequested):
                execution.cancel(recorded.event.reason)


class LoopSink:
    """Brings a store's answers from its thread to one event loop."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def acknowledged(self, appends: list[Append]) -> None:
        self._soon(self._host.deliver, appends)

    def noticed(self, run: str, events: list[Recorded]) -> None:
        self._soon(self._host.notice, run, events)

    def _soon(self, deliver: Callable[..., None], *args: object) -> None:
        try:
            self._host.loop.call_soon_threadsafe(deliver, *args)
        except RuntimeError:
            # The loop has closed; its runs are gone with it, and what the log acknowledged is on disk.
            return


class Ask:
    """The context of an append that belongs to no execution yet: creating a run."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future

    def acknowledged(self, appends: list[Append]) -> None:
        """The store's answer."""
        append = appends[0]
        if self.future.done():
            return
        if append.error is not None:
            self.future.set_exception(append.error)
        else:
            self.future.set_result(None)

    def broken(self, error: Exception) -> None:
        """The answer could not be taken."""
        if not self.future.done():
            self.future.set_exception(error)


async def submit(host: Host, append: Append) -> None:
    """Append, and return when it is on disk."""
    ask = Ask(host.loop.create_future())
    append.context = ask
    host.store.submit(append)
    await ask.future


async def drained(host: Host) -> None:
    """Have a host's runs leave memory, and close it."""
    await host.drain()
    await host.close()
