"""One run: what happens at each of its boundaries, and how the run ends.

A boundary goes through here once: `replay` decides; `recorded` takes what the log answers, `live` performs the rest by
its `work`, appends the outcome and waits until it is on disk; `turns` hands it over. `ending` says how the run ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextvars import copy_context
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from kitaru.errors import StoreError, Suspended
from kitaru.runtime import ending, live, recorded
from kitaru.runtime.blobs import blob_of
from kitaru.runtime.call import MISSING, Call
from kitaru.runtime.flight import Flight
from kitaru.runtime.foreign import live_runs
from kitaru.runtime.history import History
from kitaru.runtime.keys import OWN_NAMES, Place, here
from kitaru.runtime.log import log
from kitaru.runtime.replay import EXECUTE, REUSE, Asked, Decision, Record, Verdict, decide, moved, resumed
from kitaru.runtime.secrets.bound import bound
from kitaru.runtime.secrets.private import RunSecrets, hiding
from kitaru.runtime.turns import RecordedTurn, Turns, Waiter
from kitaru.runtime.unfit import failure_of, value_of
from kitaru.runtime.work import Unresolved, Work
from kitaru.store import codec
from kitaru.store.events import (
    AnyEvent,
    Blob,
    CodeSeen,
    Deviated,
    Ref,
    Reused,
)
from kitaru.store.protocol import Append, Turn

if TYPE_CHECKING:
    from kitaru.runtime.flow import FlowWork
    from kitaru.runtime.host import Host
    from kitaru.runtime.threads import FlowThread

PASS_EVERY: Final = 0.004
"""Seconds of replay after which the loop gets a pass."""


class Execution:
    """A run in this process's memory. Everything here happens on the run's event loop."""

    def __init__(
        self,
        host: Host,
        run: str,
        epoch: int,
        flow: FlowWork,
        inputs: bytes,
        history: History,
        registry: bytes,
        secrets: RunSecrets,
    ) -> None:
        self.host = host
        self.run = run
        self.epoch = epoch
        self.flow = flow
        self.inputs = inputs
        self.history = history
        self.records = history.records
        self.salt = crc32(history.root.encode())
        self.keys = history.started.keys if history.started is not None else OWN_NAMES
        """Tells the tasks of this run and its replays from those of others; see `FlowTask`."""
        self.rules = history.rules
        self.turns = Turns(host.loop, self, grace=host.replay_grace)
        self.turns.recorded.extend(history.turns)
        self.tasks: set[asyncio.Future[Any]] = set()
        self._purge_at = 64
        self.leaving = False
        """Nothing executes or is recorded any more; every boundary raises `Suspended`."""
        self.suspect = history.suspect
        """Whether every start is committed, because this run may take the process down; until it has an outcome."""
        self.ending = False
        """The flow's code has ended; what is left is to say so in the log, and nothing may interrupt that."""
        self.cancelling = False
        self.finished: Future[bytes] = Future()
        """The encoded result; or the failure, rebuilt as the log holds it."""
        self.root: asyncio.Task[None] | None = None
        self.thread: FlowThread | None = None
        """The thread of a sync flow."""
        self.ident = 0
        """The thread on which the flow's own code runs."""
        self.would_run: dict[str, str] | None = None
        """For a dry run: the keys that would run, and why."""
        self.flights: dict[str, Flight] = {}
        self.started: dict[str, FlowWork] = {}
        """Child runs that are to be cancelled when this one ends, by id."""
        self.asking: dict[str, Call[Any]] = {}
        """Calls that wait for a recorded outcome or to start, for a divergence to name their lines."""
        self.order = history.order
        self.failures: list[tuple[BaseException, str]] = []
        self.registry = registry
        """The model registry that this run resolves names by, encoded."""
        self.secrets = secrets
        """What the run knows and no event may hold."""
        self.saved: dict[str, Blob] = {}
        """Named artifacts, as far as the flow has come."""
        self.named: set[bytes] = set()
        """Digests of the conversation nodes that this execution has appended already."""
        self.warned: set[tuple[str, str]] = set()
        """Models, and the warnings of their answers that the log of this process holds already."""
        self._codes: dict[bytes, bytes] = dict.fromkeys(history.codes, b"")
        self.unseen: dict[bytes, bytes] = {}
        """Sources that the log does not hold yet, by their digests."""
        self._versions: dict[Work, bytes] = {}
        self._without_source: set[str] = set()
        self._settled: dict[tuple[bytes, bytes], bool] = {}
        self.stopped_by: BaseException | None = None
        self.cancel_reason = history.cancel_reason
        self.parked_because = ""
        self._pass_due = 0.0
        self.cancel_recorded = history.cancel_requested

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
        if type(outcome) is not bytes or call.work.anew or self.decision(call, record) is not REUSE:
            return MISSING
        if not self.turns.take_alone(record.key):
            return MISSING
        self.claim(record)
        if not record.own:
            self.record_reuse([record], {record.key: call.key})
        work = call.work
        if work.kind == "save":
            self.saved[call.inputs.args[0]] = outcome
        value = value_of(self, call, outcome, record.event)
        call.settle(value)
        return value

    async def boundary(self, call: Call[Any]) -> object:
        """Take a call from its inputs to the value that the flow sees."""
        if self.leaving:
            raise Suspended
        if call.inputs.data is None:
            await self._resolve(call)
        if call.place is not None and call.place.inside is not None:
            return await live.perform_inside(self, call)
        party = asyncio.current_task(self.host.loop) if call.party is None else call.party
        try:
            if self.records or self.rules.replaying:
                record = self.find(call)
                decision = self.decision(call, record)
                if call.work.anew and self.rules.replaying and (record is None or not record.own):
                    decision = EXECUTE
                if decision.verdict is not Verdict.EXECUTE:
                    return await recorded.take(self, call, record, decision, party)
                if record is not None:
                    self.claim(record)
                    self.turns.drop(record.key)
            else:
                record = None
            if self.turns.recorded or self.cancel_recorded:
                self.asking[call.key] = call
                waiter = self.turns.ask_start(call.key, party)
                try:
                    await waiter.future
                except asyncio.CancelledError:
                    live.gave_up_waiting(self, call, record)
                    raise
            self.turns.rest(party)
            return await live.perform(self, call, party, record)
        except asyncio.CancelledError:
            self.turns.forget(call.key)
            if self.leaving:
                raise Suspended from None
            raise
        finally:
            self.asking.pop(call.key, None)
            self.turns.wake(party)

    async def _resolve(self, call: Call[Any]) -> None:
        inputs = call.inputs
        while inputs.data is None:
            try:
                call.work.encode_inputs(inputs)
            except Unresolved as handle:
                await handle.call
        self.secrets.check_call(call.key, call.work.name, inputs.data)

    def find(self, call: Call[Any]) -> Record | None:
        record = self.records.get(call.key)
        if record is not None and record.claimed:
            record = None
        if record is None and self.history.may_move:
            record = moved(self.history.alike(call))
        return record

    def decision(self, call: Call[Any], record: Record | None) -> Decision:
        """What `replay.decide` says of this call."""
        work = call.work
        code = b""
        if record is not None and record.own and not self.rules.overrides:
            return resumed(record, work.kind, call.inputs.fingerprint)
        if record is not None and not record.own:
            code = self._code_beside(work, record)
        elif record is None and not self.rules.replaying:
            return EXECUTE
        return decide(
            record, Asked(call.key, work.name, work.kind, call.inputs.fingerprint, code, work.effects), self.rules
        )

    def progress(self) -> int:
        """How many boundaries the flow has come to: grows as long as a dry run gets anywhere."""
        return sum(r.claimed for r in self.records.values()) + len(self.would_run or ())

    # -- live ---------------------------------------------------------------------------------------------------------

    def announce_long(self, longer_than: float) -> None:
        """Commit the start of every step that runs for so long that a crash must not hide it."""
        if self.leaving:
            return
        now = time.time()
        for flight in list(self.flights.values()):
            if not flight.announced and now - flight.started >= longer_than:
                flight.announced = True
                self.append([flight.call.work.started_event(flight, now)], artifacts=self.artifacts_of(flight))

    @property
    def busy(self) -> bool:
        """Whether anything runs live."""
        return bool(self.flights)

    # -- values that are not in any turn ------------------------------------------------------------------------------

    # -- what the log gets --------------------------------------------------------------------------------------------

    def append(
        self,
        events: list[AnyEvent] | list[Any],
        *,
        turn: Turn = Turn.NONE,
        artifacts: dict[bytes, bytes] | None = None,
        context: object = None,
        forget: bool = False,
    ) -> None:
        """Queue events of this run; the store keeps their order. `forget` what the store keeps beside its log."""
        if context is None:
            context = self
        self.host.store.submit(
            Append(
                self.run, self.epoch, events, self.host.sink, artifacts=artifacts, turn=turn, forget=forget,
                context=context,
            )
        )  # fmt: skip

    async def append_durably(
        self, events: list[Any], artifacts: dict[bytes, bytes] | None = None, *, forget: bool = False
    ) -> None:
        """Append, and return when it is on disk. Cancelling the wait does not undo it."""
        await self.append_soon(events, artifacts, forget=forget)

    def append_soon(
        self, events: list[Any], artifacts: dict[bytes, bytes] | None = None, *, forget: bool = False
    ) -> asyncio.Future[None]:
        """Append, and return what is done when it is on disk."""
        waiter = Waiter("", None, self.host.loop.create_future(), "durable", self)
        self.append(events, artifacts=artifacts, context=waiter, forget=forget)
        return waiter.future

    def artifacts_of(self, flight: Flight) -> dict[bytes, bytes]:
        """The artifacts that a flight's own events name."""
        inputs = flight.inputs
        return {inputs.digest: flight.data} if isinstance(inputs, Ref) else {}

    async def bytes_of(self, blob: Blob) -> bytes:
        """The encoded value that an event holds or names."""
        try:
            return blob if isinstance(blob, bytes) else await self.host.store.artifact(blob.digest)
        except StoreError as error:
            # Not the flow's failure: the run can go on as soon as the store can be read.
            self.stop(error)
            raise Suspended from None

    def code_digest(self, work: Work) -> bytes:
        """The digest of the code behind `work`; its source is recorded with the first outcome."""
        digest = self._versions.get(work)
        if digest is None:
            digest = self._versions[work] = self._first_digest(work)
        return digest

    def _first_digest(self, work: Work) -> bytes:
        code = work.code()
        if code is None:
            return b""
        if not code.digest and work.name not in self._without_source:
            self._without_source.add(work.name)
            log().warning(
                "code.no_source", run_id=self.run, boundary=work.name, why="a replay will count it as changed"
            )
        if code.digest and code.digest not in self._codes:
            self._codes[code.digest] = self.unseen[code.digest] = code.source
        return code.digest

    def record_source(self, digest: bytes) -> None:
        """Record the source behind a code digest, once. Not before the code has run: only then are its keys known."""
        source = self.unseen.pop(digest, None)
        if source is not None:
            blob, artifacts = blob_of(self.secrets.source(source))
            self.append([CodeSeen(1, time.time(), digest, blob)], artifacts=artifacts)

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
            from kitaru.runtime.code.digest import same_code

            source = self.history.codes.get(before)
            self._settled[pair] = isinstance(source, bytes) and same_code(source, code.source)
        return before if self._settled[pair] else code.digest

    def acknowledged(self, appends: Sequence[Append]) -> None:
        """The store's answers to this run's appends, in order."""
        turns = self.turns
        turn: list[Waiter] = []
        number = 0
        for append in appends:
            waiter = append.context
            if append.turn and type(waiter) is Waiter:
                turns.on_their_way -= 1
                if len(appends) == 1 and append.error is None and turns.hand_at_once(waiter):
                    return
            if append.error is not None:
                self.stop(append.error)
                if self.ending and type(waiter) is Waiter and not waiter.future.done():
                    waiter.future.set_exception(append.error)
                continue
            if type(waiter) is not Waiter:
                continue
            if append.turn_no:
                if append.turn_no != number and turn:
                    turns.ready(turn)
                    turn = []
                number = append.turn_no
                turn.append(waiter)
            elif not waiter.future.done():
                waiter.future.set_result(None)
        if turn:
            turns.ready(turn)
        turns.pump()

    # -- what the turns meet ------------------------------------------------------------------------------------------

    def stalled(self, turn: RecordedTurn, certain: bool) -> bool:
        if not turn.strict:
            return True
        if self.cancel_recorded:
            self._deliver_cancel()
        elif certain and not self.flights:
            lines = {key: call.where for key, call in self.asking.items()}
            self.stop(self.history.unreached(turn.keys, self.turns.waiting(), lines))
        return False

    def live_begins(self) -> bool:
        """The recorded turns are through. Whether live work may start."""
        if self.cancel_recorded:
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
            self.record_reuse(copied, {w.key: w.asked_as or w.key for w in waiters})

    def record_reuse(self, records: list[Record], asked_as: dict[str, str], turn: Turn = Turn.OWN) -> None:
        now = time.time()
        events = []
        for record in records:
            key = asked_as[record.key]
            events.append(Reused(1, now, key, record.seq, record.key if record.key != key else "", record.order))
        self.append(events, turn=turn)

    def claim(self, record: Record) -> None:
        record.claimed = True
        if not record.own:
            self.order += 1
            record.order = self.order

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
        self.ident = get_ident()
        if not self.flow.module.startswith("kitaru."):
            # Not that of a model call outside any flow, which has no code whose threads could call anything.
            live_runs.add(self)
        # A context of its own: what its starter has bound is the run's own by now.
        context = copy_context()
        context.run(here.set, Place(self, ""))
        context.run(hiding.set, self.secrets)
        context.run(codec.revealing.set, self.secrets.inputs.get)
        context.run(bound.set, None)
        self.root = ending.RootTask(ending.run_to_its_end(self), self, context)
        self.turns.open.add(self.root)
        if self.cancel_recorded:
            self._cancel_later()

    def stop(self, error: BaseException) -> None:
        """Leave memory because of `error`, which whoever waits for the run will see. The log is left as it is."""
        if self.stopped_by is None:
            self.stopped_by = error
        self.leave("")

    def broken(self, error: Exception) -> None:
        """Leave memory because of a fault in the engine itself: never in silence, and the log is left as it is."""
        log().error("run.broken", run_id=self.run, exc_info=error)
        self.host.runtime.problems.failed(f"run {self.run}", error)
        self.stop(error)

    def leave(self, reason: str) -> None:
        """Leave memory: from now on nothing executes or is recorded, and the run's tasks are cancelled."""
        if self.leaving:
            return
        self.leaving = True
        self.parked_because = reason
        self.turns.close()
        self._cancel_tasks()

    def cancel(self, reason: str) -> None:
        """Cancel the run: the flow sees a cancellation, and its cleanup code runs."""
        if self.leaving or self.cancelling:
            return
        self.cancel_reason = reason
        if self.turns.recorded:
            # A cleanup that began in the middle of replay would never come to what the log still holds.
            self.cancel_recorded = True
            self.turns.pump()
            self._cancel_later()
        else:
            self._deliver_cancel()

    def _cancel_later(self) -> None:
        self.host.loop.call_later(self.host.replay_grace, self._cancel_if_still, len(self.turns.recorded))

    def _cancel_if_still(self, before: int) -> None:
        if self.cancel_recorded and 0 < len(self.turns.recorded) < before:
            self._cancel_later()
        elif self.cancel_recorded:
            # The flow waits for something that is no boundary, and nothing else tells that it has come so far.
            self._deliver_cancel()

    def _deliver_cancel(self) -> None:
        if self.leaving or self.cancelling:
            return
        self.cancel_recorded = False
        self.cancelling = True
        if self.thread is not None:
            self.thread.interrupt()
        elif self.root is not None:
            asyncio.Task.cancel(self.root)

    def _cancel_tasks(self) -> None:
        for task in [*self.tasks, self.root]:
            if task is not None and not task.done():
                asyncio.Task.cancel(task)

    def failed_with(self, data: bytes, call: Call[Any], trace: TracebackType | None = None) -> BaseException:
        """The failure as it is recorded; `trace` is the live traceback, where it has just happened."""
        error = failure_of(self, call, data).with_traceback(trace)
        self.failures.append((error, call.key))
        return error
