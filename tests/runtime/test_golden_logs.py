"""The logs that release 0.1.0 wrote, resumed and replayed by the present engine without executing a recorded step."""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kitaru import Flow, ReplayOptions, Runtime
from kitaru.store.events import (
    AnyEvent,
    Boundary,
    Deviated,
    RunClaimed,
    RunCompleted,
    RunFailed,
    StepCompleted,
    StepFailed,
)
from kitaru.store.protocol import Recorded
from kitaru.store.sqlite import SqliteStore
from tests.runtime.golden import flows
from tests.runtime.golden.write import FORKS, RUNS

LOGS = Path(__file__).parents[1] / "store" / "files" / "golden-0.1.0.db.gz"
WIRES = ("openai", "mistral", "deepseek", "openai-responses", "anthropic", "google", "cohere", "ollama", "azure")
FLOWS: dict[str, Flow[..., Any]] = {
    **{run: flow for run, (flow, _) in RUNS.items()},
    **dict.fromkeys(FORKS, flows.plain_steps),
    "fork-echo": flows.echoed,
    "retried": flows.fails_at_last,
    **{f"talk-{name}": flows.talk for name in WIRES},
    **{f"city-{name}": flows.structured for name in ("openai", "anthropic", "google")},
}
"""The flow of each run that came to its end by itself."""
LIVE = {"recorded", "failed", "retried"}
"""Runs that a replay executes in part: a read of the clock, the step that failed the run."""
EVENT = msgspec.msgpack.Decoder(AnyEvent)


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Path]:
    """A copy of the stored logs."""
    path = tmp_path / "golden.db"
    path.write_bytes(gzip.decompress(LOGS.read_bytes()))
    flows.RAN.clear()
    yield path
    assert not [name for name in flows.RAN if name not in AGAIN], "a recorded step ran again"
    AGAIN.clear()


AGAIN: set[str] = set()
"""The steps that a test allows to run."""


def events_of(path: Path, run: str) -> list[Recorded]:
    """A run's log, read without the store."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT seq, turn, data FROM events WHERE run = (SELECT no FROM runs WHERE id = ?) ORDER BY seq", (run,)
        )
        return [Recorded(seq, turn, EVENT.decode(data)) for seq, turn, data in rows]


def cut(path: Path, after: dict[str, int]) -> None:
    """End each run's log after an event, as if its process had died then."""
    with closing(sqlite3.connect(path)) as connection:
        (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'events_stay'").fetchone()
        connection.execute("DROP TRIGGER events_stay")
        for run, seq in after.items():
            connection.execute(
                "DELETE FROM events WHERE run = (SELECT no FROM runs WHERE id = ?) AND seq > ?", (run, seq)
            )
        connection.execute("DELETE FROM owned")
        connection.execute(sql)
        connection.commit()


async def outcome(handle: Any) -> tuple[str, str]:
    """How a run ended, in a form that can be compared."""
    try:
        return "completed", repr(await handle.result())
    except Exception as error:
        return type(error).__name__, f"{error} {vars(error)}"


@pytest.mark.parametrize("run", FLOWS)
async def test_a_run_cut_before_its_end_comes_to_the_same_end_without_executing(run: str, logs: Path) -> None:
    whole = events_of(logs, run)
    cut(logs, {run: whole[-1].seq - 1})
    store = SqliteStore(logs)
    async with Runtime(store, recover=False, replay_grace=5.0) as runtime:
        await store.rebuild()
        handle = await runtime.resume(run, FLOWS[run])
        await outcome(handle)
        after = await runtime._core.events(run)
    appended = [one.event for one in after[len(whole) - 1 :] if not isinstance(one.event, RunClaimed)]
    (end,) = appended
    before = whole[-1].event
    assert type(end) is type(before)
    if not isinstance(end, RunFailed):
        assert msgspec.structs.replace(end, at=before.at) == before


@pytest.mark.parametrize("run", [run for run in FLOWS if run not in LIVE])
async def test_a_finished_run_replays_from_its_log_alone(run: str, logs: Path) -> None:
    async with Runtime(f"sqlite:///{logs}", recover=False) as runtime:
        source = await outcome(await runtime.resume(run, FLOWS[run]))
        fork = await runtime.replay(run, ReplayOptions(verify=True), FLOWS[run])
        assert await outcome(fork.handle) == source


SEQUENTIAL = ("plain", "values", "large", "growing", "effects", "parent", "echo", "inside", "thread", "default")
"""Runs whose events come in one order, so that a resume appends what the log of before lost."""


def shown(recorded: list[Recorded]) -> list[tuple[object, ...]]:
    """What events say, but for times, owners and what only one process's timing decides."""
    found: list[tuple[object, ...]] = []
    for one in recorded:
        event = one.event
        if isinstance(event, StepCompleted | StepFailed):
            found.append((type(event), event.key, event.kind, event.fingerprint, event.code, event.inputs))
        elif isinstance(event, RunCompleted | RunFailed | Deviated):
            found.append((type(event),))
    return sorted(found, key=repr)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.8])
@pytest.mark.parametrize("run", SEQUENTIAL)
async def test_a_run_cut_in_the_middle_appends_what_it_had_lost(run: str, share: float, logs: Path) -> None:
    whole = events_of(logs, run)
    at = 1 + int((len(whole) - 2) * share)
    while whole[at - 1].turn and whole[at - 1].turn == whole[at].turn:
        at -= 1
    finished = {one.event.key for one in whole[:at] if isinstance(one.event, StepCompleted)}
    AGAIN.update(vars(flows), ["read"])
    cut(logs, {run: at})
    store = SqliteStore(logs)
    async with Runtime(store, recover=False, replay_grace=5.0) as runtime:
        await store.rebuild()
        await outcome(await runtime.resume(run, FLOWS[run]))
        after = await runtime._core.events(run)
    keys = [one.event.key for one in after[at:] if isinstance(one.event, Boundary)]
    assert not finished.intersection(keys)
    assert shown(after) == shown(whole)


@pytest.mark.parametrize("run", ["cancelled", "parked"])
async def test_a_run_that_was_stopped_keeps_its_status(run: str, logs: Path) -> None:
    async with Runtime(f"sqlite:///{logs}", recover=False) as runtime:
        assert (await runtime._core.store.run(run)).status == run
