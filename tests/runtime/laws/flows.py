"""The flows and steps that play a spec, and what they note while they do.

A step is a function of its inputs and its attempt; how long it takes is random, and another matter in each process.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any

import anyio

import kitaru
from kitaru import Call, checkpoint, flow
from kitaru.errors import Suspended
from kitaru.runtime.keys import here
from tests.runtime.laws.specs import Node

SHORT = 0.02
"""Seconds of a timeout that is to fire."""


class Notes:
    """What the flows of one process did: the outcomes each run was handed, in order, and the steps that ran."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, list[str], Any]] = []
        self.ran: list[tuple[str, str, int]] = []
        self.chance = random.Random()
        self.slow = 1.0
        self.resumed = False


notes = Notes()

RUN = "law"
"""The id of the run under test; any other is a child of it."""

BORN = os.urandom(8)
"""Another default of the flows in each process."""


def see(keys: list[str], value: object, *, late: bool = False) -> None:
    """Note that the flow was handed the outcomes under these keys just now, or, where `late`, some time before."""
    if late:
        keys = [f"late {key}" for key in keys]
    place = here.get()
    if place is not None and not place.execution.leaving:
        notes.seen.append((place.execution.run, keys, value))


def mix(*values: object) -> int:
    """A number that depends on the values and their order, the same in every process."""
    number = 7
    for char in repr(values):
        number = (number * 31 + ord(char)) % 99991
    return number


def began() -> int:
    """Note that a step runs; gives its attempt."""
    place = here.get()
    assert place is not None
    assert place.inside is not None
    notes.ran.append((place.execution.run, place.inside.key, place.inside.attempt))
    return place.inside.attempt


async def lag() -> None:
    choice = notes.chance.random()
    if choice < 0.5:
        for _ in range(notes.chance.randint(0, 3)):
            await asyncio.sleep(0)
    else:
        await asyncio.sleep(notes.chance.random() * 0.004 * notes.slow)


# -- steps ------------------------------------------------------------------------------------------------------------


@checkpoint
async def step(number: int, x: int) -> int:
    began()
    await lag()
    return mix(number, x)


@checkpoint
def plain(number: int, x: int) -> int:
    began()
    time.sleep(notes.chance.random() * 0.002 * notes.slow)
    return mix(number, x)


@checkpoint
async def big(number: int, x: int) -> str:
    began()
    await lag()
    return f"{mix(number, x)} " * 400


@checkpoint
async def never(number: int, x: int) -> int:
    began()
    await asyncio.Event().wait()
    return mix(number, x)


@checkpoint
async def fails(number: int, x: int) -> int:
    began()
    await lag()
    raise ValueError(f"step {number} of {x}")


@checkpoint(retries=3, backoff=0.0)
async def flaky(number: int, x: int, good: int) -> int:
    attempt = began()
    await lag()
    if attempt < good:
        raise OSError(f"attempt {attempt} of {number}")
    return mix(number, x)


class OwnError(BaseException):
    """Neither an Exception nor one that asyncio knows."""


@checkpoint(retries=1, backoff=0.0)
async def own(number: int, x: int, way: int) -> int:
    """Ends by a cancellation of its own making, or by another exception that is no `Exception`."""
    attempt = began()
    await lag()
    task = asyncio.current_task()
    assert task is not None
    if way == 1:
        task.cancel()
        if mix(number, x) % 2:
            await asyncio.sleep(0)
    elif way == 2:
        asleep = asyncio.ensure_future(asyncio.sleep(60))
        asleep.cancel()
        await asleep
    elif attempt == 1:
        sys.exit(mix(number, x))
    elif mix(number, x) % 2:
        raise GeneratorExit
    raise OwnError(number, x)


@checkpoint(retries=1, backoff=0.0)
async def chains(number: int, x: int, way: int) -> int:
    attempt = began()
    await lag()
    try:
        raise KeyError(x)
    except KeyError as error:
        failure = ValueError(f"step {number}, attempt {attempt}")
        failure.add_note(f"of {x}")
        if way == 1:
            raise failure from error
        if way == 2:
            raise failure from None
        raise BaseExceptionGroup("several", [failure, OwnError(number)]) if x % 2 else failure  # noqa: B904


def chain_of(error: BaseException | None) -> list[Any]:
    """An exception with all that it is chained to."""
    if error is None:
        return []
    members = [chain_of(member) for member in error.exceptions] if isinstance(error, BaseExceptionGroup) else []
    notes = getattr(error, "__notes__", [])
    return [
        repr(error),
        chain_of(error.__cause__),
        chain_of(error.__context__),
        error.__suppress_context__,
        notes,
        members,
    ]


BY_STEPS: ContextVar[int] = ContextVar("by_steps", default=0)


@checkpoint
async def sets(number: int, x: int) -> int:
    began()
    BY_STEPS.set(BY_STEPS.get() + number)
    await lag()
    return mix(BY_STEPS.get(), x)


@checkpoint
def sets_in_a_thread(number: int, x: int) -> int:
    began()
    BY_STEPS.set(BY_STEPS.get() + number)
    return mix(BY_STEPS.get(), x)


@checkpoint
async def outer(number: int, x: int, few: int, same: bool) -> int:
    began()
    inner = [step(number, x if same else x + n) for n in range(few)]
    return mix(*await asyncio.gather(*inner))


@checkpoint
def outer_plain(number: int, x: int) -> int:
    began()
    return mix(plain(number, x).load(), plain(number, x + 1).load())


@checkpoint
def in_threads(number: int, x: int, few: int) -> int:
    """Calls steps in threads of its own, which have its context."""
    began()
    with ThreadPoolExecutor(few) as pool:
        parts = [pool.submit(copy_context().run, lambda: plain(number, x).load()) for _ in range(few)]
        return mix([part.result() for part in parts])


def elsewhere(number: int, x: int, way: int) -> int:
    """A step on a thread that is not the flow's: it must be refused, and must not run."""
    call = (lambda: copy_context().run(plain, number, x)) if way == 1 else (lambda: plain(number, x))
    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(call).result(10)
        except kitaru.UsageError:
            return mix(number, way)
    raise AssertionError("a step ran on another thread")


# -- async flows ------------------------------------------------------------------------------------------------------


@flow
async def asynchronous(spec: str, x: int, born: bytes = BORN) -> int:
    check_default(born)
    return await play(json.loads(spec), x)


def check_default(born: bytes) -> None:
    """A run has the defaults of the process that started it; a child may be started by either."""
    place = here.get()
    assert place is not None
    if place.execution.run == RUN and (born == BORN) is notes.resumed:
        raise AssertionError("the default is that of another process")


async def outcome(call: Call[Any], *, late: bool = False) -> int:
    """What a call gives, as a number, noted. `late`: it was handed over before, and is noted now."""
    try:
        value = await call
    except BaseException as error:
        if not given_up(error):
            see([call.key], f"{type(error).__name__}: {error}")
        raise
    see([call.key], mix(value), late=late)
    return value if isinstance(value, int) else mix(value)


def given_up(error: BaseException) -> bool:
    """Whether it is the flow, or the run's end, that cancels this task, and no failure of a step."""
    task = asyncio.current_task()
    return isinstance(error, Suspended) or (
        isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
    )


async def tolerant(work: Coroutine[Any, Any, int]) -> int:
    try:
        return await work
    except (ValueError, OSError, ExceptionGroup):
        return -1


async def play(node: Node, x: int) -> int:
    """Play one node and give its number."""
    return await PLAYERS[node[0]](node, x)


Player = Callable[[Node, int], Coroutine[Any, Any, int]]


async def play_step(node: Node, x: int) -> int:
    return await outcome(step(node[1], x))


async def play_sync(node: Node, x: int) -> int:
    return await outcome(plain(node[1], x))


async def play_big(node: Node, x: int) -> int:
    return await outcome(big(node[1], x))


async def play_nested(node: Node, x: int) -> int:
    return await outcome(outer_plain(node[1], x) if node[2] == 1 else outer(node[1], x, node[2], False))


async def play_twins(node: Node, x: int) -> int:
    return await outcome(outer(node[1], x, 2, True))


async def play_retry(node: Node, x: int) -> int:
    return await outcome(flaky(node[1], x, node[2]))


async def play_fail(node: Node, x: int) -> int:
    try:
        return await outcome(fails(node[1], x))
    except ValueError as error:
        return mix(str(error))


async def play_own(node: Node, x: int) -> int:
    try:
        return await outcome(own(node[1], x, node[2]))
    except BaseException as error:
        if given_up(error):
            raise
        return mix(type(error).__name__, str(error))


async def play_context(node: Node, x: int) -> int:
    x = await outcome((sets, sets_in_a_thread)[node[2] % 2](node[1], x))
    return await outcome(step(node[1], mix(x, BY_STEPS.get())))


async def play_chain(node: Node, x: int) -> int:
    try:
        return await outcome(chains(node[1], x, node[2]))
    except (ValueError, BaseExceptionGroup) as error:
        return await outcome(step(node[1], mix(chain_of(error))))


async def play_threads(node: Node, x: int) -> int:
    return await outcome(in_threads(node[1], x, node[2]))


async def play_forgotten(node: Node, x: int) -> int:
    """A call whose outcome nobody waits for: the run may end before it."""
    (never if node[2] == 1 else step)(node[1], x).submit()
    return await outcome(step(node[1] + 1000, x)) if node[2] == 2 else mix(node[1], x)


async def play_generator(node: Node, x: int) -> int:
    """An async generator that the flow leaves early: its cleanup has a step."""

    async def numbers() -> AsyncIterator[int]:
        try:
            for n in range(3):
                yield await outcome(step(node[1], x + n))
        finally:
            await outcome(step(node[1] + 1000, x))

    async for number in numbers():
        if node[2] == 1:
            return number
        if node[2] == 2:
            break
        x = mix(x, number)
    return await outcome(step(node[1] + 2000, x))


async def play_raise(node: Node, x: int) -> int:
    return await outcome(fails(node[1], x))


async def play_same(node: Node, x: int) -> int:
    calls = [step(node[1], x) for _ in range(node[2] + 1)]
    values = await asyncio.gather(*calls)
    see([call.key for call in calls], values)
    return mix(values)


async def play_values(node: Node, x: int) -> int:
    async def one(n: int) -> None:
        kind = (node[1] + n) % 3
        value = kitaru.random() if kind == 0 else kitaru.uuid().hex if kind == 1 else kitaru.now().isoformat()
        see([f"value {node[1]} {n} {x}"], value)
        await outcome(step(node[1], mix(value)))

    await asyncio.gather(*[one(n) for n in range(node[2])])
    return mix(x, node[1])


async def play_submit(node: Node, x: int) -> int:
    first = step(node[1], x).submit()
    second = step(node[1] + 1000, first.ref)
    third = await outcome(step(node[1], x + 1))
    return mix(third, await outcome(second), await outcome(first, late=True))


async def play_nap(node: Node, x: int) -> int:
    call = kitaru.sleep(0.002 * node[2])
    await call
    see([call.key], None)
    return x


async def play_seq(node: Node, x: int) -> int:
    for one in node[2]:
        x = await play(one, x)
    return x


async def play_gather(node: Node, x: int) -> int:
    return mix(*await asyncio.gather(*[play(one, x) for one in node[2]]))


async def play_calls(node: Node, x: int) -> int:
    calls = [step(node[1], x + n) for n in range(node[2])]
    values = await (kitaru.gather(*calls) if node[3] % 2 else asyncio.gather(*calls))
    see([call.key for call in calls], list(values))
    return mix(*values)


async def play_group(node: Node, x: int) -> int:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(play(one, x)) for one in node[2]]
    return mix(*[task.result() for task in tasks])


async def play_anyio(node: Node, x: int) -> int:
    found: dict[int, int] = {}

    async def one(at: int) -> None:
        found[at] = await play(node[2][at], x)

    async with anyio.create_task_group() as group:
        for at in range(len(node[2])):
            group.start_soon(one, at)
    return mix(*[found[at] for at in sorted(found)])


async def play_kgather(node: Node, x: int) -> int:
    return mix(*await kitaru.gather(*[play(one, x) for one in node[2]]))


async def play_kmap(node: Node, x: int) -> int:
    async def one(n: int) -> int:
        return await outcome(step(node[1], await outcome(step(node[1], x + n))))

    return mix(*await kitaru.map(one, range(node[2]), limit=node[3] or None))


async def play_scope(node: Node, x: int) -> int:
    with kitaru.scope(f"part{node[1]}"):
        return await play(node[2][0], x)


async def play_orphan(node: Node, x: int) -> int:
    task = asyncio.create_task(play(node[2][0], x))
    y = await play(node[2][1], x)
    return mix(y, await task)


async def play_try(node: Node, x: int) -> int:
    try:
        return await play(node[2][0], x)
    except (ValueError, ExceptionGroup):
        return await outcome(step(node[1], x))


async def play_child(node: Node, x: int) -> int:
    return await outcome(asynchronous(json.dumps(node[2][0]), x))


async def play_started(node: Node, x: int) -> int:
    handle = await asynchronous.start(json.dumps(node[2][0]), x)
    y = await outcome(step(node[1], x))
    result = handle.result()
    assert isinstance(result, Call)
    return mix(y, await outcome(result))


async def play_shared(node: Node, x: int) -> int:
    """One call that several tasks wait for."""
    call = step(node[1], x)

    async def one(n: int) -> int:
        return await outcome(step(node[1], mix(await call, n)))

    return mix(*await asyncio.gather(*[one(n) for n in range(node[2])]))


# -- races ------------------------------------------------------------------------------------------------------------


async def play_completed(node: Node, x: int) -> int:
    for number, one in enumerate(asyncio.as_completed([tolerant(play(one, x)) for one in node[2]])):
        x = mix(x, await one)
        if number % 2:
            x = await outcome(step(node[1], x))
    return x


async def play_kcompleted(node: Node, x: int) -> int:
    async for call in kitaru.as_completed([step(node[1], x + n) for n in range(node[2])]):
        x = mix(x, await outcome(call, late=True))
        if node[3] % 2:
            x = await outcome(step(node[1], x))
    return x


async def play_first(node: Node, x: int) -> int:
    tasks = [asyncio.create_task(tolerant(play(one, x))) for one in node[2]]
    pending = set(tasks)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        x = mix(x, [(tasks.index(task), task.result()) for task in done])
        x = await outcome(step(node[1], x))
    return x


async def play_hedge(node: Node, x: int) -> int:
    tasks = [asyncio.create_task(tolerant(play(one, x))) for one in node[2]]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    won = [(tasks.index(task), task.result()) for task in done]
    return await outcome(step(node[1], mix(won)))


async def play_queue(node: Node, x: int) -> int:
    todo: asyncio.Queue[int] = asyncio.Queue()
    found: list[int] = []

    async def worker() -> None:
        while True:
            n = await todo.get()
            found.append(await outcome(step(node[1], x + n)))
            found.append(await outcome(step(node[1], mix(*found))))
            todo.task_done()

    workers = [asyncio.create_task(worker()) for _ in range(2)]
    for n in range(node[2]):
        todo.put_nowait(n)
    await todo.join()
    for one in workers:
        one.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    return mix(*found)


async def play_cancel(node: Node, x: int) -> int:
    task = asyncio.create_task(tolerant(play(node[2][0], x)))
    y = await play(node[2][1], x)
    task.cancel()
    await asyncio.wait([task])
    return await outcome(step(node[1], mix(y, "cancelled" if task.cancelled() else task.result())))


async def play_krace(node: Node, x: int) -> int:
    try:
        async with kitaru.timeout(SHORT / 4):
            x = await play(node[2][0], x)
    except TimeoutError:
        x = mix(x, "timeout")
    return await outcome(step(node[1], x))


# -- timers -----------------------------------------------------------------------------------------------------------


async def play_waitfor(node: Node, x: int) -> int:
    way = node[3]
    # A timer of the flow's own may, on a slow resume, be over before a recorded outcome within has had its turn.
    forever: Awaitable[int] = never(node[1], x) if way % 2 else stuck(node, x, late=True)
    try:
        if way < 2:
            await asyncio.wait_for(forever, SHORT)
        elif way < 4:
            async with asyncio.timeout(SHORT):
                await forever
        else:
            with anyio.fail_after(SHORT):
                await forever
    except TimeoutError:
        see([], f"timeout {node[1]}")
    return await outcome(step(node[1], x))


async def stuck(node: Node, x: int, *, late: bool = False) -> int:
    return await never(node[1], await outcome(step(node[1], x), late=late))


async def play_ktimeout(node: Node, x: int) -> int:
    try:
        async with kitaru.timeout(SHORT):
            await asyncio.gather(*[stuck(node, x + n) for n in range(node[2])])
    except TimeoutError:
        x = mix(x, "timeout")
    return await outcome(step(node[1], x))


async def play_never(node: Node, x: int) -> int:
    return await outcome(never(node[1], x))


PLAYERS: dict[str, Player] = {
    name.removeprefix("play_"): player for name, player in list(globals().items()) if name.startswith("play_")
}


# -- sync flows -------------------------------------------------------------------------------------------------------


@flow
def threaded(spec: str, x: int, born: bytes = BORN) -> int:
    check_default(born)
    for node in json.loads(spec)[2]:
        x = play_in_thread(node, x)
    return x


def loaded(call: Call[Any], *, late: bool = False) -> int:
    value = call.load()
    see([call.key], mix(value), late=late)
    return value if isinstance(value, int) else mix(value)


def play_in_thread(node: Node, x: int) -> int:
    kind, number, few = node
    if kind == "step":
        return loaded(step(number, x))
    if kind == "sync":
        return loaded(plain(number, x))
    if kind == "big":
        return loaded(big(number, x))
    if kind == "nested":
        return mix(loaded(outer_plain(number, x)), loaded(outer(number, x, few, False)))
    if kind == "retry":
        return loaded(flaky(number, x, few))
    if kind == "fail":
        try:
            return loaded(fails(number, x))
        except ValueError as error:
            return mix(str(error))
    if kind == "chain":
        try:
            return loaded(chains(number, x, few))
        except (ValueError, BaseExceptionGroup) as error:
            return loaded(step(number, mix(chain_of(error))))
    if kind == "context":
        x = loaded((sets, sets_in_a_thread)[few % 2](number, x))
        return loaded(step(number, mix(x, BY_STEPS.get())))
    if kind == "own":
        try:
            return loaded(own(number, x, few))
        except Suspended:
            raise
        except BaseException as error:
            return mix(type(error).__name__, str(error))
    if kind == "threads":
        return mix(loaded(in_threads(number, x, few)), elsewhere(number, x, few))
    if kind == "values":
        see([f"value {number} 0 {x}"], value := kitaru.random())
        loaded(step(number, mix(value)))
        return x
    if kind == "nap":
        kitaru.sleep(0.002 * few)
        return x
    if kind == "child":
        return loaded(asynchronous(json.dumps(node[2][0]), x))
    if kind == "started":
        handle = asynchronous.run(json.dumps(node[2][0]), x)
        return mix(loaded(step(number, x)), handle.wait())
    if kind == "handles":
        first = step.submit(number, x)
        second = step.submit(number + 1000, first.ref)
        return mix(loaded(step(number + 2000, second.ref)), loaded(first, late=True))
    checkpoints = step if kind == "submit" else plain
    calls = [checkpoints.submit(number, x + n) for n in range(few)]
    middle = loaded(step(number, x))
    return mix(middle, *[loaded(call, late=True) for call in reversed(calls)])
