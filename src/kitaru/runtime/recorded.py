"""Boundaries that the log, or a replay's options, answer: reused, told, pending until given up again, or refused."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from kitaru.errors import (
    Suspended,
)
from kitaru.runtime import live
from kitaru.runtime.call import Call
from kitaru.runtime.flight import Flight
from kitaru.runtime.raised import raise_unchanged
from kitaru.runtime.refusals import refusal
from kitaru.runtime.replay import EXECUTE, Decision, Record, Verdict
from kitaru.runtime.turns import Waiter
from kitaru.runtime.unfit import value_of
from kitaru.store.events import (
    Overridden,
    Ref,
    StepCancelled,
    StepFailed,
)
from kitaru.store.protocol import Turn

if TYPE_CHECKING:
    from kitaru.runtime.execution import Execution


async def take(
    execution: Execution, call: Call[Any], record: Record | None, decision: Decision, party: object
) -> object:
    """Take a call to what the log or the replay's options answer for it, by the decision made."""
    verdict = decision.verdict
    work = call.work
    if verdict is Verdict.OVERRIDE:
        return await _override(execution, call, record, party)
    if record is not None and verdict in (Verdict.REUSE, Verdict.WAIT):
        execution.claim(record)
        if verdict is Verdict.WAIT:
            await _until_cancelled(execution, call, record, party)
            # Nobody gave it up this time: it has to run, if it may.
            decision = execution.decision(call, None)
            if decision.verdict is Verdict.EXECUTE:
                return await live.perform(execution, call, party, None)
            return await _refused(execution, call, None, decision, party)
        execution.asking[record.key] = call
        blob = record.event.error if isinstance(record.event, StepFailed) else record.outcome
        try:
            data = blob if isinstance(blob, bytes) else await _read_ahead(execution, blob)
            if work.kind == "save":
                execution.saved[call.inputs.args[0]] = blob
            waiter = execution.turns.ask(record.key, party)
            waiter.asked_as = call.key
            await waiter.future
        except asyncio.CancelledError:
            execution.turns.forget(record.key)
            live.gave_up_waiting(execution, call, record)
            raise
        if record.state == "failed":
            raise_unchanged(execution.failed_with(data, call))
        return value_of(execution, call, data, record.event)
    return await _refused(execution, call, record, decision, party)


async def _refused(
    execution: Execution, call: Call[Any], record: Record | None, decision: Decision, party: object
) -> object:
    if execution.would_run is not None:
        execution.would_run[call.key] = decision.why
        if record is not None:
            execution.claim(record)
            execution.turns.drop(record.key)
        await execution.turns.wait_cancelled(call.key, party)
    execution.stop(refusal(execution, call, record, decision))
    raise Suspended


async def _read_ahead(execution: Execution, blob: Ref) -> bytes:
    # Before it is asked for: read after its turn, it would reach the flow behind what was handed over with it.
    execution.turns.hold()
    try:
        return await execution.bytes_of(blob)
    finally:
        execution.turns.let_go()


async def _until_cancelled(execution: Execution, call: Call[Any], record: Record, party: object) -> None:
    if execution.cancel_recorded:
        # It may be the run's cancellation, not the flow, that gave it up; that one comes when replay is through.
        execution.asking[call.key] = call
        await execution.turns.ask_start(call.key, party).future
    execution.asking[call.key] = call
    future = execution.turns.wait_cancelled(call.key, party)
    if record.own:
        await future
    # A replay may have been edited so that nobody gives the call up any more.
    patience = record.seconds + execution.host.replay_grace
    async with asyncio.timeout(patience) as limit:
        try:
            await future
        except asyncio.CancelledError:
            if not limit.expired():
                live.gave_up_waiting(execution, call, record)
                raise
    execution.turns.forget(call.key)


async def _override(execution: Execution, call: Call[Any], record: Record | None, party: object) -> object:
    key, work, outcome = call.key, call.work, execution.rules.overrides[call.key]
    if record is not None:
        execution.claim(record)
    if record is not None and record.own:
        if record.state == "cancelled":
            await execution.turns.wait_cancelled(key, party)
        execution.asking[key] = call
        try:
            data = outcome if isinstance(outcome, bytes) else await _read_ahead(execution, outcome)
            await execution.turns.ask(key, party).future
        except asyncio.CancelledError:
            execution.turns.forget(key)
            live.gave_up_waiting(execution, call, record)
            raise
        return work.overridden(data)
    data = outcome if isinstance(outcome, bytes) else await _read_ahead(execution, outcome)
    if record is not None:
        execution.turns.drop(record.key)
    execution.order += 1
    order, now = execution.order, time.time()
    waiter = Waiter(key, party, execution.host.loop.create_future(), "live", execution)
    # A turn of its own, so that a resume hands it over where it was handed over now.
    execution.turns.on_their_way += 1
    execution.append([Overridden(1, now, key, outcome, work.kind, order)], turn=Turn.OWN, context=waiter)
    execution.turns.rest(party)
    try:
        await waiter.future
    except asyncio.CancelledError:
        if not execution.leaving and not execution.cancelling:
            given_up = StepCancelled(
                v=1, at=time.time(), key=key, kind=work.kind, fingerprint=call.inputs.fingerprint, code=b"",
                inputs=b"", order=order, attempt=1, started=now, outcome=outcome,
            )  # fmt: skip
            execution.append([given_up])
        raise
    return work.overridden(data)


def value_now(execution: Execution, call: Call[Any], make: Any) -> object:
    """A recorded value that is there at once: `now()`, `uuid()`, `random()`. Its event precedes whatever uses it."""
    if execution.leaving:
        raise Suspended
    work = call.work
    work.encode_inputs(call.inputs)
    place = call.place
    if place is not None and place.inside is None and (execution.records or execution.rules.replaying):
        record = execution.find(call)
        decision = execution.decision(call, record)
        if work.anew and (record is None or not record.own) and execution.rules.replaying:
            # Not what it said then: what it says now.
            if record is not None:
                execution.claim(record)
            decision = EXECUTE
        if decision.verdict is Verdict.OVERRIDE:
            return _value_told(execution, call, record)
        if record is not None and decision.verdict is Verdict.REUSE and type(record.outcome) is bytes:
            execution.claim(record)
            if not record.own:
                execution.record_reuse([record], {record.key: call.key}, Turn.NONE)
            return work.decode_outcome(record.outcome)
        if decision.verdict is not Verdict.EXECUTE and execution.would_run is None:
            execution.stop(refusal(execution, call, record, decision))
            raise Suspended
    execution.order += 1
    flight = Flight(execution, call, execution.order, None)
    flight.attempt = 1
    data = work.encode_outcome(make())
    execution.secrets.check(data, f"kitaru.{work.name}(): value", sent=True)
    execution.append([work.completed_event(flight, time.time(), data)])
    return work.decode_outcome(data)


def _value_told(execution: Execution, call: Call[Any], record: Record | None) -> object:
    outcome = execution.rules.overrides[call.key]
    assert isinstance(outcome, bytes)
    if record is not None:
        execution.claim(record)
    if record is None or not record.own:
        execution.order += 1
        execution.append([Overridden(1, time.time(), call.key, outcome, call.work.kind, execution.order)])
    return call.work.overridden(outcome)
