"""Timers and cancelled calls under replay: what had not run out may run out now, and nothing counts as dropped."""

from __future__ import annotations

import pytest

from kitaru import ReplayOptions
from kitaru.runtime.views.inspect import view
from tests.runtime.replay.project import Project

GUARDED = """
@checkpoint
async def work(stuck: bool) -> str:
    ran("work")
    if stuck:
        await asyncio.Event().wait()
    return "worked"

@checkpoint
async def after(text: str) -> str:
    return text

@flow
async def by_timeout(stuck: bool) -> str:
    try:
        async with kitaru.timeout(0.2):
            return await after(await work(stuck))
    except TimeoutError:
        return await after("timed out")

@flow
async def by_sleep(stuck: bool) -> str:
    working, sleeping = work(stuck).submit(), kitaru.sleep(0.2).submit()
    await asyncio.wait([working.task, sleeping.task], return_when=asyncio.FIRST_COMPLETED)
    if working.done:
        sleeping.task.cancel()
        await asyncio.wait([sleeping.task])
        return await after(await working)
    working.task.cancel()
    await asyncio.wait([working.task])
    return await after("timed out")
"""


@pytest.fixture
def guarded(project: Project) -> Project:
    # Far longer than the tests wait: whatever waits for it fails them.
    project.runtime._core.replay_grace = 600.0
    project.load(GUARDED)
    return project


@pytest.mark.parametrize("name", ["by_timeout", "by_sleep"])
async def test_a_timer_that_had_not_run_out_runs_out_in_a_replay_whose_work_is_slow(
    guarded: Project, name: str
) -> None:
    assert await guarded.run(name, False) == "worked"
    seen = await guarded.replay(name, ReplayOptions(inputs={"stuck": True}))
    assert seen.result == "timed out"
    (timer,) = [line for line in seen.report.lines if line.kind in ("timer", "sleep")]
    assert (timer.verdict, timer.why) == ("executed", "had not run out")


@pytest.mark.parametrize("name", ["by_timeout", "by_sleep"])
async def test_a_call_given_up_again_is_reused_and_does_not_run(guarded: Project, name: str) -> None:
    assert await guarded.run(name, True) == "timed out"
    seen = await guarded.replay(name)
    assert (seen.result, seen.ran) == ("timed out", [])
    assert "work" in seen.with_verdict("reused")
    assert seen.with_verdict("dropped", "executed") == []
    again = await guarded.replay(name, source=seen.run)
    assert (again.result, again.ran, again.with_verdict("dropped", "executed")) == ("timed out", [], [])


async def test_a_timeout_that_did_not_run_out_is_in_time_and_no_line_of_a_replay(guarded: Project) -> None:
    await guarded.run("by_timeout", False)
    shown = await view(guarded.runtime._core, "source")
    assert {b.key: b.state for b in shown.boundaries}["timeout"] == "in time"
    for options in (None, ReplayOptions(from_=("work",)), ReplayOptions(verify=True)):
        if options is not None and options.verify:
            assert await (await guarded.runtime.replay("source", options, guarded.flow("by_timeout"))).handle.result()
            continue
        seen = await guarded.replay("by_timeout", options)
        assert seen.result == "worked"
        assert [line.key for line in seen.report.lines] == ["work", "after"]
        shown = await view(guarded.runtime._core, seen.run)
        assert {b.key: b.state for b in shown.boundaries}["timeout"] == "in time"
