"""Small durable boundaries: the clock, chance, timers, named artifacts, and metadata."""

from __future__ import annotations

import asyncio
import datetime
import random as chance
import sys
import time
import uuid as uuids
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from kitaru.errors import DecodeError, NotFoundError, Suspended, UsageError
from kitaru.runtime import recorded
from kitaru.runtime.arguments import Duration, seconds_of, text_of
from kitaru.runtime.call import Call, current_place
from kitaru.runtime.foreign import refuse_stray
from kitaru.runtime.keys import valid_name
from kitaru.runtime.threads import wait_for
from kitaru.runtime.unfit import left_open
from kitaru.runtime.work import Inputs, Work, make_call, stand_in
from kitaru.store import codec
from kitaru.store.events import Blob, BoundaryEvent, Kind, LlmCompleted, Overridden, StepCompleted, TimerFired, TimerSet

if TYPE_CHECKING:
    from kitaru.runtime.execution import Execution
    from kitaru.runtime.flight import Flight

# -- values that are there at once ----------------------------------------------------------------------------------


class _Value(Work):
    """A value that is made once and then always the recorded one."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self._kind = kind
        self.anew = kind == "log"

    @property
    def kind(self) -> Kind:  # type: ignore[override]  # one class for all of these kinds
        return self._kind

    def overridden(self, data: bytes) -> object:
        value = super().overridden(data)
        kind = VALUE_TYPES.get(self._kind)
        return value if kind is None else codec.from_json(value, kind)


VALUE_TYPES: Final[Mapping[Kind, type]] = {"now": datetime.datetime, "uuid": uuids.UUID, "random": float}


def _once(kind: Kind, make: Callable[[], object], *inputs: object) -> object:
    place = current_place()
    if place is None:
        refuse_stray(f"kitaru.{kind}")
        return make()
    call = make_call(_Value(kind), place, inputs, {}, sys._getframe(2))
    try:
        value = recorded.value_now(place.execution, call, make)
    except BaseException as error:
        call.fail(error)
        raise
    call.settle(value)
    return value


def now() -> datetime.datetime:
    """The time, in UTC. In a flow it is recorded: a resume or replay gets the same one."""
    value = _once("now", lambda: datetime.datetime.now(datetime.UTC))
    assert isinstance(value, datetime.datetime)
    return value


def uuid() -> uuids.UUID:
    """A random UUID. In a flow it is recorded."""
    value = _once("uuid", uuids.uuid4)
    assert isinstance(value, uuids.UUID)
    return value


def random() -> float:
    """A random number from 0.0 up to, but not including, 1.0. In a flow it is recorded."""
    value = _once("random", chance.random)
    assert isinstance(value, float)
    return value


def log(**metadata: object) -> None:
    """Attach metadata to the run, or to the checkpoint that this code is in. Shown by `kitaru show`.

    Raises:
        EncodeError: A value cannot be recorded.
    """
    _once("log", lambda: metadata, *sorted(metadata))


# -- timers ---------------------------------------------------------------------------------------------------------


class _Timer(Work):
    """A point in time that is recorded before it is waited for."""

    announced = True

    def __init__(self, name: str, kind: Kind) -> None:
        super().__init__(name)
        self._kind = kind

    @property
    def kind(self) -> Kind:  # type: ignore[override]  # sleeps and timeouts differ in nothing else
        return self._kind

    def _deadline(self, flight: Flight) -> float:
        before = flight.record.event if flight.record is not None else None
        if isinstance(before, TimerSet):
            return before.deadline
        seconds: float = flight.call.inputs.args[0]
        return flight.started + seconds

    def started_event(self, flight: Flight, at: float) -> BoundaryEvent:
        return TimerSet(
            v=1, at=at, key=flight.key, kind=self.kind, fingerprint=flight.fingerprint, code=b"",
            inputs=flight.inputs, order=flight.order, attempt=flight.attempt, deadline=self._deadline(flight),
        )  # fmt: skip

    def completed_event(self, flight: Flight, at: float, outcome: Blob) -> BoundaryEvent:
        del outcome
        return TimerFired(
            v=1, at=at, key=flight.key, kind=self.kind, fingerprint=flight.fingerprint, code=b"",
            inputs=flight.inputs, order=flight.order, attempt=flight.attempt, started=flight.started,
        )  # fmt: skip

    async def perform(self, flight: Flight) -> None:
        # The wall clock may be set back while this waits; the loop's own clock is not.
        await asyncio.sleep(max(0.0, self._deadline(flight) - time.time()))


def sleep(seconds: Duration) -> Call[None]:
    """Sleep durably: after a restart only what is left of it is slept.

    Args:
        seconds: How long, from the first time that the flow came here: seconds, a `timedelta`, or a text such as "2h".

    Raises:
        UsageError: Outside any flow, or `seconds` is negative or no duration.
    """
    return _boundary(_Timer("sleep", "sleep"), (seconds_of(seconds, "sleep: seconds"),), "sleep")


class timeout:
    """An async context manager that gives its body `seconds`, durably: `async with kitaru.timeout(30): ...`.

    Unlike `asyncio.timeout`, it remembers that it fired: a resume cancels the body at the same point of the flow.

    Args:
        seconds: How long the body may take, from the first time that the flow came here; as for `sleep`.

    Raises:
        UsageError: `seconds` is negative or no duration.
        TimeoutError: The body took longer.
    """

    def __init__(self, seconds: Duration) -> None:
        self._seconds = seconds_of(seconds, "timeout: seconds")
        self._task: asyncio.Task[Any] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._cancelling = 0
        self._expired = False
        self._plain: asyncio.Timeout | None = None

    async def __aenter__(self) -> Self:
        place = current_place()
        if place is None or place.inside is not None:
            self._plain = await asyncio.timeout(self._seconds).__aenter__()
            return self
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        call = make_call(_Timer("timeout", "timer"), place, (self._seconds,), {}, sys._getframe(1))
        # Made directly, not through the loop's factory: it needs no path.
        self._watch = asyncio.Task(self._fire(call))
        place.execution.born(self._watch)
        return self

    async def _fire(self, call: Call[None]) -> None:
        try:
            await call
        except Suspended:
            return
        if self._task is not None:
            self._expired = True
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._plain is not None:
            await self._plain.__aexit__(kind, error, trace)
            return
        assert self._task is not None
        assert self._watch is not None
        if not self._watch.done():
            self._watch.cancel()
            await asyncio.wait([self._watch])
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError(f"kitaru.timeout: the body took longer than {self._seconds:g} s") from error


# -- named artifacts ------------------------------------------------------------------------------------------------


class _Save(Work):
    kind: ClassVar[Kind] = "save"

    def encode_inputs(self, inputs: Inputs) -> None:
        name, value = inputs.args
        content = codec.canonical(value, unknown=stand_in)
        # What is saved is the value at the call, whatever becomes of the object until it is awaited.
        inputs.args = (name, codec.decoder()(codec.encode(value, unknown=stand_in)))
        inputs.data = codec.encode([name])
        inputs.fingerprint = codec.fingerprint(codec.encode([name, codec.fingerprint(content)]))

    async def perform(self, flight: Flight) -> object:
        return flight.call.inputs.args[1]


class _Load(Work):
    kind: ClassVar[Kind] = "load"
    anew = True

    async def perform(self, flight: Flight) -> object:
        name, run = flight.call.inputs.args
        execution = flight.execution
        found = execution.saved.get(name) if run is None else None
        # What was saved inside a checkpoint that is not run again stands only in a log: this run's, or its source's.
        searched: str | None = run or execution.run
        started = execution.history.started if run is None else None
        while found is None and searched is not None:
            found = await _saved(execution, searched, name)
            origin = started.origin if started is not None else None
            searched, started = (origin.run, None) if origin is not None else (None, None)
        if found is None and run is not None:
            return await _outcome(execution, run, name)
        if found is None:
            raise NotFoundError(f"run {execution.run} saved nothing as {name!r}")
        data = await execution.bytes_of(found)
        try:
            return codec.decoder(module=execution.flow.module)(data)
        except DecodeError as error:
            raise left_open(execution, f"the artifact {name!r}", error) from None


async def _outcome(execution: Execution, run: str, selector: str) -> object:
    from kitaru.runtime.calls.answered import reply_of
    from kitaru.runtime.selecting import events_of, selected

    events = await execution.host.store.events(run)
    key = selected(run, events, selector)
    for event in reversed(events_of(events, key)):
        if isinstance(event, StepCompleted | LlmCompleted | Overridden):
            data = await execution.bytes_of(event.outcome)
            if isinstance(event, LlmCompleted) and event.llm.whole:
                return reply_of(data, event.llm)
            try:
                return codec.decoder(module=execution.flow.module)(data)
            except DecodeError as error:
                raise left_open(execution, f"the outcome of {key}", error) from None
    raise NotFoundError(f"{key} of run {run} has no outcome", hint=f"Look at it: kitaru show {run}")


async def _saved(execution: Execution, run: str, name: str) -> Blob | None:
    found: Blob | None = None
    for _, _, event in await execution.host.store.events(run):
        if isinstance(event, StepCompleted) and event.kind == "save":
            inputs: Any = codec.decoder()(await execution.bytes_of(event.inputs))
            if inputs[0] == name:
                found = event.outcome
    return found


def save(name: str, value: object) -> Call[Any]:
    """Keep a value as a named artifact of the run.

    Args:
        name: What to find it by; saving again under a name replaces what `load` gives.
        value: Anything that can be recorded.

    Raises:
        UsageError: Outside any flow.
        EncodeError: The value cannot be recorded.
    """
    return _boundary(_Save("save"), (valid_name(name), value), "save")


def load(name: str, *, run: str | None = None) -> Call[Any]:
    """A named artifact of this run, or of another one, by its id.

    Args:
        name: What it was saved as; for another run, also a selector of a step, as `kitaru show RUN STEP` takes it, for
            the step's outcome.
        run: The other run's id.

    Raises:
        UsageError: Outside any flow.
        NotFoundError: When awaited: nothing was saved under that name, or no step has it. AmbiguousError: Several have.
    """
    run = None if run is None else text_of(run, "load: run")
    return _boundary(_Load("load"), (text_of(name, "load: name"), run), "load")


def _boundary(work: Work, args: tuple[Any, ...], what: str) -> Call[Any]:
    place = current_place()
    if place is None:
        refuse_stray(f"kitaru.{what}")
        raise UsageError(f"kitaru.{what}() outside any flow", hint="Use it inside a @flow or @checkpoint function.")
    call = make_call(work, place, args, {}, sys._getframe(2))
    if place.thread is not None:
        wait_for(call)
        if call.failed:
            call.load()
    return call
