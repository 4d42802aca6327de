"""How a checkpoint fails, and when its start is recorded."""

from __future__ import annotations

import asyncio
import traceback

import pytest

from kitaru import Call, Runtime, StepError, checkpoint, flow
from kitaru.store import codec
from kitaru.store.events import RunFailed, StepCompleted, StepStarted
from tests.runtime.runs import PATIENCE, keys_of, of_type, resumed, run_of, stopped, until


class RefusedError(Exception):
    """An exception whose constructor wants more than its args hold."""

    def __init__(self, reason: str, *, code: int) -> None:
        super().__init__(f"refused: {reason}")
        self.code = code


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
    assert causes == [None, None]


def chained(how: str) -> None:
    """Raise an exception with another chain behind it, by `how`."""
    if how == "from":
        try:
            raise KeyError("lost")
        except KeyError as error:
            raise ValueError("no such page") from error
    if how == "from another":
        try:
            raise KeyError("lost")
        except KeyError:
            raise ValueError("no such page") from OSError("gone")
    if how == "from none":
        try:
            raise KeyError("lost")
        except KeyError:
            raise ValueError("no such page") from None
    if how == "while handling":
        try:
            raise KeyError("lost")
        except KeyError:
            raise ValueError("no such page")  # noqa: B904  # it is the kind that is tested
    if how == "group":
        one = ValueError("no such page")
        one.__cause__ = OSError("gone")
        one.add_note("page 7")
        raise ExceptionGroup("pages", [one, KeyError("lost")])
    raise ValueError("no such page")


def chain_of(error: BaseException | None) -> object:
    """An exception with all that it is chained to, comparable."""
    if error is None:
        return None
    members = [chain_of(member) for member in error.exceptions] if isinstance(error, BaseExceptionGroup) else []
    return [
        repr(error), chain_of(error.__cause__), chain_of(error.__context__), error.__suppress_context__,
        getattr(error, "__notes__", []), members,
    ]  # fmt: skip


CHAINS = ("from", "from another", "from none", "while handling", "group", "plain")


@checkpoint
async def chains(how: str) -> None:
    chained(how)


@checkpoint
def chains_on_a_thread(how: str) -> None:
    chained(how)


@checkpoint(retries=1, backoff=0)
async def chains_twice(how: str) -> None:
    chained(how)


@checkpoint
async def nests(how: str) -> None:
    await chains(how)


@flow
async def child(how: str) -> None:
    await chains(how)


@pytest.mark.parametrize("how", CHAINS)
async def test_the_chain_of_an_exception_is_the_same_on_the_first_run_and_on_resume(store_url: str, how: str) -> None:
    reached, first_time = asyncio.Event(), True
    seen: list[object] = []

    async def look(call: Call[None]) -> None:
        try:
            await call
        except (ValueError, ExceptionGroup) as error:
            seen.append(chain_of(error))

    @flow
    async def body() -> None:
        for step in (chains, chains_on_a_thread, chains_twice, nests, child):
            await look(step(how))
            await look(step(how).submit())
        try:
            raise LookupError("of the flow's")
        except LookupError:
            await look(chains(how))
        if first_time:
            reached.set()
            await asyncio.Event().wait()

    await stopped(store_url, body, "r", reached)
    first_time = False
    await resumed(store_url, body, "r")
    with pytest.raises((ValueError, ExceptionGroup)) as raised:
        chained(how)
    assert seen[:10] == [chain_of(raised.value)] * 10
    assert seen[11:] == seen[:11]


async def test_the_chain_of_a_runs_failure_is_the_same_to_its_starter_and_to_a_later_reader(runtime: Runtime) -> None:
    async def body() -> object:
        try:
            await chains("from")
        except ValueError as error:
            raise RefusedError("no page", code=7) from error
        return None

    handle = await runtime.start(flow(name="body")(body).options(run_id="r"))
    with pytest.raises(RefusedError) as first:
        await handle.result()
    with pytest.raises(RefusedError) as later:
        await (await runtime.resume("r", flow(name="body")(body))).result()
    assert chain_of(first.value) == chain_of(later.value)
    assert repr(first.value.__cause__.__cause__) == "KeyError('lost')"  # type: ignore[union-attr]  # else it fails


async def test_a_failure_on_the_first_run_has_the_live_traceback_and_is_recorded_with_it_once(runtime: Runtime) -> None:
    async def body() -> None:
        await chains("plain")

    handle = await runtime.start(flow(name="body")(body).options(run_id="r"))
    with pytest.raises(ValueError, match="no such page") as caught:
        await handle.result()
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names.index("body") < names.index("chains") < names.index("chained")
    (failed,) = await of_type(runtime, "r", RunFailed)
    text = codec.format_exception(await runtime._core.value(failed.error))
    assert [text.count(f", in {name}\n") for name in ("body", "chains", "chained")] == [1, 1, 1]


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
