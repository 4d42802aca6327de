"""Performing a boundary live: its attempts, its outcome appended, its turn awaited; and giving it up."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kitaru.errors import (
    Suspended,
)
from kitaru.runtime.blobs import INLINE_LIMIT, blob_of
from kitaru.runtime.call import Call
from kitaru.runtime.flight import Flight, running_task
from kitaru.runtime.log import log
from kitaru.runtime.raised import raise_unchanged
from kitaru.runtime.refusals import refusal
from kitaru.runtime.replay import TIMERS, Decision, Record, Verdict
from kitaru.runtime.turns import Waiter
from kitaru.runtime.unfit import value_of
from kitaru.runtime.work import Unresolved
from kitaru.store.events import (
    Blob,
    ChildStarted,
    StepCancelled,
    StepFailed,
)
from kitaru.store.protocol import Turn

if TYPE_CHECKING:
    from kitaru.runtime.execution import Execution


async def perform(execution: Execution, call: Call[Any], party: object, record: Record | None) -> object:
    """Run a call of the flow's own code to its outcome, on disk and handed over."""
    work = call.work
    execution.order += 1
    flight = Flight(execution, call, execution.order, party)
    if record is not None and record.own:
        flight.record = record
        flight.attempt = record.attempts
    if execution.history.inner:
        # Its own start may not have been committed yet when the process died.
        flight.known = execution.history.children(call.key, flight.attempt + 1)
    if len(flight.data) > INLINE_LIMIT:
        flight.inputs, artifacts = blob_of(flight.data)
    else:
        artifacts = None
    loop = execution.host.loop
    flight.begin(party if call.party is None and isinstance(party, asyncio.Task) else running_task(loop))
    execution.flights[call.key] = flight
    waiter = Waiter(call.key, party, loop.create_future(), "live", execution)
    error: BaseException | None = None
    was_masked = False
    data = b""
    outcome: Blob = data
    try:
        try:
            data = await _attempts(execution, flight)
            outcome, more = blob_of(data)
            if more:
                artifacts = {**artifacts, **more} if artifacts else more
            event = work.completed_event(flight, time.time(), outcome)
            if flight.result is not None:
                artifacts = {**(artifacts or {}), **work.outcome_artifacts(flight)}
        except BaseException as failure:
            if not flight.raised(failure):
                raise
            error = failure
            data, event, artifacts, was_masked = _failed(flight, failure, artifacts, final=True)
        if execution.leaving:
            raise Suspended
        flight.ended = True
        if execution.unseen:
            execution.record_source(flight.code)
        execution.turns.on_their_way += 1
        execution.append([event], turn=Turn.SHARED, artifacts=artifacts, context=waiter)
        await waiter.future
        execution.suspect = False
    except asyncio.CancelledError:
        if execution.leaving:
            raise Suspended from None
        if flight.ended or not execution.cancelling:
            _gave_up(execution, flight, data if data and error is None else None)
        else:
            work.abandoned(flight)
        raise
    finally:
        del execution.flights[call.key]
    if error is not None:
        # What was masked for the log must not come back with its traceback.
        raise_unchanged(execution.failed_with(data, call, None if was_masked else error.__traceback__))
    if work.kind == "save":
        execution.saved[call.inputs.args[0]] = outcome
    return value_of(execution, call, data, event)


async def _attempts(execution: Execution, flight: Flight) -> bytes:
    work = flight.call.work
    while True:
        flight.attempt += 1
        if work.announced or (execution.suspect and work.kind == "step"):
            flight.announced = True
            event = work.started_event(flight, time.time())
            named = work.artifacts(flight)
            for content in named.values():
                execution.secrets.check(content, f"{work.name}(): inputs")
            announcement = execution.append_soon([event], {**execution.artifacts_of(flight), **named})
            if work.prepares:
                flight.announcement = announcement
            else:
                await announcement
        try:
            value = await work.perform(flight)
            if flight.own_cancels:
                await asyncio.sleep(0)  # where they strike
            while True:
                try:
                    data = work.encode_outcome(value)
                except Unresolved as handle:
                    await handle.call
                else:
                    execution.secrets.check(data, f"the result of {work.name}(): value")
                    return data
        except BaseException as error:
            if not flight.raised(error):
                raise
            if flight.unrecorded is not None and isinstance(error, Exception):
                failed = flight.unrecorded(error)
                if failed is not error:
                    raise failed from None
            delay = work.retry_after(error, flight.attempt)
            if delay is None or execution.leaving:
                raise
            _, event, artifacts, _ = _failed(flight, error, execution.artifacts_of(flight), final=False)
            execution.record_source(flight.code)
            execution.append([event], artifacts=artifacts)
            if flight.own_cancels:
                await flight.forget_cancels()
            await asyncio.sleep(delay)
            if flight.thread is not None:
                await asyncio.wait([flight.thread])
            flight.known = []
        finally:
            if flight.own_cancels:
                await flight.forget_cancels()


async def perform_inside(execution: Execution, call: Call[Any]) -> object:
    """A boundary inside a checkpoint: recorded, but no replay boundary, and in no turn."""
    inside = call.place.inside if call.place is not None else None
    assert isinstance(inside, Flight)
    known = inside.finished_child(call)
    if known is not None:
        known.claimed = True
        if known.state == "completed":
            return value_of(execution, call, await execution.bytes_of(known.outcome), known.event)
        if isinstance(known.event, StepFailed):
            raise_unchanged(execution.failed_with(await execution.bytes_of(known.event.error), call))
    if call.work.effects and execution.rules.replaying:
        effect = _effect_inside(execution, call, inside)
        if effect is not None:
            if isinstance(effect.event, StepFailed):
                raise_unchanged(execution.failed_with(await execution.bytes_of(effect.event.error), call))
            return value_of(execution, call, await execution.bytes_of(effect.outcome), effect.event)
    execution.order += 1
    flight = Flight(execution, call, execution.order, call.party)
    flight.inputs, artifacts = blob_of(flight.data)
    flight.known = execution.history.children(call.key, 1)
    flight.begin(running_task(execution.host.loop))
    execution.flights[call.key] = flight
    trace: TracebackType | None = None
    failed: StepFailed | None = None
    try:
        try:
            data = await _attempts(execution, flight)
            if execution.leaving:
                raise Suspended
        except BaseException as failure:
            if not flight.raised(failure):
                raise
            if execution.leaving:
                raise Suspended from None
            data, failed, artifacts, was_masked = _failed(flight, failure, artifacts, final=True)
            trace = None if was_masked else failure.__traceback__
        execution.record_source(flight.code)
        if failed is not None:
            await execution.append_durably([failed], artifacts)
            raise_unchanged(execution.failed_with(data, call, trace))
        outcome, more = blob_of(data)
        event = call.work.completed_event(flight, time.time(), outcome)
        await execution.append_durably([event], {**artifacts, **more, **call.work.outcome_artifacts(flight)})
        if call.work.kind == "save":
            execution.saved[call.inputs.args[0]] = outcome
    finally:
        del execution.flights[call.key]
    return value_of(execution, call, data, event)


def _effect_inside(execution: Execution, call: Call[Any], inside: Flight) -> Record | None:
    """What the source holds of an effect inside a checkpoint that this replay runs again; None where it may run."""
    record = execution.history.effects.get(call.key)
    allowed = call.work.name in execution.rules.allow_effects
    asked_again = allowed and inside.key.partition(">")[0] in execution.rules.forced
    known = record is not None and not record.claimed and record.event.fingerprint == call.inputs.fingerprint
    if record is not None and known and not asked_again:
        execution.claim(record)
        if not record.own:
            execution.record_reuse([record], {record.key: call.key}, Turn.NONE)
        return record
    if allowed:
        return None
    execution.stop(
        refusal(execution, call, record, Decision(Verdict.FORBID_EFFECT, "the checkpoint around it runs again"))
    )
    raise Suspended


def _failed(
    flight: Flight, error: BaseException, artifacts: dict[bytes, bytes] | None, *, final: bool
) -> tuple[bytes, StepFailed, dict[bytes, bytes], bool]:
    data, was_masked = flight.execution.secrets.failure(error)
    blob, more = blob_of(data)
    event = StepFailed(
        v=1, at=time.time(), key=flight.key, kind=flight.call.work.kind, fingerprint=flight.fingerprint,
        code=flight.code, inputs=flight.inputs, order=flight.order, attempt=flight.attempt,
        started=flight.started, error=blob, final=final,
    )  # fmt: skip
    return data, event, {**(artifacts or {}), **more}, was_masked


def _gave_up(execution: Execution, flight: Flight, outcome: Blob | None) -> None:
    blob, artifacts = blob_of(outcome) if isinstance(outcome, bytes) else (outcome, {})
    event = StepCancelled(
        v=1, at=time.time(), key=flight.key, kind=flight.call.work.kind, fingerprint=flight.fingerprint,
        code=flight.code, inputs=flight.inputs, order=flight.order, attempt=flight.attempt,
        started=flight.started, outcome=blob,
    )  # fmt: skip
    execution.record_source(flight.code)
    execution.append([event], artifacts={**artifacts, **(execution.artifacts_of(flight) or {})})
    flight.call.work.abandoned(flight)


def gave_up_waiting(execution: Execution, call: Call[Any], record: Record | None) -> None:
    """The flow gave up a call that had not started yet, or an outcome before its turn came. That is recorded: on the
    next resume, what the flow did next must not wait for a call that it had left behind."""
    if execution.leaving:
        return
    if execution.cancelling:
        if record is not None and record.state == "started" and isinstance(record.event, ChildStarted):
            # The run is resumed in order to be cancelled: a child that it had been waiting for is not in memory.
            call.work.abandoned(Flight(execution, call, execution.order, None))
        return
    outcome: Blob | None = None
    if record is not None and record.state != "started":
        execution.turns.drop(record.key)
        outcome = record.outcome if record.state == "completed" else None
    execution.order += 1
    flight = Flight(execution, call, execution.order, None)
    flight.inputs, _ = blob_of(flight.data)
    if record is not None and record.own:
        flight.attempt = record.event.attempt
        flight.started = getattr(record.event, "started", record.event.at)
    _gave_up(execution, flight, outcome)


def leave_behind(execution: Execution, *, warn: bool) -> None:
    """The flow has ended: record what still runs or waits to run as given up, because nobody will see its outcome."""
    if execution.cancelling:
        return
    left: list[Call[Any]] = []
    for flight in list(execution.flights.values()):
        if not flight.ended and not _is_inside(flight.call):
            _gave_up(execution, flight, None)
            left.append(flight.call)
    for call in _waiting(execution):
        record = execution.records.get(call.key)
        if record is None or (record.state == "cancelled" and not record.own):
            gave_up_waiting(execution, call, record)
            left.append(call)
    for call in left:
        if warn and call.work.kind not in TIMERS:
            log().warning(
                "call.never_awaited", run_id=execution.run, boundary=call.key, where=call.where,
                why="it had not ended when its flow did, and was cancelled",
            )  # fmt: skip


def _waiting(execution: Execution) -> list[Call[Any]]:
    """Calls of the flow's own that were submitted, and have not begun."""
    waiting = dict(execution.asking)
    for task in execution.tasks:
        call = task.get_coro() if isinstance(task, asyncio.Task) and not task.done() else None
        if isinstance(call, Call) and not call.begun and call.inputs.data is not None and not _is_inside(call):
            waiting[call.key] = call
    return [call for key, call in waiting.items() if not call.done and key not in execution.flights]


def _is_inside(call: Call[Any]) -> bool:
    return call.place is not None and call.place.inside is not None
