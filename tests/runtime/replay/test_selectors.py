"""Selectors: one meaning for whoever takes one; overrides: checked before anything runs."""

from __future__ import annotations

import dataclasses
import datetime
import enum

import pytest

import kitaru
from kitaru import ReplayOptions, Reply, Runtime, checkpoint, flow
from kitaru.errors import AmbiguousError, KitaruError, NotFoundError, UsageError
from kitaru.runtime.selecting import selected
from kitaru.runtime.views import inspect
from kitaru.runtime.views.report import dry_report, report

RAN: list[str] = []


class Tone(enum.Enum):
    DRY = "dry"


@dataclasses.dataclass
class Page:
    title: str
    made: datetime.date
    tone: Tone = Tone.DRY


@checkpoint
async def step(number: int) -> int:
    return number


@checkpoint
async def once(number: int) -> int:
    return await step(number)


@checkpoint
async def page(title: str) -> Page:
    RAN.append("page")
    return Page(title, datetime.date(2026, 1, 2))


@flow
async def several() -> int:
    await kitaru.save("draft", {"text": "first"})
    return await step(1) + await step(2) + await once(3)


@flow
async def asks() -> list[object]:
    RAN.append("asks")
    shown = await page("tides")
    said = await kitaru.llm(f"Summarise {shown.title}", model="test/echo", name="said")
    whole = await kitaru.llm.reply("hi", model="test/echo", name="whole")
    return [shown, said, whole.text, kitaru.now()]


@pytest.fixture
async def source(runtime: Runtime) -> str:
    await (await runtime.start(several.options(run_id="r"))).result()
    return "r"


MEANT = {
    "step[0]": "step",
    "step[1]": "step[1]",
    "checkpoint.step[1]": "step[1]",
    "once": "once",
    "once>1/step": "once>1/step",
    "draft": "save",
    "step": AmbiguousError,
    "nothing": NotFoundError,
}


async def meant(runtime: Runtime, taken: str, selector: str) -> object:
    """What a selector means to one of those that take one."""
    try:
        if taken == "show":
            return (await inspect.step(runtime._core, "r", selector)).boundary.key
        if taken == "load":

            @flow
            async def loads() -> object:
                return await kitaru.load(selector, run="r")

            await (await runtime.start(loads)).result()
            return selected("r", await runtime._core.events("r"), selector)
        options = ReplayOptions(dry_run=True, from_=(selector,))
        if taken == "override":
            options = ReplayOptions(dry_run=True, overrides={selector: "7"})
        lines = (await dry_report(runtime._core, await runtime.replay("r", options, several))).lines
        verdict = "would run" if taken == "from" else "overridden"
        return next(line.key for line in lines if line.verdict == verdict)
    except KitaruError as error:
        return type(error)


@pytest.mark.parametrize("taken", ["show", "from", "override", "load"])
@pytest.mark.parametrize("selector", MEANT)
async def test_a_selector_means_the_same_to_all(runtime: Runtime, source: str, taken: str, selector: str) -> None:
    wanted = MEANT[selector]
    if taken in ("from", "override") and selector == "once>1/step":
        wanted = UsageError  # a replay reuses or runs a checkpoint as a whole
    assert await meant(runtime, taken, selector) == wanted


async def test_every_event_of_a_boundary_names_it(runtime: Runtime, source: str) -> None:
    fork = await runtime.replay("r", ReplayOptions(run_id="q", from_=("once",)), several)
    await fork.handle.result()
    for run in ("r", "q"):
        events = await runtime._core.events(run)
        for boundary in (await inspect.view(runtime._core, run)).boundaries:
            assert selected(run, events, str(boundary.seq)) == boundary.key


async def test_load_gives_the_outcome_of_another_runs_step(runtime: Runtime) -> None:
    @flow
    async def reads(selector: str) -> object:
        return await kitaru.load(selector, run="r")

    before = await (await runtime.start(asks.options(run_id="r"))).result()
    assert await (await runtime.start(reads, "page")).result() == before[0]
    reply = await (await runtime.start(reads, "whole")).result()
    assert isinstance(reply, Reply)
    assert reply.text == before[2]


@pytest.mark.parametrize("name", ["page", "said", "whole", "now"])
async def test_an_override_takes_what_is_shown(runtime: Runtime, name: str) -> None:
    before = await (await runtime.start(asks.options(run_id="r"))).result()
    shown = (await inspect.step(runtime._core, "r", name)).outcome
    text = shown if isinstance(shown, str) else kitaru_json(shown)
    fork = await runtime.replay("r", ReplayOptions(run_id="q", overrides={name: text}), asks)
    assert await fork.handle.result() == before
    made = {line.name: (line.kind, line.verdict) for line in (await report(runtime, "r", "q")).lines}
    (kind,) = {b.kind for b in (await inspect.view(runtime._core, "q")).boundaries if b.name == name}
    assert kind == (await inspect.step(runtime._core, "r", name)).boundary.kind
    assert name == "now" or made[name] == (kind, "overridden")


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    ("selector", "text"),
    [("page", '{"title": 5}'), ("page", "no JSON"), ("said", "[1]"), ("now", '"soon"')],
)
async def test_an_override_that_does_not_fit_is_refused_before_anything_runs(
    runtime: Runtime, selector: str, text: str, dry: bool
) -> None:
    await (await runtime.start(asks.options(run_id="r"))).result()
    RAN.clear()
    if selector == "said":
        fork = await runtime.replay("r", ReplayOptions(overrides={selector: text}), asks)
        assert (await fork.handle.result())[1] == text  # a text that happens to be JSON
        return
    options = ReplayOptions(overrides={selector: text}, dry_run=dry, from_=("page",) if selector != "page" else ())
    with pytest.raises(UsageError, match=f"the override of {selector}"):
        await runtime.replay("r", options, asks)
    assert (RAN, len(await runtime._core.store.runs())) == ([], 1)


def kitaru_json(value: object) -> str:
    import json

    return json.dumps(value)
