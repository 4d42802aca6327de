"""Child runs: those that a flow's call, or its start of another flow, stands for."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from kitaru.errors import DecodeError, KitaruError, RunError, RunStuckError, Suspended
from kitaru.runtime.fork import fork_child
from kitaru.runtime.handle import left
from kitaru.runtime.log import log
from kitaru.runtime.retrying import dropped_by_retry
from kitaru.runtime.unfit import left_open, refuse_lost_class
from kitaru.store import codec
from kitaru.store.events import FINISHED, ChildStarted, Parent, RunRetried

if TYPE_CHECKING:
    from kitaru.runtime.core import Core
    from kitaru.runtime.execution import Execution
    from kitaru.runtime.flight import Flight
    from kitaru.runtime.flow import FlowWork
    from kitaru.runtime.handle import RunHandle
    from kitaru.runtime.secrets.image import ImageSettings

PARENT_ENDED: Final = "its parent has ended"
"""Why a child was cancelled that nobody else asked to be cancelled: a retry of its parent lets it go on."""


def child_id(parent: str, key: str) -> str:
    """The id of a child run: derived from its parent's id and the key of the boundary that starts it."""
    digest = codec.content_digest(f"{parent}\0{key}".encode())
    return base64.b32encode(digest[:10]).decode().lower()


async def start_child(
    parent: Execution,
    work: FlowWork,
    flight: Flight,
    *,
    run: str | None = None,
    source: str | None = None,
    image: ImageSettings | None = None,
    on_end: str = "",
) -> RunHandle[Any]:
    """Start, or attach to, a child run.

    Args:
        parent: The run that starts it.
        work: Its flow.
        flight: The boundary that stands for it.
        run: Its id, where that is not derived from the parent's.
        source: The id that it had in the source of a replay, where that was not derived either.
        image: What it finds in its environment, where that is not what its flow says.
        on_end: What becomes of it when the parent ends; empty where the parent waits for it.
    """
    runtime = parent.host.runtime
    run = run or child_id(parent.run, flight.key)
    made_by = Parent(parent.run, flight.key, on_end)
    started = parent.history.started
    if parent.rules.replaying and started is not None and started.origin is not None:
        # A replayed parent's child is a replay of the child, so that only what changed in it runs again.
        source = source or child_id(started.origin.run, flight.key)
        forked = await fork_child(parent, work, flight, source, run, made_by)
        if forked is not None:
            return forked
    if flight.key in parent.history.dropped:
        # The parent is retried because of this child.
        parent.history.dropped.discard(flight.key)
        known = await runtime.store.events(run, limit=1)
        if known and (await runtime.store.run(run)).status in ("failed", "cancelled"):
            await drop_failures(runtime, run)
    return await taken_up(
        parent,
        runtime.start_encoded(
            work, run, flight.data, flight.fingerprint, parent=made_by, image=image, inputs=parent.secrets.inputs
        ),
    )


async def taken_up(parent: Execution, taking: Coroutine[Any, Any, RunHandle[Any]]) -> RunHandle[Any]:
    """A child's handle. One that is stuck keeps its parent from going on, and is no failure of the parent's call."""
    try:
        return await taking
    except RunStuckError as error:
        parent.stop(error)
        raise Suspended from None


async def awaited_result(parent: Execution, handle: RunHandle[Any]) -> object:
    """A child's result, for its parent's code."""
    try:
        return await handle.result()
    except Exception as error:
        status = (await handle._runtime.store.run(handle.id)).status
        if status not in FINISHED:
            # The child left memory without an end of its own (it diverged, or its log cannot be written): this is
            # no failure of the call, and both can be resumed.
            parent.stop(error)
            raise Suspended from None
        try:
            if status == "completed" and isinstance(error, DecodeError):
                raise
            refuse_lost_class(error)
        except DecodeError as unfit:
            raise left_open(parent, f"the end of its child {handle.id}", unfit) from None
        raise


def give_up_child(parent: Execution, run: str, work: FlowWork) -> None:
    """Cancel a child that its parent's code does not wait for any more, also one that is about to start. One that is
    not in memory is cancelled when the parent ends."""
    runtime = parent.host.runtime
    parent.started[run] = work

    def cancel(_: object = None) -> None:
        child = runtime.live_run(run)
        if child is not None:
            child.host.loop.call_soon_threadsafe(child.cancel, f"cancelled by its parent {parent.run}")

    cancel()
    for task, taken in runtime.taking.items():
        if taken == run:
            task.add_done_callback(cancel)


async def end_children(parent: Execution) -> None:
    """Cancel the runs that a run has started and that are not to outlive it, and wait for their cleanup."""
    from kitaru.runtime.flow import Flow

    runtime = parent.host.runtime
    ending = []
    for run, work in list(parent.started.items()):
        try:
            if (await runtime.store.run(run)).status in FINISHED:
                continue
            by = (await runtime.first_event(run)).parent
            if by is None or by.run != parent.run:
                continue  # it was there before, under an id of the caller's
            await runtime.cancel(run, PARENT_ENDED, flow=Flow(work))
        except KitaruError as error:
            if isinstance(error, RunError) and (await runtime.store.run(run)).status in FINISHED:
                continue  # it ended meanwhile, cancelled by the task that awaited it
            log().warning("child.not_cancelled", run_id=run, parent=parent.run, error=str(error))
            continue
        child = runtime.live_run(run)
        if child is not None:
            ending.append(asyncio.ensure_future(left(child)))
    if ending:
        await asyncio.wait(ending, timeout=parent.host.patience)


async def drop_failures(runtime: Core, run: str) -> None:
    """Let a failed or cancelled run go on: what failed it no longer counts, nor does the end of its children by it."""
    events = await runtime.store.events(run)
    await runtime.store.retry(run, RunRetried(1, time.time(), dropped_by_retry(events)))
    for child in dict.fromkeys(r.event.child for r in events if isinstance(r.event, ChildStarted)):
        if await runtime.store.events(child, limit=1):
            row = await runtime.store.run(child)
            if row.status == "cancelled" and row.note == PARENT_ENDED:
                await drop_failures(runtime, child)
