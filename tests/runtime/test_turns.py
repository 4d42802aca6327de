"""Who is handed what, and when: turns on a bare loop, and the keys of tasks over many interleavings."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest

import kitaru
from kitaru import Runtime, checkpoint, flow
from kitaru.runtime.turns import RecordedTurn, Turns, Waiter
from kitaru.store.events import StepCompleted
from tests.runtime.runs import PATIENCE, keys_of


class Listener:
    """Notes what it is told; lets live work begin, and grants no release before the grace is over."""

    def __init__(self) -> None:
        self.stalls: list[bool] = []
        self.deviations: list[int] = []
        self.handed_back: list[list[str]] = []

    def stalled(self, turn: RecordedTurn, certain: bool) -> bool:
        self.stalls.append(certain)
        return not turn.strict

    def live_begins(self) -> bool:
        return True

    def deviated(self, turn: RecordedTurn) -> None:
        self.deviations.append(turn.number)

    def handed(self, waiters: list[Waiter]) -> None:
        self.handed_back.append([waiter.key for waiter in waiters])

    def broken(self, error: Exception) -> None:
        raise error


class Run:
    """Tasks that play the part of a run's flow code, and what they were handed, in order."""

    def __init__(self, *recorded: str, grace: float = 60.0, strict: bool = True) -> None:
        self.listener = Listener()
        self.turns = Turns(asyncio.get_running_loop(), self.listener, grace=grace)
        for number, keys in enumerate(recorded, 1):
            self.turns.recorded.append(RecordedTurn(number, keys, strict=strict))
        self.handed: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    def task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self.turns.open.add(task)
        self.tasks.append(task)
        return task

    async def recorded(self, key: str) -> None:
        """A boundary whose outcome the log holds."""
        await self._at(key, self.turns.ask)

    async def start(self, key: str) -> None:
        """A boundary that has to run."""
        await self._at(key, self.turns.ask_start)

    async def _at(self, key: str, ask: Callable[[str, object], Waiter]) -> None:
        me = asyncio.current_task()
        try:
            await ask(key, me).future
            self.handed.append(key)
        except asyncio.CancelledError:
            self.turns.forget(key)
            raise
        finally:
            self.turns.wake(me)

    def live(self, key: str) -> Waiter:
        """Somebody at a boundary that runs, who ends as soon as it has been handed its outcome."""
        ended = asyncio.get_running_loop().create_future()
        ended.set_result(None)
        waiter = Waiter(key, ended, asyncio.get_running_loop().create_future(), "live")
        waiter.future.add_done_callback(lambda _: self.handed.append(key))
        return waiter

    async def passes(self, count: int = 30) -> list[str]:
        for _ in range(count):
            await asyncio.sleep(0)
        return self.handed

    async def ended(self) -> list[str]:
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*self.tasks)
        return self.handed


async def test_a_recorded_turn_waits_until_all_of_it_has_been_asked_for() -> None:
    run = Run("ab")
    run.task(run.recorded("a"))
    assert await run.passes() == []
    run.task(run.recorded("b"))
    assert await run.ended() == ["a", "b"]


async def test_turns_go_in_order_whatever_is_asked_first() -> None:
    run = Run("a", "b", "c")
    for key in "cba":
        run.task(run.recorded(key))
    assert await run.ended() == ["a", "b", "c"]


@pytest.mark.parametrize("asked", ["dcba", "bdac", "abcd"])
async def test_outcomes_of_one_turn_come_in_the_order_of_the_log(asked: str) -> None:
    run = Run("dbca")
    for key in asked:
        run.task(run.recorded(key))
    assert await run.ended() == list("dbca")


async def test_who_asks_last_is_not_served_ahead_of_the_others_of_its_turn() -> None:
    run = Run("x", "ab")

    async def first_x() -> None:
        await run.recorded("x")
        await run.recorded("b")

    run.task(run.recorded("a"))
    run.task(first_x())
    assert await run.ended() == ["x", "a", "b"]


async def test_nothing_starts_before_the_recorded_turns_are_through() -> None:
    run = Run("a")
    run.task(run.start("live"))
    assert await run.passes() == []
    run.task(run.recorded("a"))
    assert await run.ended() == ["a", "live"]


async def test_nothing_is_handed_over_while_a_task_runs() -> None:
    run = Run("a", "b")
    stop = False

    async def busy() -> None:
        while not stop:  # noqa: ASYNC110  # it is to keep running
            await asyncio.sleep(0)

    run.task(busy())
    run.task(run.recorded("a"))
    assert await run.passes() == []
    stop = True
    assert await run.passes() == ["a"]


async def test_nothing_is_handed_over_before_a_cancelled_task_has_left_its_boundary() -> None:
    run = Run()
    left: list[list[str]] = []

    async def cancelled() -> None:
        me = asyncio.current_task()
        run.turns.rest(me)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            left.append(list(run.handed))
        finally:
            run.turns.wake(me)

    task = run.task(cancelled())
    await run.passes()
    task.cancel()
    alone = run.live("live")
    assert not run.turns.hand_at_once(alone)
    run.turns.ready([alone])
    run.turns.pump()
    assert await run.passes() == ["live"]
    assert left == [[]]


async def test_a_task_that_refuses_to_be_cancelled_holds_nobody_up() -> None:
    run = Run()

    async def stubborn() -> None:
        run.turns.rest(asyncio.current_task())
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            await asyncio.get_running_loop().create_future()

    task = run.task(stubborn())
    await run.passes()
    task.cancel()
    run.turns.ready([run.live("live")])
    run.turns.pump()
    assert await run.passes() == ["live"]
    task.cancel()


async def test_nothing_is_handed_over_while_an_outcome_is_being_read() -> None:
    run = Run("a")
    run.turns.hold()
    run.task(run.recorded("a"))
    assert await run.passes() == []
    run.turns.let_go()
    assert await run.ended() == ["a"]


async def test_what_waits_on_a_finished_task_runs_before_the_next_turn() -> None:
    run = Run("a", "b")
    seen: list[str] = []

    async def behind_two_tasks() -> None:
        await asyncio.gather(asyncio.gather(run.task(run.recorded("a"))))
        seen.append("a" + "".join(run.handed))

    run.task(behind_two_tasks())
    run.task(run.recorded("b"))
    await run.passes()
    assert seen == ["aa"]
    assert run.handed == ["a", "b"]


async def test_a_dropped_key_holds_its_turn_up_no_longer() -> None:
    run = Run("ab")
    run.task(run.recorded("a"))
    await run.passes()
    run.turns.drop("b")
    run.turns.pump()
    assert await run.ended() == ["a"]


async def test_a_task_that_gives_up_and_ends_leaves_nobody_stranded() -> None:
    run = Run("ab", grace=0.01)
    run.task(run.recorded("a"))
    giving_up = run.task(run.start("c"))
    await run.passes()
    giving_up.cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait(run.tasks)
    assert run.handed == ["a"]
    assert run.listener.deviations == [1]


async def test_after_the_grace_what_was_asked_for_goes_ahead_and_is_noted() -> None:
    run = Run("ab", "c", grace=0.01)
    run.task(run.recorded("c"))
    assert await run.ended() == ["c"]
    assert run.listener.deviations == [1]


async def test_the_grace_is_waited_for_once_a_turn_and_not_for_each_outcome() -> None:
    run = Run("a", "bcd", grace=0.05)
    loop = asyncio.get_running_loop()

    async def others() -> None:
        for key in "bcd":
            await run.recorded(key)

    began = loop.time()
    run.task(others())
    assert await run.ended() == ["b", "c", "d"]
    assert loop.time() - began < 0.15


async def test_turns_of_a_source_run_bind_nobody() -> None:
    run = Run("ab", "c", strict=False)
    run.task(run.recorded("c"))
    assert await run.ended() == ["c"]


async def test_it_is_certain_that_a_turn_will_not_be_asked_for_when_every_task_is_at_a_boundary() -> None:
    run = Run("ab")
    run.task(run.recorded("a"))
    await run.passes()
    assert set(run.listener.stalls) == {True}


async def test_it_is_not_certain_while_a_task_waits_for_something_of_its_own() -> None:
    run = Run("ab")
    own = asyncio.get_running_loop().create_future()

    async def waits() -> None:
        await own

    run.task(waits())
    run.task(run.recorded("a"))
    await run.passes()
    assert set(run.listener.stalls) == {False}
    own.set_result(None)


async def test_live_turns_go_one_by_one_in_the_order_in_which_they_became_durable() -> None:
    run = Run()
    run.turns.ready([run.live("a"), run.live("b")])
    run.turns.ready([run.live("c")])
    run.turns.pump()
    assert await run.passes() == ["a", "b", "c"]


async def test_a_lone_task_takes_its_turn_without_a_pass_of_the_loop() -> None:
    run = Run("a", "bc")
    run.turns.open.add(asyncio.current_task())
    assert run.turns.take_alone("a")
    assert not run.turns.take_alone("b")


async def test_nobody_takes_a_turn_alone_while_another_task_is_awake() -> None:
    run = Run("a")
    run.turns.open.add(asyncio.current_task())
    run.task(asyncio.sleep(0))
    assert not run.turns.take_alone("a")


# -- keys -------------------------------------------------------------------------------------------------------------

chance = random.Random(7)


@checkpoint
async def work(number: int) -> int:
    for _ in range(chance.randint(0, 4)):
        await asyncio.sleep(0)
    if chance.random() < 0.3:
        await asyncio.sleep(chance.random() * 0.002)
    return number


async def twice(number: int) -> int:
    return await work(await work(number) * 10)


async def by_gather() -> None:
    await asyncio.gather(*[twice(n) for n in range(3)])


async def by_group() -> None:
    async with asyncio.TaskGroup() as group:
        for n in range(3):
            group.create_task(twice(n))


async def by_anyio() -> None:
    async with anyio.create_task_group() as group:
        for n in range(3):
            group.start_soon(twice, n)


async def by_completion() -> None:
    for one in asyncio.as_completed([twice(n) for n in range(5)]):
        await one


async def by_wait() -> None:
    pending = {asyncio.ensure_future(twice(n)) for n in range(3)}
    while pending:
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)


async def by_map() -> None:
    await kitaru.map(twice, range(5), limit=2)


WAYS: dict[str, Callable[[], Awaitable[None]]] = {
    one.__name__: one for one in (by_gather, by_group, by_anyio, by_completion, by_wait, by_map)
}


@flow
async def nested(way: str) -> None:
    async def inner() -> None:
        await WAYS[way]()

    await asyncio.gather(inner(), WAYS[way](), inner())


@pytest.mark.parametrize("way", WAYS)
async def test_tasks_have_the_same_keys_however_they_interleave(way: str, runtime: Runtime) -> None:
    """The key and the inputs belong together: a key of another task would be taken for a changed call."""
    found = set()
    for number in range(8):
        run = f"r{number}"
        await (await runtime.start(nested.options(run_id=run), way)).result()
        events = [recorded.event for recorded in await runtime._core.events(run)]
        found.add(frozenset((e.key, e.inputs) for e in events if isinstance(e, StepCompleted)))
    assert len(found) == 1


async def test_calls_given_to_asyncio_keep_the_keys_of_their_place_in_the_code(runtime: Runtime) -> None:
    @flow
    async def calls() -> list[int]:
        return [await one for one in asyncio.as_completed([work(n) for n in range(4)])]

    await (await runtime.start(calls.options(run_id="r"))).result()
    assert sorted(await keys_of(runtime, "r", StepCompleted)) == ["work", "work[1]", "work[2]", "work[3]"]


async def test_a_fault_while_handing_over_is_told_to_the_run() -> None:
    class Faulty(Listener):
        def __init__(self) -> None:
            super().__init__()
            self.told: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

        def handed(self, waiters: list[Waiter]) -> None:
            raise ZeroDivisionError(len(waiters))

        def broken(self, error: Exception) -> None:
            self.told.set_result(error)

    listener = Faulty()
    turns = Turns(asyncio.get_running_loop(), listener, grace=60.0)
    turns.recorded.append(RecordedTurn(1, ["a"], strict=True))
    turns.ask("a", asyncio.current_task())
    assert isinstance(await asyncio.wait_for(listener.told, PATIENCE), ZeroDivisionError)
