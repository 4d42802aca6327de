"""The example flow, killed after every event of its log: what is recorded is kept, what was in flight is repeated."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kitaru import Runtime
from kitaru.adapters.standin import Options, StandInServer
from kitaru.runtime.views.inspect import RunView, view
from kitaru.store.events import AnyEvent, Boundary, LlmCompleted, LlmRequested, RunClaimed, RunParked, StepCompleted
from tests.runtime.runs import PATIENCE, environment

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "research_writer.py"
QUESTION = "Who may declare war?"
ALL = os.environ.get("KITARU_LAWS") == "all"
RESUME_WITHIN = 1.0
"""Seconds from the start of a new process to its first event, on a machine that does nothing else."""
SLACK = 5.0

CHILD = """
import asyncio, json, os, signal, sys

import kitaru
from kitaru.adapters import transport
from kitaru.runtime.loader import load_spec
from kitaru.store.events import LlmCompleted, StepCompleted
from kitaru.store.sqlite import SqliteStore

FLOW = load_spec(sys.argv[1])


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Killing(SqliteStore):
    '''Kills its process when the `after`-th event is on disk, or just before the `before`-th outcome is appended.'''

    def __init__(self, url, after, before):
        super().__init__(url)
        self.after, self.before, self.outcomes, self.sinks = after, before, 0, {}

    def submit(self, append):
        self.outcomes += any(isinstance(event, LlmCompleted | StepCompleted) for event in append.events)
        if self.before and self.outcomes == self.before:
            die()
        append.sink = self.sinks.setdefault(append.sink, Counted(append.sink, self))
        super().submit(append)


class Counted:
    def __init__(self, sink, store):
        self.sink, self.store, self.noticed = sink, store, sink.noticed

    def acknowledged(self, appends):
        if self.store.after:
            self.store.after = max(0, self.store.after - sum(len(append.events) for append in appends))
            if not self.store.after:
                die()
        self.sink.acknowledged(appends)


async def work(order):
    store = Killing(order["store"], order.get("after", 0), order.get("before", 0))
    async with kitaru.Runtime(store, recover=False) as runtime:
        if order.get("resume"):
            handles = [await runtime.resume(run, FLOW) for run in order["runs"]]
        elif order.get("replay"):
            options = kitaru.ReplayOptions(run_id="fork", from_=("draft",))
            handles = [(await runtime.replay(order["replay"], options, FLOW)).handle]
        else:
            handles = [await runtime.start(FLOW.options(run_id=run), *order["runs"][run]) for run in order["runs"]]
        for handle in handles:
            await handle.result()


if len(sys.argv) > 2:
    asyncio.run(work(json.loads(sys.argv[2])))
    raise SystemExit
for line in sys.stdin:
    child = os.fork()
    if not child:
        asyncio.run(work(json.loads(line)))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """A process that has imported everything and forks a child for each order: a new process without its start-up."""

    def __init__(self, folder: Path, server: StandInServer) -> None:
        self.script = folder / "child.py"
        self.script.write_text(CHILD)
        self.environment = environment(folder, OPENAI_BASE_URL=server.base_url, KITARU_DEFAULT_MODEL="openai/stand-in")
        self.process = subprocess.Popen(
            [sys.executable, str(self.script), f"{EXAMPLE}:research_writer"],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, **order: object) -> int:
        """Carry an order out in a child, and give its exit code; -9 where it killed itself."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInServer]:
    """A model server that takes long enough for calls to be in flight together."""
    journal = tmp_path_factory.mktemp("server") / "journal.jsonl"
    with StandInServer(Options(latency=(0.002, 0.012), journal=journal)) as running:
        yield running


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory, server: StandInServer) -> Iterator[Nursery]:
    made = Nursery(tmp_path_factory.mktemp("nursery"), server)
    yield made
    made.close()


class Whole(NamedTuple):
    """The run that nothing happened to."""

    result: object
    events: int
    outcomes: int


async def looked_at(url: str, run: str = "r") -> tuple[list[AnyEvent], RunView]:
    """A run's log, and what `show` makes of it."""
    async with Runtime(url, recover=False) as reader:
        return [recorded.event for recorded in await reader._core.events(run)], await view(reader._core, run)


def asked(server: StandInServer) -> dict[str, int]:
    """How often the server was asked each prompt."""
    return {prompt.digest: prompt.total for prompt in server.counts.prompts}


def completed(events: list[AnyEvent]) -> set[str]:
    return {event.key for event in events if isinstance(event, LlmCompleted)}


def in_flight(events: list[AnyEvent]) -> set[str]:
    return {event.key for event in events if isinstance(event, LlmRequested)} - completed(events)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery, server: StandInServer) -> Whole:
    url = f"sqlite:///{tmp_path_factory.mktemp('whole')}/runs.db"
    server.reset()
    assert nursery.run(store=url, runs={"r": [QUESTION]}) == 0
    events, shown = asyncio.run(looked_at(url))
    assert set(asked(server).values()) == {1}
    assert len(completed(events)) == len(asked(server))
    outcomes = sum(isinstance(event, LlmCompleted | StepCompleted) for event in events)
    return Whole(shown.result, len(events), outcomes)


def points(count: int, step: int) -> list[int]:
    """Where to kill: at every point, or at a slice of them that includes the first and the last."""
    return list(range(1, count + 1)) if ALL else sorted({1, *range(2, count, step), count})


async def killed_and_resumed(
    nursery: Nursery, server: StandInServer, url: str, whole: Whole, **kill: int
) -> tuple[list[AnyEvent], dict[str, int]]:
    """Kill a run, look, resume it, look again. Gives the log at the kill, and the requests in all."""
    server.reset()
    assert nursery.run(store=url, runs={"r": [QUESTION]}, **kill) == -9
    before, shown = await looked_at(url)
    assert {b.key for b in shown.boundaries if b.state == "in doubt"} == in_flight(before)
    assert nursery.run(store=url, runs={"r": []}, resume=True) == 0
    after, done = await looked_at(url)
    assert done.result == whole.result
    assert after[: len(before)] == before
    # No outcome is recorded twice, and the server saw each finished call once.
    kept = [event.key for event in after if isinstance(event, LlmCompleted | StepCompleted)]
    assert len(kept) == len(set(kept)) == whole.outcomes
    requests = asked(server)
    repeated = [event.key for event in after if isinstance(event, LlmRequested)]
    assert {key for key in repeated if repeated.count(key) > 1} == in_flight(before)
    assert len(requests) == len(completed(after))
    extra = sum(requests.values()) - len(requests)
    assert max(requests.values()) <= 2
    assert extra <= len(in_flight(before))
    return before, requests


async def test_killed_after_any_event_the_run_resumes_to_the_same_result(
    nursery: Nursery, server: StandInServer, whole: Whole, tmp_path: Path
) -> None:
    seen: set[int] = set()
    for point in points(whole.events - 1, 3):
        before, requests = await killed_and_resumed(
            nursery, server, f"sqlite:///{tmp_path}/{point}.db", whole, after=point
        )
        assert len(before) >= point
        seen.add(len(in_flight(before)))
        finished = len(completed(before))
        assert sum(count == 1 for count in requests.values()) >= finished
    # Among the points are some with nothing in flight, and some with several calls in flight.
    assert min(seen) == 0
    assert max(seen) > 1


async def test_killed_after_an_answer_and_before_it_is_recorded_that_call_is_in_doubt_and_asked_again(
    nursery: Nursery, server: StandInServer, whole: Whole, tmp_path: Path
) -> None:
    repeated = 0
    for point in points(whole.outcomes, 4):
        before, requests = await killed_and_resumed(
            nursery, server, f"sqlite:///{tmp_path}/{point}.db", whole, before=point
        )
        if in_flight(before):
            repeated += 1
            assert max(requests.values()) == 2
    assert repeated


async def test_killed_amid_eight_runs_that_share_batches_every_run_resumes_to_its_own_result(
    nursery: Nursery, server: StandInServer, whole: Whole, tmp_path: Path
) -> None:
    runs = {f"r{number}": [f"{QUESTION} ({number})", 3] for number in range(8)}
    assert nursery.run(store=f"sqlite:///{tmp_path}/whole.db", runs=runs) == 0
    expected = {run: (await looked_at(f"sqlite:///{tmp_path}/whole.db", run))[1].result for run in runs}
    events = sum([len((await looked_at(f"sqlite:///{tmp_path}/whole.db", run))[0]) for run in runs])
    for share in range(1, 20) if ALL else (5, 11, 17):
        url = f"sqlite:///{tmp_path}/{share}.db"
        server.reset()
        assert nursery.run(store=url, runs=runs, after=events * share // 20) == -9
        logs = {run: await looked_at(url, run) for run in await started(url)}
        for before, shown in logs.values():
            assert {b.key for b in shown.boundaries if b.state == "in doubt"} == in_flight(before)
        assert nursery.run(store=url, runs={run: [] for run in logs}, resume=True) == 0
        calls, doubtful = 0, sum(len(in_flight(before)) for before, _ in logs.values())
        for run in logs:
            after, done = await looked_at(url, run)
            assert done.result == expected[run]
            kept = [event.key for event in after if isinstance(event, LlmCompleted | StepCompleted)]
            assert len(kept) == len(set(kept))
            calls += len(completed(after))
        # Runs may ask the same, so what is counted is all that they asked.
        assert calls <= server.counts.total <= calls + doubtful


async def test_a_killed_replay_resumes_and_repeats_only_what_was_in_flight(
    nursery: Nursery, server: StandInServer, whole: Whole, tmp_path: Path
) -> None:
    for point in range(1, 40, 1 if ALL else 8):
        url = f"sqlite:///{tmp_path}/{point}.db"
        assert nursery.run(store=url, runs={"r": [QUESTION]}) == 0
        source, _ = await looked_at(url)
        server.reset()
        if nursery.run(store=url, runs={}, replay="r", after=point) == 0:
            break
        before, _ = await looked_at(url, "fork")
        assert nursery.run(store=url, runs={"fork": []}, resume=True) == 0
        after, done = await looked_at(url, "fork")
        assert done.result == whole.result
        assert completed(after) == {"draft", "critique", "final"}
        assert 3 <= server.counts.total <= 3 + len(in_flight(before))
        assert (await looked_at(url))[0] == source


async def started(url: str) -> list[str]:
    async with Runtime(url, recover=False) as reader:
        return sorted(row.id for row in await reader._core.store.runs())


async def test_a_new_process_goes_on_within_a_second_of_the_kill(
    nursery: Nursery, server: StandInServer, whole: Whole, tmp_path: Path
) -> None:
    taken: list[float] = []
    worked: list[float] = []
    new: list[AnyEvent] = []
    for attempt in range(3):
        url = f"sqlite:///{tmp_path}/{attempt}.db"
        assert nursery.run(store=url, runs={"r": [QUESTION]}, after=whole.events // 2) == -9
        before, _ = await looked_at(url)
        order = json.dumps({"store": url, "runs": {"r": []}, "resume": True})
        begun = time.time()
        await asyncio.to_thread(
            subprocess.run,
            [sys.executable, str(nursery.script), f"{EXAMPLE}:research_writer", order],
            env=nursery.environment,
            check=True,
            timeout=PATIENCE,
        )
        new = (await looked_at(url))[0][len(before) :]
        assert isinstance(new[0], RunClaimed)
        taken.append(new[0].at - begun)
        worked.append(next(event.at for event in new if isinstance(event, Boundary)) - begun)
    print(f"first event after {min(taken):.2f} s, first new step after {min(worked):.2f} s")
    assert min(worked) < RESUME_WITHIN + SLACK
    assert not any(isinstance(event, RunParked) for event in new)
