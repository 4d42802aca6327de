"""Sync flows and checkpoints: threads that call boundaries of a run that lives on an event loop.

A sync flow has a thread of its own. What it calls is driven on the loop by the same engine as in async flows; a sync
checkpoint's body is handed back to the thread that waits for it. The pool for checkpoints never runs flows.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any, Final

from kitaru.errors import Suspended, UsageError
from kitaru.runtime.call import Call
from kitaru.runtime.foreign import foreign_thread
from kitaru.runtime.keys import RunTask
from kitaru.runtime.raised import raised_inside
from kitaru.store import codec

Job = Callable[[], None]

IN_THREAD: Final = object()
"""Marks the place of a sync checkpoint's body."""

SUBMITTED: Final = object()
"""The party of a submitted call until the task that drives it is there."""


class WaitingThread:
    """A thread of sync code that waits for a boundary, and runs what the boundary needs it for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.ident = threading.get_ident()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()

    def run(self, function: Callable[[], object], context: Context) -> asyncio.Future[object]:
        """Run `function` on this thread, in `context`."""
        future: asyncio.Future[object] = self.loop.create_future()
        self._jobs.put(lambda: report(self.loop, future, lambda: context.run(function)))
        return future

    def wait(self, call: Call[Any], begin: Callable[[Callable[[], None]], None]) -> None:
        """Have `begin` run on the loop, and run jobs here until it says that `call` has finished."""
        try:
            self.loop.call_soon_threadsafe(begin, lambda: self._jobs.put(None))
        except RuntimeError:
            call.fail(Suspended())
            return
        while (job := self._jobs.get()) is not None:
            job()


class FlowThread(WaitingThread):
    """The thread of a sync flow: one of the parties that its run's turns wait for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.driver: asyncio.Task[None] | None = None
        self.interruption: BaseException | None = None

    @property
    def _fut_waiter(self) -> asyncio.Future[object] | None:
        """What the task that works for this thread waits for, under the name that tasks have for it: away from
        boundaries the thread is waiting while that task is, as where one call waits for another."""
        waiter: asyncio.Future[object] | None = getattr(self.driver, "_fut_waiter", None)
        return waiter

    def interrupt(self) -> None:
        """Make the boundary that this thread waits for, or calls next, raise a cancellation. Called on the loop."""
        if self.driver is not None:
            self.driver.cancel()
        else:
            self.interruption = asyncio.CancelledError()


def report(loop: asyncio.AbstractEventLoop, future: asyncio.Future[object], function: Callable[[], object]) -> None:
    """Call `function` in this thread and make its outcome that of `future`, on its loop."""
    value: object = None
    error: BaseException | None = None
    try:
        value = function()
    except StopIteration as stop:
        error = _no_stop_iteration(stop)
    except GeneratorExit as raised:
        error = codec.as_exception(raised)
    except BaseException as raised:
        error = raised

    def tell() -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)

    try:
        loop.call_soon_threadsafe(tell)
    except RuntimeError:
        return


def _no_stop_iteration(stop: StopIteration) -> RuntimeError:
    """What is raised instead of a StopIteration, which a future refuses and a coroutine cannot raise."""
    error = RuntimeError(f"a step raised StopIteration({stop.value!r})")
    error.__cause__ = stop
    return error


def start_flow_thread(
    loop: asyncio.AbstractEventLoop, name: str, body: Callable[[FlowThread], object]
) -> tuple[FlowThread, asyncio.Future[object]]:
    """Run `body` in a new thread, in a copy of the present context; its end is the future's."""
    future: asyncio.Future[object] = loop.create_future()
    thread = FlowThread(loop)
    context = copy_context()

    def main() -> None:
        thread.ident = threading.get_ident()
        report(loop, future, lambda: context.run(body, thread))

    threading.Thread(target=main, name=name, daemon=True).start()
    return thread, future


def wait_for(call: Call[Any]) -> None:
    """Wait in sync code until `call` has finished.

    Raises:
        UsageError: On an event loop's thread, or one that is not the flow's own; or the call belongs to no run.
    """
    place = call.place
    if place is None:
        raise UsageError(f"{call.work.name} at {call.where} has not run", hint="Await it.")
    if on_a_loop():
        raise UsageError(
            f".load() of {call.work.name} at {call.where} on an event loop's thread would block the loop",
            hint="Use `await` in async code.",
        )
    execution = place.execution
    if place.inside is None and threading.get_ident() != execution.ident and not execution.leaving:
        raise foreign_thread(execution)
    thread = place.thread if isinstance(place.thread, FlowThread) else None
    if thread is not None and thread.interruption is not None:
        interruption, thread.interruption = thread.interruption, None
        call.fail(interruption)
        return
    waiting = thread if thread is not None else WaitingThread(execution.host.loop)
    if call.party is None:
        call.party = waiting

    def begin(finished: Callable[[], None]) -> None:
        driver = _drive(call)

        def ended(task: asyncio.Task[None]) -> None:
            if thread is not None:
                thread.driver = None
                execution.turns.wake(thread)
            if not call.done:
                call.fail(asyncio.CancelledError() if task.cancelled() else Suspended())
            finished()

        if thread is not None:
            thread.driver = driver
        driver.add_done_callback(ended)

    waiting.wait(call, begin)


def submit(call: Call[Any]) -> None:
    """Start a call made in sync code without waiting for it.

    Raises:
        UsageError: The call belongs to no run.
    """
    if call.place is None:
        raise UsageError(f"{call.work.name} at {call.where} is outside any flow", hint="Submit calls inside a flow.")
    call.party = SUBMITTED
    call.place.execution.host.loop.call_soon_threadsafe(_drive, call)


def _drive(call: Call[Any]) -> asyncio.Task[None]:
    assert call.place is not None
    execution = call.place.execution
    tasks = execution.tasks
    # Made directly, not through the loop's factory: a driver is no task of the flow.
    driver = RunTask(_awaited(call))
    tasks.add(driver)
    if call.party is SUBMITTED:
        call.party = driver
        execution.turns.open.add(driver)
    driver.add_done_callback(tasks.discard)
    return driver


async def _awaited(call: Call[Any]) -> None:
    try:
        await call
    except BaseException as error:
        # The thread that asked for it gets it from the call.
        if not call.done or not raised_inside(error):
            raise


def on_a_loop() -> bool:
    """Whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
