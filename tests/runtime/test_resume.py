"""Going on with a run in another runtime: what is kept, what runs again."""

from __future__ import annotations

import asyncio
import datetime
import time
import uuid

import pytest

import kitaru
from kitaru import Flow, ReplayOptions, Runtime, UsageError, checkpoint, flow
from kitaru.store.events import RunClaimed, RunCompleted, RunParked, StepCompleted, TimerFired, TimerSet
from tests.runtime.runs import PATIENCE, keys_of, log_of, of_type, recorded, resumed, stopped


async def test_a_finished_step_does_not_run_again_and_an_open_one_does(store_url: str) -> None:
    ran: list[str] = []
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def one() -> int:
        ran.append("one")
        return 1

    @checkpoint
    async def two(before: int) -> int:
        ran.append("two")
        reached.set()
        if first_time:
            await asyncio.Event().wait()
        return before + 1

    @flow
    async def both() -> int:
        return await two(await one())

    await stopped(store_url, both, "r", reached)
    first_time = False
    assert await resumed(store_url, both, "r") == 2
    assert ran == ["one", "two", "two"]


async def test_a_recorded_failure_is_raised_again_without_running_the_step(store_url: str) -> None:
    ran: list[str] = []
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def fails() -> None:
        ran.append("fails")
        raise ValueError("no such source")

    @checkpoint
    async def waits() -> str:
        reached.set()
        if first_time:
            await asyncio.Event().wait()
        return "done"

    @flow
    async def tolerant() -> str:
        try:
            await fails()
        except ValueError as error:
            return f"{error}, {await waits()}"
        return "no error"

    await stopped(store_url, tolerant, "r", reached)
    first_time = False
    assert await resumed(store_url, tolerant, "r") == "no such source, done"
    assert ran == ["fails"]


async def test_concurrent_steps_that_finished_are_kept_and_the_others_run_again(store_url: str) -> None:
    ran: list[int] = []
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def work(number: int) -> int:
        ran.append(number)
        if number >= 3 and first_time:
            await asyncio.Event().wait()
        return number * 10

    @checkpoint
    async def slowest() -> int:
        reached.set()
        if first_time:
            await asyncio.Event().wait()
        return 0

    @flow
    async def several() -> list[int]:
        async def quick() -> None:
            await kitaru.gather(work(0), work(1), work(2))
            await slowest()

        found = await asyncio.gather(quick(), work(3), work(4))
        return list(found[1:])

    await stopped(store_url, several, "r", reached)
    first_time = False
    assert await resumed(store_url, several, "r") == [30, 40]
    assert sorted(ran) == [0, 1, 2, 3, 3, 4, 4]


async def test_a_run_can_be_stopped_at_every_step_and_still_runs_each_once(store_url: str) -> None:
    ran: list[int] = []
    gate: dict[str, object] = {}

    @checkpoint
    async def step(number: int) -> int:
        ran.append(number)
        return number

    @flow
    async def ten() -> int:
        total = 0
        for number in range(10):
            total += await step(number)
            if gate["stop"] == number:
                event = gate["reached"]
                assert isinstance(event, asyncio.Event)
                event.set()
                await asyncio.Event().wait()
        return total

    gate.update(stop=0, reached=asyncio.Event())
    first = gate["reached"]
    assert isinstance(first, asyncio.Event)
    await stopped(store_url, ten, "r", first)
    for number in range(1, 10):
        reached = asyncio.Event()
        gate.update(stop=number, reached=reached)
        async with Runtime(store_url, recover=False) as again:
            await again.resume("r", ten)
            async with asyncio.timeout(PATIENCE):
                await reached.wait()
    gate["stop"] = None
    assert await resumed(store_url, ten, "r") == 45
    assert ran == list(range(10))


async def test_closing_a_runtime_parks_its_runs(store_url: str) -> None:
    reached = asyncio.Event()

    @checkpoint
    async def waits() -> None:
        reached.set()
        await asyncio.Event().wait()

    @flow
    async def waiter() -> None:
        await waits()

    async with Runtime(store_url) as first:
        handle = await first.start(waiter.options(run_id="r"))
        await reached.wait()
    with pytest.raises(kitaru.RunParkedError, match="kitaru resume r"):
        await handle.result()
    assert isinstance((await recorded(store_url, "r"))[-1].event, RunParked)


async def test_a_parked_flow_sees_no_exception_that_it_could_swallow(store_url: str) -> None:
    reached = asyncio.Event()
    after: list[str] = []

    @checkpoint
    async def waits() -> None:
        reached.set()
        await asyncio.Event().wait()

    @checkpoint
    async def cleanup() -> None:
        after.append("cleanup ran")

    @flow
    async def stubborn() -> str:
        try:
            await waits()
        except BaseException:
            await cleanup()
        return "swallowed"

    await stopped(store_url, stubborn, "r", reached)
    assert after == []
    async with Runtime(store_url, recover=False) as reader:
        assert await of_type(reader, "r", RunCompleted) == []
        assert await keys_of(reader, "r", StepCompleted) == []


async def test_plain_finally_code_runs_when_a_run_parks(store_url: str) -> None:
    reached, closed = asyncio.Event(), []

    @checkpoint
    async def waits() -> None:
        reached.set()
        await asyncio.Event().wait()

    @flow
    async def tidy() -> None:
        try:
            await waits()
        finally:
            closed.append(True)

    await stopped(store_url, tidy, "r", reached)
    assert closed == [True]


# -- starting is idempotent -------------------------------------------------------------------------------------------


async def test_starting_a_live_id_again_gives_the_same_run(runtime: Runtime) -> None:
    go, ran = asyncio.Event(), []

    @flow
    async def once(topic: str) -> str:
        ran.append(topic)
        await go.wait()
        return topic.upper()

    one = await runtime.start(once.options(run_id="r"), "tides")
    two = await runtime.start(once.options(run_id="r"), "tides")
    go.set()
    assert [await one.result(), await two.result()] == ["TIDES", "TIDES"]
    assert ran == ["tides"]


async def test_starting_one_id_from_many_tasks_at_once_runs_it_once(runtime: Runtime) -> None:
    ran: list[int] = []

    @checkpoint
    async def step() -> int:
        return len(ran)

    @flow
    async def once() -> int:
        ran.append(1)
        return await step()

    handles = await asyncio.gather(*(runtime.start(once.options(run_id="r")) for _ in range(20)))
    assert await asyncio.gather(*(handle.result() for handle in handles)) == [1] * 20
    assert ran == [1]


async def test_starting_a_finished_id_gives_its_result(runtime: Runtime) -> None:
    ran: list[int] = []

    @flow
    async def once() -> int:
        ran.append(1)
        return 7

    await (await runtime.start(once.options(run_id="r"))).result()
    assert await (await runtime.start(once.options(run_id="r"))).result() == 7
    assert ran == [1]


async def test_starting_a_finished_id_whose_run_failed_raises_its_failure(runtime: Runtime) -> None:
    @flow
    async def fails() -> None:
        raise KeyError("lost")

    for _ in range(2):
        handle = await runtime.start(fails.options(run_id="r"))
        with pytest.raises(KeyError, match="lost"):
            await handle.result()


async def test_starting_an_id_with_other_inputs_is_refused(runtime: Runtime) -> None:
    @flow
    async def echo(topic: str) -> str:
        return topic

    await (await runtime.start(echo.options(run_id="r"), "tides")).result()
    with pytest.raises(UsageError, match=r"other inputs.*tides"):
        await runtime.start(echo.options(run_id="r"), "waves")


async def test_starting_an_id_of_another_flow_is_refused(runtime: Runtime) -> None:
    @flow
    async def one() -> None: ...

    @flow
    async def two() -> None: ...

    await (await runtime.start(one.options(run_id="r"))).result()
    with pytest.raises(UsageError, match="a run of one, not of two"):
        await runtime.start(two.options(run_id="r"))


async def test_starting_an_interrupted_id_resumes_it(store_url: str) -> None:
    reached, first_time, ran = asyncio.Event(), True, []

    @checkpoint
    async def step() -> int:
        ran.append(1)
        return 5

    @flow
    async def half() -> int:
        found = await step()
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return found

    await stopped(store_url, half, "r", reached)
    first_time = False
    async with Runtime(store_url, recover=False) as second:
        assert await (await second.start(half.options(run_id="r"))).result() == 5
    assert ran == [1]


async def test_starting_an_id_right_after_parking_it_resumes_it(runtime: Runtime) -> None:
    first_time = True
    reached = asyncio.Event()

    @flow
    async def half() -> int:
        reached.set()
        if first_time:
            await asyncio.Event().wait()
        return 5

    handle = await runtime.start(half.options(run_id="r"))
    await reached.wait()
    first_time = False
    handle.park_soon()
    await asyncio.sleep(0)
    again = await runtime.start(half.options(run_id="r"))
    assert await again.result() == 5


async def test_a_start_that_is_given_up_half_way_still_runs(runtime: Runtime) -> None:
    @flow
    async def quick() -> int:
        return 3

    for passes in range(6):
        starting = asyncio.create_task(runtime.start(quick.options(run_id=f"r{passes}")))
        for _ in range(passes):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        async with asyncio.timeout(PATIENCE):
            assert await (await runtime.start(quick.options(run_id=f"r{passes}"))).result() == 3


async def test_a_dropped_waiter_cancels_nothing(runtime: Runtime) -> None:
    go, reached = asyncio.Event(), asyncio.Event()

    @flow
    async def waits() -> str:
        reached.set()
        await go.wait()
        return "done"

    handle = await runtime.start(waits)
    waiter = asyncio.create_task(handle.result())
    await reached.wait()
    waiter.cancel()
    await asyncio.wait([waiter])
    go.set()
    assert await handle.result() == "done"


async def test_two_runtimes_in_one_process_follow_each_others_runs(store_url: str) -> None:
    go = asyncio.Event()

    @flow
    async def waits() -> str:
        await go.wait()
        return "done"

    async with Runtime(store_url) as one, Runtime(store_url) as two:
        owner = await one.start(waits.options(run_id="r"))
        follower = await two.start(waits.options(run_id="r"))
        result = asyncio.create_task(follower.result())
        go.set()
        assert [await owner.result(), await result] == ["done", "done"]
        assert await of_type(one, "r", RunClaimed) == []


# -- small durable values ---------------------------------------------------------------------------------------------


async def test_clock_and_chance_are_the_recorded_ones_after_a_resume(store_url: str) -> None:
    seen: list[tuple[datetime.datetime, uuid.UUID, float]] = []
    reached, first_time = asyncio.Event(), True

    @flow
    async def values() -> None:
        seen.append((kitaru.now(), kitaru.uuid(), kitaru.random()))
        if first_time:
            reached.set()
            await asyncio.Event().wait()

    await stopped(store_url, values, "r", reached)
    first_time = False
    await resumed(store_url, values, "r")
    assert seen[0] == seen[1]
    assert seen[0][0].tzinfo is datetime.UTC


async def test_clock_and_chance_outside_a_flow_are_live() -> None:
    assert kitaru.uuid() != kitaru.uuid()
    assert 0 <= kitaru.random() < 1
    assert abs(kitaru.now().timestamp() - time.time()) < 5


async def test_a_saved_value_is_loaded_after_a_resume(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True

    @flow
    async def keeps() -> object:
        await kitaru.save("draft", {"text": "x" * 5000})
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return await kitaru.load("draft")

    await stopped(store_url, keeps, "r", reached)
    first_time = False
    assert await resumed(store_url, keeps, "r") == {"text": "x" * 5000}


async def test_what_is_saved_is_the_value_at_the_call(runtime: Runtime) -> None:
    @flow
    async def keeps() -> object:
        draft = ["one"]
        saving = kitaru.save("draft", draft)
        draft.append("two")
        await saving
        return await kitaru.load("draft")

    assert await (await runtime.start(keeps)).result() == ["one"]


async def test_a_value_saved_by_another_run_can_be_loaded(runtime: Runtime) -> None:
    @flow
    async def keeps() -> None:
        await kitaru.save("draft", (1, 2))

    @flow
    async def reads() -> object:
        return await kitaru.load("draft", run="other")

    await (await runtime.start(keeps.options(run_id="other"))).result()
    assert await (await runtime.start(reads)).result() == (1, 2)


async def test_loading_what_nobody_saved_names_run_and_artifact(runtime: Runtime) -> None:
    @flow
    async def reads() -> object:
        return await kitaru.load("draft")

    with pytest.raises(kitaru.KitaruError, match="run r saved nothing as 'draft'"):
        await (await runtime.start(reads.options(run_id="r"))).result()


async def test_metadata_is_recorded_once(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True

    @flow
    async def logs() -> None:
        kitaru.log(topic="tides", drafts=2)
        if first_time:
            reached.set()
            await asyncio.Event().wait()

    await stopped(store_url, logs, "r", reached)
    first_time = False
    await resumed(store_url, logs, "r")
    async with Runtime(store_url, recover=False) as reader:
        assert await keys_of(reader, "r", StepCompleted) == ["log"]


async def test_a_sleep_goes_on_with_what_is_left_of_it(store_url: str) -> None:
    reached = asyncio.Event()

    @checkpoint
    async def before() -> None:
        asyncio.get_running_loop().call_later(0.05, reached.set)

    @flow
    async def sleeps() -> None:
        await before()
        await kitaru.sleep(0.6)

    began = time.monotonic()
    await stopped(store_url, sleeps, "r", reached)
    await resumed(store_url, sleeps, "r")
    assert 0.55 <= time.monotonic() - began < 1.1
    async with Runtime(store_url, recover=False) as reader:
        deadlines = {event.deadline for event in await of_type(reader, "r", TimerSet)}
        assert len(deadlines) == 1
        assert len(await of_type(reader, "r", TimerFired)) == 1


async def test_a_sleep_that_ended_is_not_slept_again(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True

    @flow
    async def sleeps() -> None:
        await kitaru.sleep(0.3)
        if first_time:
            reached.set()
            await asyncio.Event().wait()

    await stopped(store_url, sleeps, "r", reached)
    first_time = False
    began = time.monotonic()
    await resumed(store_url, sleeps, "r")
    assert time.monotonic() - began < 0.25


async def test_a_timeout_that_fired_fires_at_once_on_resume(store_url: str) -> None:
    reached, first_time, ran = asyncio.Event(), True, []

    @checkpoint
    async def slow() -> None:
        ran.append(1)
        await asyncio.Event().wait()

    @flow
    async def limited() -> str:
        try:
            async with kitaru.timeout(0.3):
                await slow()
        except TimeoutError:
            if first_time:
                reached.set()
                await asyncio.Event().wait()
            return "too slow"
        return "in time"

    await stopped(store_url, limited, "r", reached)
    first_time = False
    began = time.monotonic()
    assert await resumed(store_url, limited, "r") == "too slow"
    assert time.monotonic() - began < 0.25
    assert ran == [1]


async def test_a_timeout_that_did_not_fire_lets_its_body_end(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def quick() -> str:
        return "in time"

    @flow
    async def limited() -> str:
        async with kitaru.timeout(30):
            found = await quick()
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return found

    await stopped(store_url, limited, "r", reached)
    first_time = False
    assert await resumed(store_url, limited, "r") == "in time"


async def test_sleep_and_save_outside_a_flow_are_refused() -> None:
    for call in (lambda: kitaru.sleep(1), lambda: kitaru.save("x", 1), lambda: kitaru.load("x")):
        with pytest.raises(UsageError, match="outside any flow"):
            call()


async def test_a_handle_made_before_the_run_finished_gives_the_result_after(runtime: Runtime) -> None:
    @flow
    async def quick() -> int:
        return 1

    handle = await runtime.start(quick)
    await handle.result()
    assert await handle.status() == "completed"
    assert await handle.result() == 1


async def test_the_log_of_a_resumed_run_only_grows(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def step(number: int) -> int:
        return number

    @flow
    async def two() -> int:
        found = await step(1)
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return found + await step(2)

    await stopped(store_url, two, "r", reached)
    before = await recorded(store_url, "r")
    first_time = False
    await resumed(store_url, two, "r")
    assert (await recorded(store_url, "r"))[: len(before)] == before


async def test_a_log_is_the_same_whether_the_run_was_stopped_or_not(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def step(number: int) -> int:
        return number

    @flow
    async def two() -> int:
        found = await step(1)
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return found + await step(2)

    await stopped(store_url, two, "cut", reached)
    first_time = False
    await resumed(store_url, two, "cut")
    async with Runtime(store_url, recover=False) as whole:
        await (await whole.start(two.options(run_id="whole"))).result()
        assert await keys_of(whole, "cut", StepCompleted) == await keys_of(whole, "whole", StepCompleted)
        assert isinstance((await log_of(whole, "cut"))[-1], RunCompleted)


@pytest.mark.parametrize("when", [asyncio.ALL_COMPLETED, asyncio.FIRST_COMPLETED])
async def test_a_set_of_tasks_iterates_as_in_the_first_process(when: str, store_url: str) -> None:
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def fetch(number: int) -> int:
        return number

    @checkpoint
    async def waits() -> None:
        reached.set()
        if first_time:
            await asyncio.Event().wait()

    @flow
    async def in_the_order_of_a_set() -> list[int]:
        found, pending = [], {asyncio.create_task(fetch(number)) for number in range(12)}
        while pending:
            done, pending = await asyncio.wait(pending, return_when=when)
            found += [await fetch(100 + task.result()) for task in done]
        await waits()
        return found

    await stopped(store_url, in_the_order_of_a_set, "r", reached)
    first_time = False
    assert sorted(await resumed(store_url, in_the_order_of_a_set, "r")) == list(range(100, 112))


async def test_a_set_of_calls_iterates_in_a_replay_as_in_its_source(store_url: str) -> None:
    ran: list[int] = []

    @checkpoint
    async def fetch(number: int) -> int:
        ran.append(number)
        return number

    @flow
    async def in_the_order_of_a_set() -> list[int]:
        return [await fetch(await call) for call in {fetch(number).submit() for number in range(12)}]

    async with Runtime(store_url) as runtime:
        first = await (await runtime.start(in_the_order_of_a_set.options(run_id="r"))).result()
        ran.clear()
        fork = await runtime.replay("r", flow=in_the_order_of_a_set)
        again = await runtime.replay(fork.run, flow=in_the_order_of_a_set)
        assert [await fork.handle.result(), await again.handle.result(), ran] == [first, first, []]


async def test_a_default_argument_is_an_input_of_the_run_that_began_with_it(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def waits() -> None:
        reached.set()
        if first_time:
            await asyncio.Event().wait()

    def deployed(price: int) -> Flow[[str], list[object]]:
        @flow
        async def child(amount: int = price) -> int:
            return amount

        @flow
        async def buys(topic: str, amount: int = price, *, tags: tuple[int, ...] = (price,)) -> list[object]:
            before = await child()
            await waits()
            return [topic, amount, tags, before]

        return buys

    await stopped(store_url, deployed(100), "r", reached, "tides")
    first_time = False
    async with Runtime(store_url, recover=False) as runtime:
        changed = deployed(999)
        assert await (await runtime.start(changed.options(run_id="r"), "tides")).result() == ["tides", 100, (100,), 100]
        fork = await runtime.replay("r", flow=changed)
        assert (await fork.handle.result())[:3] == ["tides", 100, (100,)]
        fork = await runtime.replay("r", ReplayOptions(inputs={"amount": 5}), flow=changed)
        assert (await fork.handle.result())[:3] == ["tides", 5, (100,)]


async def test_a_default_that_cannot_be_recorded_is_what_the_code_says(store_url: str) -> None:
    client = object()

    @flow
    async def asks(topic: str, using: object = client) -> bool:
        return using is client

    async with Runtime(store_url) as runtime:
        assert await (await runtime.start(asks, "tides")).result()
