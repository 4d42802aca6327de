"""Checkpoints: their options, what is recorded of them, how they fail."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Coroutine

import pytest

import kitaru
from kitaru import EncodeError, Runtime, StepError, StepTimeoutError, UsageError, checkpoint, flow
from kitaru.store.events import StepCompleted, StepFailed, StepStarted
from tests.runtime.runs import PATIENCE, keys_of, of_type, resumed, stopped, until


class Client:
    """Something live that cannot be recorded."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked: list[str] = []


class RefusedError(Exception):
    """An exception whose constructor wants more than its args hold."""

    def __init__(self, reason: str, *, code: int) -> None:
        super().__init__(f"refused: {reason}")
        self.code = code


@dataclasses.dataclass
class Shop:
    name: str

    @checkpoint
    async def greet(self, guest: str) -> str:
        return f"{self.name} greets {guest}"

    @checkpoint(ignore=["self"])
    async def ask(self, what: str) -> str:
        return f"{self.name}: {what}"


class LiveShop:
    def __init__(self) -> None:
        self.client = Client()

    @checkpoint(ignore=["self"])
    async def ask(self, what: str) -> str:
        self.client.asked.append(what)
        return what.upper()


async def run_of(runtime: Runtime, body: Callable[[], Coroutine[object, object, object]]) -> object:
    return await (await runtime.start(flow(name="body")(body).options(run_id="r"))).result()


# -- retries ----------------------------------------------------------------------------------------------------------


async def test_a_failed_attempt_is_retried_and_every_attempt_recorded(runtime: Runtime) -> None:
    attempts: list[int] = []

    @checkpoint(retries=2, backoff=0)
    async def flaky() -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise ValueError(f"attempt {len(attempts)}")
        return "done"

    async def body() -> object:
        return await flaky()

    assert await run_of(runtime, body) == "done"
    failures = await of_type(runtime, "r", StepFailed)
    assert [(f.attempt, f.final) for f in failures] == [(1, False), (2, False)]
    (completed,) = await of_type(runtime, "r", StepCompleted)
    assert completed.attempt == 3


async def test_the_last_failure_is_the_outcome(runtime: Runtime) -> None:
    attempts: list[int] = []

    @checkpoint(retries=1, backoff=0)
    async def fails() -> None:
        attempts.append(1)
        raise ValueError(f"attempt {len(attempts)}")

    async def body() -> object:
        await fails()
        return None

    with pytest.raises(ValueError, match="attempt 2"):
        await run_of(runtime, body)
    assert [f.final for f in await of_type(runtime, "r", StepFailed)] == [False, True]


async def test_only_the_named_exceptions_are_retried(runtime: Runtime) -> None:
    attempts: list[int] = []

    @checkpoint(retries=5, backoff=0, retry_on=(OSError, KeyError))
    async def picky() -> None:
        attempts.append(1)
        raise OSError("again") if len(attempts) < 3 else ValueError("not again")

    async def body() -> object:
        await picky()
        return None

    with pytest.raises(ValueError, match="not again"):
        await run_of(runtime, body)
    assert len(attempts) == 3


async def test_listed_delays_are_waited_and_the_last_one_repeats(runtime: Runtime) -> None:
    at: list[float] = []

    @checkpoint(retries=3, backoff=[0.0, 0.15])
    async def flaky() -> None:
        at.append(time.monotonic())
        if len(at) < 4:
            raise ValueError

    async def body() -> object:
        await flaky()
        return None

    await run_of(runtime, body)
    waits = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert waits[0] < 0.14
    assert waits[1] >= 0.14
    assert waits[2] >= 0.14


async def test_attempts_of_a_process_that_died_count(store_url: str) -> None:
    attempts: list[int] = []
    reached, first_time = asyncio.Event(), True

    @checkpoint(retries=2, backoff=0)
    async def flaky() -> str:
        attempts.append(1)
        if len(attempts) == 2 and first_time:
            reached.set()
            await asyncio.Event().wait()
        raise ValueError(f"attempt {len(attempts)}")

    @flow
    async def body() -> None:
        await flaky()

    await stopped(store_url, body, "r", reached)
    first_time = False
    with pytest.raises(ValueError, match="attempt 4"):
        await resumed(store_url, body, "r")
    # The one that was running is run again; it does not count twice.
    assert len(attempts) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: checkpoint(retries=-1),
        lambda: checkpoint(timeout=0),
        lambda: checkpoint(backoff=-1),
        lambda: checkpoint(backoff=[]),
        lambda: checkpoint(name="a/b"),
        lambda: checkpoint(name=""),
        lambda: checkpoint(ignore=["nobody"]),
    ],
)
def test_options_that_cannot_be_right_are_refused_where_they_are_written(wrong: Callable[[], object]) -> None:
    async def step(topic: str) -> None: ...

    def decorate() -> None:
        made = wrong()
        assert callable(made)
        made(step)

    with pytest.raises(UsageError):
        decorate()


def test_options_of_single_calls_are_checked_too() -> None:
    @checkpoint
    async def step() -> None: ...

    for wrong in ({"retries": -1}, {"timeout": 0.0}, {"backoff": -1.0}, {"name": "a>b"}):
        with pytest.raises(UsageError):
            step.options(**wrong)


# -- timeouts ---------------------------------------------------------------------------------------------------------


async def test_an_async_step_that_runs_too_long_times_out(runtime: Runtime) -> None:
    stopped_: list[str] = []

    @checkpoint(timeout=0.05)
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped_.append("cancelled")
            raise

    async def body() -> object:
        try:
            await slow()
        except StepTimeoutError as error:
            return str(error)
        return "in time"

    assert await run_of(runtime, body) == "slow (run r, slow, attempt 1) ran longer than 0.05 s"
    assert stopped_ == ["cancelled"]


async def test_a_timeout_is_a_timeout_error_to_plain_code(runtime: Runtime) -> None:
    @checkpoint(timeout=0.02)
    async def slow() -> None:
        await asyncio.Event().wait()

    async def body() -> object:
        with pytest.raises(TimeoutError):
            await slow()
        return "told"

    assert await run_of(runtime, body) == "told"


async def test_a_timeout_of_the_steps_own_is_not_taken_for_its_limit(runtime: Runtime) -> None:
    @checkpoint(timeout=30)
    async def impatient() -> None:
        raise TimeoutError("the server's")

    async def body() -> object:
        await impatient()
        return None

    with pytest.raises(TimeoutError, match="the server's") as caught:
        await run_of(runtime, body)
    assert not isinstance(caught.value, StepTimeoutError)


async def test_a_timed_out_step_is_retried(runtime: Runtime) -> None:
    attempts: list[int] = []

    @checkpoint(timeout=0.05, retries=1, backoff=0)
    async def slow_once() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            await asyncio.Event().wait()
        return "done"

    async def body() -> object:
        return await slow_once()

    assert await run_of(runtime, body) == "done"


async def test_a_sync_step_that_times_out_is_told_as_possibly_still_running(runtime: Runtime) -> None:
    go = threading.Event()

    @checkpoint(timeout=0.05)
    def slow() -> None:
        go.wait(PATIENCE)

    async def body() -> object:
        try:
            await slow()
        except StepTimeoutError as error:
            return str(error)
        return "in time"

    told = await run_of(runtime, body)
    go.set()
    assert isinstance(told, str)
    assert told.endswith("its thread is possibly still running")


async def test_a_timed_out_sync_step_is_not_retried_while_its_thread_runs(runtime: Runtime) -> None:
    go, running, most = threading.Event(), [0], [0]

    @checkpoint(timeout=0.2, retries=5, backoff=0)
    def slow_once() -> str:
        running[0] += 1
        most[0] = max(most[0], running[0])
        go.wait(PATIENCE)
        running[0] -= 1
        return "done"

    async def body() -> object:
        asyncio.get_running_loop().call_later(0.3, go.set)
        return await slow_once()

    assert await run_of(runtime, body) == "done"
    assert most == [1]


async def test_overlap_lets_a_retry_start_while_the_thread_runs(runtime: Runtime) -> None:
    go, attempts = threading.Event(), []

    @checkpoint(timeout=0.1, retries=1, backoff=0, overlap=True)
    def slow_once() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            go.wait(PATIENCE)
        return "done"

    async def body() -> object:
        return await slow_once()

    try:
        assert await run_of(runtime, body) == "done"
    finally:
        go.set()


# -- inputs -----------------------------------------------------------------------------------------------------------


async def test_an_input_changed_after_the_call_does_not_change_what_the_step_gets(runtime: Runtime) -> None:
    @checkpoint
    async def count(items: list[int]) -> int:
        return len(items)

    async def body() -> object:
        items = [1, 2]
        call = count(items)
        items.append(3)
        return await call

    assert await run_of(runtime, body) == 2


async def test_a_step_that_changes_its_input_does_not_change_the_flows(runtime: Runtime) -> None:
    @checkpoint
    async def greedy(items: list[int]) -> None:
        items.clear()

    async def body() -> object:
        items = [1, 2]
        await greedy(items)
        return items

    assert await run_of(runtime, body) == [1, 2]


async def test_what_a_step_keeps_of_its_outcome_is_not_what_the_flow_gets(runtime: Runtime) -> None:
    kept: list[list[int]] = []

    @checkpoint
    async def make() -> list[int]:
        kept.append([1])
        return kept[0]

    async def body() -> object:
        found = await make()
        kept[0].append(2)
        return found

    assert await run_of(runtime, body) == [1]


async def test_positions_and_keywords_make_one_fingerprint(runtime: Runtime) -> None:
    @checkpoint
    async def two(left: int, right: int) -> int:
        return left - right

    async def body() -> object:
        return [await two(3, 1), await two(3, right=1), await two(right=1, left=3)]

    assert await run_of(runtime, body) == [2, 2, 2]
    assert len({event.fingerprint for event in await of_type(runtime, "r", StepCompleted)}) == 1


async def test_variable_arguments_reach_the_step_as_they_were_given(runtime: Runtime) -> None:
    @checkpoint
    async def many(first: int, *rest: int, last: int = 0, **more: int) -> list[object]:
        return [first, list(rest), last, more]

    async def body() -> object:
        return await many(1, 2, 3, last=4, five=5)

    assert await run_of(runtime, body) == [1, [2, 3], 4, {"five": 5}]


async def test_arguments_that_do_not_fit_fail_at_the_call(runtime: Runtime) -> None:
    @checkpoint
    async def one(topic: str) -> str:
        return topic

    async def body() -> object:
        with pytest.raises(TypeError):
            one("a", "b")  # type: ignore[call-arg]  # the mistake under test
        with pytest.raises(TypeError):
            one(nothing="a")  # type: ignore[call-arg]  # the mistake under test
        return "told"

    assert await run_of(runtime, body) == "told"


async def test_an_input_that_cannot_be_recorded_fails_at_the_call_naming_its_path(runtime: Runtime) -> None:
    @checkpoint
    async def use(config: dict[str, object]) -> None: ...

    async def body() -> object:
        with pytest.raises(EncodeError) as caught:
            use({"clients": [Client()]})
        return str(caught.value)

    told = await run_of(runtime, body)
    assert isinstance(told, str)
    assert "use()" in told
    assert "clients" in told
    assert "ignore=" in told


async def test_an_ignored_parameter_is_handed_on_live(runtime: Runtime) -> None:
    live = Client()

    @checkpoint(ignore=["client"])
    async def ask(client: Client, what: str) -> str:
        client.asked.append(what)
        return "same" if client is live else "copy"

    async def body() -> object:
        return await ask(live, "x")

    assert await run_of(runtime, body) == "same"
    assert live.asked == ["x"]


async def test_a_method_records_its_object_as_an_input(runtime: Runtime) -> None:
    async def body() -> object:
        return [await Shop("Ada").greet("Bo"), await Shop("Cy").greet("Bo")]

    assert await run_of(runtime, body) == ["Ada greets Bo", "Cy greets Bo"]
    assert len({event.fingerprint for event in await of_type(runtime, "r", StepCompleted)}) == 2


async def test_a_method_may_leave_its_object_out_of_the_fingerprint(runtime: Runtime) -> None:
    async def body() -> object:
        return [await Shop("Ada").ask("x"), await Shop("Cy").ask("x")]

    assert await run_of(runtime, body) == ["Ada: x", "Cy: x"]
    assert len({event.fingerprint for event in await of_type(runtime, "r", StepCompleted)}) == 1


async def test_a_method_of_an_object_that_cannot_be_recorded_works_with_self_ignored(runtime: Runtime) -> None:
    shop = LiveShop()

    async def body() -> object:
        return await shop.ask("x")

    assert await run_of(runtime, body) == "X"
    assert shop.client.asked == ["x"]


async def test_a_name_given_at_the_call_is_the_boundarys_name(runtime: Runtime) -> None:
    async def body() -> object:
        return await Shop("Ada").greet.options(name="hello")("Bo")

    assert await run_of(runtime, body) == "Ada greets Bo"
    assert await keys_of(runtime, "r", StepCompleted) == ["hello"]


# -- outcomes ---------------------------------------------------------------------------------------------------------


async def test_an_outcome_that_cannot_be_recorded_fails_the_step_naming_its_path(runtime: Runtime) -> None:
    @checkpoint(retries=3, backoff=0)
    async def make() -> dict[str, object]:
        return {"client": Client()}

    async def body() -> object:
        await make()
        return None

    with pytest.raises(EncodeError) as caught:
        await run_of(runtime, body)
    assert "make() returned what cannot be recorded" in str(caught.value)
    assert "client" in str(caught.value)
    assert [f.attempt for f in await of_type(runtime, "r", StepFailed)] == [1]


async def test_a_large_outcome_comes_back_whole(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def large() -> bytes:
        return bytes(range(256)) * 8192

    @flow
    async def body() -> int:
        found = await large()
        assert found == bytes(range(256)) * 8192
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return len(found)

    await stopped(store_url, body, "r", reached)
    first_time = False
    assert await resumed(store_url, body, "r") == 2 << 20


async def test_typed_outcomes_come_back_as_what_they_were_on_both_runs(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True
    seen: list[object] = []

    @checkpoint
    async def make() -> tuple[Shop, frozenset[int]]:
        return Shop("Ada"), frozenset({1, 2})

    @flow
    async def body() -> None:
        seen.append(await make())
        if first_time:
            reached.set()
            await asyncio.Event().wait()

    await stopped(store_url, body, "r", reached)
    first_time = False
    await resumed(store_url, body, "r")
    assert seen == [(Shop("Ada"), frozenset({1, 2}))] * 2


# -- failures ---------------------------------------------------------------------------------------------------------


async def test_an_exception_is_rebuilt_alike_on_the_first_run_and_on_resume(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True
    seen: list[RefusedError] = []
    causes: list[BaseException | None] = []

    @checkpoint
    async def refuses() -> None:
        error = RefusedError("no key", code=41)
        error.add_note("ask the admin")
        raise error

    @flow
    async def body() -> None:
        try:
            await refuses()
        except RefusedError as error:
            seen.append(error)
            causes.append(error.__cause__)
        if first_time:
            reached.set()
            await asyncio.Event().wait()

    await stopped(store_url, body, "r", reached)
    first_time = False
    await resumed(store_url, body, "r")
    for error in seen:
        assert str(error) == "refused: no key"
        assert error.code == 41
        assert error.__notes__ == ["ask the admin"]
    # On the first run it is chained from the live one, with its traceback.
    assert isinstance(causes[0], RefusedError)
    assert causes[0].__traceback__ is not None
    assert causes[0] is not seen[0]


async def test_an_exception_of_an_unknown_class_becomes_a_step_error_on_the_first_run_too(runtime: Runtime) -> None:
    class LocalError(Exception):
        pass

    @checkpoint
    async def fails() -> None:
        raise LocalError("hidden")

    async def body() -> object:
        try:
            await fails()
        except StepError as error:
            return [str(error).splitlines()[0], error.type_name.rpartition(".")[2]]
        return None

    assert await run_of(runtime, body) == ["hidden", "LocalError"]


async def test_the_failure_of_a_flow_is_the_same_to_its_starter_and_to_a_later_reader(runtime: Runtime) -> None:
    async def body() -> object:
        raise RefusedError("no key", code=41)

    with pytest.raises(RefusedError) as first:
        await run_of(runtime, body)
    with pytest.raises(RefusedError) as later:
        await run_of(runtime, body)
    assert (str(first.value), first.value.code) == (str(later.value), later.value.code) == ("refused: no key", 41)


async def test_stop_iteration_in_a_sync_step_is_a_failure_not_a_hang(runtime: Runtime) -> None:
    @checkpoint
    def stops() -> None:
        raise StopIteration("odd")

    async def body() -> object:
        await stops()
        return None

    with pytest.raises(RuntimeError):
        async with asyncio.timeout(PATIENCE):
            await run_of(runtime, body)


# -- starts -----------------------------------------------------------------------------------------------------------


async def test_the_start_of_an_effect_is_committed_before_it_runs(runtime: Runtime) -> None:
    seen: list[list[str]] = []

    @checkpoint(effects=True)
    async def charge() -> None:
        seen.append(await keys_of(runtime, "r", StepStarted))

    async def body() -> object:
        await charge()
        return None

    await run_of(runtime, body)
    assert seen == [["charge"]]


async def test_a_plain_step_is_one_event_with_both_times(runtime: Runtime) -> None:
    @checkpoint
    async def step() -> None:
        await asyncio.sleep(0.02)

    async def body() -> object:
        await step()
        return None

    await run_of(runtime, body)
    assert await of_type(runtime, "r", StepStarted) == []
    (event,) = await of_type(runtime, "r", StepCompleted)
    assert event.at - event.started >= 0.02


async def test_the_start_of_a_long_step_is_committed_while_it_runs(runtime: Runtime) -> None:
    go = asyncio.Event()

    @checkpoint
    async def long() -> None:
        await go.wait()

    async def body() -> object:
        await long()
        return None

    running = asyncio.create_task(run_of(runtime, body))
    await until(lambda: keys_of(runtime, "r", StepStarted))
    go.set()
    await running
    assert await keys_of(runtime, "r", StepCompleted) == ["long"]


# -- inside a checkpoint ----------------------------------------------------------------------------------------------


async def test_children_of_an_interrupted_checkpoint_are_reused_by_the_attempt_that_repeats_it(store_url: str) -> None:
    ran: list[str] = []
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def child(name: str) -> str:
        ran.append(name)
        return name.upper()

    @checkpoint
    async def outer() -> list[str]:
        # Two equal calls are two calls: both were paid for.
        found = [await child("a"), await child("b"), await child("b")]
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return [*found, await child("c")]

    @flow
    async def body() -> list[str]:
        return await outer()

    await stopped(store_url, body, "r", reached)
    first_time = False
    assert await resumed(store_url, body, "r") == ["A", "B", "B", "C"]
    assert ran == ["a", "b", "b", "c"]


async def test_a_failed_child_of_an_interrupted_checkpoint_fails_again_without_running(store_url: str) -> None:
    ran: list[str] = []
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def child() -> None:
        ran.append("child")
        raise ValueError("broken")

    @checkpoint
    async def outer() -> str:
        try:
            await child()
        except ValueError as error:
            if first_time:
                reached.set()
                await asyncio.Event().wait()
            return str(error)
        return "no error"

    @flow
    async def body() -> str:
        return await outer()

    await stopped(store_url, body, "r", reached)
    first_time = False
    assert await resumed(store_url, body, "r") == "broken"
    assert ran == ["child"]


async def test_grandchildren_of_an_interrupted_checkpoint_are_reused_too(store_url: str) -> None:
    ran: list[str] = []
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def leaf() -> str:
        ran.append("leaf")
        return "leaf"

    @checkpoint
    async def middle() -> str:
        found = await leaf()
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return found

    @checkpoint
    async def outer() -> str:
        return await middle()

    @flow
    async def body() -> str:
        return await outer()

    await stopped(store_url, body, "r", reached)
    first_time = False
    assert await resumed(store_url, body, "r") == "leaf"
    assert ran == ["leaf"]


async def test_a_new_attempt_after_a_failure_calls_its_children_anew(runtime: Runtime) -> None:
    ran: list[int] = []

    @checkpoint
    async def child() -> int:
        ran.append(1)
        return len(ran)

    @checkpoint(retries=1, backoff=0)
    async def outer() -> int:
        found = await child()
        if found == 1:
            raise ValueError("try again")
        return found

    async def body() -> object:
        return await outer()

    assert await run_of(runtime, body) == 2


async def test_a_retried_run_calls_the_children_of_the_failed_checkpoint_anew(runtime: Runtime) -> None:
    ran: list[int] = []

    @checkpoint
    async def child() -> int:
        ran.append(1)
        return len(ran)

    @checkpoint
    async def outer() -> int:
        found = await child()
        if found == 1:
            raise ValueError("this once")
        return found

    @flow
    async def body() -> int:
        return await outer()

    handle = await runtime.start(body.options(run_id="r"))
    with pytest.raises(ValueError, match="this once"):
        await handle.result()
    assert await (await runtime.retry("r", body)).result() == 2


async def test_a_finished_checkpoint_is_the_replay_boundary_of_its_children(store_url: str) -> None:
    ran: list[str] = []
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def child() -> str:
        ran.append("child")
        return "x"

    @checkpoint
    async def outer() -> str:
        ran.append("outer")
        return await child() + await child()

    @flow
    async def body() -> str:
        found = await outer()
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return found

    await stopped(store_url, body, "r", reached)
    first_time = False
    assert await resumed(store_url, body, "r") == "xx"
    assert ran == ["outer", "child", "child"]


async def test_a_flow_called_inside_a_checkpoint_is_an_error(runtime: Runtime) -> None:
    @flow
    async def inner() -> None: ...

    @checkpoint
    async def outer() -> None:
        await inner()

    async def body() -> object:
        await outer()
        return None

    with pytest.raises(UsageError, match="called inside the checkpoint outer"):
        await run_of(runtime, body)


async def test_scope_inside_a_checkpoint_is_an_error(runtime: Runtime) -> None:
    @checkpoint
    async def outer() -> None:
        with kitaru.scope("part"):
            pass

    async def body() -> object:
        await outer()
        return None

    with pytest.raises(UsageError, match="outside a flow's own code"):
        await run_of(runtime, body)


async def test_scopes_keep_ordinals_apart(runtime: Runtime) -> None:
    @checkpoint
    async def step() -> None: ...

    async def body() -> object:
        await step()
        with kitaru.scope("part"):
            await step()
            await step()
        await step()
        return None

    await run_of(runtime, body)
    assert await keys_of(runtime, "r", StepCompleted) == ["step", "part/step", "part/step[1]", "step[1]"]


async def test_concurrent_children_of_a_checkpoint_are_all_recorded(runtime: Runtime) -> None:
    @checkpoint
    async def child(number: int) -> int:
        return number

    @checkpoint
    async def outer() -> int:
        return sum(await asyncio.gather(*(child(number) for number in range(5))))

    async def body() -> object:
        return await outer()

    assert await run_of(runtime, body) == 10
    assert len(await keys_of(runtime, "r", StepCompleted)) == 6
