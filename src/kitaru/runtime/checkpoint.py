"""The `@checkpoint` decorator: a function or method whose outcomes are recorded."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import inspect
import random
import sys
import types
import typing
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, TypeVar, overload

import msgspec

from kitaru.errors import EncodeError, ModelError, StepTimeoutError, UsageError
from kitaru.runtime.annotations import types_in
from kitaru.runtime.arguments import Duration, count_of, flag_of, names_of, seconds_of, tuple_of
from kitaru.runtime.call import Call, current_place, unawaited
from kitaru.runtime.foreign import refuse_stray
from kitaru.runtime.functions import as_function, mark_async
from kitaru.runtime.isolated import Isolated
from kitaru.runtime.keys import Place, here, valid_name
from kitaru.runtime.threads import IN_THREAD, WaitingThread, submit, wait_for
from kitaru.runtime.work import (
    SCALARS,
    DeclaredWork,
    Inputs,
    Parameters,
    Work,
    declare,
    input_stand_in,
    make_call,
    stand_in,
)
from kitaru.store import codec

if TYPE_CHECKING:
    from kitaru.adapters.retry import Retry, RetryLike
    from kitaru.runtime.code.digest import Code
    from kitaru.runtime.flight import Flight

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")
S = TypeVar("S")

LONGEST_BACKOFF: Final = 60.0
_PLAIN = msgspec.msgpack.Encoder()


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a checkpoint runs; see `checkpoint`."""

    retries: int = 0
    backoff: float | tuple[float, ...] = 1.0
    timeout: float | None = None
    retry_on: tuple[type[Exception], ...] = (Exception,)
    ignore: tuple[str, ...] = ()
    uses: tuple[Any, ...] = ()
    effects: bool = False
    overlap: bool = False
    retry: Retry | None = None


class CheckpointWork(DeclaredWork):
    """One checkpoint, as the engine sees it."""

    kind = "step"

    def __init__(self, function: Callable[..., Any], name: str, options: Options) -> None:
        super().__init__(name)
        self.function = function
        self.options = options
        self.effects = options.effects
        self.announced = options.effects
        self.is_async = inspect.iscoroutinefunction(function)
        self.parameters = Parameters(function, options.ignore)
        self._codes: weakref.WeakKeyDictionary[type, Code] = weakref.WeakKeyDictionary()
        self._bound: weakref.WeakKeyDictionary[type, CheckpointWork] = weakref.WeakKeyDictionary()
        self._owner: Callable[[], type | None] = _nobody
        self._decode_inputs: Callable[[bytes], Any] | None = None
        self._decode_outcome: Callable[[bytes], object] | None = None

    @property
    def module(self) -> str:
        return self.function.__module__

    def encode_inputs(self, inputs: Inputs) -> None:
        recorded = self.parameters.recorded(inputs.args, inputs.kwargs)
        if type(recorded) is list:
            for value in recorded:
                if type(value) not in SCALARS:
                    break
            else:
                try:
                    inputs.data = data = _PLAIN.encode(recorded)
                except (UnicodeEncodeError, OverflowError):
                    pass
                else:
                    inputs.fingerprint = codec.fingerprint(data)
                    return
        try:
            data = codec.encode(recorded, unknown=input_stand_in)
            inputs.fingerprint = codec.fingerprint(codec.canonical(recorded, unknown=input_stand_in))
        except EncodeError as error:
            raise EncodeError(
                f"{self.name}(): {error.message}", hint=error.hint or 'Exclude it with @checkpoint(ignore=["..."]).'
            ) from None
        if self._decode_inputs is None:
            self._decode_inputs = codec.decoder(*types_in(self.function), module=self.module)
        copy: Any = self._decode_inputs(data)
        inputs.args, inputs.kwargs = self.parameters.received(copy, inputs.args, inputs.kwargs)
        inputs.data = data

    def encode_outcome(self, value: object) -> bytes:
        try:
            return codec.encode(value, unknown=stand_in)
        except EncodeError as error:
            raise EncodeError(f"the result of {self.name}(): {error.message}", hint=error.hint) from None

    def decode_outcome(self, data: bytes) -> object:
        decode = self._decode_outcome
        if decode is None:
            decode = self._decode_outcome = codec.decoder(*types_in(self.function, "return"), module=self.module)
        return decode(data)

    def overridden(self, data: bytes) -> object:
        hints = types_in(self.function, "return")
        value = codec.decoder()(data)
        return codec.from_json(value, hints[0]) if hints else value

    def code(self) -> Code:
        owner = self._owner()
        code = self._codes.get(owner or object)
        if code is None:
            from kitaru.runtime.code.digest import code_of

            function = self.function if owner is None else types.MethodType(self.function, owner)
            code = self._codes[owner or object] = code_of(function, uses=self.options.uses)
        return code

    def bound_to(self, owner: type) -> CheckpointWork:
        """The same method, called on an `owner`: what it names on `self` may be another thing there."""
        work = self._bound.get(owner)
        if work is None:
            work = self._bound[owner] = copy.copy(self)
            work._owner = weakref.ref(owner)
        return work

    def changed(self, name: str, options: Options) -> CheckpointWork:
        """The same function under another name, or with other options."""
        work = CheckpointWork(self.function, name, options)
        work._codes, work._owner = self._codes, self._owner
        return work

    def retry_after(self, error: BaseException, attempt: int) -> float | None:
        options = self.options
        most = options.retries if options.retry is None else options.retry.attempts - 1
        if attempt > most or not _retried(error, options.retry_on):
            return None
        if options.retry is None and isinstance(options.backoff, tuple):
            return options.backoff[min(attempt, len(options.backoff)) - 1]
        policy = options.retry
        if policy is None:
            from kitaru.adapters.retry import Retry

            assert not isinstance(options.backoff, tuple)
            policy = Retry(attempts=most + 1, initial=min(options.backoff, LONGEST_BACKOFF), max=LONGEST_BACKOFF)
        return policy.delay(attempt, asked=None, chance=random.random())  # noqa: S311  # no secret: it spreads retries

    async def perform(self, flight: Flight) -> object:
        place = Place(
            flight.execution,
            f"{flight.key}>{flight.attempt}/",
            inside=flight,
            thread=None if self.is_async else IN_THREAD,
        )
        # A copy, so that what the step sets there ends with it, as it does where its outcome is reused.
        context = copy_context()
        context.run(here.set, place)
        inputs = flight.call.inputs
        if self.is_async and self.options.timeout is None:
            return await Isolated(context, context.run(self.function, *inputs.args, **inputs.kwargs))
        body = functools.partial(self.function, *inputs.args, **inputs.kwargs)
        if self.options.timeout is not None:
            return await self._within(self.options.timeout, flight, context, body)
        waiting = flight.party if isinstance(flight.party, WaitingThread) else None
        value = await (waiting or flight.execution.host).run(body, context)
        return await _of_wrapper(value, place, context) if unawaited(value) else value

    async def _within(self, timeout: float, flight: Flight, context: Context, body: Callable[[], Any]) -> object:
        loop = flight.execution.host.loop
        limit = asyncio.timeout(timeout if self.is_async else None)

        def in_thread() -> object:
            # Not from before: it may have waited for a thread.
            loop.call_soon_threadsafe(_begin_limit, limit, timeout)
            return body()

        try:
            async with limit:
                if self.is_async:
                    return await Isolated(context, context.run(body))
                flight.thread = flight.execution.host.run(in_thread, context)
                value = await asyncio.shield(flight.thread)
                return await _of_wrapper(value, context[here], context) if unawaited(value) else value
        except asyncio.CancelledError:
            if flight.thread is not None:
                flight.thread.cancel()
            raise
        except TimeoutError as error:
            if not limit.expired():
                raise
            ran_on = flight.thread is not None and not flight.thread.done()
            if self.options.overlap:
                flight.thread = None
            raise StepTimeoutError(
                f"{self.name} (run {flight.execution.run}, {flight.key}, attempt {flight.attempt}) ran longer than "
                f"{timeout:g} s{'; its thread is possibly still running' if ran_on else ''}"
            ) from error

    async def run(self, call: Call[Any]) -> object:
        args = [await a if isinstance(a, Call) else a for a in call.inputs.args]
        kwargs = {k: await v if isinstance(v, Call) else v for k, v in call.inputs.kwargs.items()}
        value = self.function(*args, **kwargs)
        if inspect.isawaitable(value):
            value = await value
        return await value if isinstance(value, Call) else value

    def run_plain(self, call: Call[Any]) -> None:
        """A sync checkpoint outside any flow: a plain call."""
        args = [a.load() if isinstance(a, Call) else a for a in call.inputs.args]
        kwargs = {k: v.load() if isinstance(v, Call) else v for k, v in call.inputs.kwargs.items()}
        value = self.function(*args, **kwargs)
        if unawaited(value):
            call.work = _Unfinished(self.name, value)
        else:
            call.settle(value.load() if isinstance(value, Call) else value)


class _Unfinished(Work):
    """What a sync wrapper round an async function returned outside any flow: it runs when it is awaited."""

    def __init__(self, name: str, value: Awaitable[object]) -> None:
        super().__init__(name)
        self._value = value

    async def run(self, call: Call[Any]) -> object:
        del call
        return await self._value


async def _of_wrapper(value: Awaitable[object], place: Place | None, context: Context) -> object:
    """Await on the loop what a sync wrapper round an async function returned from its thread."""
    assert place is not None
    place.thread = None
    return await Isolated(context, value)


def _begin_limit(limit: asyncio.Timeout, seconds: float) -> None:
    """The body has begun, if it has not ended already."""
    if not limit.expired():
        with contextlib.suppress(RuntimeError):
            limit.reschedule(asyncio.get_running_loop().time() + seconds)


class Checkpoint(Generic[P, T]):
    """A step of a flow: calling it gives a `Call`, whose outcome is recorded. Made by `@checkpoint`."""

    def __init__(self, work: CheckpointWork, bound: tuple[Any, ...] = ()) -> None:
        self._work = work
        self._bound = bound
        functools.update_wrapper(self, work.function)
        self.__kitaru_function__ = work.function
        if work.is_async:
            mark_async(self, work.function, lambda: Checkpoint(work, bound))

    @property
    def name(self) -> str:
        """The name of its boundaries."""
        return self._work.name

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        work = self._work
        place = current_place()
        if place is None:
            refuse_stray(self.name)
        call = make_call(work, place, self._bound + args if self._bound else args, kwargs, sys._getframe(1))
        if place is not None:
            if place.thread is not None:
                wait_for(call)
                if call.failed:
                    call.load()
        elif not work.is_async:
            work.run_plain(call)
        return call

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        """Call it and start it without waiting; in sync code it runs on a thread of the pool.

        Raises:
            UsageError: Outside any flow.
        """
        place = current_place()
        if place is None:
            refuse_stray(self.name)
            raise UsageError(
                f"{self.name}.submit() outside any flow", hint="Submit inside the body of a @flow function."
            )
        call = make_call(self._work, place, self._bound + args, kwargs, sys._getframe(1))
        if place.thread is not None:
            submit(call)
            return call
        return call.submit()

    def map(self, items: Iterable[Any]) -> list[Call[T]]:
        """Submit it once for each item, as its first argument; the calls come in the order of the items.

        Raises:
            UsageError: Outside any flow.
        """
        one: Callable[[Any], Call[T]] = self.submit
        return [one(item) for item in items]

    def options(
        self,
        *,
        name: str | None = None,
        retries: int | None = None,
        backoff: Duration | Sequence[Duration] | None = None,
        timeout: Duration | None = None,
        retry_on: type[Exception] | Sequence[type[Exception]] | None = None,
        retry: RetryLike | None = None,
    ) -> Checkpoint[P, T]:
        """The same checkpoint with other options for the calls made through it; see `checkpoint`.

        `retry` takes the place of `retries` and `backoff`, and these of it.
        """
        before = self._work.options
        _one_way(retry, retries, backoff)
        changed = msgspec.structs.replace(
            before,
            retries=before.retries if retries is None else count_of(retries, "retries"),
            backoff=before.backoff if backoff is None else _delays(backoff),
            retry=_policy(retry) if retry is not None or retries is not None or backoff is not None else before.retry,
            timeout=before.timeout if timeout is None else _limit(timeout),
            retry_on=before.retry_on if retry_on is None else _types(retry_on),
        )
        work = self._work.changed(valid_name(self.name if name is None else name), changed)
        if name is not None:
            declare(work)
        return Checkpoint(work, self._bound)

    @overload
    def __get__(self, obj: None, owner: type) -> Checkpoint[P, T]: ...

    @overload
    def __get__(self: Checkpoint[Concatenate[S, Q], T], obj: S, owner: type | None = None) -> Checkpoint[Q, T]: ...

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        if obj is None:
            return self
        return Checkpoint(self._work.bound_to(obj if isinstance(obj, type) else type(obj)), (obj,))

    def __repr__(self) -> str:
        return f"<checkpoint {self.name}>"


class Decorator(typing.Protocol):
    """What `checkpoint(...)` with options returns."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, Call[T]]]) -> Checkpoint[P, T]: ...

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]]) -> Checkpoint[P, T]: ...

    @overload
    def __call__(self, function: Callable[P, Call[T]]) -> Checkpoint[P, T]: ...

    @overload
    def __call__(self, function: Callable[P, T]) -> Checkpoint[P, T]: ...

    def __call__(self, function: Callable[..., Any]) -> Any: ...


@overload
def checkpoint(function: Callable[P, Coroutine[Any, Any, Call[T]]], /) -> Checkpoint[P, T]: ...


@overload
def checkpoint(function: Callable[P, Coroutine[Any, Any, T]], /) -> Checkpoint[P, T]: ...


@overload
def checkpoint(function: Callable[P, Call[T]], /) -> Checkpoint[P, T]: ...


@overload
def checkpoint(function: Callable[P, T], /) -> Checkpoint[P, T]: ...


@overload
def checkpoint(
    *,
    name: str | None = None,
    retries: int = 0,
    backoff: Duration | Sequence[Duration] = 1.0,
    timeout: Duration | None = None,
    retry_on: type[Exception] | Sequence[type[Exception]] = Exception,
    ignore: Sequence[str] = (),
    uses: Sequence[object] = (),
    effects: bool = False,
    overlap: bool = False,
    retry: RetryLike | None = None,
) -> Decorator: ...


def checkpoint(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    retries: int = 0,
    backoff: Duration | Sequence[Duration] = 1.0,
    timeout: Duration | None = None,
    retry_on: type[Exception] | Sequence[type[Exception]] = Exception,
    ignore: Sequence[str] = (),
    uses: Sequence[object] = (),
    effects: bool = False,
    overlap: bool = False,
    retry: RetryLike | None = None,
) -> Any:
    """Make a function or method a step: its outcome is recorded, and a recorded outcome is not made again.

    Args:
        name: The name of its boundaries; the function's own by default.
        retries: How many more attempts follow a failed one.
        backoff: Seconds before the first retry, doubled for each further one (at most 60 s, with jitter); or the delays
            themselves, the last one for all that follow. A `timedelta` and a text such as "5m" work, too.
        timeout: Seconds that one attempt may take, or a `timedelta`, or a text such as "5m".
        retry_on: The exceptions that are retried. `Exception` stands for those outside it too: a `SystemExit`, or a
            cancellation that the step asked for itself. A model call has its own retries: its error (`ModelError`) is
            retried here only where this names it, or a class of its kind.
        ignore: Parameters that are handed on live, not recorded, and no part of the fingerprint.
        uses: Further functions, classes or values that its outcome depends on, for its code digest.
        effects: It changes the world (charges a card, sends a mail): its start is committed first, and a replay does
            not run it again unless told to.
        overlap: A sync function that timed out may be retried while its thread still runs.
        retry: In place of `retries` and `backoff`, the same as for model calls: how many attempts there are in all, a
            dict, or a `kitaru.Retry`.

    Raises:
        UsageError: An option has a wrong type or value, or names what the function does not have; or the function
            cannot be recorded (a class, a generator function).
    """
    _one_way(retry, retries or None, None if backoff == 1.0 else backoff)
    options = Options(
        retries=count_of(retries, "retries"),
        backoff=_delays(backoff),
        timeout=None if timeout is None else _limit(timeout),
        retry_on=_types(retry_on),
        ignore=names_of(ignore, "ignore"),
        uses=tuple_of(uses, "uses"),
        effects=flag_of(effects, "effects"),
        overlap=flag_of(overlap, "overlap"),
        retry=_policy(retry),
    )
    if name is not None:
        valid_name(name)

    def decorate(function: Callable[..., Any]) -> Checkpoint[..., Any]:
        function = as_function(function, "checkpoint", name)
        work = CheckpointWork(function, valid_name(function.__name__ if name is None else name), options)
        declare(work)
        return Checkpoint(work)

    return decorate if function is None else decorate(function)


def _limit(timeout: Duration) -> float:
    return seconds_of(timeout, "timeout", zero=False)


def _one_way(retry: RetryLike | None, retries: int | None, backoff: Duration | Sequence[Duration] | None) -> None:
    if retry is not None and (retries is not None or backoff is not None):
        raise UsageError("a checkpoint takes retry=, or retries= and backoff=, not both")


def _policy(retry: RetryLike | None) -> Retry | None:
    if retry is None:
        return None
    from kitaru.adapters.retry import retry_of

    return retry_of(retry)


def _retried(error: BaseException, retry_on: tuple[type[Exception], ...]) -> bool:
    """Whether another attempt may follow. A model call that failed has used up attempts of its own."""
    if not isinstance(error, Exception):
        # A cancellation of the step's own, or a SystemExit: an error like any other here.
        return Exception in retry_on
    if isinstance(error, ModelError):
        return any(issubclass(kind, ModelError) and isinstance(error, kind) for kind in retry_on)
    return isinstance(error, retry_on) and not isinstance(error, UsageError | EncodeError)


def _nobody() -> None:
    return None


def _delays(backoff: Duration | Sequence[Duration]) -> float | tuple[float, ...]:
    if not isinstance(backoff, Sequence) or isinstance(backoff, str):
        return seconds_of(backoff, "backoff")
    if not backoff:
        raise UsageError("backoff=[]: at least one delay is needed")
    return tuple(seconds_of(delay, "backoff") for delay in backoff)


def _types(retry_on: type[Exception] | Sequence[type[Exception]]) -> tuple[type[Exception], ...]:
    found = (retry_on,) if isinstance(retry_on, type) else tuple_of(retry_on, "retry_on")
    for one in found:
        if not (isinstance(one, type) and issubclass(one, Exception)):
            raise UsageError(
                f"retry_on={one!r}: classes of exceptions are needed", hint="Write retry_on=[TimeoutError, OSError]."
            )
    return found
