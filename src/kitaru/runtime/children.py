"""Child runs: those that a flow's call inside a flow stands for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from kitaru.runtime.flow import FlowWork, child_id
from kitaru.runtime.fork import fork_child
from kitaru.runtime.retrying import dropped_by_retry
from kitaru.store.events import Parent, RunRetried

if TYPE_CHECKING:
    from kitaru.runtime.execution import Execution
    from kitaru.runtime.flight import Flight
    from kitaru.runtime.handle import RunHandle
    from kitaru.runtime.runtime import Runtime


async def start_child(runtime: Runtime, parent: Execution, work: FlowWork, flight: Flight) -> RunHandle[Any]:
    """Start, or attach to, the run that a flow's call inside a flow stands for."""
    run = child_id(parent.run, flight.key)
    started = parent.history.started
    if parent.rules.replaying and started is not None and started.origin is not None:
        # A replayed parent's child is a replay of the child, so that only what changed in it runs again.
        forked = await fork_child(runtime, parent, work, flight, child_id(started.origin.run, flight.key), run)
        if forked is not None:
            return forked
    if flight.key in parent.history.dropped:
        # The parent is retried because of this child.
        parent.history.dropped.discard(flight.key)
        known = await runtime.store.events(run, limit=1)
        if known and (await runtime.store.run(run)).status in ("failed", "cancelled"):
            await drop_failures(runtime, run)
    return await runtime.start_encoded(
        work, run, flight.data, flight.fingerprint, parent=Parent(parent.run, flight.key), inputs=parent.secrets.inputs
    )


async def drop_failures(runtime: Runtime, run: str) -> None:
    """Let a failed or cancelled run go on: what failed it no longer counts."""
    dropped = dropped_by_retry(await runtime.store.events(run))
    await runtime.store.retry(run, RunRetried(1, time.time(), dropped))
