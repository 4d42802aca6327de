"""Resuming with code that asks for something else: refused, explained, and mended."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from kitaru import DivergenceError, Flow, Runtime
from kitaru.store.events import AnyEvent, StepFailed
from tests.runtime.runs import Script, of_type, recorded, resumed, stopped, told

HEAD = """
from __future__ import annotations
import asyncio
import kitaru
from kitaru import checkpoint, flow

reached = asyncio.Event()
hold = True

async def pause():
    reached.set()
    if hold:
        await asyncio.Event().wait()

@checkpoint
async def search(topic: str) -> str:
    return topic.upper()

@checkpoint
async def rank(topic: str) -> int:
    return len(topic)

@checkpoint
async def last() -> str:
    await pause()
    return "end"
"""

Variants = Callable[[str, bool], ModuleType]


@pytest.fixture
def variant(tmp_path: Path) -> Variants:
    """Writes the module `app` with another body of its flow, and loads it in place of the one before."""

    def make(body: str, hold: bool) -> ModuleType:
        path = tmp_path / "app.py"
        path.write_text(
            HEAD + "\n@flow\nasync def writer():\n" + textwrap.indent(textwrap.dedent(body).strip(), "    ")
        )
        spec = importlib.util.spec_from_file_location("kitaru_test_app", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["kitaru_test_app"] = module
        source = path.read_text()
        exec(compile(source, str(path), "exec"), module.__dict__)
        module.__dict__["hold"] = hold
        return module

    return make


def flow_in(module: ModuleType) -> Flow[[], object]:
    found = module.writer
    assert isinstance(found, Flow)
    return found


ORIGINAL = """
    found = await search("tides")
    number = await rank(found)
    return found, number, await last()
"""


async def diverged(url: str, variant: Variants, before: str, after: str) -> str:
    """The message of resuming `after` on the log of `before`, which must be unharmed and still go on with `before`."""
    first = variant(before, True)
    await stopped(url, flow_in(first), "r", first.reached)
    log = told(await recorded(url, "r"))
    with pytest.raises(DivergenceError) as caught:
        await resumed(url, flow_in(variant(after, False)), "r")
    assert told(await recorded(url, "r")) == log
    await resumed(url, flow_in(variant(before, False)), "r")
    return str(caught.value)


async def test_a_changed_input_shows_both_sides_and_the_line(store_url: str, variant: Variants) -> None:
    message = await diverged(store_url, variant, ORIGINAL, ORIGINAL.replace('"tides"', '"waves"'))
    assert re.search(r"diverged at search, event \d+", message)
    assert "the log holds:  search('tides')" in message
    assert "the code asks:  search('waves')" in message
    line = HEAD.count("\n") + 4
    assert f"app.py:{line}" in message
    assert "kitaru replay r" in message


async def test_a_renamed_step_names_the_one_that_is_never_reached(store_url: str, variant: Variants) -> None:
    message = await diverged(store_url, variant, ORIGINAL, ORIGINAL.replace("search(", 'search.options(name="find")('))
    assert "does not come to search" in message
    assert "find" in message
    assert "app.py:" in message


async def test_a_removed_step_is_named(store_url: str, variant: Variants) -> None:
    message = await diverged(store_url, variant, ORIGINAL, ORIGINAL.replace("await rank(found)", "5"))
    assert "does not come to rank" in message
    assert "'TIDES'" in message
    assert "last" in message


async def test_a_flow_that_ends_too_early_diverges_instead_of_completing(store_url: str, variant: Variants) -> None:
    message = await diverged(store_url, variant, ORIGINAL, 'return await search("tides")')
    assert "does not come to rank" in message
    assert "it has ended" in message


async def test_a_flow_that_fails_before_recorded_steps_diverges_instead_of_failing(
    store_url: str, variant: Variants
) -> None:
    message = await diverged(store_url, variant, ORIGINAL, 'await search("tides")\nraise ValueError("a bug")')
    assert "does not come to rank" in message


async def test_another_kind_under_the_same_key_is_told(store_url: str, variant: Variants) -> None:
    message = await diverged(
        store_url,
        variant,
        ORIGINAL,
        ORIGINAL.replace('await search("tides")', 'await kitaru.llm("tides", model="a/b", name="search")'),
    )
    assert "a step" in message
    assert "a llm" in message or "an llm" in message


async def test_swapped_calls_of_one_name_hint_at_their_order(store_url: str, variant: Variants) -> None:
    body = """
        for topic in ["a", "b", "c"]:
            await search(topic)
        return await last()
    """
    message = await diverged(store_url, variant, body, body.replace('["a", "b", "c"]', '["b", "a", "c"]'))
    assert "Only the order of calls of that name differs" in message
    assert "Sort it" in message


async def test_a_step_added_before_recorded_ones_runs_live_without_divergence(
    store_url: str, variant: Variants
) -> None:
    # Names, not positions, identify boundaries; but nothing live may start before what is recorded is through.
    first = variant(ORIGINAL, True)
    await stopped(store_url, flow_in(first), "r", first.reached)
    after = ORIGINAL.replace("return found", 'more = await rank("more")\n    return found')
    assert await resumed(store_url, flow_in(variant(after, False)), "r") == ("TIDES", 5, "end")


async def test_code_around_boundaries_may_change(store_url: str, variant: Variants) -> None:
    first = variant(ORIGINAL, True)
    await stopped(store_url, flow_in(first), "r", first.reached)
    after = ORIGINAL.replace("return found,", "found = found.lower() * 2\n    return found,")
    assert await resumed(store_url, flow_in(variant(after, False)), "r") == ("tidestides", 5, "end")


async def test_a_recorded_clock_that_is_never_read_again_diverges(store_url: str, variant: Variants) -> None:
    body = "kitaru.now()\n" + textwrap.dedent(ORIGINAL)
    first = variant(body, True)
    await stopped(store_url, flow_in(first), "r", first.reached)
    with pytest.raises(DivergenceError, match="does not come to now"):
        await resumed(store_url, flow_in(variant(ORIGINAL, False)), "r")
    assert await resumed(store_url, flow_in(variant(body, False)), "r") == ("TIDES", 5, "end")


async def test_a_changed_sleep_diverges(store_url: str, variant: Variants) -> None:
    body = "await kitaru.sleep(0.01)\n" + textwrap.dedent(ORIGINAL)
    message = await diverged(store_url, variant, body, body.replace("0.01", "0.02"))
    assert "0.01" in message
    assert "0.02" in message


async def test_a_divergence_among_concurrent_steps_ends_the_run_with_it(store_url: str, variant: Variants) -> None:
    body = """
        found = await asyncio.gather(search("a"), search("b"), rank("c"))
        return found, await last()
    """
    message = await diverged(store_url, variant, body, body.replace('search("b")', 'search("d")'))
    assert "'b'" in message
    assert "'d'" in message


async def test_flow_code_cannot_swallow_a_divergence(store_url: str, variant: Variants) -> None:
    swallow = """
        try:
            found = await search("waves")
        except BaseException:
            found = "swallowed"
        return found
    """
    assert "'waves'" in await diverged(store_url, variant, ORIGINAL, swallow)


async def test_a_diverged_child_leaves_its_parent_resumable(store_url: str, tmp_path: Path, variant: Variants) -> None:
    child = ORIGINAL + "\n@flow\nasync def parent():\n    return await writer()\n"

    def parent(module: ModuleType) -> Flow[[], object]:
        found = module.parent
        assert isinstance(found, Flow)
        return found

    def make(body: str, hold: bool) -> ModuleType:
        # The template indents the whole body: the parent stands at its end.
        module = variant(body.partition("\n@flow")[0], hold)
        exec("@flow\nasync def parent():\n    return await writer()\n", module.__dict__)
        return module

    first = make(child, True)
    await stopped(store_url, parent(first), "r", first.reached)
    with pytest.raises(DivergenceError, match="waves"):
        await resumed(store_url, parent(make(child.replace("tides", "waves"), False)), "r")
    async with Runtime(store_url, recover=False) as reader:
        assert await of_type(reader, "r", StepFailed) == []
    assert await resumed(store_url, parent(make(child, False)), "r") == ("TIDES", 5, "end")


SET = """
import asyncio, sys
import kitaru
from kitaru import checkpoint, flow

@checkpoint
async def look(topic: str) -> str:
    return topic

@checkpoint
async def last() -> str:
    if "stop" in sys.argv:
        print("reached", flush=True)
        await asyncio.Event().wait()
    return "end"

@flow
async def over_a_set():
    for topic in {"tides", "waves", "moon", "salt", "foam", "sand", "wind"}:
        await look(topic)
    return await last()

async def main():
    async with kitaru.Runtime(replay_grace=0.2) as rt:
        handle = await rt.start(over_a_set.options(run_id="r"))
        try:
            print(await handle.result())
        except kitaru.DivergenceError as error:
            print("DIVERGED", error)

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_iterating_over_a_set_under_another_hash_seed_is_explained(tmp_path: Path) -> None:
    async def play() -> tuple[list[AnyEvent], str]:
        with Script(tmp_path, SET, "stop", PYTHONHASHSEED="1") as first:
            await asyncio.to_thread(first.until, "reached")
            first.kill()
        before = told(await recorded(f"sqlite:///{tmp_path}/runs.db", "r"))
        with Script(tmp_path, SET, PYTHONHASHSEED="2") as second:
            out = await asyncio.to_thread(second.end)
        assert told(await recorded(f"sqlite:///{tmp_path}/runs.db", "r")) == before
        return [one.event for one in before], out

    _, out = await play()
    assert "DIVERGED" in out
    assert "Sort it" in out
    with Script(tmp_path, SET, PYTHONHASHSEED="1") as third:
        assert await asyncio.to_thread(third.end) == "end"


async def test_a_diverged_run_stays_unfinished_and_unowned(store_url: str, variant: Variants) -> None:
    first = variant(ORIGINAL, True)
    await stopped(store_url, flow_in(first), "r", first.reached)
    async with Runtime(store_url, recover=False, replay_grace=0.2) as second:
        handle = await second.resume("r", flow_in(variant(ORIGINAL.replace("tides", "waves"), False)))
        with pytest.raises(DivergenceError):
            await handle.result()
        row = await second._core.store.run("r")
        assert row.status == "running"
        assert not row.live
