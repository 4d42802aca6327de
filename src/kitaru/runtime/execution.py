"""One run: what happens at each of its boundaries, and how the run ends.

A boundary goes through here once: consult the log, wait for the recorded turns, perform, encode, append, wait until the
outcome is on disk and it is its turn, decode. `replay` makes the decision, `turns` keeps the order, `work` does the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from kitaru.errors import (
    EffectsError,
    KitaruError,
    LiveCallError,
    RunCancelledError,
    RunParkedError,
    Suspended,
)
from kitaru.runtime.call import MISSING, Call
from kitaru.runtime.history import History
from kitaru.runtime.keys import Place, here, name_of
from kitaru.runtime.log import log
from kitaru.runtime.replay import EXECUTE, REUSE, Asked, Decision, Record, Verdict, decide, moved
from kitaru.runtime.turns import RecordedTurn, Turns, Waiter
from kitaru.runtime.work import Unresolved, Work
from kitaru.store import codec
from kitaru.store.events import (
    AnyEvent,
    Blob,
    CodeSeen,
    Deviated,
    Overridden,
    Ref,
    Reused,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunParked,
    StepCancelled,
    StepFailed,
)
from kitaru.store.protocol import Append, Turn

if TYPE_CHECKING:
    from kitaru.runtime.flow import FlowWork
    from kitaru.runtime.host import Host
    from kitaru.runtime.threads import FlowThread

INLINE_LIMIT: Final = 1024
"""Bytes up to which a value stands in its event; a larger one is an artifact."""
PASS_EVERY: Final = 0.004
"""Seconds of replay after which the loop gets a pass."""


class Flight:
    """One boundary while it runs live."""

    __slots__ = ("announced", "attempt", "call", "code", "data", "execution", "fingerprint", "inputs", "key", "known",
                 "order", "party", "record", "result", "started", "thread")  # fmt: skip

    def __init__(self, execution: Execution, call: Call[Any], order: int, party: object) -> None:
        self.execution = execution
        self.call = call
        self.key = call.key
        self.order = order
        self.party = party
        self.started = time.time()
        self.attempt = 0
        self.announced = False
        self.code = call.work.version(execution)
        self.fingerprint = call.inputs.fingerprint
        self.data: bytes = call.inputs.data or b""
        self.inputs: Blob = self.data
        self.record: Record | None = None
        """What the log holds of it from a process that died."""
        self.result: object = None
        """What the work wants to remember of its performance until the event is made."""
        self.thread: asyncio.Future[object] | None = None
        """The pool's thread that still runs a sync attempt which has timed out."""
        self.known: list[Record] = []
        """Finished children of an attempt that the process died in, to be reused by the attempt that repeats it."""

    def finished_child(self, call: Call[Any]) -> Record | None:
        """The first unclaimed one of those that is the same call; equal ones can stand for each other."""
        name, fingerprint = call.work.name, call.inputs.fingerprint
        for record in self.known:
            if not record.claimed and name_of(record.key) == name and record.event.fingerprint == fingerprint:
                return record
        return None


class Execution:
    """A run in this process's memory. Everything here happens on the run's event loop."""

    def __init__(
        self, host: Host, run: str, epoch: int, flow: FlowWork, inputs: bytes, history: History, registry: bytes
    ) -> None:
        self.host = host
        self.run = run
        self.epoch = epoch
        self.flow = flow
        self.inputs = inputs
        self.history = history
        self.records = history.records
        self.rules = history.rules
        self.turns = Turns(host.loop, self, grace=host.replay_grace)
        self.turns.recorded.extend(history.turns)
        self.tasks: set[asyncio.Future[Any]] = set()
        self._purge_at = 64
        self.leaving = False
        """Nothing executes or is recorded any more; every boundary raises `Suspended`."""
        self.ending = False
        """The flow's code has ended; what is left is to say so in the log, and nothing may interrupt that."""
        self.cancelling = False
        self.finished: Future[bytes] = Future()
        """The encoded result; or the failure, rebuilt as the log holds it."""
        self.root: asyncio.Task[None] | None = None
        self.thread: FlowThread | None = None
        """The thread of a sync flow."""
        self.would_run: dict[str, str] | None = None
        """For a dry run: the keys that would run, and why."""
        self._flights: dict[str, Flight] = {}
        self._asking: dict[str, Call[Any]] = {}
        """Calls that wait for a recorded outcome or to start, for a divergence to name their lines."""
        self._order = history.order
        self._failures: list[tuple[BaseException, str]] = []
        self.registry = registry
        """The model registry that this run resolves names by, encoded."""
        self.named: set[bytes] = set()
        """Digests of the conversation nodes that this execution has appended already."""
        self._codes: dict[bytes, bytes] = dict.fromkeys(history.codes, b"")
        self._without_source: set[str] = set()
        self._settled: dict[tuple[bytes, bytes], bool] = {}
        self._stop: BaseException | None = None
        self._reason = history.cancel_reason
        self._parked_because = ""
        self._pass_due = 0.0
        self._cancel_recorded = history.cancel_requested

    # -- at a boundary ------------------------------------------------------------------------------------------------

    def owes_a_pass(self) -> bool:
        """Whether replay has kept the loop for so long that it must be given a pass."""
        now = time.monotonic()
        if now < self._pass_due:
            return False
        due, self._pass_due = self._pass_due, now + PASS_EVERY
        return due > 0.0

    def reuse_at_once(self, call: Call[Any]) -> object:
        """The recorded value, where it is certain that it is its turn; else MISSING."""
        record = self.records.get(call.key)
        if record is None or self.leaving or not self.turns.recorded:
            return MISSING
        inputs = call.inputs
        if inputs.data is None or record.state != "completed":
            return MISSING
        outcome = record.outcome
        if type(outcome) is not bytes or self.decision(call, record) is not REUSE:
            return MISSING
        if not self.turns.take_alone(record.key):
            return MISSING
        self._claim(record)
        if not record.own:
            self._record_reuse([record], {record.key: call.key})
        value = call.work.decode_outcome(outcome)
        call.settle(value)
        return value

    async def boundary(self, call: Call[Any]) -> object:
        """Take a call from its inputs to the value that the flow sees."""
        if self.leaving:
            raise Suspended
        if call.inputs.data is None:
            await self._resolve(call)
        if call.place is not None and call.place.inside is not None:
            return await self._child(call)
        party = asyncio.current_task(self.host.loop) if call.party is None else call.party
        try:
            if self.records or self.rules.replaying:
                record = self._find(call)
                decision = self.decision(call, record)
                if decision.verdict is not Verdict.EXECUTE:
                    return await self._recorded(call, record, decision, party)
                if record is not None:
                    self._claim(record)
                    self.turns.drop(record.key)
            else:
                record = None
            if self.turns.recorded or self._cancel_recorded:
                self._asking[call.key] = call
                waiter = self.turns.ask_start(call.key, party)
                try:
                    await waiter.future
                except asyncio.CancelledError:
                    self._gave_up_waiting(call, record)
                    raise
            self.turns.rest(party)
            return await self._live(call, party, record)
        except asyncio.CancelledError:
            self.turns.forget(call.key)
            if self.leaving:
                raise Suspended from None
            raise
        finally:
            self._asking.pop(call.key, None)
            self.turns.wake(party)

    async def _resolve(self, call: Call[Any]) -> None:
        inputs = call.inputs
        while inputs.data is None:
            try:
                call.work.encode_inputs(inputs)
            except Unresolved as handle:
                await handle.call

    def _find(self, call: Call[Any]) -> Record | None:
        record = self.records.get(call.key)
        if record is not None and record.claimed:
            record = None
        if record is None and self.history.may_move:
            name = name_of(call.key)
            record = moved(self.history.by_name(name), call.inputs.fingerprint)
        return record

    def decision(self, call: Call[Any], record: Record | None) -> Decision:
        """What `replay.decide` says of this call."""
        work = call.work
        code = b""
        if record is not None and not record.own:
            code = self._code_beside(work, record)
        elif record is None and not self.rules.replaying:
            return EXECUTE
        return decide(
            record, Asked(call.key, work.name, work.kind, call.inputs.fingerprint, code, work.effects), self.rules
        )

    async def _recorded(self, call: Call[Any], record: Record | None, decision: Decision, party: object) -> object:
        verdict = decision.verdict
        work = call.work
        if verdict is Verdict.OVERRIDE:
            return await self._override(call, record, party)
        if record is not None and verdict in (Verdict.REUSE, Verdict.WAIT):
            self._claim(record)
            if verdict is Verdict.WAIT:
                await self._until_cancelled(call, record, party)
                # Nobody gave it up this time: it has to run, if it may.
                decision = self.decision(call, None)
                if decision.verdict is Verdict.EXECUTE:
                    return await self._live(call, party, None)
                return await self._refused(call, None, decision, party)
            self._asking[record.key] = call
            blob = record.event.error if isinstance(record.event, StepFailed) else record.outcome
            data = blob if isinstance(blob, bytes) else await self._read_ahead(blob)
            waiter = self.turns.ask(record.key, party)
            waiter.asked_as = call.key
            try:
                await waiter.future
            except asyncio.CancelledError:
                self.turns.forget(record.key)
                self._gave_up_waiting(call, record)
                raise
            if record.state == "failed":
                raise self._failure(data, call)
            return work.decode_outcome(data)
        return await self._refused(call, record, decision, party)

    async def _refused(self, call: Call[Any], record: Record | None, decision: Decision, party: object) -> object:
        if self.would_run is not None:
            self.would_run[call.key] = decision.why
            if record is not None:
                self._claim(record)
                self.turns.drop(record.key)
            await self.turns.wait_cancelled(call.key, party)
        self.stop(self._refusal(call, record, decision))
        raise Suspended

    async def _read_ahead(self, blob: Ref) -> bytes:
        # Before it is asked for: read after its turn, it would reach the flow behind what was handed over with it.
        self.turns.hold()
        try:
            return await self.bytes_of(blob)
        finally:
            self.turns.let_go()

    def progress(self) -> int:
        """How many boundaries the flow has come to: grows as long as a dry run gets anywhere."""
        return sum(r.claimed for r in self.records.values()) + len(self.would_run or ())

    async def _until_cancelled(self, call: Call[Any], record: Record, party: object) -> None:
        if self._cancel_recorded:
            # It may be the run's cancellation, not the flow, that gave it up; that one comes when replay is through.
            self._asking[call.key] = call
            await self.turns.ask_start(call.key, party).future
        future = self.turns.wait_cancelled(call.key, party)
        if record.own:
            await future
        # A replay may have been edited so that nobody gives the call up any more.
        patience = record.seconds + self.host.replay_grace
        async with asyncio.timeout(patience) as limit:
            try:
                await future
            except asyncio.CancelledError:
                if not limit.expired():
                    raise
        self.turns.forget(call.key)

    def _refusal(self, call: Call[Any], record: Record | None, decision: Decision) -> KitaruError:
        here_ = f"run {self.run}, boundary {call.key}, {call.where}"
        if decision.verdict is Verdict.FORBID_LIVE:
            return LiveCallError(
                f"{call.work.name} would have to run ({decision.why}): {here_}",
                hint="`--verify` allows nothing live; replay without it to execute what changed.",
            )
        if decision.verdict is Verdict.FORBID_EFFECT:
            return EffectsError(
                f"{call.work.name} changes the world and would have to run again ({decision.why}): {here_}",
                hint=f"Allow it with `--allow-effects {call.work.name}`, or keep its inputs as they were.",
            )
        assert record is not None
        return self.history.divergence(call, record, decision.why)

    async def _override(self, call: Call[Any], record: Record | None, party: object) -> object:
        key, work, outcome = call.key, call.work, self.rules.overrides[call.key]
        data = outcome if isinstance(outcome, bytes) else await self._read_ahead(outcome)
        if record is not None:
            self._claim(record)
        if record is not None and record.own:
            if record.state == "cancelled":
                await self.turns.wait_cancelled(key, party)
            self._asking[key] = call
            await self.turns.ask(key, party).future
            return work.overridden(data)
        if record is not None:
            self.turns.drop(record.key)
        self._order += 1
        order, now = self._order, time.time()
        waiter = Waiter(key, party, self.host.loop.create_future(), "live")
        waiter.execution = self
        # A turn of its own, so that a resume hands it over where it was handed over now.
        self.turns.on_their_way += 1
        self.append([Overridden(1, now, key, outcome, work.kind, order)], turn=Turn.OWN, context=waiter)
        self.turns.rest(party)
        try:
            await waiter.future
        except asyncio.CancelledError:
            if not self.leaving and not self.cancelling:
                given_up = StepCancelled(
                    v=1, at=time.time(), key=key, kind=work.kind, fingerprint=call.inputs.fingerprint, code=b"",
                    inputs=b"", order=order, attempt=1, started=now, outcome=outcome,
                )  # fmt: skip
                self.append([given_up])
            raise
        return work.overridden(data)

    # -- live ---------------------------------------------------------------------------------------------------------

    async def _live(self, call: Call[Any], party: object, record: Record | None) -> object:
        work = call.work
        self._order += 1
        flight = Flight(self, call, self._order, party)
        if record is not None and record.own:
            flight.record = record
            flight.attempt = record.attempts
        # Its own start may not have been committed yet when the process died.
        flight.known = self.history.children(call.key, flight.attempt + 1)
        if len(flight.data) > INLINE_LIMIT:
            flight.inputs, artifacts = self.blob(flight.data)
        else:
            artifacts = None
        self._flights[call.key] = flight
        waiter = Waiter(call.key, party, self.host.loop.create_future(), "live")
        waiter.execution = self
        error: Exception | None = None
        data = b""
        appended = False
        try:
            try:
                data = await self._attempts(flight)
                outcome: Blob = data
                if len(data) > INLINE_LIMIT:
                    outcome, more = self.blob(data)
                    artifacts = {**artifacts, **more} if artifacts else more
                event = work.completed_event(flight, time.time(), outcome)
                if flight.result is not None:
                    artifacts = {**(artifacts or {}), **work.outcome_artifacts(flight)}
            except Exception as failure:
                error = failure
                data, event, artifacts = self._failed_event(flight, failure, artifacts, final=True)
            if self.leaving:
                raise Suspended
            appended = True
            self.turns.on_their_way += 1
            self.append([event], turn=Turn.SHARED, artifacts=artifacts, context=waiter)
            await waiter.future
        except asyncio.CancelledError:
            if self.leaving:
                raise Suspended from None
            if appended or not self.cancelling:
                self._gave_up(flight, data if data and error is None else None)
            else:
                work.abandoned(flight)
            raise
        finally:
            del self._flights[call.key]
        if error is not None:
            raise self._failure(data, call) from error
        return work.decode_outcome(data)

    async def _attempts(self, flight: Flight) -> bytes:
        work = flight.call.work
        while True:
            flight.attempt += 1
            if work.announced:
                flight.announced = True
                event = work.started_event(flight, time.time())
                await self.append_durably([event], {**self.artifacts_of(flight), **work.artifacts(flight)})
            try:
                value = await work.perform(flight)
                while True:
                    try:
                        return work.encode_outcome(value)
                    except Unresolved as handle:
                        await handle.call
            except Exception as error:
                delay = work.retry_after(error, flight.attempt)
                if delay is None or self.leaving:
                    raise
                _, event, artifacts = self._failed_event(flight, error, self.artifacts_of(flight), final=False)
                self.append([event], artifacts=artifacts)
                await asyncio.sleep(delay)
                flight.known = []

    async def _child(self, call: Call[Any]) -> object:
        """A boundary inside a checkpoint: recorded, but no replay boundary, and in no turn."""
        inside = call.place.inside if call.place is not None else None
        assert isinstance(inside, Flight)
        known = inside.finished_child(call)
        if known is not None:
            known.claimed = True
            if known.state == "completed":
                return call.work.decode_outcome(await self.bytes_of(known.outcome))
            if isinstance(known.event, StepFailed):
                raise self._failure(await self.bytes_of(known.event.error), call)
        if call.work.effects and self.rules.replaying:
            effect = self._effect_inside(call, inside)
            if effect is not None:
                if isinstance(effect.event, StepFailed):
                    raise self._failure(await self.bytes_of(effect.event.error), call)
                return call.work.decode_outcome(await self.bytes_of(effect.outcome))
        self._order += 1
        flight = Flight(self, call, self._order, call.party)
        flight.inputs, artifacts = self.blob(flight.data)
        flight.known = self.history.children(call.key, 1)
        self._flights[call.key] = flight
        try:
            try:
                data = await self._attempts(flight)
                if self.leaving:
                    raise Suspended
            except Exception as failure:
                if self.leaving:
                    raise Suspended from None
                data, failed, artifacts = self._failed_event(flight, failure, artifacts, final=True)
                await self.append_durably([failed], artifacts)
                raise self._failure(data, call) from failure
            outcome, more = self.blob(data)
            event = call.work.completed_event(flight, time.time(), outcome)
            await self.append_durably([event], {**artifacts, **more, **call.work.outcome_artifacts(flight)})
        finally:
            del self._flights[call.key]
        return call.work.decode_outcome(data)

    def _effect_inside(self, call: Call[Any], inside: Flight) -> Record | None:
        """What the source holds of an effect inside a checkpoint that this replay runs again; None where it may run."""
        record = self.history.effects.get(call.key)
        allowed = call.work.name in self.rules.allow_effects
        asked_again = allowed and inside.key.partition(">")[0] in self.rules.forced
        known = record is not None and not record.claimed and record.event.fingerprint == call.inputs.fingerprint
        if record is not None and known and not asked_again:
            self._claim(record)
            if not record.own:
                self._record_reuse([record], {record.key: call.key}, Turn.NONE)
            return record
        if allowed:
            return None
        self.stop(self._refusal(call, record, Decision(Verdict.FORBID_EFFECT, "the checkpoint around it runs again")))
        raise Suspended

    def _failed_event(
        self, flight: Flight, error: Exception, artifacts: dict[bytes, bytes] | None, *, final: bool
    ) -> tuple[bytes, StepFailed, dict[bytes, bytes]]:
        data = codec.encode_exception(error)
        blob, more = self.blob(data)
        event = StepFailed(
            v=1, at=time.time(), key=flight.key, kind=flight.call.work.kind, fingerprint=flight.fingerprint,
            code=flight.code, inputs=flight.inputs, order=flight.order, attempt=flight.attempt,
            started=flight.started, error=blob, final=final,
        )  # fmt: skip
        return data, event, {**(artifacts or {}), **more}

    def _gave_up(self, flight: Flight, outcome: Blob | None) -> None:
        blob, artifacts = self.blob(outcome) if isinstance(outcome, bytes) else (outcome, {})
        event = StepCancelled(
            v=1, at=time.time(), key=flight.key, kind=flight.call.work.kind, fingerprint=flight.fingerprint,
            code=flight.code, inputs=flight.inputs, order=flight.order, attempt=flight.attempt,
            started=flight.started, outcome=blob,
        )  # fmt: skip
        self.append([event], artifacts={**artifacts, **(self.artifacts_of(flight) or {})})
        flight.call.work.abandoned(flight)

    def _gave_up_waiting(self, call: Call[Any], record: Record | None) -> None:
        """The flow gave up a call that had not started yet, or an outcome before its turn came. That is recorded: on the
        next resume, what the flow did next must not wait for a call that it had left behind."""
        if self.leaving or self.cancelling:
            return
        outcome: Blob | None = None
        if record is not None and record.state != "started":
            self.turns.drop(record.key)
            outcome = record.outcome if record.state == "completed" else None
        self._order += 1
        flight = Flight(self, call, self._order, None)
        flight.inputs, _ = self.blob(flight.data)
        if record is not None:
            flight.attempt = record.event.attempt
            flight.started = getattr(record.event, "started", record.event.at)
        self._gave_up(flight, outcome)

    def announce_long(self, longer_than: float) -> None:
        """Commit the start of every step that has been running for so long that losing sight of it would hide something."""
        if self.leaving:
            return
        now = time.time()
        for flight in list(self._flights.values()):
            if not flight.announced and now - flight.started >= longer_than:
                flight.announced = True
                self.append([flight.call.work.started_event(flight, now)], artifacts=self.artifacts_of(flight))

    @property
    def busy(self) -> bool:
        """Whether anything runs live."""
        return bool(self._flights)

    # -- values that are not in any turn ------------------------------------------------------------------------------

    def value_now(self, call: Call[Any], make: Any) -> object:
        """A recorded value that is there at once: `now()`, `uuid()`, `random()`. Its event precedes whatever uses it."""
        if self.leaving:
            raise Suspended
        work = call.work
        work.encode_inputs(call.inputs)
        place = call.place
        if place is not None and place.inside is None and (self.records or self.rules.replaying):
            record = self._find(call)
            decision = self.decision(call, record)
            if work.kind == "log" and (record is None or not record.own) and self.rules.replaying:
                # Not what it said then: what it says now.
                if record is not None:
                    self._claim(record)
                decision = EXECUTE
            if decision.verdict is Verdict.OVERRIDE:
                return self._value_told(call, record)
            if record is not None and decision.verdict is Verdict.REUSE and type(record.outcome) is bytes:
                self._claim(record)
                if not record.own:
                    self._record_reuse([record], {record.key: call.key}, Turn.NONE)
                return work.decode_outcome(record.outcome)
            if decision.verdict is not Verdict.EXECUTE and self.would_run is None:
                self.stop(self._refusal(call, record, decision))
                raise Suspended
        self._order += 1
        flight = Flight(self, call, self._order, None)
        flight.attempt = 1
        data = work.encode_outcome(make())
        self.append([work.completed_event(flight, time.time(), data)])
        return work.decode_outcome(data)

    def _value_told(self, call: Call[Any], record: Record | None) -> object:
        outcome = self.rules.overrides[call.key]
        assert isinstance(outcome, bytes)
        if record is not None:
            self._claim(record)
        if record is None or not record.own:
            self._order += 1
            self.append([Overridden(1, time.time(), call.key, outcome, call.work.kind, self._order)])
        return call.work.overridden(outcome)

    # -- what the log gets --------------------------------------------------------------------------------------------

    def append(
        self,
        events: list[AnyEvent] | list[Any],
        *,
        turn: Turn = Turn.NONE,
        artifacts: dict[bytes, bytes] | None = None,
        context: object = None,
    ) -> None:
        """Queue events of this run; the store keeps their order."""
        if context is None:
            context = self
        self.host.store.submit(
            Append(self.run, self.epoch, events, self.host.sink, artifacts=artifacts, turn=turn, context=context)
        )

    async def append_durably(self, events: list[Any], artifacts: dict[bytes, bytes] | None = None) -> None:
        """Append, and return when it is on disk. Cancelling the wait does not undo it."""
        waiter = Waiter("", None, self.host.loop.create_future(), "durable")
        waiter.execution = self
        self.append(events, artifacts=artifacts, context=waiter)
        await waiter.future

    def blob(self, data: bytes) -> tuple[Blob, dict[bytes, bytes]]:
        """A value as an event holds it, and the artifact to go with it if it is too large to stand there."""
        if len(data) <= INLINE_LIMIT:
            return data, {}
        digest = codec.content_digest(data)
        return Ref(digest, len(data)), {digest: data}

    def artifacts_of(self, flight: Flight) -> dict[bytes, bytes]:
        """The artifacts that a flight's own events name."""
        inputs = flight.inputs
        return {inputs.digest: flight.data} if isinstance(inputs, Ref) else {}

    async def bytes_of(self, blob: Blob) -> bytes:
        """The encoded value that an event holds or names."""
        return blob if isinstance(blob, bytes) else await self.host.store.artifact(blob.digest)

    def code_digest(self, work: Work) -> bytes:
        """The digest of the code behind `work`; its source is recorded the first time that the run uses it."""
        code = work.code()
        if code is None:
            return b""
        if not code.digest and work.name not in self._without_source:
            self._without_source.add(work.name)
            log().warning("code.no_source", run_id=self.run, boundary=work.name, why="a replay will count it as changed")
        if code.digest and code.digest not in self._codes:
            self._codes[code.digest] = code.source
            blob, artifacts = self.blob(code.source)
            self.append([CodeSeen(1, time.time(), code.digest, blob)], artifacts=artifacts)
        return code.digest

    def _code_beside(self, work: Work, record: Record) -> bytes:
        """The present code digest; the recorded one where both stand for the same source under another Python."""
        code = work.code()
        before = record.event.code
        if code is None:
            return work.version(self)
        if code.digest == before or not self.history.other_python:
            return code.digest
        pair = (before, code.digest)
        if pair not in self._settled:
            from kitaru.runtime.digest import same_code

            source = self.history.codes.get(before)
            self._settled[pair] = isinstance(source, bytes) and same_code(source, code.source)
        return before if self._settled[pair] else code.digest

    def acknowledged(self, appends: Sequence[Append]) -> None:
        """The store's answers to this run's appends, in order."""
        self.turns.on_their_way -= sum(bool(a.turn) and type(a.context) is Waiter for a in appends)
        if len(appends) == 1:
            append = appends[0]
            waiter = append.context
            if append.error is None and append.turn_no and type(waiter) is Waiter and self.turns.hand_at_once(waiter):
                return
        turn: list[Waiter] = []
        number = 0
        for append in appends:
            waiter = append.context
            if append.error is not None:
                self.stop(append.error)
                if self.ending and type(waiter) is Waiter and not waiter.future.done():
                    waiter.future.set_exception(append.error)
                continue
            if type(waiter) is not Waiter:
                continue
            if append.turn_no:
                if append.turn_no != number and turn:
                    self.turns.ready(turn)
                    turn = []
                number = append.turn_no
                turn.append(waiter)
            elif not waiter.future.done():
                waiter.future.set_result(None)
        if turn:
            self.turns.ready(turn)
        self.turns.pump()

    # -- what the turns meet ------------------------------------------------------------------------------------------

    def stalled(self, turn: RecordedTurn, certain: bool) -> bool:
        if not turn.strict:
            return True
        if self._cancel_recorded:
            self._deliver_cancel()
        elif certain and not self._flights:
            lines = {key: call.where for key, call in self._asking.items()}
            self.stop(self.history.unreached(turn.keys, self.turns.waiting(), lines))
        return False

    def live_begins(self) -> bool:
        """The recorded turns are through. Whether live work may start."""
        if self._cancel_recorded:
            self._deliver_cancel()
            return False
        return True

    def deviated(self, turn: RecordedTurn) -> None:
        if turn.strict:
            self.history.deviations += 1
            missing = ", ".join(sorted(turn.keys.keys() - self.turns.asked_keys()))
            self.append([Deviated(1, time.time(), f"turn {turn.number} was handed over without {missing}")])

    def handed(self, waiters: list[Waiter]) -> None:
        copied = [self.records[w.key] for w in waiters if not self.records[w.key].own]
        if copied:
            self._record_reuse(copied, {w.key: w.asked_as for w in waiters})

    def _record_reuse(self, records: list[Record], asked_as: dict[str, str], turn: Turn = Turn.OWN) -> None:
        now = time.time()
        events = []
        for record in records:
            key = asked_as[record.key]
            events.append(Reused(1, now, key, record.seq, record.key if record.key != key else "", record.order))
        self.append(events, turn=turn)

    def _claim(self, record: Record) -> None:
        record.claimed = True
        if not record.own:
            self._order += 1
            record.order = self._order

    def born(self, task: asyncio.Future[Any]) -> None:
        """A task of the flow has been made."""
        self.turns.open.add(task)
        tasks = self.tasks
        tasks.add(task)
        if len(tasks) >= self._purge_at:
            self.tasks = {t for t in tasks if not t.done()}
            self._purge_at = max(64, 2 * len(self.tasks))

    # -- the end ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin running the flow's body, in a task of its own."""
        place = Place(self, "")
        token = here.set(place)
        try:
            self.root = RootTask(self._main(), self)
        finally:
            here.reset(token)
        self.turns.open.add(self.root)

    async def _main(self) -> None:
        end: AnyEvent | None = None
        artifacts: dict[bytes, bytes] = {}
        result = b""
        failure: BaseException | None = None
        try:
            result = await self.flow.run_body(self)
            unreached = self.history.never_asked()
            if unreached and not self.leaving:
                self.stop(self.history.unreached(unreached, []))
            else:
                blob, artifacts = self.blob(result)
                end = RunCompleted(1, time.time(), blob)
        except (Suspended, asyncio.CancelledError) as stop:
            if self.cancelling and not self.leaving:
                failure = RunCancelledError(
                    f"run {self.run} was cancelled" + (f": {self._reason}" if self._reason else "")
                )
                end = RunCancelled(1, time.time(), self._reason)
            elif not self.leaving:
                end, failure, artifacts = self._failed_end(stop)
        except Exception as error:
            unreached = self.history.never_asked()
            if unreached and not self.leaving:
                divergence = self.history.unreached(unreached, [])
                divergence.__cause__ = error
                self.stop(divergence)
            elif not self.leaving:
                end, failure, artifacts = self._failed_end(error)
        except BaseException as error:
            self._stop = self._stop or error
            self.leaving = True
        await self._finish(end, artifacts, result, failure)

    def _failed_end(self, error: BaseException) -> tuple[AnyEvent, BaseException, dict[bytes, bytes]]:
        data = codec.encode_exception(error)
        blob, artifacts = self.blob(data)
        causes = tuple(dict.fromkeys(key for e, key in self._failures if e in _chain(error)))
        failure = codec.decode_exception(data, module=self.flow.module)
        failure.__cause__ = error
        return RunFailed(1, time.time(), blob, causes), failure, artifacts

    async def _finish(
        self, end: AnyEvent | None, artifacts: dict[bytes, bytes], result: bytes, failure: BaseException | None
    ) -> None:
        parked = self.leaving
        if parked:
            end = None
        self.leaving = self.ending = True
        self.turns.close()
        if parked:
            # Leaving has cancelled this very task, which may not have noticed yet: what follows must not be interrupted.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        await self._end_tasks()
        try:
            if end is not None:
                await self.append_durably([end], artifacts)
            elif self._stop is None or not isinstance(self._stop, KitaruError):
                await self.append_durably([RunParked(1, time.time(), self._parked_because or "left memory")])
            else:
                await self.host.store.release(self.run, self.epoch)
        except asyncio.CancelledError:
            self._stop = self._stop or RunParkedError(f"run {self.run} was interrupted while it ended")
            end = None
        except KitaruError as error:
            self._stop, end = error, None
        finally:
            self.host.ended(self)
        if end is None:
            self.finished.set_exception(
                self._stop
                if isinstance(self._stop, Exception)
                else RunParkedError(
                    f"run {self.run} was parked before it had a result", hint=f"Go on with `kitaru resume {self.run}`."
                )
            )
        elif failure is not None:
            self.finished.set_exception(failure)
        else:
            self.finished.set_result(result)

    async def _end_tasks(self) -> None:
        me = asyncio.current_task()
        while others := [t for t in self.tasks if t is not me and not t.done()]:
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=self.host.patience)
            if not any(task.done() for task in others):
                # They refuse to end; the loop's owner will see them.
                break
        for task in self.tasks:
            if task.done() and not task.cancelled():
                task.exception()

    def stop(self, error: BaseException) -> None:
        """Leave memory because of `error`, which whoever waits for the run will see. The log is left as it is."""
        if self._stop is None:
            self._stop = error
        self.leave("")

    def leave(self, reason: str) -> None:
        """Leave memory: from now on nothing executes or is recorded, and the run's tasks are cancelled."""
        if self.leaving:
            return
        self.leaving = True
        self._parked_because = reason
        self.turns.close()
        self._cancel_tasks()

    def cancel(self, reason: str) -> None:
        """Cancel the run: the flow sees a cancellation, and its cleanup code runs."""
        if self.leaving or self.cancelling:
            return
        self._reason = reason
        if self.turns.recorded:
            # A cleanup that began in the middle of replay would never come to what the log still holds.
            self._cancel_recorded = True
            self.turns.pump()
            self.host.loop.call_later(self.host.replay_grace, self._deliver_cancel)
        else:
            self._deliver_cancel()

    def _deliver_cancel(self) -> None:
        if self.leaving or self.cancelling:
            return
        self._cancel_recorded = False
        self.cancelling = True
        if self.thread is not None:
            self.thread.interrupt()
        elif self.root is not None:
            asyncio.Task.cancel(self.root)

    def _cancel_tasks(self) -> None:
        for task in [*self.tasks, self.root]:
            if task is not None and not task.done():
                asyncio.Task.cancel(task)

    def _failure(self, data: bytes, call: Call[Any]) -> Exception:
        error = codec.decode_exception(data, module=call.work.module)
        self._failures.append((error, call.key))
        return error


class RootTask(asyncio.Task[None]):
    """A run's root task: being cancelled from outside its run (a loop that shuts down) parks the run."""

    def __init__(self, main: Any, execution: Execution) -> None:
        super().__init__(main, loop=execution.host.loop, name=f"kitaru run {execution.run}")
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
