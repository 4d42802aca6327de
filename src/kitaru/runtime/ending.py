"""How a run ends: with a result, a failure, a cancellation, or by leaving memory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextvars import Context
from typing import TYPE_CHECKING, Any

from kitaru.errors import (
    KitaruError,
    RunCancelledError,
    RunParkedError,
    Suspended,
)
from kitaru.runtime import live
from kitaru.runtime.blobs import blob_of
from kitaru.runtime.children import end_children
from kitaru.runtime.keys import RunTask, closes_generator, here
from kitaru.runtime.raised import raise_unchanged, raised_inside
from kitaru.store import codec
from kitaru.store.events import (
    AnyEvent,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunParked,
)

if TYPE_CHECKING:
    from kitaru.runtime.execution import Execution


class RootTask(RunTask):
    """A run's root task: being cancelled from outside its run (a loop that shuts down) parks the run."""

    def __init__(self, main: Any, execution: Execution, context: Context) -> None:
        super().__init__(main, loop=execution.host.loop, name=f"kitaru run {execution.run}", context=context)
        self._execution = execution

    def cancel(self, msg: Any | None = None) -> bool:
        place = here.get()
        execution = self._execution
        if execution.ending:
            return False
        if (place is None or place.execution is not execution) and not execution.leaving:
            execution.leave("its event loop shut down")
            return True
        return super().cancel(msg)


async def run_to_its_end(execution: Execution) -> None:
    """Run the flow's code, record how it ended, and tell whoever waits: the body of a run's root task."""
    try:
        await _run_to_its_end(execution)
    except Exception as error:
        # A fault of ours must not leave a run that nobody executes, nor anybody waiting for it.
        execution.broken(error)
        execution.host.ended(execution)
        with contextlib.suppress(KitaruError):
            await execution.host.store.release(execution.run, execution.epoch)
        if not execution.finished.done():
            execution.finished.set_exception(error)


async def _run_to_its_end(execution: Execution) -> None:
    end: AnyEvent | None = None
    artifacts: dict[bytes, bytes] = {}
    result = b""
    failure: BaseException | None = None
    outside: BaseException | None = None
    try:
        result = await _run_body(execution)
        execution.secrets.check(result, f"the result of {execution.flow.name}(): value")
        unreached = execution.history.never_asked()
        if unreached and not execution.leaving:
            execution.stop(execution.history.unreached(unreached, []))
        else:
            blob, artifacts = blob_of(result)
            end = RunCompleted(1, time.time(), blob)
            if not execution.leaving:
                live.leave_behind(execution, warn=True)
    except BaseException as error:
        stop = isinstance(error, Suspended | asyncio.CancelledError)
        if not raised_inside(error):
            # Ctrl-C, another signal, or a loop that ends without having run this task to its end.
            outside = error
            execution.stopped_by = execution.stopped_by or error
            execution.leaving = True
            if isinstance(error, GeneratorExit):
                raise
        elif execution.leaving:
            pass
        elif execution.cancelling and stop:
            failure = RunCancelledError(
                f"run {execution.run} was cancelled"
                + (f": {execution.cancel_reason}" if execution.cancel_reason else "")
            )
            end = RunCancelled(1, time.time(), execution.cancel_reason)
        elif unreached := execution.history.never_asked():
            divergence = execution.history.unreached(unreached, [])
            divergence.__cause__ = error
            execution.stop(divergence)
        else:
            end, failure, artifacts = _failed(execution, error)
            live.leave_behind(execution, warn=False)
    await _finish(execution, end, artifacts, result, failure)
    if outside is not None:
        # Out of the loop, as it came in; as this task's own end, asyncio would report it a second time.
        execution.host.loop.call_soon(raise_unchanged, outside)


async def _run_body(execution: Execution) -> bytes:
    try:
        result = await execution.flow.run_body(execution)
    except Exception:
        await _close_generators(execution)
        raise
    await _close_generators(execution)
    return result


async def _close_generators(execution: Execution) -> None:
    """Let the async generators that the flow dropped clean up: their loop closes each in a task of its own."""
    await asyncio.sleep(0)
    while closing := [task for task in execution.tasks if not task.done() and closes_generator(task)]:
        await asyncio.wait(closing)


def _failed(execution: Execution, error: BaseException) -> tuple[AnyEvent, BaseException, dict[bytes, bytes]]:
    data, was_masked = execution.secrets.failure(error)
    blob, artifacts = blob_of(data)
    causes = tuple(dict.fromkeys(key for e, key in execution.failures if e in _chain(error)))
    failure = codec.decode_exception(data, module=execution.flow.module)
    if not was_masked:
        failure = failure.with_traceback(error.__traceback__)
    return RunFailed(1, time.time(), blob, causes), failure, artifacts


async def _finish(
    execution: Execution,
    end: AnyEvent | None,
    artifacts: dict[bytes, bytes],
    result: bytes,
    failure: BaseException | None,
) -> None:
    parked = execution.leaving
    if parked:
        end = None
    execution.leaving = execution.ending = True
    execution.turns.close()
    if parked:
        # Leaving has cancelled this very task, which may not have noticed yet: what follows must not be interrupted.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
    await _end_tasks(execution)
    if end is not None and execution.started:
        await end_children(execution)
    try:
        if end is not None:
            await execution.append_durably([end], artifacts, forget=execution.secrets.kept)
        elif execution.stopped_by is None or not isinstance(execution.stopped_by, KitaruError):
            reason = execution.secrets.parked_as or execution.parked_because or "left memory"
            await execution.append_durably([RunParked(1, time.time(), reason)])
        else:
            await execution.host.store.release(execution.run, execution.epoch)
    except asyncio.CancelledError:
        execution.stopped_by = execution.stopped_by or RunParkedError(
            f"run {execution.run} was interrupted while it ended"
        )
        end = None
    except KitaruError as error:
        execution.stopped_by, end = error, None
    finally:
        execution.host.ended(execution)
    if end is None:
        execution.finished.set_exception(
            execution.stopped_by
            if isinstance(execution.stopped_by, Exception)
            else RunParkedError(
                f"run {execution.run} was parked before it had a result",
                hint=f"Resume it: `kitaru resume {execution.run}`.",
            )
        )
    elif failure is not None:
        execution.finished.set_exception(failure)
    else:
        execution.finished.set_result(result)


async def _end_tasks(execution: Execution) -> None:
    me = asyncio.current_task()
    while others := [t for t in execution.tasks if t is not me and not t.done()]:
        for task in others:
            task.cancel()
        await asyncio.wait(others, timeout=execution.host.patience)
        if not any(task.done() for task in others):
            # They refuse to end; the loop's owner will see them.
            break
    for task in execution.tasks:
        if task.done() and not task.cancelled():
            task.exception()


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    todo = [error]
    while todo:
        one = todo.pop()
        if one is None or any(one is f for f in found):
            continue
        found.append(one)
        todo += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            todo += one.exceptions
    return found
