"""The law of resume over a slice of the random flows; `make laws` takes them all."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.laws.harness import Case, Player, check, check_resumed, lines_of, undisturbed
from tests.runtime.laws.playing import Task
from tests.runtime.laws.run import case_of, loops
from tests.runtime.laws.specs import BRANCHES, LEAVES, Node, kinds_of, spec_of

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
"""A run that is cut short leaves coroutines behind that nobody awaits any more."""


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    with contextlib.closing(Player(4242)) as one:
        yield one


@pytest.mark.laws
@pytest.mark.parametrize("seed", range(3000, 3030, 10))
def test_random_flows_resume_as_they_ran(seed: int, tmp_path: Path, player: Player) -> None:
    for one in range(seed, seed + 10):
        check(case_of(one, 2), tmp_path / str(one), player)


# One flow for each thing that once broke the law, cut at every event.
SMALL: dict[str, Node] = {
    "the outcomes of one turn wake their tasks in one order": ["gather", 1, [["seq", 2, [["step", 3, 1]] * 3]] * 4],
    "a call that several tasks wait for runs once": [
        "seq",
        0,
        [["step", 1, 1], ["shared", 2, 4, 0], ["shared", 3, 4, 0]],
    ],
    "coroutines given to asyncio.as_completed": ["completed", 1, [["submit", 2, 1], ["step", 3, 1], ["fail", 4, 1]]],
    "coroutines given to asyncio.as_completed that end at once": [
        "completed",
        1,
        [["forgotten", 2, 3], ["forgotten", 3, 1], ["forgotten", 4, 3]],
    ],
    "a large outcome that the flow gives up while it is read": [
        "hedge",
        1,
        [["big", 2, 1], ["step", 3, 1], ["forgotten", 4, 1]],
    ],
    "a large outcome beside a small one": ["gather", 1, [["big", 2, 1], ["step", 3, 1], ["big", 4, 1], ["step", 5, 1]]],
    "an outcome that the flow gives up before its turn": [
        "try",
        1,
        [["group", 2, [["shared", 3, 3, 0], ["raise", 4, 1]]]],
    ],
    "a race whose losers are cancelled": [
        "hedge",
        1,
        [["gather", 2, [["step", 3, 1]] * 3], ["never", 4, 1], ["step", 5, 1]],
    ],
    "a task that asks last": ["first", 1, [["big", 2, 1], ["submit", 3, 2]]],
    "calls that wait for calls in a sync flow": ["thread", 0, [["handles", 1, 2], ["step", 2, 1], ["handles", 3, 2]]],
    "calls submitted by a sync flow": ["thread", 0, [["pool", 1, 4], ["submit", 2, 4], ["step", 3, 1]]],
    "timeouts": [
        "gather",
        0,
        [["waitfor", 1, 2, 0], ["waitfor", 2, 2, 3], ["waitfor", 3, 2, 4], ["ktimeout", 4, 2, 0]],
    ],
    "cancellations and exits of the steps' own": [
        "gather",
        0,
        [["own", 1, 1], ["seq", 2, [["own", 3, 2], ["step", 4, 1]]], ["own", 5, 3], ["own", 6, 3]],
    ],
    "context variables set by steps": ["gather", 0, [["context", 1, 1], ["context", 2, 2], ["context", 3, 2]]],
    "steps in threads of a checkpoint": ["gather", 0, [["threads", 1, 3], ["threads", 2, 1]]],
    "a failure that nobody catches": ["gather", 0, [["step", 1, 1], ["seq", 2, [["step", 3, 1], ["raise", 4, 1]]]]],
}


@pytest.mark.laws
@pytest.mark.parametrize("what", SMALL)
def test_a_flow_resumes_from_every_event(what: str, tmp_path: Path, player: Player) -> None:
    loop = loops()[len(what) % len(loops())]
    check(Case(0, 0, "asyncio", loop, SMALL[what], every=True), tmp_path / loop, player)


@pytest.mark.laws
@pytest.mark.parametrize("seed", [3000, 3004, 3010, 3017, 3025, 3031, 3042, 3050, 3066, 3083])
def test_a_killed_process_leaves_a_log_that_resumes(seed: int, tmp_path: Path, player: Player) -> None:
    spec, path = spec_of(seed), tmp_path / "runs.db"
    whole = undisturbed(spec, tmp_path / "whole.db", seed)
    events = len(lines_of(tmp_path / "whole.db"))
    killed = Task(str(path), spec, resume=False, seed=seed, kill_at=2 + events * (seed % 6) // 10)
    with contextlib.closing(Player(1)) as first:
        assert first.play(killed) is None, "the run ended before it was killed"
    prefix = lines_of(path)
    after = player.play(Task(str(path), spec, resume=True, seed=seed + 1))
    assert after is not None
    lines = lines_of(path)
    # What the killed process saw died with it; the result is to be that of an undisturbed run.
    check_resumed(spec, whole, prefix, after, lines, order=False)


def test_a_seed_is_the_same_flow_in_every_process(tmp_path: Path) -> None:
    code = (
        "import json; from tests.runtime.laws.specs import spec_of; print(json.dumps([spec_of(n) for n in range(50)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
        env={"PYTHONHASHSEED": "99", "PYTHONPATH": "src:."},
    )  # fmt: skip
    assert json.loads(done.stdout) == [spec_of(seed) for seed in range(50)]


def test_the_random_flows_hold_every_kind_of_concurrency() -> None:
    found = set().union(*(kinds_of(spec_of(seed)) for seed in range(1_000_000, 1_000_400)))
    assert found >= {*LEAVES, *BRANCHES, "raise", "never", "pool", "handles", "thread"}
