"""What `@flow` and `@checkpoint` may stand on and under: wrappers, methods, callables; and how frameworks see them."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.testclient import TestClient

import kitaru
from kitaru import EncodeError, Runtime, StepTimeoutError, UsageError, checkpoint, flow
from kitaru.runtime.loader import load_flow
from tests.runtime.runs import PATIENCE


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that knows nothing of async functions."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def to_sync(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that makes a sync function of an async one."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(function(*args, **kwargs))

    return wrapper


async def add(one: int, other: int) -> int:
    return one + other


def plain_add(one: int, other: int) -> int:
    return one + other


class Adds:
    async def __call__(self, one: int) -> int:
        return one + 1


class AddsSync:
    def __call__(self, one: int) -> int:
        return one + 1


@checkpoint
@logged
async def wrapped(number: int) -> str:
    return f"{number} {await kitaru.llm('hello', model='test/echo')} {kitaru.now().year > 2000}"


@flow
@logged
async def wrapped_flow(number: int) -> list[str]:
    return list(await asyncio.gather(wrapped(number), wrapped(number + 1)))


@logged
@flow
async def under_a_wrapper(number: int) -> int:
    return number + 1


of_partial = flow(name="adds one")(functools.partial(add, 1))


# -- wrappers and callables -------------------------------------------------------------------------------------------


async def test_a_sync_wrapper_round_async_functions_is_transparent(runtime: Runtime) -> None:
    handle = await runtime.start(wrapped_flow.options(run_id="w"), 1)
    assert await handle.result() == ["1 hello True", "2 hello True"]
    fork = await runtime.replay("w")
    assert await fork.handle.result() == ["1 hello True", "2 hello True"]


def test_a_sync_wrapper_round_an_async_step_works_from_a_sync_flow_and_outside() -> None:
    @flow
    def calls() -> list[str]:
        return [wrapped(1).load(), *(call.load() for call in wrapped.map([2]))]

    assert calls.run().wait(timeout=PATIENCE) == ["1 hello True", "2 hello True"]

    async def outside() -> object:
        return await wrapped(3)

    assert asyncio.run(outside()) == "3 hello True"


async def test_a_wrapper_that_makes_an_async_step_sync_runs_on_a_thread(runtime: Runtime) -> None:
    @checkpoint
    @to_sync
    async def step() -> bool:
        return threading.current_thread() is threading.main_thread()

    @flow
    async def calls() -> object:
        return await step()

    assert await (await runtime.start(calls)).result() is False


async def test_the_timeout_of_a_step_covers_what_a_sync_wrapper_returns(runtime: Runtime) -> None:
    @checkpoint(timeout=0.05)
    @logged
    async def step() -> None:
        await asyncio.Event().wait()

    @flow
    async def calls() -> None:
        await step()

    with pytest.raises(StepTimeoutError, match=r"ran longer than 0\.05 s$"):
        await (await runtime.start(calls)).result()


async def test_cancelling_a_wrapped_flow_runs_its_cleanup(runtime: Runtime) -> None:
    cleaned: list[bool] = []
    begun = asyncio.Event()

    @flow
    @logged
    async def waits() -> None:
        begun.set()
        try:
            await kitaru.sleep(1000)
        finally:
            cleaned.append(True)

    handle = await runtime.start(waits)
    await begun.wait()
    await handle.cancel()
    with pytest.raises(kitaru.RunCancelledError):
        await handle.result()
    assert cleaned == [True]


async def test_callables_and_partials_are_steps(runtime: Runtime) -> None:
    cached = functools.lru_cache(AddsSync.__call__)
    steps: list[Any] = [
        checkpoint(functools.partial(add, 1)), checkpoint(Adds()), checkpoint(name="sync")(AddsSync()),
        checkpoint(name="cached")(functools.partial(cached, AddsSync())),
    ]  # fmt: skip
    assert [step.name for step in steps] == ["add", "Adds", "sync", "cached"]
    assert checkpoint(functools.lru_cache(plain_add)).name == "plain_add"

    @flow
    async def calls() -> list[int]:
        return [await step(2) for step in steps]

    handle = await runtime.start(calls.options(run_id="callables"))
    assert await handle.result() == [3, 3, 3, 3]
    fork = await runtime.replay("callables", kitaru.ReplayOptions(verify=True), calls)
    assert await fork.handle.result() == [3, 3, 3, 3]


async def test_a_wrapper_that_lies_about_its_parameters_gets_its_arguments(runtime: Runtime) -> None:
    @checkpoint
    @functools.wraps(add)
    async def step(*args: int, **kwargs: int) -> list[object]:
        return [args, kwargs]

    @flow
    async def calls() -> list[object]:
        return await step(1, 2, third=3)

    assert await (await runtime.start(calls)).result() == [(1, 2), {"third": 3}]


@pytest.mark.parametrize("made", [wrapped_flow, of_partial])
def test_a_flow_is_found_again_below_what_wraps_it(made: kitaru.Flow[..., Any]) -> None:
    assert load_flow(made.work.ref) is made


def test_a_flow_under_a_wrapper_is_found_again() -> None:
    inner: kitaru.Flow[..., Any] = inspect.unwrap(under_a_wrapper, stop=lambda f: isinstance(f, kitaru.Flow))
    assert load_flow(inner.work.ref) is inner
    assert asyncio.run(under_a_wrapper(1)) == 2


# -- methods ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Shop:
    name: str

    @flow
    async def greets(self, guest: str) -> str:
        return f"{self.name} greets {guest}"

    @staticmethod
    @flow
    async def opens(hour: int) -> int:
        return hour

    @classmethod
    @checkpoint(ignore=["cls"])
    async def kind(cls) -> str:
        return cls.__name__


class LiveShop:
    @flow
    async def greets(self) -> None:
        """Never run: the object cannot be recorded."""


async def test_a_method_is_a_flow_whose_object_is_an_input(runtime: Runtime) -> None:
    shop = Shop("Ada's")
    assert await (await runtime.start(shop.greets.options(run_id="g"), "Bob")).result() == "Ada's greets Bob"
    assert await (await runtime.start(Shop.greets.options(run_id="g"), shop, "Bob")).result() == "Ada's greets Bob"
    assert await shop.greets("Eve") == "Ada's greets Eve"
    assert await (await shop.greets.start("Eve")).result() == "Ada's greets Eve"
    assert await Shop.opens(8) == 8
    with pytest.raises(EncodeError, match="LiveShop"):
        await LiveShop().greets()
    borrows: Any = Borrows()
    assert await borrows.job(4) == 5


async def test_a_class_method_is_a_step_that_leaves_its_class_out(runtime: Runtime) -> None:
    @flow
    async def calls() -> list[str]:
        kinds: list[Any] = [Shop.kind, Shop("x").kind]
        return [await kind() for kind in kinds]

    assert await (await runtime.start(calls)).result() == ["Shop", "Shop"]


# -- what cannot work -------------------------------------------------------------------------------------------------


async def pieces() -> AsyncIterator[int]:
    yield 1


def sync_pieces() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("decorate", [flow, checkpoint])
@pytest.mark.parametrize(
    ("function", "says"),
    [
        (pieces, "Return a list"),
        (sync_pieces, "Return a list"),
        (functools.partial(sync_pieces), "Return a list"),
        (Shop, "one of its methods"),
        ("a name", 'name="..."'),
        (staticmethod(add), "below @staticmethod"),
        (property(add), "below @property"),  # type: ignore[arg-type]  # wrong on purpose
        (wrapped_flow, "one of the two decorators"),
        (wrapped, "one of the two decorators"),
    ],
)
def test_what_cannot_be_recorded_is_refused_at_decoration(
    decorate: Callable[..., Any], function: Any, says: str
) -> None:
    with pytest.raises(UsageError, match=f"(?s)@{decorate.__name__} .*{says}"):
        decorate(function)
    with pytest.raises(UsageError, match=says):
        decorate(name="x")(function)


def test_a_lambda_needs_a_name() -> None:
    with pytest.raises(UsageError, match=r'(?s)on a lambda.*name="\.\.\."'):
        checkpoint(lambda: 1)
    assert checkpoint(name="one")(lambda: 1).name == "one"


def test_a_class_method_is_no_flow() -> None:
    with pytest.raises(UsageError, match=r"(?s)class method .*Held\.runs.*@staticmethod"):

        class Held:
            @classmethod
            @flow
            async def runs(cls) -> None:
                """Never made."""


# -- as frameworks see them -------------------------------------------------------------------------------------------


@checkpoint
async def step(x: int) -> int:
    return x + 1


@checkpoint
def sync_step(x: int) -> int:
    return x + 1


@flow
async def job(x: int) -> int:
    return await step(x)


class Borrows:
    """Has a flow of the module as an attribute, which is no method."""

    job = job


@flow
def sync_job(x: int) -> int:
    return sync_step(x).load()


@pytest.mark.parametrize(
    ("durable", "is_async"),
    [
        (job, True), (job.options(run_id="x"), True), (Shop("x").greets, True), (step, True),
        (step.options(name="x"), True), (functools.partial(job, 1), True), (sync_job, False), (sync_step, False),
    ],
)  # fmt: skip
def test_an_async_flow_or_step_is_a_coroutine_function_to_whoever_asks(durable: Any, is_async: bool) -> None:
    assert inspect.iscoroutinefunction(durable) is is_async
    assert asyncio.iscoroutinefunction(durable) is is_async
    if not isinstance(durable, functools.partial):
        assert inspect.iscoroutinefunction(durable.__call__) is is_async


def test_flows_are_background_tasks_dependencies_and_endpoints() -> None:
    app, done = FastAPI(), []

    @flow
    async def task(x: int) -> None:
        done.append(await step(x))

    @flow
    def sync_task(x: int) -> None:
        done.append(sync_step(x).load())

    @app.get("/tasks")
    async def tasks(background: BackgroundTasks, x: int) -> str:
        background.add_task(task, x)
        background.add_task(sync_task, x + 1)
        return "queued"

    @app.get("/depends")
    async def depends(found: int = Depends(job)) -> int:
        return found

    app.get("/job")(job)
    client = TestClient(app)
    assert client.get("/tasks?x=1").json() == "queued"
    assert done == [2, 3]
    assert client.get("/depends?x=5").json() == 6
    assert client.get("/job?x=7").json() == 8


# -- parameters' names ------------------------------------------------------------------------------------------------

AWKWARD = {"self": 1, "args": 2, "kwargs": 3, "run_id": 4, "name": 5, "inputs": 6, "flow": 7, "function": 8, "call": 9}


@checkpoint
async def named_step(**all_of: int) -> dict[str, int]:
    return all_of


@flow
async def named(
    self: int, args: int, kwargs: int, run_id: int, name: int, inputs: int, flow: int, function: int, call: int
) -> list[dict[str, int]]:
    given = {
        "self": self, "args": args, "kwargs": kwargs, "run_id": run_id, "name": name, "inputs": inputs, "flow": flow,
        "function": function, "call": call,
    }  # fmt: skip
    return [await named_step(**given), await named_step.submit(**given), given]


async def test_parameters_may_have_any_name(runtime: Runtime) -> None:
    wanted = [AWKWARD] * 3
    assert await named(**AWKWARD) == wanted
    assert await (await named.start(**AWKWARD)).result() == wanted
    assert await (await runtime.start(named, **AWKWARD)).result() == wanted
    assert await asyncio.to_thread(lambda: named.run(**AWKWARD).wait()) == wanted
    assert await named_step(**AWKWARD) == AWKWARD


def test_a_bound_step_is_freed_without_the_garbage_collector() -> None:
    shop = Shop("x")
    makes: list[Callable[[], object]] = [
        lambda: shop.greets, lambda: shop.kind, lambda: job.options(run_id="x"), lambda: step.options(name="x"),
    ]  # fmt: skip
    assert [weakref.ref(make())() for make in makes] == [None] * 4
