"""What a run, or one of its steps, came to: the whole value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from kitaru.errors import KitaruError, RunError
from kitaru.runtime.selecting import events_of, selected
from kitaru.runtime.views.inspect import status_of
from kitaru.runtime.views.shown import failure_of, outcome_of, shown_value
from kitaru.store.events import (
    BoundaryEvent,
    LlmCompleted,
    Overridden,
    RunCompleted,
    StepCompleted,
    StepFailed,
    TimerFired,
)

if TYPE_CHECKING:
    from kitaru.runtime.core import Core


class Result(msgspec.Struct, frozen=True):
    """A value as JSON shows it. `step` is the key of the step that it is the outcome of; None for the run's result."""

    run: str
    step: str | None
    result: object


async def result(runtime: Core, run: str, selector: str | None = None) -> Result:
    """The result of a run, or the outcome of one of its steps.

    Args:
        runtime: Whose store is read.
        run: The run's whole id.
        selector: The step, as `selecting.selected` takes it; None for the run.

    Raises:
        NotFoundError, AmbiguousError: The selector fits none, or several.
        RunError: There is no such value: it failed, or has not come to its end.
        StoreError: The value cannot be read.
    """
    events = await runtime.events(run)
    if selector is not None:
        key = selected(run, events, selector)
        return Result(run, key, await _outcome(runtime, run, key, events_of(events, key)))
    row = await runtime.store.run(run)
    end = next((r.event for r in reversed(events) if isinstance(r.event, RunCompleted)), None)
    if end is None or row.status != "completed":
        raise RunError(f"run {run} is {status_of(row)} and has no result", hint=f"Look at it: kitaru show {run}")
    return Result(run, None, await shown_value(runtime, end.outcome))


async def _outcome(runtime: Core, run: str, key: str, events: Sequence[BoundaryEvent | Overridden]) -> object:
    error: KitaruError = RunError(f"{key} of run {run} has no outcome yet", hint=f"Look at it: kitaru show {run} {key}")
    for event in reversed(events):
        if isinstance(event, StepCompleted | LlmCompleted):
            return await outcome_of(runtime, event)
        if isinstance(event, Overridden):
            return await shown_value(runtime, event.outcome)
        if isinstance(event, TimerFired):
            return None
        if isinstance(event, StepFailed) and event.final:
            failure = await failure_of(runtime, event.error)
            raise RunError(f"{key} of run {run} failed: {failure.type}: {failure.message}", hint=error.hint)
    raise error
