"""What each option of a replay does."""

from __future__ import annotations

import asyncio

import pytest

from kitaru import ReplayOptions, Runtime
from kitaru.adapters.standin import StandInServer
from kitaru.errors import AmbiguousError, EffectsError, LiveCallError, NotFoundError, ReplayError, UsageError
from kitaru.runtime.fork import verified
from kitaru.runtime.views.report import dry_report
from kitaru.store.events import LlmCompleted, RunStarted
from tests.runtime.replay import noted
from tests.runtime.replay.project import Project
from tests.runtime.runs import PATIENCE, of_type

CHAIN = """
@dataclass
class Page:
    title: str
    words: int = 0


@checkpoint
async def one(topic):
    ran("one")
    return topic + "1"


@checkpoint
async def two(text):
    ran("two")
    return text + "2"


@checkpoint
async def three(text) -> Page:
    ran("three")
    return Page(text, 3)


@checkpoint
async def four(page: Page):
    ran("four")
    return f"{page.title}/{page.words}"


@flow
async def chain(topic, times=1):
    text = await one(topic)
    for _ in range(times):
        text = await two(text)
    return await four(await three(text))
"""


def synchronous(text: str) -> str:
    return text.replace("async def", "def").replace("await ", "")


async def runs(runtime: Runtime) -> set[str]:
    return {row.id for row in await runtime._core.store.runs()}


async def test_keep_code_reuses_what_other_code_made(project: Project) -> None:
    project.load(CHAIN)
    await project.run("chain", "t")
    project.edit(('text + "2"', 'text + "!"'))
    seen = await project.replay("chain", ReplayOptions(keep_code=True))
    assert (seen.result, seen.ran, seen.executed) == ("t12/3", [], [])


async def test_from_runs_that_boundary_and_all_whose_start_came_after_it(project: Project) -> None:
    project.load(CHAIN)
    await project.run("chain", "t")
    seen = await project.replay("chain", ReplayOptions(from_=("three",)))
    assert (seen.result, seen.executed) == ("t12/3", ["four", "three"])
    assert {line.why for line in seen.report.lines if line.verdict == "executed"} == {"selected by --from"}


async def test_from_counts_starts_of_parallel_calls_and_not_their_ends(project: Project) -> None:
    project.load("""
    @checkpoint
    async def work(number):
        ran(f"work{number}")
        await asyncio.sleep(0.02 * (3 - number))
        return number

    @flow
    async def parallel():
        return await asyncio.gather(*(work.options(name=f"work{n}")(n) for n in range(3)))
    """)
    assert await project.run("parallel") == [0, 1, 2]
    seen = await project.replay("parallel", ReplayOptions(from_=("work1",)))
    assert seen.executed == seen.ran == ["work1", "work2"]


async def test_a_selector_may_be_a_key_or_an_event_number(project: Project) -> None:
    project.load(CHAIN)
    await project.run("chain", "t", 3)
    assert (await project.replay("chain", ReplayOptions(from_=("two[2]",)))).ran == ["four", "three", "two"]
    number = next(
        r.seq for r in await project.runtime._core.events("source") if getattr(r.event, "key", "") == "two[1]"
    )
    assert (await project.replay("chain", ReplayOptions(from_=(str(number),)))).ran == ["four", "three", "two", "two"]


async def test_an_ambiguous_selector_is_an_error_that_lists_the_candidates(project: Project) -> None:
    project.load(CHAIN)
    await project.run("chain", "t", 2)
    with pytest.raises(AmbiguousError, match=r"two\('t1'\)[\s\S]*two\[1\]\('t12'\)"):
        await project.runtime.replay("source", ReplayOptions(from_=("two",)), project.flow("chain"))
    with pytest.raises(NotFoundError, match="five"):
        await project.runtime.replay("source", ReplayOptions(from_=("five",)), project.flow("chain"))
    assert await runs(project.runtime) == {"source"}


async def test_an_override_stands_for_the_outcome_as_the_annotation_has_it(project: Project) -> None:
    project.load(CHAIN)
    await project.run("chain", "t")
    seen = await project.replay("chain", ReplayOptions(overrides={"three": '{"title": "told", "words": 9}'}))
    assert (seen.result, seen.ran) == ("told/9", ["four"])
    assert seen.with_verdict("overridden") == ["three"]


async def test_the_override_of_a_recorded_value_is_one_of_its_kind(project: Project) -> None:
    project.load("""
    @flow
    async def clock():
        return f"{kitaru.now().year} {kitaru.random()}"
    """)
    await project.run("clock")
    told = {"now": '"2001-02-03T04:05:06Z"', "random": "0.5"}
    assert (await project.replay("clock", ReplayOptions(overrides=told))).result == "2001 0.5"


@pytest.mark.parametrize("told", ["three", "{'a': 1}"])
async def test_an_override_that_is_no_json_is_refused(project: Project, told: str) -> None:
    project.load(CHAIN)
    await project.run("chain", "t")
    with pytest.raises(UsageError, match="three"):
        await project.runtime.replay("source", ReplayOptions(overrides={"three": told}), project.flow("chain"))


async def test_an_input_changes_what_depends_on_it(project: Project) -> None:
    project.load(CHAIN)
    await project.run("chain", "t")
    seen = await project.replay("chain", ReplayOptions(inputs={"times": 2}))
    assert (seen.result, seen.executed) == ("t122/3", ["four", "three", "two[1]"])
    with pytest.raises(UsageError, match="colour"):
        await project.runtime.replay("source", ReplayOptions(inputs={"colour": 1}), project.flow("chain"))


async def test_a_parameter_that_the_source_had_not_must_be_given(project: Project) -> None:
    project.load(CHAIN)
    await project.run("chain", "t")
    project.edit(("chain(topic, times=1)", "chain(topic, extra, times=1)"))
    with pytest.raises(UsageError, match="extra"):
        await project.runtime.replay("source", None, project.flow("chain"))
    assert (await project.replay("chain", ReplayOptions(inputs={"extra": 1}))).ran == []


async def test_verify_gives_the_result_where_everything_is_reused(project: Project) -> None:
    project.load(CHAIN)
    await project.run("chain", "t")
    noted.taken()
    project.edit(('text + "2"', 'text  +  "2"'))
    fork = await project.runtime.replay("source", ReplayOptions(verify=True), project.flow("chain"))
    assert await verified(project.runtime._core, fork) == "t12/3"
    assert noted.taken() == []
    assert await runs(project.runtime) == {"source"}


async def test_verify_names_the_first_boundary_that_would_have_to_run(project: Project) -> None:
    project.load(CHAIN)
    await project.run("chain", "t")
    noted.taken()
    project.edit(('text + "2"', 'text + "!"'))
    fork = await project.runtime.replay("source", ReplayOptions(verify=True), project.flow("chain"))
    with pytest.raises(LiveCallError, match=r"two would have to run \(code changed\)"):
        await verified(project.runtime._core, fork)
    assert noted.taken() == []
    assert await runs(project.runtime) == {"source"}


async def test_verify_names_what_the_flow_no_longer_comes_to(project: Project) -> None:
    project.load(CHAIN)
    await project.run("chain", "t", 2)
    fork = await project.runtime.replay(
        "source", ReplayOptions(verify=True, inputs={"times": 1}), project.flow("chain")
    )
    with pytest.raises(LiveCallError, match="three"):
        await verified(project.runtime._core, fork)
    project.edit(("return await four(await three(text))", "return text"))
    fork = await project.runtime.replay("source", ReplayOptions(verify=True), project.flow("chain"))
    with pytest.raises(ReplayError, match="three"):
        await verified(project.runtime._core, fork)


async def test_verify_runs_nothing_that_the_flow_gave_up_and_gives_up_no_more(project: Project) -> None:
    project.load("""
    @checkpoint
    async def slow():
        ran("slow")
        await asyncio.sleep(0.05)

    @flow
    async def limited():
        try:
            await asyncio.wait_for(slow(), 0.01)
        except TimeoutError:
            return "late"
        return "in time"
    """)
    assert await project.run("limited") == "late"
    noted.taken()
    project.edit(("slow(), 0.01", "slow(), 60"))
    fork = await project.runtime.replay("source", ReplayOptions(verify=True), project.flow("limited"))
    with pytest.raises(LiveCallError, match="slow"):
        async with asyncio.timeout(PATIENCE):
            await verified(project.runtime._core, fork)
    assert noted.taken() == []
    assert (await project.replay("limited")).result == "in time"


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_a_dry_run_says_what_would_run_and_leaves_nothing_behind(project: Project, sync: bool) -> None:
    project.load(synchronous(CHAIN) if sync else CHAIN)
    await project.run("chain", "t")
    noted.taken()
    project.edit(('text + "2"', 'text + "!"'))
    fork = await project.runtime.replay("source", ReplayOptions(dry_run=True), project.flow("chain"))
    assert fork.would_run == {"two": "code changed"}
    assert fork.not_reached == ("three", "four")
    shown = await dry_report(project.runtime._core, fork)
    assert [(line.key, line.verdict) for line in shown.lines] == [
        ("one", "reused"), ("two", "would run"), ("three", "unknown"), ("four", "unknown"),
    ]  # fmt: skip
    assert noted.taken() == []
    assert await runs(project.runtime) == {"source"}


async def test_a_dry_run_lists_all_that_from_selects(project: Project) -> None:
    project.load(CHAIN)
    await project.run("chain", "t")
    options = ReplayOptions(dry_run=True, from_=("two",), overrides={"four": '"4"'})
    shown = await dry_report(project.runtime._core, await project.runtime.replay("source", options))
    assert [(line.key, line.verdict, line.why) for line in shown.lines] == [
        ("one", "reused", ""), ("two", "would run", "selected by --from"),
        ("three", "would run", "selected by --from"), ("four", "overridden", ""),
    ]  # fmt: skip


async def test_a_dry_run_does_not_promise_to_reuse_a_failure_that_it_does_not_reach(project: Project) -> None:
    project.load(CHAIN.replace('return f"{page.title}/{page.words}"', "raise ValueError"))
    with pytest.raises(ValueError):
        await project.run("chain", "t")
    project.edit(('text + "2"', 'text + "!"'))
    fork = await project.runtime.replay("source", ReplayOptions(dry_run=True), project.flow("chain"))
    shown = await dry_report(project.runtime._core, fork)
    assert [line.verdict for line in shown.lines] == ["reused", "would run", "unknown", "unknown"]


async def test_a_dry_run_finds_every_parallel_call_that_would_run(project: Project) -> None:
    project.load("""
    SUFFIX = ""

    @checkpoint
    async def kept(n):
        return n

    @checkpoint
    async def edited(n):
        return f"{n}{SUFFIX}"

    @flow
    async def fan():
        return await kitaru.gather(*(kept(n) for n in range(3)), *(edited(n) for n in range(3)))
    """)
    await project.run("fan")
    project.edit(('SUFFIX = ""', 'SUFFIX = "!"'))
    fork = await project.runtime.replay("source", ReplayOptions(dry_run=True), project.flow("fan"))
    assert sorted(fork.would_run) == ["edited", "edited[1]", "edited[2]"]
    assert fork.not_reached == ()


async def test_another_model_may_be_asked_instead(
    project: Project, standin: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", standin.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    project.load("""
    @flow
    async def ask():
        one = await kitaru.llm("One?", model="openai/small", name="first")
        return one, await kitaru.llm("Two?", model="openai/large", name="second")
    """)
    await project.run("ask")
    assert standin.counts.total == 2
    seen = await project.replay("ask", ReplayOptions(model={"openai/small": "openai/tiny"}))
    assert standin.counts.total == 3
    assert seen.executed == ["first"]
    assert [line.why for line in seen.report.lines if line.key == "first"] == ["model or its settings changed"]
    assert [e.llm.model for e in await of_type(project.runtime, seen.run, LlmCompleted)] == ["openai/tiny"]
    # It is part of what that run was, so its own replay has nothing to do.
    assert (await project.replay("ask", source=seen.run)).executed == []
    assert standin.counts.total == 3


EFFECTS = """
@checkpoint
async def price(item):
    ran("price")
    return len(item)


@checkpoint(effects=True)
async def charge(amount):
    ran("charge")
    return f"charged {amount}"


@checkpoint
async def thank(text):
    ran("thank")
    return text + ", thank you"


@flow
async def sale(item):
    return await thank(await charge(await price(item)))
"""


async def test_an_effect_is_reused_whatever_became_of_its_code(project: Project) -> None:
    project.load(EFFECTS)
    await project.run("sale", "tea")
    project.edit(('f"charged {amount}"', 'f"took {amount}"'))
    seen = await project.replay("sale")
    assert (seen.result, seen.ran) == ("charged 3, thank you", [])


@pytest.mark.parametrize("how", ["inputs", "from", "new"])
async def test_a_replay_stops_where_an_effect_would_have_to_run(project: Project, how: str) -> None:
    project.load(EFFECTS)
    await project.run("sale", "tea")
    options = ReplayOptions(from_=("charge",)) if how == "from" else ReplayOptions()
    if how == "inputs":
        options = ReplayOptions(inputs={"item": "coffee"})
    elif how == "new":
        project.edit(("return await thank(await", "await charge(1)\n    return await thank(await"))
    seen = await project.replay("sale", options)
    assert isinstance(seen.error, EffectsError)
    assert "charge" in str(seen.error)
    assert "charge" not in seen.ran


@pytest.mark.parametrize("how", ["inputs", "from"])
async def test_an_effect_that_is_allowed_runs(project: Project, how: str) -> None:
    project.load(EFFECTS)
    await project.run("sale", "tea")
    options = ReplayOptions(from_=("charge",), allow_effects=("charge",))
    if how == "inputs":
        options = ReplayOptions(inputs={"item": "coffee"}, allow_effects=("charge",))
    seen = await project.replay("sale", options)
    assert seen.result == ("charged 6, thank you" if how == "inputs" else "charged 3, thank you")
    assert seen.ran.count("charge") == 1


async def test_allowing_an_effect_does_not_make_it_run_again(project: Project) -> None:
    project.load(EFFECTS)
    await project.run("sale", "tea")
    assert (await project.replay("sale", ReplayOptions(allow_effects=("charge",)))).ran == []


INSIDE = """
GREETING = "hello"


@checkpoint(effects=True)
async def send(text):
    ran("send")
    return f"sent {text}"


@checkpoint
async def greet(name):
    ran("greet")
    await send(f"{name}")
    return f"{GREETING} {name}"


@flow
async def greeting(name):
    return await greet(name)
"""


async def test_an_effect_inside_a_checkpoint_that_runs_again_is_reused(project: Project) -> None:
    project.load(INSIDE)
    await project.run("greeting", "ada")
    project.edit(('"hello"', '"bye"'))
    seen = await project.replay("greeting")
    assert (seen.result, seen.ran) == ("bye ada", ["greet"])
    # A replay of the replay knows of it as well.
    project.edit(('"bye"', '"good night"'))
    assert (await project.replay("greeting", source=seen.run)).ran == ["greet"]


async def test_an_effect_inside_a_checkpoint_stops_the_replay_where_it_would_run(project: Project) -> None:
    project.load(INSIDE)
    await project.run("greeting", "ada")
    seen = await project.replay("greeting", ReplayOptions(inputs={"name": "bob"}))
    assert isinstance(seen.error, EffectsError)
    assert seen.ran == ["greet"]
    allowed = await project.replay("greeting", ReplayOptions(inputs={"name": "bob"}, allow_effects=("send",)))
    assert (allowed.result, allowed.ran) == ("hello bob", ["greet", "send"])


@pytest.mark.parametrize("new", [False, True], ids=["that the source had", "that is new"])
async def test_an_effect_in_a_child_run_stops_the_replay_where_it_would_run(project: Project, new: bool) -> None:
    project.load(
        EFFECTS
        + """
@flow
async def shop(item):
    return await sale(item) if len(item) > 2 else "nothing"
"""
    )
    await project.run("shop", "it" if new else "tea")
    seen = await project.replay("shop", ReplayOptions(inputs={"item": "coffee"}))
    assert isinstance(seen.error, EffectsError)
    assert seen.ran == ["price"]
    allowed = await project.replay("shop", ReplayOptions(inputs={"item": "coffee"}, allow_effects=("charge",)))
    assert allowed.result == "charged 6, thank you"


async def test_the_options_are_recorded_with_the_fork(project: Project) -> None:
    project.load(CHAIN)
    await project.run("chain", "t")
    seen = await project.replay("chain", ReplayOptions(run_id="again", from_=("four",)))
    assert seen.run == "again"
    started = (await of_type(project.runtime, "again", RunStarted))[0]
    assert started.origin is not None
    assert started.origin.run == "source"
    assert b"four" in started.origin.options
