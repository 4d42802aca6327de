"""What a runtime shows its users: its public names, runs, handles of runs, and their events."""

from __future__ import annotations

import asyncio
import datetime

import pytest

from kitaru import Runtime, UsageError, checkpoint, flow
from kitaru.errors import NotFoundError, RunParkedError
from tests.runtime.runs import PATIENCE

PUBLIC = {
    "cancel", "close", "events", "get", "health", "open", "recover", "replay", "resume", "retry", "run", "runs",
    "start", "watch",
}  # fmt: skip

go = {"go": asyncio.Event()}


@checkpoint
async def double(number: int) -> int:
    return number * 2


@flow
async def doubled(number: int) -> int:
    return await double(number)


@flow
async def waits() -> str:
    await double(1)
    await go["go"].wait()
    return "done"


def test_a_runtime_has_the_public_names_and_no_other(store_url: str) -> None:
    for shown in (Runtime, Runtime(store_url)):
        assert {name for name in dir(shown) if not name.startswith("_")} == PUBLIC
        assert all(getattr(shown, name).__doc__ for name in PUBLIC)


async def test_runs_are_listed_newest_first_and_filtered(runtime: Runtime) -> None:
    before = datetime.datetime.now(datetime.UTC)
    for number in (1, 2):
        await (await runtime.start(doubled.options(run_id=f"r{number}"), number)).result()
    found = await runtime.runs()
    assert [(one.id, one.flow, one.status) for one in found] == [("r2", "doubled", "completed"),
                                                                 ("r1", "doubled", "completed")]  # fmt: skip
    assert before < found[0].started <= found[0].updated
    assert [one.id for one in await runtime.runs(limit=1, before="r2")] == ["r1"]
    assert await runtime.runs(status="failed") == []
    assert await runtime.runs(since=found[0].updated + datetime.timedelta(hours=1)) == []
    assert len(await runtime.runs(status=["completed", "failed"], flow="doubled")) == 2


async def test_an_unknown_status_is_refused_by_its_name(runtime: Runtime) -> None:
    with pytest.raises(UsageError, match="there is no status 'done'"):
        await runtime.runs(status="done")  # type: ignore[arg-type]  # the mistake under test


async def test_the_handle_of_any_run_can_be_had_by_its_id(runtime: Runtime) -> None:
    await (await runtime.start(doubled.options(run_id="tides-1"), 3)).result()
    for name in ("tides-1", "tides", "last"):
        handle = await runtime.get(name)
        assert (handle.id, await handle.status(), await handle.result()) == ("tides-1", "completed", 6)
    with pytest.raises(NotFoundError):
        await runtime.get("nobody")


async def test_the_handle_of_a_parked_run_resumes_nothing(store_url: str) -> None:
    go["go"] = asyncio.Event()
    async with Runtime(store_url, recover=False) as first:
        await first.start(waits.options(run_id="r"))
    async with Runtime(store_url, recover=False) as second:
        handle = await second.get("r")
        with pytest.raises(RunParkedError):
            await asyncio.wait_for(handle.result(), PATIENCE)
        assert [one.status for one in await second.runs()] == ["parked"]


async def test_events_are_typed_and_named(runtime: Runtime) -> None:
    await (await runtime.start(doubled.options(run_id="r"), 3)).result()
    events = await runtime.events("r")
    assert (events[0].seq, events[0].type) == (1, "RunStarted")
    (step,) = [event for event in events if event.type == "StepCompleted"]
    assert (step.key, step.fields["outcome"]) == ("double", 6)
    assert step.at.tzinfo is datetime.UTC
    assert await runtime.events("r", after=step.seq) == [event for event in events if event.seq > step.seq]


async def test_watching_a_run_gives_its_events_as_they_come_until_it_ends(runtime: Runtime) -> None:
    go["go"] = asyncio.Event()
    await runtime.start(waits.options(run_id="r"))
    seen = []
    async with asyncio.timeout(PATIENCE):
        async for event in runtime.watch("r"):
            seen.append(event)
            if event.type == "StepCompleted":
                go["go"].set()
    assert seen[-1].type == "RunCompleted"
    assert seen == await runtime.events("r")
    assert [event async for event in runtime.watch("r", after=seen[-2].seq)] == seen[-1:]
