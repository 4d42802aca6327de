"""Running several boundaries at once: `gather`, `map`, `as_completed`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar, overload

from kitaru.errors import UsageError
from kitaru.runtime.arguments import count_of
from kitaru.runtime.call import Call
from kitaru.runtime.keys import here, named_after, scope

A = TypeVar("A")
T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")


@overload
async def gather(a: Awaitable[T1], /) -> tuple[T1]: ...
@overload
async def gather(a: Awaitable[T1], b: Awaitable[T2], /) -> tuple[T1, T2]: ...
@overload
async def gather(a: Awaitable[T1], b: Awaitable[T2], c: Awaitable[T3], /) -> tuple[T1, T2, T3]: ...
@overload
async def gather(
    a: Awaitable[T1], b: Awaitable[T2], c: Awaitable[T3], d: Awaitable[T4], /
) -> tuple[T1, T2, T3, T4]: ...
@overload
async def gather(*awaitables: Awaitable[T]) -> tuple[T, ...]: ...


async def gather(*awaitables: Awaitable[Any]) -> tuple[Any, ...]:
    """Run all of them at once and give their values in the order given.

    The first failure cancels the others, waits for them, and is raised. In a flow the boundaries that the given
    coroutines call have a scope of their own.
    """
    with _scope("gather"):
        tasks = [asyncio.ensure_future(one) for one in awaitables]
    return tuple(await _together(tasks))


async def map(function: Callable[[A], Awaitable[T]], items: Iterable[A], *, limit: int | None = None) -> list[T]:
    """Call `function` for each item, all at once, and give the values in the order of the items.

    Args:
        function: A checkpoint, or any function that gives an awaitable.
        items: What to call it with. Its order should be defined: not a set.
        limit: How many may run at once.

    Raises:
        UsageError: `limit` is below 1.
        Exception: The first failure; the other calls are cancelled.
    """
    if not callable(function):
        raise UsageError(f"kitaru.map({function!r}, ...): a function is needed", hint="Write kitaru.map(step, items).")
    if limit is not None:
        limit = count_of(limit, "kitaru.map: limit", least=1)
    with _scope("map"):
        calls = [function(item) for item in items]
        if limit is None:
            tasks = [asyncio.ensure_future(call) for call in calls]
        else:
            places = asyncio.Semaphore(limit)
            tasks = [asyncio.ensure_future(named_after(call, _limited(places, call))) for call in calls]
    try:
        return await _together(tasks)
    finally:
        for call in calls:
            _close_unstarted(call)


@overload
def as_completed(calls: Iterable[Call[T]]) -> AsyncIterator[Call[T]]: ...
@overload
def as_completed(calls: Iterable[Awaitable[T]]) -> AsyncIterator[Awaitable[T]]: ...


async def as_completed(calls: Iterable[Awaitable[Any]]) -> AsyncIterator[Awaitable[Any]]:
    """Give the calls as they finish. Those that finish in one turn come in the order in which they were given.

    For a coroutine or another awaitable that is no call, it gives a future.
    """
    tasks: dict[asyncio.Future[Any], Awaitable[Any]] = {}
    for call in calls:
        future = asyncio.ensure_future(call)
        tasks[future] = call if isinstance(call, Call) else future
    order = {task: number for number, task in enumerate(tasks)}
    pending = set(tasks)
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=order.__getitem__):
                if not task.cancelled():
                    task.exception()  # the consumer gets it from what is given
                yield tasks[task]
    finally:
        await _cancelled(pending)


async def _together(tasks: Sequence[asyncio.Future[T]]) -> list[T]:
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        await _cancelled(tasks)
        raise


async def _cancelled(tasks: Iterable[asyncio.Future[Any]]) -> None:
    left = [task for task in tasks if not task.done()]
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)


async def _limited(places: asyncio.Semaphore, work: Awaitable[T]) -> T:
    async with places:
        return await work


def _close_unstarted(work: object) -> None:
    """Close what no task came to, so that Python does not complain that it was never awaited."""
    if isinstance(work, Call):
        started = work.begun
    else:
        started = not inspect.iscoroutine(work) or inspect.getcoroutinestate(work) != inspect.CORO_CREATED
    if not started and isinstance(work, Coroutine):
        work.close()


def _scope(name: str) -> Any:
    place = here.get()
    return scope(name) if place is not None and place.inside is None else nullcontext()
