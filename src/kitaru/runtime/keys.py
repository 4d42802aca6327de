"""Where code stands in a run: task paths, scopes, and the keys that identify boundaries.

A key is task path + scope + name + ordinal. A task's path is its parent's path, its coroutine's qualified name and the
ordinal of that name in the parent; so keys do not depend on the order in which parallel tasks happen to run.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Collection, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from itertools import count
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from zlib import crc32

from msgspec import field

from kitaru.errors import UsageError
from kitaru.runtime.raised import Contained
from kitaru.store.entity import Entity

if TYPE_CHECKING:
    from kitaru.runtime.execution import Execution

T = TypeVar("T")

TaskFactory = Callable[..., "asyncio.Future[Any]"]

_RESERVED = frozenset("/[]>~\n\r\t\0")


class Inside(Protocol):
    """What a place needs to know of the checkpoint attempt it is in."""

    key: str
    attempt: int
    task: asyncio.Task[Any] | None
    own_cancels: int


class Place(Entity):
    """Where code stands: its run, its prefix of keys, and the checkpoint it is in, if it is in one."""

    execution: Execution
    prefix: str
    inside: Inside | None = None
    thread: object | None = None
    counts: dict[str, count[int]] = field(default_factory=dict)
    reserved: dict[int, tuple[object, asyncio.Future[Any]]] = field(default_factory=dict)
    """Coroutines that are about to be asked for as tasks, by their id, and those tasks."""

    def key(self, name: str) -> str:
        """The key of the next boundary called `name` here."""
        # Threads of a checkpoint may call at once: each of these two calls is atomic.
        ordinal = next(self.counts.setdefault(name, count()))
        return f"{self.prefix}{name}[{ordinal}]" if ordinal else self.prefix + name

    def child(self, name: str) -> Place:
        """A place of its own below this one, for a task or scope called `name`."""
        return Place(self.execution, self.key(name) + "/", thread=self.thread)


here: ContextVar[Place | None] = ContextVar("kitaru_here", default=None)
"""Where the running code stands; None outside any run."""


class RunTask(asyncio.Task[Any]):
    """A task of a run. It tells cancellations that a step asks of its own task from those that come from outside."""

    def cancel(self, msg: Any | None = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled and (step := self._step_here()) is not None:
            step.own_cancels += 1
        return cancelled

    def uncancel(self) -> int:
        if (step := self._step_here()) is not None and step.own_cancels:
            step.own_cancels -= 1
        return super().uncancel()

    def _step_here(self) -> Inside | None:
        place = here.get()
        step = place.inside if place is not None else None
        return step if step is not None and step.task is self else None


class FlowTask(RunTask):
    """A task that a flow's code made. Its hash comes from its path, so sets of such tasks iterate in the same order in
    every process."""

    __slots__ = ("_hash",)

    # Not in a constructor, which would be a call in Python for each task.
    _hash: int

    def __hash__(self) -> int:
        return self._hash


def name_of(key: str) -> str:
    """The name in a key: `~worker[2]/fetch[17]` is `fetch`."""
    last = key.rpartition("/")[2]
    return last.partition("[")[0]


def valid_name(name: str) -> str:
    """The name itself, if it can stand in a key.

    Raises:
        UsageError: It is empty, too long, or holds a reserved character.
    """
    given: object = name
    if not isinstance(given, str) or not name or len(name) > 200 or not _RESERVED.isdisjoint(name):
        raise UsageError(
            f"{name!r} cannot name a boundary",
            hint="Use 1 to 200 characters, none of them / [ ] > ~ or a control character.",
        )
    return name


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Give the boundaries called inside a prefix of their own: others of the same name do not move their ordinals.

    Raises:
        UsageError: Called outside a flow, or the name cannot stand in a key.
    """
    place = here.get()
    if place is None or place.inside is not None:
        raise UsageError("kitaru.scope() outside a flow's own code", hint="Use it inside the body of a @flow function.")
    place.execution.secrets.check_text(str(name), "the name of a scope")  # first: the other error shows the name
    token = here.set(place.child(valid_name(name)))
    try:
        yield
    finally:
        here.reset(token)


class Keyed(Protocol):
    """A coroutine whose key was taken when it was made, so that a task that runs it needs no path."""

    keyed: bool


def install_task_factory(loop: asyncio.AbstractEventLoop) -> None:
    """Give tasks born inside runs their paths. Outside runs the loop's former factory does what it did."""
    before = loop.get_task_factory()
    if getattr(before, "kitaru", False):
        return
    loop.set_task_factory(_factory_after(before))


def _factory_after(before: TaskFactory | None) -> TaskFactory:
    # An eager factory would run a task's first step inside its creator, before it has a path.
    within = None if _is_eager(before) else before

    def made(
        place: Place,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        context: Context | None,
        options: dict[str, Any],
    ) -> asyncio.Future[Any]:
        path = ""
        if getattr(coro, "keyed", False):
            path = getattr(coro, "key", "")
        else:
            if place.inside is None:
                context = copy_context() if context is None else context.copy()
                own = place.child(_task_name(coro, place))
                context.run(here.set, own)
                path = own.prefix
            if isinstance(coro, Coroutine):
                coro = Contained(coro)
        if options.get("eager_start"):
            options["eager_start"] = False
        if within is not None:
            if context is not None:
                options["context"] = context
            task = within(loop, coro, **options)
        elif path:
            named = FlowTask.__new__(FlowTask)
            # Before asyncio puts the task into a set of its own.
            named._hash = crc32(path.encode(), place.execution.salt)
            asyncio.Task.__init__(named, coro, loop=loop, context=context, **options)
            task = named
        else:
            task = RunTask(coro, loop=loop, context=context, **options)
        if place.inside is None:
            place.execution.born(task)
        elif closes_generator(task):
            place.execution.tasks.add(task)
        return task

    def factory(
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        *,
        context: Context | None = None,
        **options: Any,
    ) -> asyncio.Future[Any]:
        place = here.get() if context is None else context.get(here)
        if place is None:
            if before is not None:
                if context is not None:
                    options["context"] = context
                return before(loop, coro, **options)
            return asyncio.Task(coro, loop=loop, context=context, **options)
        if place.inside is None:
            if id(coro) not in place.reserved:
                given = [one for one in _given_to_as_completed() if isinstance(one, Coroutine)]
                if not any(one is coro for one in given):
                    given = []  # an awaitable among them, which asyncio wraps
                # One after the other, in the order in which the flow named them.
                for one in given:
                    if id(one) not in place.reserved:
                        place.reserved[id(one)] = one, made(place, loop, one, context, dict(options))
                for one in [one for one in given if not getattr(one, "keyed", False)][:-1]:
                    place.key(_task_name(one, place))  # the next task's ordinal is what it is in logs of before
            _, born = place.reserved.pop(id(coro), (None, None))
            if born is not None:
                return born
        return made(place, loop, coro, context, options)

    factory.kitaru = True  # type: ignore[attr-defined]  # marks our own, so that it is installed once a loop
    return factory


def closes_generator(task: asyncio.Future[Any]) -> bool:
    """Whether the loop made a task to close an async generator that code of a run left early."""
    coro = task.get_coro() if isinstance(task, asyncio.Task) else None
    return type(getattr(coro, "_inner", coro)).__name__ == "async_generator_athrow"


def _given_to_as_completed() -> Collection[object]:
    # asyncio.as_completed makes a set of what it is given, whose order is that of addresses in memory, and then tasks.
    # What it was given stands in its frame; a set or a used-up iterator has no order to find there.
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename in _ASYNCIO:
        code = frame.f_code
        if code in _AS_COMPLETED:
            given = frame.f_locals.get(code.co_varnames[_AS_COMPLETED[code]])
            return given if isinstance(given, Sequence | Mapping) else ()
        frame = frame.f_back
    return ()


def _as_completed_codes() -> dict[CodeType, int]:
    """The code in which `asyncio.as_completed` makes its tasks, and the position of the parameter with their work."""
    iterator: type | None = getattr(asyncio.tasks, "_AsCompletedIterator", None)
    found = {asyncio.as_completed.__code__: 0}
    if iterator is not None:
        found[iterator.__init__.__code__] = 1  # type: ignore[misc]  # the class's own function, not bound to an instance
    return found


_AS_COMPLETED: Final = _as_completed_codes()
_ASYNCIO: Final = frozenset({asyncio.tasks.__file__, asyncio.base_events.__file__})


def _is_eager(factory: TaskFactory | None) -> bool:
    return factory is not None and (
        factory is getattr(asyncio, "eager_task_factory", None)
        or "eager_task_factory" in getattr(factory, "__qualname__", "")
    )


def named_after(work: object, wrapper: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """A coroutine of ours whose task is to have the key that a task of `work` itself would have."""
    place = here.get()
    if place is None or place.execution.keys >= OWN_NAMES:
        name = _qualname(work) if isinstance(work, Coroutine) else "_wrap_awaitable"
        wrapper.__qualname__ = name  # type: ignore[attr-defined]  # a coroutine of a function has one
    return wrapper


def _task_name(coro: object, parent: Place) -> str:
    if parent.execution.keys < OWN_NAMES:
        return "~" + _qualname(coro).translate(_PLAIN)
    # Not of the functions around it: it may be moved out of them.
    name = _qualname(_within_handle(coro)).rpartition("<locals>.")[2].strip("<>")
    return "~" + name.translate(_PLAIN)


def _within_handle(coro: object) -> object:
    """The coroutine that a task group of anyio was given, which since 4.14 runs inside one of the group's own."""
    frame = getattr(coro, "cr_frame", None)
    if frame is None or not getattr(coro, "__qualname__", "").startswith("TaskHandle."):
        return coro
    return getattr(frame.f_locals.get("self"), "_coro", coro)


def _qualname(coro: object) -> str:
    name: str = getattr(coro, "__qualname__", None) or type(coro).__qualname__
    return name


OWN_NAMES: Final = 1
"""The value of `RunStarted.keys` since tasks are named by their functions' own names."""
_PLAIN = str.maketrans(dict.fromkeys("/[]>~", "_"))
