"""The handle that calling a boundary returns."""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Coroutine, Generator, Iterator
from threading import get_ident
from types import CodeType, FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeGuard, TypeVar, cast
from zlib import crc32

from kitaru.errors import NotAwaitedError, Suspended, UsageError
from kitaru.runtime.foreign import foreign_thread
from kitaru.runtime.keys import Place, here
from kitaru.runtime.operators import add_operators
from kitaru.runtime.raised import UNFIT, for_task, raise_unchanged

if TYPE_CHECKING:
    from kitaru.runtime.work import Inputs, Work

T_co = TypeVar("T_co", covariant=True)

NEW: Final = 0
RUNNING: Final = 1
DONE: Final = 2
FAILED: Final = 3

MISSING: Final = object()


class Call(Coroutine[Any, Any, T_co], Generic[T_co]):
    """One durable call: a coroutine that may be awaited many times, and a handle that may stand for its value.

    `await call` gives the value; in sync code `call.load()` does. The call starts when it is awaited, `.submit()`ted,
    or needed by another call; one made in a sync flow or checkpoint has finished when it is returned. Its key is taken
    when it is made.
    """

    __slots__ = (
        "__weakref__",
        "_at",
        "_code",
        "_drivers",
        "_error",
        "_followers",
        "_state",
        "_task",
        "_value",
        "inputs",
        "key",
        "party",
        "place",
        "work",
    )

    keyed = True

    def __init__(self, work: Work, place: Place | None, inputs: Inputs, frame: FrameType) -> None:
        self.work = work
        self.place = place
        self.inputs = inputs
        self.party: object = None
        """Who waits for it, where that is not the task that drives it: the thread of a sync flow."""
        self.key = "" if place is None else place.key(work.name)
        self._state = NEW
        self._value: Any = None
        self._error: BaseException | None = None
        self._drivers: dict[object, Coroutine[Any, Any, Any]] | None = None
        self._followers: list[asyncio.Future[None]] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._code: CodeType = frame.f_code
        self._at = frame.f_lasti

    # -- the value ----------------------------------------------------------------------------------------------------

    def load(self) -> T_co:
        """The value, in sync code; waits for it where the call was submitted.

        Raises:
            UsageError: On the event loop's thread, where waiting would block the loop.
            Exception: Whatever the call failed with.
        """
        if self._state < DONE:
            self.work.wait_in_thread(self)
        if self._state == FAILED:
            assert self._error is not None
            raise self._error
        return cast(T_co, self._value)

    @property
    def ref(self) -> T_co:
        """This handle, typed as its value: to hand it un-awaited to another boundary under a strict type checker."""
        return cast(T_co, self)

    @property
    def begun(self) -> bool:
        """Whether anybody has started to wait for it."""
        return self._state != NEW

    @property
    def done(self) -> bool:
        """Whether it has a value or an error."""
        return self._state >= DONE

    @property
    def failed(self) -> bool:
        """Whether it has an error."""
        return self._state == FAILED

    @property
    def task(self) -> asyncio.Task[T_co]:
        """The task that runs the call, once it was submitted.

        Raises:
            UsageError: It was not submitted from async code.
        """
        if self._task is None:
            raise self._not_submitted()
        return self._task

    def submit(self) -> Call[T_co]:
        """Start the call in a task of its own, and return this handle.

        Raises:
            UsageError: No event loop runs in this thread.
        """
        if self._task is None and self._state < DONE:
            self._task = asyncio.get_running_loop().create_task(self)
        return self

    @property
    def where(self) -> str:
        """The source line that made the call, as `file:line`."""
        return f"{self._code.co_filename}:{line_of(self._code, self._at)}"

    # -- a coroutine, for whoever drives one --------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, Any, T_co]:
        if self._state == NEW:
            place = self.place
            if place is not None and place.inside is None:
                execution = place.execution
                if execution.records:
                    if execution.owes_a_pass():
                        yield
                        if self._state != NEW:
                            # Another task started it meanwhile.
                            return (yield from self.__await__())
                    value = execution.reuse_at_once(self)
                    if value is not MISSING:
                        return cast(T_co, value)
            self._state = RUNNING
            work = place.execution.boundary(self) if place is not None else self.work.run(self)
            try:
                value = yield from work.__await__()
            except BaseException as error:
                self._finish(FAILED, None, error)
                raise
            self._finish(DONE, value, None)
            return cast(T_co, value)
        if self._state == RUNNING:
            return (yield from self._follow().__await__())
        if self._state == FAILED:
            assert self._error is not None
            raise self._error
        return cast(T_co, self._value)

    def send(self, value: Any, /) -> Any:
        return self._driver().send(value)

    def throw(self, typ: Any, val: BaseException | object | None = None, tb: TracebackType | None = None, /) -> Any:
        driver = self._driver()
        if val is None and tb is None:
            return driver.throw(typ)
        return driver.throw(typ, val, tb)

    def close(self) -> None:
        if self._state == NEW:
            self._state = FAILED
            self._error = asyncio.CancelledError(f"{self.work.name} was closed before it started")
        for driver in list((self._drivers or {}).values()):
            driver.close()

    def _driver(self) -> Coroutine[Any, Any, Any]:
        # Several tasks may drive one call; each needs a coroutine of its own.
        who = _current_driver()
        drivers = self._drivers
        if drivers is None:
            drivers = self._drivers = {}
        driver = drivers.get(who)
        if driver is None:
            driver = drivers[who] = self._drive()
        return driver

    async def _drive(self) -> T_co:
        try:
            return await self
        except UNFIT as error:
            if self.place is None:
                raise
            raise_unchanged(for_task(error))

    async def _follow(self) -> T_co:
        future = asyncio.get_running_loop().create_future()
        if self._followers is None:
            self._followers = []
        self._followers.append(future)
        await future
        return await self

    def _finish(self, state: int, value: object, error: BaseException | None) -> None:
        self._state = state
        self._value = value
        self._error = error
        self._drivers = None
        self.inputs = None  # type: ignore[assignment]  # what it was called with is not needed any more
        if self._followers is not None:
            for future in self._followers:
                settle_from_anywhere(future)
            self._followers = None

    def settle(self, value: object) -> None:
        """The value is known without running anything."""
        self._finish(DONE, value, None)

    def fail(self, error: BaseException) -> None:
        """The failure is known without running anything."""
        self._finish(FAILED, None, error)

    # -- standing for the value ---------------------------------------------------------------------------------------

    def _plain(self) -> Any:
        if self._state == DONE and (self.place is None or self.place.thread is not None):
            return self._value
        return self._refuse()

    def _refuse(self) -> NoReturn:
        raise UsageError(
            f"{self.work.name} at {self.where} is used as a value before it was awaited", hint=self._await_it()
        )

    def _await_it(self) -> str:
        return f"Write `await {self.work.name}(...)`, or pass the call itself to another checkpoint."

    def _not_submitted(self) -> NotAwaitedError:
        return NotAwaitedError(f"{self.work.name} at {self.where} was not submitted", hint="Call .submit() first.")

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Whoever looks for what objects of some kind have, asyncio among them, has to be told that it has not.
            if name.startswith("_") or name in _OWN:
                raise self._not_submitted() if name == "task" else AttributeError(f"a Call has no attribute {name!r}")
            if self._state == DONE and (self.place is None or self.place.thread is not None):
                return getattr(self._value, name)
            raise NotAwaitedError(
                f"{self.work.name} at {self.where} is used as a value before it was awaited: .{name} of it",
                hint=self._await_it(),
            )

    def __copy__(self) -> Call[T_co]:
        return self

    def __deepcopy__(self, memo: object) -> Call[T_co]:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be pickled: it belongs to its run. Await it, and pickle its value")

    def __str__(self) -> str:
        return str(self._plain())

    def __format__(self, spec: str) -> str:
        return format(self._plain(), spec)

    def __bool__(self) -> bool:
        # Since Python 3.12 the repr of a task asks its coroutine, which this is; a repr must not fail.
        if sys._getframe(1).f_globals.get("__name__") == "asyncio.base_tasks":
            return True
        return bool(self._plain())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._plain())

    def __len__(self) -> int:
        return len(self._plain())

    def __contains__(self, item: object) -> bool:
        return item in self._plain()

    def __getitem__(self, item: Any) -> Any:
        return self._plain()[item]

    def __aiter__(self) -> AsyncIterator[Any]:
        self._refuse()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Call):
            return self is other
        return bool(self._plain() == other)

    def __hash__(self) -> int:
        # From the key, so that sets of calls iterate in the same order in every process.
        return crc32(self.key.encode(), self.place.execution.salt) if self.place is not None else id(self) >> 4

    def __repr__(self) -> str:
        state = ("new", "running", "done", "failed")[self._state]
        return f"<Call {self.key or self.work.name} {state}>"

    def __del__(self) -> None:
        if self._state != NEW or self.work is None:
            return
        place = self.place
        if place is None or not place.execution.leaving:
            warnings.warn(f"{self.work.name} at {self.where} was never awaited", RuntimeWarning, stacklevel=2)


_OWN: Final = frozenset(vars(Call))

add_operators(Call, Call._plain)


def unawaited(value: object) -> TypeGuard[Awaitable[object]]:
    """Whether a sync function returned something to await: it is a wrapper round an async one."""
    return isinstance(value, Awaitable) and not isinstance(value, Call)


def line_of(code: CodeType, at: int) -> int:
    """The source line of the instruction at offset `at`."""
    line = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= at < end and number is not None:
            return number
    return line


def _current_driver() -> object:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def settle_from_anywhere(future: asyncio.Future[None]) -> None:
    """Set a future's result from any thread; nothing where its loop has closed."""
    loop = future.get_loop()
    if loop is _running_loop():
        if not future.done():
            future.set_result(None)
    elif not loop.is_closed():
        loop.call_soon_threadsafe(settle_from_anywhere, future)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def current_place() -> Place | None:
    """Where the running code stands, if it is in a run that still goes on.

    Raises:
        Suspended: Its run is leaving memory.
        UsageError: It is a flow's own code, on a thread that is not the flow's.
    """
    place = here.get()
    if place is not None:
        execution = place.execution
        if execution.leaving:
            raise Suspended
        if place.inside is None and get_ident() != execution.ident:
            raise foreign_thread(execution)
    return place
