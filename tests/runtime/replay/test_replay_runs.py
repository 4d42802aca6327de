"""A replay is a run like any other; what its report says; and its source, which stays as it was."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from pathlib import Path

import pytest

from kitaru import ReplayOptions, Runtime
from kitaru.errors import LiveCallError
from kitaru.store.events import Copied, Deviated, Overridden, Reused, StepCompleted
from tests.runtime.replay import noted
from tests.runtime.replay.project import Project
from tests.runtime.replay.texts import FAILS, RACE, STEPS
from tests.runtime.runs import PATIENCE, of_type


async def test_a_replay_can_be_replayed_and_selected_from_by_its_own_order(project: Project) -> None:
    project.load(STEPS)
    await project.run("steps", "t")
    project.edit(('text + "1"', 'text[:] + "1"'))
    first = await project.replay("steps")
    assert first.ran == ["one"]
    assert (await project.replay("steps", source=first.run)).ran == []
    # What ran anew in the replay has its place before what was reused behind it.
    assert (await project.replay("steps", ReplayOptions(from_=("two",)), source=first.run)).ran == ["three", "two"]
    assert (await project.replay("steps", ReplayOptions(from_=("one",)), source=first.run)).ran == [
        "one",
        "three",
        "two",
    ]


async def test_what_a_replay_was_told_holds_for_its_own_replays(project: Project) -> None:
    project.load(STEPS)
    await project.run("steps", "t")
    first = await project.replay("steps", ReplayOptions(overrides={"two": '"told"'}))
    assert (first.result, first.ran) == ("told3", ["three"])
    second = await project.replay("steps", source=first.run)
    assert (second.result, second.ran, second.with_verdict("overridden")) == ("told3", [], ["two"])
    third = await project.replay("steps", ReplayOptions(from_=("two",)), source=first.run)
    assert (third.result, third.ran) == ("t123", ["three", "two"])


async def test_a_replay_outlives_its_source(project: Project) -> None:
    project.load(STEPS + "\n\nBIG = 5000\n")
    project.edit(('text + "1"', 'text + "1" * BIG'))
    await project.run("steps", "t")
    project.edit(('text + "3"', 'text + "4"'))
    seen = await project.replay("steps")
    await project.runtime._core.store.prune(older_than=time.time() + 1, run="source")
    assert (await project.replay("steps", source=seen.run)).ran == []
    handle = await project.runtime.resume(seen.run, project.flow("steps"))
    assert await handle.result() == "t" + "1" * 5000 + "24"


async def test_a_replay_that_was_stopped_goes_on_where_it_was(project: Project, store_url: str) -> None:
    project.load(
        STEPS.replace("three(text):\n", "three(text):\n    await GATE.wait()\n") + "\n\nGATE = asyncio.Event()\n"
    )
    project.module.GATE.set()
    await project.run("steps", "t")
    project.edit(('text + "2"', 'text + "two"'))
    noted.taken()
    fork = await project.runtime.replay("source", ReplayOptions(run_id="fork"), project.flow("steps"))
    async with asyncio.timeout(PATIENCE):
        while len(await of_type(project.runtime, "fork", StepCompleted)) < 1:  # noqa: ASYNC110  the store tells nobody
            await asyncio.sleep(0)
    await fork.handle.park()
    assert "two" in noted.taken()
    await project.runtime._core.store.prune(older_than=time.time() + 1, run="source")
    async with Runtime(store_url, recover=False) as again:
        handle = await again.resume("fork", project.flow("steps"))
        project.module.GATE.set()
        async with asyncio.timeout(PATIENCE):
            assert await handle.result() == "t1two3"
    assert noted.taken() == ["three"]


async def test_a_fork_holds_copies_of_all_that_it_may_reuse_from_its_first_transaction(project: Project) -> None:
    project.load(STEPS)
    await project.run("steps", "t")
    seen = await project.replay("steps")
    first = [r for r in await project.runtime._core.events(seen.run) if isinstance(r.event, Copied)]
    assert [r.seq for r in first] == list(range(first[0].seq, first[0].seq + 3))
    assert {r.event.run for r in first if isinstance(r.event, Copied)} == {"source"}


# -- what the report says ----------------------------------------------------------------------------------------------


async def test_the_report_names_what_changed_in_code_inputs_and_result(project: Project) -> None:
    project.load(STEPS + "\n\nMARK = '1'\n")
    project.edit(('text + "1"', "text + MARK"))
    await project.run("steps", "t")
    project.edit(("MARK = '1'", "MARK = 'one'"))
    seen = await project.replay("steps")
    assert {line.key: (line.why, line.output) for line in seen.report.lines} == {
        "one": ("code changed: MARK", "changed"),
        "two": ("inputs changed: [0]: 't1' → 'tone'", "changed"),
        "three": ("inputs changed: [0]: 't12' → 'tone2'", "changed"),
    }
    assert (seen.report.source_output, seen.report.output) == ("t123", "tone23")
    assert seen.report.differences == ("'t123' → 'tone23'",)


async def test_the_report_says_what_reuse_saved(project: Project) -> None:
    project.load(STEPS)
    await project.run("steps", "t")
    seen = await project.replay("steps", ReplayOptions(from_=("three",)))
    reused = [line for line in seen.report.lines if line.verdict == "reused"]
    assert [line.key for line in reused] == ["one", "two"]
    assert seen.report.saved_seconds == sum(line.was_seconds or 0 for line in reused)
    assert seen.report.differences == ()


async def test_the_report_of_a_replay_that_stopped_drops_nothing_that_it_has_not_come_to(project: Project) -> None:
    project.load(STEPS.replace("@checkpoint\nasync def two", "@checkpoint(effects=True)\nasync def two"))
    await project.run("steps", "t")
    seen = await project.replay("steps", ReplayOptions(from_=("two",)))
    assert seen.error is not None
    assert seen.report.result == ""
    assert seen.with_verdict("unknown") == ["three", "two"]
    assert seen.with_verdict("dropped") == []


async def test_a_step_that_fails_as_it_failed_before_gave_the_same(project: Project) -> None:
    project.load(FAILS.replace("BODY", "number = await shaky(number)"))
    with pytest.raises(ValueError, match="no"):
        await project.run("failing")
    project.edit(("flow\nasync def failing", "flow\n\nasync def failing"))
    seen = await project.replay("failing")
    assert (seen.report.result, seen.outputs, seen.report.differences) == ("failed", {"shaky": "same"}, ())


async def test_a_child_runs_report_is_part_of_its_parents(project: Project) -> None:
    project.load(
        STEPS
        + """
@flow
async def parent(text):
    return await steps(text)
"""
    )
    await project.run("parent", "t")
    project.edit(('text + "3"', 'text + "4"'))
    seen = await project.replay("parent")
    [line] = seen.report.lines
    assert line.child is not None
    assert [(inner.key, inner.verdict) for inner in line.child.lines] == [
        ("one", "reused"),
        ("two", "reused"),
        ("three", "executed"),
    ]
    assert seen.report.saved_seconds == line.child.saved_seconds


# -- the source --------------------------------------------------------------------------------------------------------


async def test_the_sources_log_is_byte_for_byte_what_it_was(project: Project, tmp_path: Path) -> None:
    def stored() -> list[tuple[object, ...]]:
        with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as file:
            query = (
                "SELECT events.* FROM events JOIN runs ON runs.no = events.run WHERE runs.id = 'source' ORDER BY seq"
            )
            return file.execute(query).fetchall()

    project.load(STEPS)
    await project.run("steps", "t")
    before = await asyncio.to_thread(stored)
    assert before
    project.edit(('text + "2"', 'text + "3"'))
    for options in (None, ReplayOptions(from_=("one",)), ReplayOptions(overrides={"one": '"x"'})):
        await project.replay("steps", options)
    for options in (ReplayOptions(verify=True), ReplayOptions(dry_run=True)):
        fork = await project.runtime.replay("source", options, project.flow("steps"))
        if fork.handle is not None:
            with pytest.raises(LiveCallError):
                await fork.handle.result()
    assert await asyncio.to_thread(stored) == before


async def test_an_overridden_call_keeps_its_place_in_a_race_when_the_replay_is_resumed(
    project: Project, store_url: str
) -> None:
    project.load(
        RACE.replace("return done.pop().result() + ENDING", "return await last(done.pop().result())")
        + """

@checkpoint
async def last(text):
    ran("last")
    await GATE.wait()
    return text


GATE = asyncio.Event()
"""
    )
    project.module.GATE.set()
    await project.run("race")
    project.edit(("await GATE.wait()\n    return text", "await GATE.wait()\n    return text[:]"))
    noted.taken()
    fork = await project.runtime.replay(
        "source", ReplayOptions(run_id="fork", overrides={"slow": '"told"'}), project.flow("race")
    )
    async with asyncio.timeout(PATIENCE):
        while not (  # noqa: ASYNC110  the store tells nobody
            handed := [e.key for e in await project.log("fork") if isinstance(e, Reused | Overridden)]
        ) or ("last" not in noted.RAN):
            await asyncio.sleep(0)
    await fork.handle.park()
    project.module.GATE.set()
    async with Runtime(store_url, recover=False, replay_grace=0.2) as again:
        async with asyncio.timeout(PATIENCE):
            result = await (await again.resume("fork", project.flow("race"))).result()
        assert not await of_type(again, "fork", Deviated)
    assert result == {"slow": "told", "quick": "quick"}[handed[0]]
