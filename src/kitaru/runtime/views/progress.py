"""What an event tells somebody who watches a run go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kitaru.runtime.views.inspect import VALUES
from kitaru.runtime.views.shown import Failure, failure_of, tools_called
from kitaru.store.events import (
    AnyEvent,
    Boundary,
    ChildStarted,
    Deviated,
    LlmCompleted,
    LlmRequested,
    Overridden,
    Reused,
    StepCancelled,
    StepCompleted,
    StepFailed,
    TimerFired,
    TimerSet,
)

if TYPE_CHECKING:
    from kitaru.runtime.core import Core


class Told(msgspec.Struct, frozen=True):
    """One thing that happened: a boundary's key, its state in the words of `inspect`, and more where there is more.

    `warnings` are a model call's: what was left out of it, or is odd about its answer.
    """

    key: str
    state: str
    seconds: float | None = None
    detail: str = ""
    warnings: tuple[str, ...] = ()
    failure: Failure | None = None
    until: float | None = None
    """When a sleep is over."""


async def news(runtime: Core, run: str, after: int, timeout: float) -> tuple[int, list[Told]]:
    """What has happened in a run since an event.

    Args:
        after: The event's number.
        timeout: Seconds to wait for the first one to come.

    Returns:
        The number of the last event, and what the events tell.
    """
    told = []
    for recorded in await runtime.store.watch(run, after=after, timeout=timeout):
        after = recorded.seq
        one = await _told(runtime, recorded.event)
        if one is not None:
            told.append(one)
    return after, told


async def _told(runtime: Core, event: AnyEvent) -> Told | None:
    if isinstance(event, Boundary) and event.kind in VALUES:
        return None
    if isinstance(event, LlmRequested):
        return Told(event.key, "running", None, event.model)
    if isinstance(event, TimerSet) and event.kind == "sleep":
        return Told(event.key, "waiting", None, until=event.deadline)
    if isinstance(event, ChildStarted):
        return Told(event.key, "running", None, f"child run {event.child}")
    if isinstance(event, LlmCompleted):
        usage = event.llm.usage
        tokens = f"{usage.input}+{usage.output} tokens" if usage.input is not None and usage.output is not None else ""
        tools = await tools_called(runtime, event)
        detail = ", ".join(part for part in (tokens, f"calls {', '.join(tools)}" if tools else "") if part)
        return Told(event.key, "done", event.at - event.started, detail, event.llm.warnings)
    if isinstance(event, StepCompleted | TimerFired):
        return Told(event.key, "done", event.at - event.started)
    if isinstance(event, StepFailed):
        state = "failed" if event.final else "retrying"
        detail = f"attempt {event.attempt}" if event.attempt > 1 or not event.final else ""
        return Told(event.key, state, event.at - event.started, detail, failure=await failure_of(runtime, event.error))
    if isinstance(event, StepCancelled):
        if event.kind == "timer":
            return Told(event.key, "in time", event.at - event.started)
        return Told(event.key, "cancelled", event.at - event.started, "by the flow")
    if isinstance(event, Reused):
        return Told(event.key, "reused")
    if isinstance(event, Overridden):
        return Told(event.key, "overridden")
    if isinstance(event, Deviated):
        return Told("order", "unknown", None, event.note)
    return None
