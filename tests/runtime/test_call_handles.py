"""The handle that calling a boundary returns."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import inspect
import math
import operator
import os
import pickle
import warnings
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import kitaru
from kitaru import Call, Runtime, UsageError, checkpoint, flow
from kitaru.store.events import StepCompleted
from tests.runtime.runs import keys_of


@dataclasses.dataclass
class Pair:
    left: int
    right: int


@checkpoint
async def double(number: int) -> int:
    return number * 2


@checkpoint
async def total(numbers: list[int]) -> int:
    return sum(numbers)


@checkpoint
async def words() -> list[str]:
    return ["a", "b"]


async def run_of(runtime: Runtime, body: Callable[[], Coroutine[object, object, object]]) -> object:
    """The result of a flow with this body."""
    return await (await runtime.start(flow(name="body")(body).options(run_id="r"))).result()


async def test_a_call_awaited_twice_runs_once(runtime: Runtime) -> None:
    async def body() -> object:
        call = double(2)
        return [await call, await call]

    assert await run_of(runtime, body) == [4, 4]
    assert await keys_of(runtime, "r", StepCompleted) == ["double"]


async def test_a_call_awaited_by_two_tasks_runs_once_for_both(runtime: Runtime) -> None:
    async def body() -> object:
        call = double(2)

        async def one() -> int:
            return await call

        return await asyncio.gather(one(), one(), call)

    assert await run_of(runtime, body) == [4, 4, 4]
    assert await keys_of(runtime, "r", StepCompleted) == ["double"]


async def test_a_failed_call_raises_every_time_it_is_awaited(runtime: Runtime) -> None:
    @checkpoint
    async def fails() -> None:
        raise ValueError("broken")

    async def body() -> object:
        call = fails()
        told = []
        for _ in range(2):
            try:
                await call
            except ValueError as error:
                told.append(str(error))
        return told

    assert await run_of(runtime, body) == ["broken", "broken"]


@pytest.mark.parametrize("way", ["create_task", "ensure_future", "wait_for", "gather", "group", "shield", "submit"])
async def test_every_way_to_run_a_coroutine_takes_a_call(runtime: Runtime, way: str) -> None:
    async def body() -> object:
        match way:
            case "create_task":
                return await asyncio.create_task(double(2))
            case "ensure_future":
                return await asyncio.ensure_future(double(2))
            case "wait_for":
                return await asyncio.wait_for(double(2), 5)
            case "gather":
                return (await asyncio.gather(double(2)))[0]
            case "group":
                async with asyncio.TaskGroup() as group:
                    task = group.create_task(double(2))
                return task.result()
            case "shield":
                return await asyncio.shield(double(2))
            case _:
                return await double(2).submit().task

    assert await run_of(runtime, body) == 4
    assert await keys_of(runtime, "r", StepCompleted) == ["double"]


async def test_a_task_that_runs_a_call_can_be_shown() -> None:
    task = asyncio.create_task(double(2))
    shown = repr(task)
    await task
    assert shown.startswith("<Task pending")
    assert repr(task).startswith("<Task finished")


def test_asyncio_run_takes_the_call_of_a_flow() -> None:
    @flow
    async def quick(number: int) -> int:
        return await double(number)

    assert asyncio.run(quick(21)) == 42


def test_asyncio_run_takes_the_call_of_a_checkpoint_outside_any_flow() -> None:
    call: Coroutine[object, object, int] = double(21)
    assert asyncio.run(call) == 42


async def test_a_submitted_call_runs_before_it_is_awaited(runtime: Runtime) -> None:
    started = asyncio.Event()

    @checkpoint
    async def eager() -> str:
        started.set()
        return "ran"

    async def body() -> object:
        call = eager().submit()
        await started.wait()
        return await call

    assert await run_of(runtime, body) == "ran"


async def test_submitting_twice_is_one_task(runtime: Runtime) -> None:
    async def body() -> object:
        call = double(1).submit()
        return call.submit().task is call.task and await call == 2

    assert await run_of(runtime, body) is True


async def test_the_task_of_an_unsubmitted_call_is_a_usage_error(runtime: Runtime) -> None:
    async def body() -> object:
        call = double(1)
        with pytest.raises(UsageError, match=r"submit\(\)"):
            _ = call.task
        return await call

    assert await run_of(runtime, body) == 2


async def test_kitaru_gather_and_map_give_values_in_order(runtime: Runtime) -> None:
    async def body() -> object:
        return [await kitaru.gather(double(1), double(2)), await kitaru.map(double, [3, 4, 5], limit=2)]

    assert await run_of(runtime, body) == [(2, 4), [6, 8, 10]]


async def test_as_completed_gives_calls_as_they_finish(runtime: Runtime) -> None:
    gates = [asyncio.Event(), asyncio.Event()]

    @checkpoint
    async def gated(number: int) -> int:
        await gates[number].wait()
        return number

    async def body() -> object:
        found = []
        gates[1].set()
        async for call in kitaru.as_completed([gated(0), gated(1)]):
            found.append(await call)
            gates[0].set()
        return found

    assert await run_of(runtime, body) == [1, 0]


# -- standing for the value -------------------------------------------------------------------------------------------


async def test_a_handle_stands_for_its_value_as_an_argument(runtime: Runtime) -> None:
    async def body() -> object:
        return await double(double(double(1).ref).ref)

    assert await run_of(runtime, body) == 8


async def test_handles_in_containers_are_resolved(runtime: Runtime) -> None:
    async def body() -> object:
        return await total([double(1).ref, double(2).ref, 3])

    assert await run_of(runtime, body) == 9


async def test_handles_in_dataclasses_are_resolved(runtime: Runtime) -> None:
    @checkpoint
    async def both(pair: Pair) -> int:
        return pair.left + pair.right

    async def body() -> object:
        return await both(Pair(double(1).ref, double(2).ref))

    assert await run_of(runtime, body) == 6


async def test_a_handle_as_argument_records_the_same_inputs_as_its_value(runtime: Runtime) -> None:
    async def with_handle() -> object:
        return await double(double(1).ref)

    async def with_value() -> object:
        return await double(await double(1))

    await (await runtime.start(flow(name="a")(with_handle).options(run_id="a"))).result()
    await (await runtime.start(flow(name="b")(with_value).options(run_id="b"))).result()
    logs = [[e.event for e in await runtime._core.events(run)] for run in "ab"]
    prints = [[(e.key, e.fingerprint) for e in log if isinstance(e, StepCompleted)] for log in logs]
    assert prints[0] == prints[1]


async def test_a_handle_that_failed_fails_the_call_that_needs_it(runtime: Runtime) -> None:
    @checkpoint
    async def fails() -> int:
        raise ValueError("broken")

    async def body() -> object:
        with pytest.raises(ValueError, match="broken"):
            await double(fails().ref)
        return "told"

    assert await run_of(runtime, body) == "told"
    assert await keys_of(runtime, "r", StepCompleted) == []


async def test_a_flow_may_return_handles(runtime: Runtime) -> None:
    async def body() -> object:
        return {"one": double(1), "more": [double(2), double(3)]}

    assert await run_of(runtime, body) == {"one": 2, "more": [4, 6]}


async def test_a_checkpoint_may_return_a_handle(runtime: Runtime) -> None:
    @checkpoint
    async def outer() -> Call[int]:
        return double(4)

    async def body() -> object:
        return await outer()

    assert await run_of(runtime, body) == 8


async def test_the_key_is_taken_at_the_call_not_at_the_await(runtime: Runtime) -> None:
    async def body() -> object:
        first, second = double(1), double(2)
        found = [await second, await first]
        assert (first.key, second.key) == ("double", "double[1]")
        return found

    assert await run_of(runtime, body) == [4, 2]


# -- misuse -----------------------------------------------------------------------------------------------------------

MISUSES: dict[str, Callable[[Call[list[str]]], object]] = {
    "str": str,
    "f-string": lambda call: f"{call}",
    "format spec": lambda call: f"{call:>10}",
    "percent": lambda call: "%s" % call,  # noqa: UP031 - the old way is one of those under test
    "bool": bool,
    "iter": lambda call: list(call.ref),
    "len": len,
    "in": lambda call: "a" in call,
    "item": lambda call: call[0],
    "equals": lambda call: call == ["a", "b"],
    "differs": lambda call: call != ["a", "b"],
}
BINARY: list[Callable[[Any, Any], object]] = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
    operator.lshift, operator.rshift, operator.and_, operator.or_, operator.xor, operator.matmul, operator.lt,
    operator.le, operator.gt, operator.ge, divmod,
]  # fmt: skip
UNARY: list[Callable[[Any], object]] = [
    int, float, complex, bytes, abs, round, reversed, operator.neg, operator.pos, operator.invert, operator.index,
    math.trunc, math.floor, math.ceil, os.fspath, range, Path,
    lambda call: operator.setitem(call, 0, 2),
    lambda call: operator.delitem(call, 0), lambda call: [1, 2][call], "%d".__mod__,
    lambda call: sorted([call, 1]), lambda call: sum([1, call]), lambda call: call.upper, lambda call: call.upper(),
]  # fmt: skip


@pytest.mark.parametrize("misuse", MISUSES)
@pytest.mark.parametrize("finished", [False, True])
async def test_an_async_handle_used_as_a_value_says_await_it(runtime: Runtime, misuse: str, finished: bool) -> None:
    async def body() -> object:
        call = words()
        if finished:
            await call
        with pytest.raises(UsageError, match=r"await words\(\.\.\.\)") as caught:
            MISUSES[misuse](call)
        assert "test_call_handles.py:" in str(caught.value)
        return await call

    assert await run_of(runtime, body) == ["a", "b"]


@pytest.mark.parametrize("finished", [False, True])
async def test_every_operation_of_an_async_handle_says_await_it(runtime: Runtime, finished: bool) -> None:
    async def body() -> object:
        call = words()
        if finished:
            await call
        uses: list[Callable[[Any], object]] = [
            *UNARY,
            *(partial(use, 2) for use in BINARY),
            *(lambda call, use=use: use(call, 2) for use in BINARY),
        ]
        for use in uses:
            with pytest.raises(UsageError, match=r"(?s)as a value before it was awaited.*await words\(\.\.\.\)"):
                use(call)
        await call
        return len(uses)

    assert await run_of(runtime, body) == len(UNARY) + 2 * len(BINARY)


async def test_whoever_looks_at_a_handle_finds_no_value_and_no_error(runtime: Runtime) -> None:
    async def body() -> object:
        handle = double(1)
        call: Any = handle
        assert not hasattr(call, "upper")
        assert not hasattr(call, "task")
        assert not hasattr(call, "__enter__")
        assert not callable(call)
        assert getattr(call, "model_dump", None) is None
        assert inspect.isawaitable(handle)
        assert asyncio.iscoroutine(handle)
        assert dict(inspect.getmembers(call))["key"] == "double"
        assert mock.Mock(spec=call).key is not None
        assert copy.copy(call) is call
        assert copy.deepcopy([call]) == [call]
        assert dataclasses.asdict(Pair(call, 2))["left"] is call
        assert Pair(call, 2) == Pair(call, 2)
        assert dataclasses.replace(Pair(call, 2), right=3).left is call
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(call)
        assert hash(call) == hash(call)
        return await total([handle.ref, 1])

    assert await run_of(runtime, body) == 3


def test_a_handle_of_a_sync_flow_has_the_operators_and_attributes_of_its_value() -> None:
    @checkpoint
    def number() -> int:
        return 7

    @checkpoint
    def text() -> str:
        return "tides"

    @flow
    def body() -> list[object]:
        seven, tides = number(), text()
        return [
            seven.ref + 1, 1 + seven.ref, -seven.ref, seven.ref < 8, divmod(seven.ref, 2), divmod(50, seven.ref),
            float(seven.ref), len([0] * seven.ref), tides.ref.upper(), hasattr(tides, "nothing"), round(seven.ref),
        ]  # fmt: skip

    assert body.run().wait() == [8, 8, -7, True, (3, 1), (7, 1), 7.0, 7, "TIDES", False, 7]


async def test_handles_compare_by_identity_and_can_be_keys(runtime: Runtime) -> None:
    async def body() -> object:
        one, other = double(1), double(1)
        assert one == one
        assert one != other
        assert {one: "x"}[one] == "x"
        await kitaru.gather(one, other)
        return None

    await run_of(runtime, body)


async def test_repr_never_raises(runtime: Runtime) -> None:
    async def body() -> object:
        call = double(1)
        before = repr(call)
        await call
        return [before, repr(call)]

    assert await run_of(runtime, body) == ["<Call double new>", "<Call double done>"]


async def test_load_on_the_loops_thread_is_refused(runtime: Runtime) -> None:
    async def body() -> object:
        call = double(1)
        with pytest.raises(UsageError, match="would block the loop"):
            call.load()
        return await call

    assert await run_of(runtime, body) == 2


async def test_a_call_that_is_never_awaited_warns_with_its_line(runtime: Runtime) -> None:
    async def body() -> object:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            double(1)
            gc.collect()
        return [str(warning.message) for warning in caught]

    told = await run_of(runtime, body)
    line = body.__code__.co_firstlineno + 3
    assert told == [f"double at {__file__}:{line} was never awaited"]


async def test_a_handle_of_a_sync_flow_formats_as_its_value(runtime: Runtime) -> None:
    @checkpoint
    def name() -> str:
        return "tides"

    @checkpoint
    def several() -> list[int]:
        return [1, 2]

    @flow
    def formats() -> list[object]:
        call, many = name(), several()
        return [
            f"{call}",
            str(call),
            f"{call:>7}",
            call == "tides",
            bool(call),
            len(many),
            2 in many,
            list(many.ref),
            many[1],
        ]

    handle = await runtime.start(formats)
    assert await handle.result() == ["tides", "tides", "  tides", True, True, 2, True, [1, 2], 2]


async def test_a_checkpoint_outside_any_flow_is_a_plain_call() -> None:
    assert await double(4) == 8


def test_a_sync_checkpoint_outside_any_flow_is_a_plain_call() -> None:
    @checkpoint
    def treble(number: int) -> int:
        return number * 3

    assert treble(2).load() == 6
    assert f"{treble(2)}" == "6"
