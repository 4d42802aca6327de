"""Replays of flows of every shape: what is reused, what moves, what is dropped, what of a run that did not complete."""

from __future__ import annotations

import asyncio

import pytest

from kitaru import ReplayOptions, RunCancelledError
from kitaru.adapters.standin import StandInServer
from kitaru.errors import EffectsError
from kitaru.runtime import history as histories
from kitaru.runtime.children import child_id
from kitaru.store.events import Reused, StepCancelled, StepCompleted
from tests.runtime.replay import noted
from tests.runtime.replay.project import Project
from tests.runtime.replay.texts import FAILS, RACE
from tests.runtime.runs import PATIENCE, of_type

FAN = """
@checkpoint
async def fetch(source):
    ran(f"fetch {source}")
    return f"<{source}>"


@checkpoint
async def sum_up(found):
    ran("sum_up")
    return "".join(found)


async def branch(source):
    return await fetch(source) + await fetch(source + "2")


@flow
async def fan(sources):
    return await sum_up(await GATHER)
"""

GATHERS = {
    "gather of calls": "kitaru.gather(*(fetch(s) for s in sources))",
    "gather of coroutines": "kitaru.gather(*(branch(s) for s in sources))",
    "asyncio gather": "asyncio.gather(*(branch(s) for s in sources))",
    "map": "kitaru.map(fetch, sources)",
}


@pytest.mark.parametrize("how", GATHERS)
async def test_of_a_fan_out_only_the_changed_branch_runs(project: Project, how: str) -> None:
    project.load(FAN.replace("GATHER", GATHERS[how]))
    await project.run("fan", ["a", "b", "c"])
    seen = await project.replay("fan", ReplayOptions(inputs={"sources": ["a", "x", "c"]}))
    changed = ["fetch x", "fetch x2", "sum_up"] if "coroutines" in how or "asyncio" in how else ["fetch x", "sum_up"]
    assert seen.ran == changed
    assert len(seen.executed) == len(changed)


async def test_of_model_calls_in_parallel_only_the_changed_one_is_asked(
    project: Project, standin: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", standin.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    project.load("""
    @flow
    async def ask(topics):
        return await kitaru.gather(*(kitaru.llm(f"About {t}?", model="openai/m", name=f"about_{t}") for t in topics))
    """)
    await project.run("ask", ["a", "b", "c", "d"])
    assert standin.counts.total == 4
    seen = await project.replay("ask", ReplayOptions(inputs={"topics": ["a", "b", "x", "d"]}))
    assert standin.counts.total == 5
    assert [p.text for p in standin.counts.prompts if "x" in p.text] == ["About x?"]
    assert seen.executed == ["about_x"]
    assert seen.with_verdict("dropped") == ["about_c"]


async def test_what_a_child_run_calls_is_reused_where_only_something_else_in_it_changed(project: Project) -> None:
    project.load("""
    MARK = "."

    @checkpoint
    async def inner(text):
        ran("inner")
        return text + "i"

    @checkpoint
    async def ending(text):
        ran("ending")
        return text + MARK

    @checkpoint
    async def other(text):
        ran("other")
        return text

    @flow
    async def child(text):
        return await ending(await inner(text))

    @flow
    async def quiet(text):
        return await other(text)

    @flow
    async def parent(text):
        return await quiet(await child(text))
    """)
    assert await project.run("parent", "t") == "ti."
    project.edit(('MARK = "."', 'MARK = "!"'))
    seen = await project.replay("parent")
    assert (seen.result, seen.ran) == ("ti!", ["ending", "other"])
    assert seen.executed == ["child", "quiet"]
    forked = await project.log(child_id(seen.run, "child"))
    assert [e.key for e in forked if isinstance(e, Reused)] == ["inner"]


async def test_a_child_run_that_is_asked_to_run_again_does_so_as_a_whole(project: Project) -> None:
    project.load("""
    @checkpoint
    async def inner():
        ran("inner")

    @flow
    async def child():
        await inner()

    @flow
    async def parent():
        await child()
    """)
    await project.run("parent")
    assert (await project.replay("parent", ReplayOptions(from_=("child",)))).ran == ["inner"]


MOVES = """
@checkpoint
async def fetch(source):
    ran(f"fetch {source}")
    return source


@flow
async def both():
    await kitaru.gather(fetch("a"), fetch("b"))
    return "done"
"""


async def test_a_call_that_moved_to_another_place_takes_its_record_along(project: Project) -> None:
    project.load(MOVES)
    await project.run("both")
    project.edit((
        'await kitaru.gather(fetch("a"), fetch("b"))',
        'with kitaru.scope("elsewhere"):\n        await fetch("b")\n        await fetch("a")',
    ))  # fmt: skip
    seen = await project.replay("both")
    assert seen.ran == []
    assert {line.key: line.moved_from for line in seen.report.lines} == {
        "elsewhere/fetch": "fetch[1]",
        "elsewhere/fetch[1]": "fetch",
    }
    assert set(seen.with_verdict("moved")) == {"elsewhere/fetch", "elsewhere/fetch[1]"}
    # The copies are under their new keys: a replay of the replay moves nothing.
    assert (await project.replay("both", source=seen.run)).with_verdict("moved") == []


async def test_a_call_that_is_no_longer_made_is_dropped(project: Project) -> None:
    project.load(MOVES)
    await project.run("both")
    project.edit(('fetch("a"), fetch("b")', 'fetch("a")'))
    seen = await project.replay("both")
    assert (seen.ran, seen.with_verdict("dropped")) == ([], ["fetch[1]"])
    assert seen.report.result == "same"


async def test_a_failed_run_that_is_replayed_executes_what_failed(project: Project) -> None:
    project.load(FAILS.replace("BODY", "number = await shaky(number)"))
    with pytest.raises(ValueError, match="no"):
        await project.run("failing")
    same = await project.replay("failing")
    assert isinstance(same.error, ValueError)
    assert (same.ran, same.report.result) == (["shaky"], "failed")
    project.edit(('raise ValueError("no")', "return number + 1"))
    seen = await project.replay("failing")
    assert (seen.result, seen.ran) == (2, ["last", "shaky"])


async def test_a_failure_that_the_flow_handled_is_reused(project: Project) -> None:
    handled = "try:\n        await shaky(number)\n    except ValueError as error:\n        number = str(error)"
    project.load(FAILS.replace("BODY", handled))
    assert await project.run("failing") == "no"
    seen = await project.replay("failing")
    assert (seen.result, seen.ran, seen.executed) == ("no", [], [])


async def test_a_failed_parallel_run_executes_what_failed_and_what_was_given_up_for_it(project: Project) -> None:
    project.load("""
    BROKEN = True

    @checkpoint
    async def quick():
        ran("quick")
        return "q"

    @checkpoint
    async def breaks():
        ran("breaks")
        await asyncio.sleep(0.02)
        if BROKEN:
            raise ValueError("no")
        return "b"

    @checkpoint
    async def slow():
        ran("slow")
        await asyncio.sleep(30 if BROKEN else 0)
        return "s"

    @flow
    async def parallel():
        return await kitaru.gather(quick(), breaks(), slow())
    """)
    with pytest.raises(ValueError, match="no"):
        await project.run("parallel")
    project.edit(("BROKEN = True", "BROKEN = False"))
    seen = await project.replay("parallel")
    assert (seen.result, seen.ran) == (
        ["q", "b", "s"] if isinstance(seen.result, list) else ("q", "b", "s"),
        ["breaks", "slow"],
    )


async def test_a_run_that_failed_was_retried_and_completed_is_reused_whole(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_and_then = "if not os.environ.get('SHAKY_WORKS'):\n        raise ValueError('no')\n    return 5"
    text = FAILS.replace("BODY", "number = await shaky(number)").replace('raise ValueError("no")', now_and_then)
    project.load(text)
    with pytest.raises(ValueError, match="no"):
        await project.run("failing")
    monkeypatch.setenv("SHAKY_WORKS", "yes")
    handle = await project.runtime.retry("source", project.flow("failing"))
    assert await handle.result() == 5
    seen = await project.replay("failing")
    assert (seen.result, seen.ran) == (5, [])


LONG = """
@checkpoint
async def first():
    ran("first")
    return "f"


@checkpoint
async def endless():
    ran("endless")
    await asyncio.sleep(3600)
    return "e"


@flow
async def long():
    return await first() + await endless()
"""


async def endless(project: Project) -> None:
    noted.taken()
    await project.runtime.start(project.flow("long").options(run_id="source"))
    async with asyncio.timeout(PATIENCE):
        while "endless" not in noted.RAN:  # noqa: ASYNC110  the store tells nobody
            await asyncio.sleep(0)


async def test_a_cancelled_run_can_be_replayed(project: Project) -> None:
    project.load(LONG)
    await endless(project)
    await project.runtime.cancel("source")
    with pytest.raises(RunCancelledError):
        await (await project.runtime.resume("source", project.flow("long"))).result()
    project.edit(("sleep(3600)", "sleep(0)"))
    seen = await project.replay("long")
    assert (seen.result, seen.ran) == ("fe", ["endless"])


async def test_a_run_that_is_under_way_can_be_replayed_beside_it(project: Project) -> None:
    project.load(LONG)
    await endless(project)
    project.edit(("sleep(3600)", "sleep(0)"))
    seen = await project.replay("long")
    assert (seen.result, seen.ran) == ("fe", ["endless"])
    assert (await project.runtime._core.store.run("source")).live


async def test_the_clock_chance_and_ids_are_those_of_the_source(project: Project) -> None:
    project.load("""
    @checkpoint
    async def stamp(*values):
        ran("stamp")
        return [str(v) for v in values]

    @flow
    async def stamped():
        return await stamp(kitaru.now(), kitaru.uuid(), kitaru.random())
    """)
    first = await project.run("stamped")
    seen = await project.replay("stamped")
    assert (seen.result, seen.ran) == (first, [])


async def test_metadata_is_what_the_replay_says_and_not_what_the_source_said(project: Project) -> None:
    project.load("""
    @flow
    async def tagged():
        kitaru.log(score=1)
        return 0
    """)
    await project.run("tagged")
    project.edit(("score=1", "score=2"))
    seen = await project.replay("tagged")
    logged = [e for e in await of_type(project.runtime, seen.run, StepCompleted) if e.kind == "log"]
    assert [histories.shown(e.outcome) for e in logged] == ["{'score': 2}"]


async def test_a_race_is_replayed_without_running_the_loser(project: Project) -> None:
    project.load(RACE)
    await project.run("race")
    assert len(await of_type(project.runtime, "source", StepCancelled)) == 1
    project.edit(('ENDING = "."', 'ENDING = "!"'))
    seen = await project.replay("race")
    assert (seen.result, seen.ran) == ("quick!", [])


@pytest.mark.parametrize("limit", ["asyncio.timeout(0.05)", "kitaru.timeout(0.05)"])
async def test_a_timeout_is_replayed_without_running_what_was_late(project: Project, limit: str) -> None:
    project.load(f"""
    @checkpoint
    async def slow():
        ran("slow")
        await asyncio.sleep(60)

    @checkpoint
    async def after():
        ran("after")
        return "after"

    @flow
    async def limited():
        try:
            async with {limit}:
                await slow()
        except TimeoutError:
            return await after()
    """)
    assert await project.run("limited") == "after"
    seen = await project.replay("limited")
    assert (seen.result, seen.ran) == ("after", [])


async def test_a_method_overridden_in_a_subclass_is_what_its_checkpoint_depends_on(project: Project) -> None:
    project.load("""
    @dataclass
    class Agent:
        @checkpoint
        async def review(self, text):
            ran(f"review {text}")
            return self.tone(text)

        def tone(self, text):
            return text + "."

    @dataclass
    class Loud(Agent):
        def tone(self, text):
            return text + "!"

    @flow
    async def reviewed():
        return await Agent().review("a") + await Loud().review("b")
    """)
    assert await project.run("reviewed") == "a.b!"
    project.edit(('text + "!"', 'text + "!!"'))
    seen = await project.replay("reviewed")
    assert (seen.result, seen.ran) == ("a.b!!", ["review b"])
    project.edit(('text + "."', 'text + ".."'))
    seen = await project.replay("reviewed", source=seen.run)
    assert (seen.result, seen.ran) == ("a..b!!", ["review a"])


STARTED = """
@checkpoint
async def inner(text):
    ran("inner")
    return text + "!"


@checkpoint
async def last(text):
    ran("last")
    return text + "."


@flow
async def child(text):
    return await last(await inner(text))


@flow
async def parent(text):
    handle = await child.OPTIONS.start(text)
    return await handle.result()
"""


async def test_a_started_child_is_reused_where_nothing_changed(project: Project) -> None:
    project.load(STARTED.replace("OPTIONS", "options()"))
    await project.run("parent", "a")
    seen = await project.replay("parent")
    assert (seen.result, seen.ran, seen.executed) == ("a!.", [], [])
    assert len(await project.runtime._core.store.runs()) == 3


async def test_of_a_started_child_only_what_changed_runs_again(project: Project) -> None:
    project.load(STARTED.replace("OPTIONS", "options()"))
    await project.run("parent", "a")
    project.edit(('text + "."', 'text + "?"'))
    seen = await project.replay("parent")
    assert (seen.result, seen.ran) == ("a!?", ["last"])
    assert seen.executed == ["child", "child.result"]


async def test_a_replay_gives_its_children_ids_of_their_own(project: Project) -> None:
    project.load(STARTED.replace("OPTIONS", 'options(run_id="chat")'))
    await project.run("parent", "a")
    project.edit(('text + "."', 'text + "?"'))
    seen = await project.replay("parent")
    assert (seen.result, seen.ran) == ("a!?", ["last"])
    assert (await project.runtime._core.store.run("chat")).parent == "source"


async def test_a_child_that_may_outlive_its_parent_is_not_started_again_unasked(project: Project) -> None:
    project.load(STARTED.replace("OPTIONS", 'options(on_parent_end="abandon")'))
    await project.run("parent", "a")
    project.edit(('text + "."', 'text + "?"'))
    assert (await project.replay("parent")).ran == []
    options = ReplayOptions(inputs={"text": "b"})
    refused = await project.replay("parent", options)
    assert isinstance(refused.error, EffectsError)
    assert refused.ran == []
    options = ReplayOptions(inputs={"text": "b"}, allow_effects=("child",))
    assert (await project.replay("parent", options)).result == "b!?"


async def test_a_dry_run_and_a_verification_start_no_child(project: Project) -> None:
    project.load(STARTED.replace("OPTIONS", "options()"))
    await project.run("parent", "a")
    project.edit(('text + "."', 'text + "?"'))
    fork = await project.runtime.replay("source", ReplayOptions(dry_run=True), project.flow("parent"))
    assert list(fork.would_run) == ["child"]
    assert len(await project.runtime._core.store.runs()) == 2
