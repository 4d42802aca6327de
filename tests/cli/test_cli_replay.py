"""Replaying from the command line."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from kitaru import Runtime
from kitaru.runtime.loader import load_spec
from tests.cli.conftest import FLOWS, Kitaru


@pytest.fixture
def source(kitaru: Kitaru) -> str:
    """A completed run."""
    kitaru("run", "flows.py:pages", "-i", "count=3", "--run-id", "source")
    return "source"


@pytest.fixture
def edited(kitaru: Kitaru, folder: Path) -> str:
    """A completed run of a flow whose step was edited since."""
    kitaru("run", "flows.py:cry", "-i", "text=ahoy", "--run-id", "source")
    file = folder / "flows.py"
    file.write_text(FLOWS.replace('SUFFIX = "!"', 'SUFFIX = "?"'), encoding="utf-8")
    # A process of its own would load the edited file; this one has to forget the former.
    (name,) = [name for name, module in sys.modules.items() if getattr(module, "__file__", None) == str(file)]
    # Not by monkeypatch, which would put it back after the test, for others to find their classes in.
    del sys.modules[name]
    return "source"


def test_an_unchanged_replay_executes_nothing(kitaru: Kitaru, source: str, folder: Path) -> None:
    done = kitaru("replay", source)
    assert done.code == 0
    assert len(re.findall(r"↷ fetch\S* +reused", done.out)) == 3
    assert "3 reused" in done.out
    assert "Result same" in done.out
    assert len((folder / "ran.txt").read_text().split()) == 3


def test_a_replay_says_which_run_becomes_which(kitaru: Kitaru, source: str) -> None:
    assert 'Replaying source pages(count=3, tag="plain")  →  again' in kitaru("replay", source, "--run-id", "again").err


def test_an_edited_step_is_executed_and_its_change_is_told(kitaru: Kitaru, edited: str) -> None:
    done = kitaru("replay", edited, "--run-id", "again")
    assert re.search(r"● end +executed .*code changed.*output changed", done.out)
    assert "Result changed:  kitaru result again\n  'ahoy!' → 'ahoy?'\n" in done.out
    assert kitaru("show", "again", "--json").json["result"] == "ahoy?"


def test_from_runs_a_step_and_all_after_it(kitaru: Kitaru, source: str, folder: Path) -> None:
    done = kitaru("replay", source, "--from", "fetch[1]")
    assert (done.out.count("executed  "), done.out.count("selected by --from, output same")) == (2, 2)
    assert (folder / "ran.txt").read_text().split()[3:] == ["fetch1", "fetch2"]


def test_a_changed_input_is_typed_as_the_flows_own(kitaru: Kitaru, source: str) -> None:
    done = kitaru("replay", source, "--input", "count=1", "--json")
    assert done.json["output"] == [{"title": "page 0", "size": 0}]
    assert [line["verdict"] for line in done.json["lines"] if line["kind"] == "step"] == [
        "reused",
        "dropped",
        "dropped",
    ]


@pytest.mark.parametrize("selector", ["end", "checkpoint.end"])
def test_an_override_stands_for_an_outcome(kitaru: Kitaru, edited: str, selector: str) -> None:
    done = kitaru("replay", edited, "--override", f'{selector}="told"', "--json")
    assert done.json["output"] == "told"


def test_keep_code_reuses_what_edited_code_made(kitaru: Kitaru, edited: str) -> None:
    assert "Result same" in kitaru("replay", edited, "--keep-code").out


def test_verify_of_an_unchanged_run_leaves_nothing_behind(kitaru: Kitaru, source: str) -> None:
    done = kitaru("replay", source, "--verify")
    assert (done.code, done.out) == (0, "✓ same  every boundary of source is reused\n")
    assert len(kitaru("runs", "--json").json["runs"]) == 1


def test_verify_ends_with_1_at_the_first_difference(kitaru: Kitaru, edited: str) -> None:
    done = kitaru("replay", edited, "--verify", "--json")
    assert (done.code, done.error["code"]) == (1, "live_call")
    assert "end would have to run (code changed)" in done.error["message"]


def test_verify_of_a_run_that_failed_is_same_when_it_fails_alike(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:broken", "-i", "name=pump", "--run-id", "b")
    done = kitaru("replay", "b", "--verify")
    # The failed step itself is no outcome that a replay may reuse.
    assert done.code == 1
    assert "fails would have to run" in done.err


def test_a_dry_run_says_what_would_run_and_runs_nothing(kitaru: Kitaru, edited: str) -> None:
    done = kitaru("replay", edited, "--dry-run")
    assert done.code == 0
    assert re.search(r"○ end +would run .*code changed", done.out)
    assert "Nothing was executed or recorded." in done.out
    assert len(kitaru("runs", "--json").json["runs"]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--from", "nope"], 3, "no boundary 'nope'"),
        (["--from", "fetch"], 3, "matches 3 boundaries"),
        (["--override", "fetch[1]=oops"], 2, "is not JSON"),
        (["--override", "fetch[1]"], 2, "is not NAME=VALUE"),
        (["--input", "nope=1"], 2, "no input 'nope'"),
        (["--input", "count=many"], 2, "count: Expected `int`"),
        (["--verify", "--dry-run"], 2, "exclude each other"),
        (["--model", "openai/a=nowhere"], 2, "'nowhere' is no alias"),
    ],
)
def test_a_wrong_option_of_a_replay_is_said_so(
    kitaru: Kitaru, source: str, arguments: list[str], code: int, says: str
) -> None:
    done = kitaru("replay", source, *arguments)
    assert done.code == code
    assert says in done.err
    assert len(kitaru("runs", "--json").json["runs"]) == 1


def test_a_failing_replay_ends_with_1_and_names_its_run(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:broken", "-i", "name=pump", "--run-id", "b")
    done = kitaru("replay", "b", "--run-id", "again")
    assert done.code == 1
    assert "kitaru retry again" in done.err


def test_show_names_the_source_of_a_replay(kitaru: Kitaru, source: str) -> None:
    kitaru("replay", source, "--run-id", "again")
    out = kitaru("show", "again").out
    assert "of source" in out
    assert re.search(r"fetch +↷ reused .*from source", out)


PAUSES = """

@flow
async def pauses() -> str:
    return await pause()


@checkpoint
async def pause() -> str:
    if not os.path.exists("mended"):
        await asyncio.sleep(600)
    return "mended"
"""
MOVED = (
    (FLOWS + PAUSES)
    .replace("async def broken(", "async def mended_flow(")
    .replace("async def pauses(", "async def rests(")
)


async def _parked(spec: str, run: str) -> None:
    async with Runtime() as runtime:
        await runtime.start(load_spec(spec).options(run_id=run))


@pytest.mark.parametrize("words", [("replay",), ("retry",), ("resume",)], ids=lambda words: words[0])
def test_a_flow_that_moved_and_was_renamed_is_named(kitaru: Kitaru, folder: Path, words: tuple[str, ...]) -> None:
    if words == ("resume",):
        (folder / "flows.py").write_text(FLOWS + PAUSES, encoding="utf-8")
        asyncio.run(_parked("flows.py:pauses", "source"))
    else:
        kitaru("run", "flows.py:broken", "-i", "name=step", "--run-id", "source")
    (folder / "flows.py").unlink()
    for name in [n for n, m in sys.modules.items() if getattr(m, "__file__", None) == str(folder / "flows.py")]:
        del sys.modules[name]
    (folder / "moved.py").write_text(MOVED, encoding="utf-8")
    (folder / "mended").touch()
    lost = kitaru(*words, "source")
    assert lost.code == 3
    assert "--flow FILE:FLOW" in lost.err
    flow = "rests" if words == ("resume",) else "mended_flow"
    done = kitaru(*words, "source", "--flow", f"moved.py:{flow}", "--json")
    assert done.code == 0, done.err
    assert flow == "rests" or (folder / "ran.txt").read_text().split() == ["fetch1"]


def test_a_dry_run_checks_an_override_and_names_it(kitaru: Kitaru, edited: str) -> None:
    assert re.search(r"● end +overridden", kitaru("replay", edited, "--override", "end=told", "--dry-run").out)
    refused = kitaru("replay", edited, "--override", "nobody=1", "--dry-run")
    assert (refused.code, "has no boundary 'nobody'" in refused.err) == (3, True)
