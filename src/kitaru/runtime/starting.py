"""Starting a run inside a flow: a child that the flow does not wait for, with a handle whose answers are recorded."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeVar
from zlib import crc32

from kitaru.errors import UsageError
from kitaru.runtime.arguments import Duration, seconds_of
from kitaru.runtime.call import Call, current_place
from kitaru.runtime.children import awaited_result, child_id, drop_failures, give_up_child, start_child, taken_up
from kitaru.runtime.handle import RunHandle
from kitaru.runtime.log import log
from kitaru.runtime.threads import on_a_loop, wait_for
from kitaru.runtime.work import Inputs, Work, make_call
from kitaru.store.events import BoundaryEvent, ChildStarted, Kind, OnParentEnd, Status

if TYPE_CHECKING:
    from kitaru.runtime.code.digest import Code
    from kitaru.runtime.core import Core
    from kitaru.runtime.execution import Execution
    from kitaru.runtime.flight import Flight
    from kitaru.runtime.flow import Flow, FlowWork
    from kitaru.runtime.keys import Place

T = TypeVar("T")


class StartWork(Work):
    """The start of a child run. Its outcome is the child's id."""

    kind: ClassVar[Kind] = "start"
    announced = True

    def __init__(self, flow: Flow[..., Any]) -> None:
        super().__init__(flow.name)
        self.flow = flow
        self.on_parent_end: OnParentEnd = flow.on_parent_end or "cancel"
        self.effects = self.on_parent_end == "abandon"
        """A run that outlives its parent is a change of the world: no replay starts another one unasked."""

    @property
    def module(self) -> str:
        return self.flow.work.module

    def encode_inputs(self, inputs: Inputs) -> None:
        self.flow.work.encode_inputs(inputs)

    def code(self) -> Code | None:
        return self.flow.work.code()

    def version(self, execution: Execution) -> bytes:
        return execution.code_digest(self.flow.work)

    def child(self, execution: Execution, key: str) -> str:
        """The child's id: that of `options(run_id=...)`, except in a replay, whose runs are new ones."""
        own = None if execution.rules.replaying else self.flow.run_id
        return child_id(execution.run, key) if own is None else own

    def started_event(self, flight: Flight, at: float) -> BoundaryEvent:
        return ChildStarted(
            v=1, at=at, key=flight.key, kind=self.kind, fingerprint=flight.fingerprint, code=flight.code,
            inputs=flight.inputs, order=flight.order, attempt=flight.attempt,
            child=self.child(flight.execution, flight.key),
        )  # fmt: skip

    async def perform(self, flight: Flight) -> str:
        execution, flow = flight.execution, self.flow
        run = self.child(execution, flight.key)
        await start_child(
            execution, flow.work, flight, run=run, source=flow.run_id, image=flow.image, on_end=self.on_parent_end
        )
        return run

    def abandoned(self, flight: Flight) -> None:
        give_up_child(flight.execution, self.child(flight.execution, flight.key), self.flow.work)


class HandleWork(Work):
    """A question to a child's handle. The answer is recorded: a resume gets the same one, at the same point."""

    kind: ClassVar[Kind] = "handle"

    def __init__(self, flow: FlowWork, question: Literal["result", "status", "cancel"], own: bool) -> None:
        super().__init__(f"{flow.name}.{question}")
        self.flow = flow
        self.question: Final = question
        self.own = own

    @property
    def module(self) -> str:
        return self.flow.module

    async def perform(self, flight: Flight) -> object:
        runtime = flight.execution.host.runtime
        run, more = flight.call.inputs.args
        if self.question == "status":
            return (await runtime.store.run(run)).status
        if self.question == "cancel":
            # This process may have died between the cancellation and its record.
            if (await runtime.store.run(run)).status != "cancelled":
                await runtime.cancel(run, more)
            return None
        return await self._result(flight, run, more)

    async def _result(self, flight: Flight, run: str, seconds: float | None) -> object:
        execution = flight.execution
        runtime = execution.host.runtime
        if self.own and flight.key in execution.history.dropped:
            # The parent is retried because of this child.
            execution.history.dropped.discard(flight.key)
            if (await runtime.store.run(run)).status in ("failed", "cancelled"):
                await drop_failures(runtime, run)
        handle: RunHandle[Any] = RunHandle(runtime, run, self.flow, None)
        if self.own:
            handle = await taken_up(execution, resumed(runtime, self.flow, run))
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                value = await awaited_result(execution, handle)
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(f"run {run} of {self.flow.name} has no result after {seconds:g} s") from None
        execution.started.pop(run, None)
        return value

    def encode_outcome(self, value: object) -> bytes:
        return self.flow.encode_outcome(value) if self.question == "result" else super().encode_outcome(value)

    def decode_outcome(self, data: bytes) -> object:
        return self.flow.decode_outcome(data) if self.question == "result" else super().decode_outcome(data)


class ChildHandle(RunHandle[T]):
    """The handle of a run that a flow started. What the flow's own code asks of it is a boundary of the flow."""

    def __init__(self, parent: Execution, key: str, run: str, work: FlowWork, own: bool) -> None:
        runtime = parent.host.runtime
        super().__init__(runtime, run, work, runtime.live_run(run))
        self._parent = parent
        self._key = key
        self._own = own

    def __hash__(self) -> int:
        # From the key: in a replay, the child has another id.
        return crc32(self._key.encode(), self._parent.salt)

    def result(self) -> Coroutine[Any, Any, T]:
        call = self._asked("result", None)
        return self._plain_result() if call is None else call

    async def _plain_result(self) -> T:
        if self._execution is not None or not self._own:
            return await super().result()
        handle: RunHandle[T] = await resumed(self._runtime, self._work, self.id)
        return await handle.result()

    def wait(self, timeout: Duration | None = None) -> T:
        seconds = None if timeout is None else seconds_of(timeout, "wait: timeout")
        call = None if on_a_loop() else self._asked("result", seconds)
        if call is None:
            return super().wait(timeout)
        value: T = call.load()
        return value

    def status(self) -> Coroutine[Any, Any, Status]:
        call = self._asked("status", None)
        return super().status() if call is None else call

    def cancel(self, reason: str = "") -> Coroutine[Any, Any, None]:
        call = self._asked("cancel", reason)
        return super().cancel(reason) if call is None else call

    def _asked(self, question: Literal["result", "status", "cancel"], more: object) -> Call[Any] | None:
        """The boundary for a question; None outside the parent's own code."""
        place = current_place()
        if place is None or place.execution is not self._parent or place.inside is not None:
            return None
        return _called(HandleWork(self._work, question, self._own), place, (self.id, more), {})


def start_inside(
    place: Place, runtime: Core | None, flow: Flow[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Coroutine[Any, Any, RunHandle[T]]:
    """Start a run where the code of another one asks for it.

    Args:
        place: Where that code stands.
        runtime: The one asked; None for that of the run around it.
        flow: The child's flow.
        args: Its inputs by position.
        kwargs: Its inputs by name.

    Raises:
        UsageError: In a checkpoint, in sync code, or in a runtime that does not record the run around it.
    """
    if not on_a_loop():
        raise UsageError(f"{flow.name}.start() in a sync flow", hint=f"Write `{flow.name}.run(...)` in sync code.")
    return _handle(place, flow, _started(place, runtime, flow, args, kwargs))


def run_inside(
    place: Place, runtime: Core | None, flow: Flow[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> RunHandle[T]:
    """As `start_inside`, in sync code.

    Raises:
        UsageError: As `start_inside`; on an event loop's thread instead of in sync code.
    """
    if on_a_loop():
        raise UsageError(
            f"{flow.name}.run() in an async flow would block its loop", hint=f"Write `await {flow.name}.start(...)`."
        )
    call = _started(place, runtime, flow, args, kwargs)
    return _handle_of(place, flow, call.key, call.load())


def _started(
    place: Place, runtime: Core | None, flow: Flow[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Call[str]:
    if place.inside is not None:
        raise UsageError(
            f"a run of {flow.name} is started inside the checkpoint {place.inside.key}",
            hint=f"Start it in the flow's own code: `await {flow.name}.start(...)`.",
        )
    if runtime is not None and runtime is not place.execution.host.runtime:
        raise UsageError(
            f"a run of {flow.name} is started in another runtime than that of the flow around it",
            hint=f"Write `await {flow.name}.start(...)`: it starts a child, which the flow's own runtime records.",
        )
    return _called(StartWork(flow), place, flow.bound + args, kwargs)


def _called(work: Work, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[Any]:
    call = make_call(work, place, args, kwargs, _callers_frame())
    if not on_a_loop():
        wait_for(call)
        if call.failed:
            call.load()
    return call


def _callers_frame() -> FrameType:
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("kitaru.runtime."):
        frame = frame.f_back
    return frame


async def _handle(place: Place, flow: Flow[..., T], call: Call[str]) -> RunHandle[T]:
    key = call.key
    return _handle_of(place, flow, key, await call)


def _handle_of(place: Place, flow: Flow[..., T], key: str, run: str) -> RunHandle[T]:
    execution = place.execution
    # A replay may have reused the start, and with it a run that is another one's child.
    own = not execution.rules.replaying or run == child_id(execution.run, key)
    if own:
        if flow.on_parent_end != "abandon":
            execution.started[run] = flow.work
        if execution.host.runtime.live_run(run) is None:
            execution.host.loop.call_soon_threadsafe(execution.host.spawn, _go_on(execution, flow.work, run))
    return ChildHandle(execution, key, run, flow.work, own)


async def _go_on(execution: Execution, work: FlowWork, run: str) -> None:
    """Have a child run that the flow had started before this process took it over."""
    runtime = execution.host.runtime
    while not execution.leaving:
        try:
            await resumed(runtime, work, run)
        except Exception as error:
            if runtime.problems.failed(f"run {run}", error):
                log().warning("child.not_resumed", run_id=run, parent=execution.run, error=str(error))
            await asyncio.sleep(runtime.recover_every)
        else:
            runtime.problems.worked(f"run {run}")
            return


async def resumed(runtime: Core, work: FlowWork, run: str) -> RunHandle[Any]:
    """A run's handle; one that nobody owns is resumed."""
    await runtime.open()
    return await runtime.take_up(run, work, unasked=True)
