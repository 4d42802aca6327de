"""What is recorded of a checkpoint: its inputs and its outcomes."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import threading
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

import kitaru
from kitaru import Checkpoint, EncodeError, Runtime, checkpoint, flow
from kitaru.store.events import StepCompleted, StepFailed
from tests.runtime.runs import keys_of, of_type, resumed, run_of, stopped


class Client:
    """Something live that cannot be recorded."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked: list[str] = []


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
    assert "the result of make(): value" in str(caught.value)
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


# -- context variables ------------------------------------------------------------------------------------------------

USER: ContextVar[str] = ContextVar("user", default="anonymous")


@checkpoint
async def logs_in() -> str:
    USER.set("ada")
    await asyncio.sleep(0)
    return USER.get()


@checkpoint
def logs_in_on_a_thread() -> str:
    USER.set("ada")
    return USER.get()


@checkpoint(timeout=60)
async def logs_in_in_time() -> str:
    return await logs_in()


@checkpoint(timeout=60)
def logs_in_in_time_on_a_thread() -> str:
    USER.set("ada")
    return USER.get()


LOGINS = (logs_in, logs_in_on_a_thread, logs_in_in_time, logs_in_in_time_on_a_thread)


@pytest.mark.parametrize("login", LOGINS, ids=lambda step: step.name)
async def test_a_context_variable_set_in_a_step_ends_with_the_step(
    runtime: Runtime, login: Checkpoint[[], str]
) -> None:
    @checkpoint
    async def whole() -> tuple[str, str]:
        return await login(), USER.get()

    @flow
    async def asynchronous() -> object:
        return [await login(), USER.get(), await login().submit(), USER.get(), *await whole(), USER.get()]

    @flow
    def threaded() -> object:
        return [login().load(), USER.get(), login.submit().load(), USER.get(), *whole().load(), USER.get()]

    for one in (asynchronous, threaded):
        assert await (await runtime.start(one)).result() == ["ada", "anonymous"] * 3 + ["anonymous"]


async def test_what_a_wrapper_sets_before_it_awaits_the_step_ends_with_the_step_too(runtime: Runtime) -> None:
    async def reads() -> str:
        return USER.get()

    @functools.wraps(reads)
    def as_ada() -> Coroutine[Any, Any, str]:
        USER.set("ada")
        kitaru.now()
        return reads()

    if mark := getattr(inspect, "markcoroutinefunction", None):  # Python 3.12
        mark(as_ada)
    step = checkpoint(as_ada)
    limited = checkpoint(timeout=60)(as_ada)

    async def body() -> object:
        return [await step(), USER.get(), await limited(), USER.get()]

    assert await run_of(runtime, body) == ["ada", "anonymous"] * 2
    assert all(">" in key for key in await keys_of(runtime, "r", StepCompleted) if key.endswith("now"))


async def test_a_step_sees_the_context_variables_of_its_flow(runtime: Runtime) -> None:
    @checkpoint
    async def seen() -> str:
        return USER.get()

    @checkpoint
    def seen_on_a_thread() -> str:
        return USER.get()

    async def body() -> object:
        USER.set("grace")
        return [await seen(), await seen_on_a_thread()]

    assert await run_of(runtime, body) == ["grace", "grace"]
