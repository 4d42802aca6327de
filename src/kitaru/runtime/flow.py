"""The `@flow` decorator: a function whose runs are durable."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import typing
from collections.abc import Callable, Coroutine, Mapping
from threading import get_ident
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from kitaru.errors import DecodeError, EncodeError, Suspended, UsageError
from kitaru.runtime.annotations import hints_of, types_in
from kitaru.runtime.call import Call, current_place, unawaited
from kitaru.runtime.children import awaited_result, child_id, give_up_child, start_child
from kitaru.runtime.functions import as_function, file_of, mark_async
from kitaru.runtime.handle import outermost
from kitaru.runtime.keys import Place, here, valid_name
from kitaru.runtime.loading import refuse_while_loading
from kitaru.runtime.secrets.image import NO_IMAGE, ImageSettings, as_image
from kitaru.runtime.secrets.private import takes_secret
from kitaru.runtime.starting import run_inside, start_inside
from kitaru.runtime.threads import FlowThread, on_a_loop, start_flow_thread, wait_for
from kitaru.runtime.unfit import left_open
from kitaru.runtime.work import (
    DeclaredWork,
    Inputs,
    Unresolved,
    declare,
    input_stand_in,
    make_call,
    missing_parameter,
    stand_in,
)
from kitaru.store import codec
from kitaru.store.events import BoundaryEvent, ChildStarted, FlowRef, OnParentEnd
from kitaru.store.names import valid_run_id

if TYPE_CHECKING:
    from kitaru.runtime.code.digest import Code
    from kitaru.runtime.execution import Execution
    from kitaru.runtime.flight import Flight
    from kitaru.runtime.handle import RunHandle

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")
S = TypeVar("S")


class FlowWork(DeclaredWork):
    """One flow, as the engine sees it: the body of a run, and a boundary where another flow calls it."""

    kind = "flow"
    announced = True

    def __init__(self, function: Callable[..., Any], name: str, image: ImageSettings = NO_IMAGE) -> None:
        super().__init__(name)
        self.function = function
        self.image = image
        self.is_async = inspect.iscoroutinefunction(function)
        self.signature = inspect.signature(function)
        kinds = {parameter.kind for parameter in self.signature.parameters.values()}
        self._plain = kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}
        self._names = tuple(self.signature.parameters)
        self._decode_inputs: Callable[[bytes], Any] | None = None
        self._decode_outcome: Callable[[bytes], object] | None = None
        self._code: Code | None = None

    @property
    def module(self) -> str:
        return self.function.__module__

    @functools.cached_property
    def ref(self) -> FlowRef:
        """Where the flow lives."""
        file = file_of(self.function)
        return FlowRef(codec.portable_module(self.module), self.function.__qualname__, file, self.name)

    # -- as the body of a run -----------------------------------------------------------------------------------------

    def named_inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call, by parameter name.

        Raises:
            UsageError: They do not fit the flow's signature.
        """
        if self._plain and not kwargs and len(args) == len(self._names):
            return dict(zip(self._names, args, strict=True))
        try:
            return dict(self.signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise UsageError(f"{self.name}{self.signature}: {error}") from None

    def encode_named(self, named: Mapping[str, Any]) -> tuple[bytes, bytes]:
        """Inputs by name with the defaults of the others, encoded; and the fingerprint of those that were given.

        Raises:
            EncodeError: One of them cannot be recorded.
            Unresolved: One of them is a handle without a value.
        """
        whole = {**named, **{name: value for name, value in self._defaults.items() if name not in named}}
        data = codec.encode(whole, unknown=input_stand_in)
        return data, codec.fingerprint(codec.canonical(dict(named), unknown=input_stand_in))

    @functools.cached_property
    def _defaults(self) -> dict[str, Any]:
        """The defaults that can be recorded; any other is what the code says when the run goes on."""
        return {
            parameter.name: parameter.default
            for parameter in self.signature.parameters.values()
            if parameter.default is not inspect.Parameter.empty and _recordable(parameter.default)
        }

    def decode_inputs(self, data: bytes) -> dict[str, Any]:
        """Inputs by name, decoded."""
        if self._decode_inputs is None:
            self._decode_inputs = codec.decoder(*types_in(self.function), module=self.module)
        named: Any = self._decode_inputs(data)
        return dict(named)

    def input_from_json(self, name: str, value: object) -> object:
        """One input as parsed from JSON, as the flow's annotation wants it.

        Raises:
            UsageError: The flow has no such parameter, or the value does not fit it.
        """
        if name not in self.signature.parameters:
            raise UsageError(f"{self.name}{self.signature} has no parameter {name!r}")
        hints = hints_of(self.function)
        if isinstance(value, str) and name in hints and takes_secret(hints[name]):
            from kitaru.adapters.secret import SecretStr

            return SecretStr(value)
        return codec.from_json(value, hints[name]) if name in hints else value

    async def run_body(self, execution: Execution) -> bytes:
        """Run the flow's code to its end and give its encoded result."""
        bound = self.signature.bind_partial()
        try:
            bound.arguments.update(self.decode_inputs(execution.inputs))
            if missing := missing_parameter(self.signature, bound.arguments):
                raise DecodeError(f"it was started without {missing!r}", hint="Give the new parameter a default.")
        except DecodeError as error:
            raise left_open(execution, f"its inputs to {self.name}{self.signature}", error) from None
        if self.is_async:
            value = await self.function(*bound.args, **bound.kwargs)
        else:
            value = await self._run_in_thread(execution, functools.partial(self.function, *bound.args, **bound.kwargs))
            if unawaited(value):
                # A decorator that knows nothing of async functions is round one.
                value = await value
        while True:
            try:
                return self.encode_outcome(value)
            except Unresolved as handle:
                await handle.call

    def encode_outcome(self, value: object) -> bytes:
        try:
            return codec.encode(value, unknown=stand_in)
        except EncodeError as error:
            raise EncodeError(f"the result of {self.name}(): {error.message}", hint=error.hint) from None

    def decode_outcome(self, data: bytes) -> object:
        if self._decode_outcome is None:
            self._decode_outcome = codec.decoder(*types_in(self.function, "return"), module=self.module)
        return self._decode_outcome(data)

    def overridden(self, data: bytes) -> object:
        hints = types_in(self.function, "return")
        value = codec.decoder()(data)
        return codec.from_json(value, hints[0]) if hints else value

    async def _run_in_thread(self, execution: Execution, body: Callable[[], object]) -> object:
        turns = execution.turns
        place = Place(execution, "")

        def on_thread(thread: FlowThread) -> object:
            place.thread = thread
            execution.ident = thread.ident
            here.set(place)
            return body()

        thread, end = start_flow_thread(execution.host.loop, f"kitaru flow {self.name} {execution.run}", on_thread)
        execution.thread = thread
        turns.open.add(thread)
        turns.open.discard(asyncio.current_task())
        try:
            value = await asyncio.shield(end)
        except asyncio.CancelledError:
            if not execution.leaving or end.done():
                raise
            # A thread cannot be killed: it is given some time to come to a boundary, where it is stopped.
            end.add_done_callback(_ignored)
            await asyncio.wait([end], timeout=execution.host.patience)
            raise Suspended from None
        finally:
            turns.open.discard(thread)
        execution.thread = None
        execution.ident = get_ident()
        place.thread = None
        here.set(place)
        if execution.root is not None:
            turns.open.add(execution.root)
        return value

    def code(self) -> Code:
        if self._code is None:
            from kitaru.runtime.code.digest import code_of

            self._code = code_of(self.function)
        return self._code

    # -- as a boundary of another flow --------------------------------------------------------------------------------

    def encode_inputs(self, inputs: Inputs) -> None:
        named = self.named_inputs(inputs.args, inputs.kwargs)
        inputs.data, inputs.fingerprint = self.encode_named(named)

    async def run(self, call: Call[Any]) -> object:
        from kitaru.runtime.default import default_core

        flow: Flow[..., Any] = Flow(self)
        return await outermost(default_core().start(flow, *call.inputs.args, **call.inputs.kwargs))

    def wait_in_thread(self, call: Call[Any]) -> None:
        if call.place is not None:
            wait_for(call)
            return
        from kitaru.runtime.default import default_core

        try:
            flow: Flow[..., Any] = Flow(self)
            call.settle(default_core().run(flow, *call.inputs.args, **call.inputs.kwargs).wait())
        except Exception as error:
            call.fail(error)

    async def perform(self, flight: Flight) -> object:
        return await awaited_result(flight.execution, await start_child(flight.execution, self, flight))

    def abandoned(self, flight: Flight) -> None:
        give_up_child(flight.execution, child_id(flight.execution.run, flight.key), self)

    def started_event(self, flight: Flight, at: float) -> BoundaryEvent:
        return ChildStarted(
            v=1, at=at, key=flight.key, kind=self.kind, fingerprint=flight.fingerprint, code=flight.code,
            inputs=flight.inputs, order=flight.order, attempt=flight.attempt,
            child=child_id(flight.execution.run, flight.key),
        )  # fmt: skip


def _recordable(value: object) -> bool:
    try:
        codec.encode(value, unknown=stand_in)
    except (EncodeError, Unresolved):
        return False
    return True


class Flow(Generic[P, T]):
    """A durable function. Made by `@flow`.

    In async code `await writer("tides")` runs it; `await writer.start("tides")` starts it and gives a handle. In sync
    code `writer.run("tides")` starts it in the background, and `.wait()` of the handle gives its result.
    """

    def __init__(
        self,
        work: FlowWork,
        run_id: str | None = None,
        image: ImageSettings | None = None,
        bound: tuple[Any, ...] = (),
        on_parent_end: OnParentEnd | None = None,
    ) -> None:
        self._work = work
        self._run_id = run_id
        self._image = image
        self._bound = bound
        self._on_parent_end = on_parent_end
        functools.update_wrapper(self, work.function)
        self.__kitaru_function__ = work.function
        if work.is_async:
            mark_async(self, work.function, lambda: Flow(work, run_id, image, bound, on_parent_end))

    @property
    def name(self) -> str:
        """The flow's name."""
        return self._work.name

    @property
    def work(self) -> FlowWork:
        """The flow, as the engine sees it."""
        return self._work

    @property
    def run_id(self) -> str | None:
        """The id that its next run gets, if `.options` gave one."""
        return self._run_id

    @property
    def image(self) -> ImageSettings:
        """What its next run finds in its environment."""
        return self._work.image if self._image is None else self._image

    @property
    def on_parent_end(self) -> OnParentEnd | None:
        """What becomes of its next run when the run that started it ends, if `.options` said so."""
        return self._on_parent_end

    @property
    def bound(self) -> tuple[Any, ...]:
        """The object that its method belongs to, the first of its inputs; none for a function."""
        return self._bound

    def inputs_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of a call by parameter name; the object of a method is the first."""
        return self._work.named_inputs(self._bound + args, kwargs)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        place = current_place()
        if place is not None and place.inside is not None:
            raise UsageError(
                f"{self.name}() is called inside the checkpoint {place.inside.key}",
                hint="Call a flow from another flow's own code; inside a checkpoint call its steps.",
            )
        if (self._run_id, self._image, self._on_parent_end) != (None, None, None):
            raise UsageError(
                f"{self.name}.options(...) is called as a function",
                hint="Use .start() or .run() of it; a flow called by another flow has an id of its parent's making.",
            )
        if place is None:
            refuse_while_loading()
        call = make_call(self._work, place, self._bound + args, kwargs, sys._getframe(1))
        if place is not None and place.thread is not None:
            wait_for(call)
        elif place is None and not self._work.is_async and not on_a_loop():
            self._work.wait_in_thread(call)
        if call.failed:
            call.load()
        return call

    def start(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, RunHandle[T]]:
        """Start a run in the default runtime, on this loop. An id that exists already gives that run's handle.

        In a flow, the run is a child run and started once: a resume returns its handle again, and the answers of that
        handle are recorded.

        Raises:
            UsageError: The inputs do not fit, or the id belongs to another flow or other inputs; in a checkpoint.
            EncodeError: An input cannot be recorded.
            StoreError: The run could not be recorded.
        """
        place = current_place()
        if place is not None:
            return start_inside(place, None, self, args, kwargs)
        from kitaru.runtime.default import default_core

        return default_core().start(self, *args, **kwargs)

    def run(self, /, *args: P.args, **kwargs: P.kwargs) -> RunHandle[T]:
        """Start a run in the default runtime, on its background loop; in a sync flow a child run. Raises as `start`."""
        place = current_place()
        if place is not None:
            return run_inside(place, None, self, args, kwargs)
        from kitaru.runtime.default import default_core

        return default_core().run(self, *args, **kwargs)

    def options(
        self,
        *,
        run_id: str | None = None,
        image: ImageSettings | Mapping[str, object] | None = None,
        on_parent_end: OnParentEnd | None = None,
    ) -> Flow[P, T]:
        """The same flow, with settings for its next run.

        Args:
            run_id: The run's id; starting an id twice gives the same run.
            image: What the run finds in its environment, in place of what the flow says.
            on_parent_end: For a run that a flow starts: `cancel` (the default) cancels it, if it has not ended, when
                the flow's run ends; `abandon` leaves it running.

        Raises:
            UsageError: One of them has a wrong type or value.
        """
        if on_parent_end not in (None, "cancel", "abandon"):
            raise UsageError(f"on_parent_end={on_parent_end!r}", hint="Write 'cancel' or 'abandon'.")
        return Flow(
            self._work,
            self._run_id if run_id is None else valid_run_id(run_id),
            self._image if image is None else as_image(image),
            self._bound,
            self._on_parent_end if on_parent_end is None else on_parent_end,
        )

    @overload
    def __get__(self, obj: None, owner: type) -> Flow[P, T]: ...

    @overload
    def __get__(self: Flow[Concatenate[S, Q], T], obj: S, owner: type | None = None) -> Flow[Q, T]: ...

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        if obj is None or not _of_a_class(self._work.function):
            # Looked up on the class, or a function from elsewhere that an object merely has.
            return self
        return Flow(self._work, self._run_id, self._image, (obj,), self._on_parent_end)

    def __repr__(self) -> str:
        return f"<flow {self.name}>"


class FlowDecorator(typing.Protocol):
    """What `flow(...)` with options returns."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, Call[T]]]) -> Flow[P, T]: ...

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]]) -> Flow[P, T]: ...

    @overload
    def __call__(self, function: Callable[P, Call[T]]) -> Flow[P, T]: ...

    @overload
    def __call__(self, function: Callable[P, T]) -> Flow[P, T]: ...

    def __call__(self, function: Callable[..., Any]) -> Any: ...


@overload
def flow(function: Callable[P, Coroutine[Any, Any, Call[T]]], /) -> Flow[P, T]: ...


@overload
def flow(function: Callable[P, Coroutine[Any, Any, T]], /) -> Flow[P, T]: ...


@overload
def flow(function: Callable[P, Call[T]], /) -> Flow[P, T]: ...


@overload
def flow(function: Callable[P, T], /) -> Flow[P, T]: ...


@overload
def flow(*, name: str | None = None, image: ImageSettings | Mapping[str, object] | None = None) -> FlowDecorator: ...


def flow(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    image: ImageSettings | Mapping[str, object] | None = None,
) -> Any:
    """Make a function a flow: what it calls is recorded, and a run of it can be resumed and replayed.

    Args:
        name: The flow's name; the function's own by default.
        image: What its runs find in their environment: `kitaru.ImageSettings`, or a dictionary of its fields.
    """
    settings = as_image(image)
    if name is not None:
        valid_name(name)

    def decorate(function: Callable[..., Any]) -> Flow[..., Any]:
        function = as_function(function, "flow", name)
        _refuse_class_method(function)
        work = FlowWork(function, valid_name(function.__name__ if name is None else name), settings)
        declare(work)
        return Flow(work)

    return decorate if function is None else decorate(function)


def _of_a_class(function: Callable[..., Any]) -> bool:
    """Whether a function was written in the body of a class."""
    return "." in function.__qualname__.rpartition("<locals>.")[2]


def _refuse_class_method(function: Callable[..., Any]) -> None:
    if _of_a_class(function) and next(iter(inspect.signature(function).parameters), "") == "cls":
        raise UsageError(
            f"@flow on the class method {function.__qualname__}: a run cannot record its class as an input",
            hint="Write @staticmethod above @flow, and name the class in the body.",
        )


def _ignored(end: asyncio.Future[object]) -> None:
    # How the thread of a run that leaves memory ends concerns nobody; asyncio would complain that nobody looked.
    if not end.cancelled():
        end.exception()
