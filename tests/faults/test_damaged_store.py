"""A store of which a part is damaged: the rest can be listed, read and rebuilt, and the damage is named."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kitaru
from kitaru import Runtime, checkpoint, flow
from kitaru.errors import CorruptStoreError
from kitaru.runtime.views.costs import costs
from kitaru.runtime.views.inspect import view
from kitaru.runtime.views.listing import listing
from kitaru.store import schema
from kitaru.store.events import RunClaimed
from kitaru.store.sqlite import SqliteStore
from tests.cases import cases

PAGE = 4096


@checkpoint
async def look_up(topic: str) -> str:
    return topic * 2_000


@flow
async def writer(topic: str) -> str:
    await look_up(topic)
    return await kitaru.llm(f"Write about {topic}.", model="test/echo")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three finished runs."""
    path = tmp_path_factory.mktemp("sound") / "k.db"

    async def fill() -> None:
        async with Runtime(str(path), recover=False) as runtime:
            for run in ("one", "two", "three"):
                await (await runtime.start(writer.options(run_id=run), run)).result()

    asyncio.run(fill())
    return path


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sound, tmp_path / "k.db"))


def alter(path: Path, run: str, seq: int, change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of one event behind the store's back."""
    db = sqlite3.connect(path)
    db.execute("DROP TRIGGER events_keep")
    where = "run = (SELECT no FROM runs WHERE id = ?) AND seq = ?"
    (data,) = db.execute(f"SELECT data FROM events WHERE {where}", (run, seq)).fetchone()
    db.execute(f"UPDATE events SET data = ? WHERE {where}", (change(data), run, seq))
    db.commit()
    db.close()


def destroy(path: Path, name: str) -> None:
    """Overwrite the first page of a table or index."""
    db = sqlite3.connect(path)
    (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
    db.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(b"\xff" * PAGE)


@settings(max_examples=cases(200))
@given(seq=st.integers(1, 6), at=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans())
async def test_one_damaged_event_hides_no_other_run(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, seq: int, at: float, byte: int, cut: bool
) -> None:
    path = Path(shutil.copy(sound, tmp_path_factory.mktemp("damaged") / "k.db"))

    def change(data: bytes) -> bytes:
        place = int(at * (len(data) - 1))
        return data[:place] if cut else data[:place] + bytes((byte,)) + data[place + 1 :]

    alter(path, "two", seq, change)
    async with Runtime(str(path), recover=False) as runtime:
        for _ in ("damaged", "rebuilt"):
            listed = {one.id: one for one in await listing(runtime._core)}
            assert set(listed) == {"one", "two", "three"}
            assert not listed["one"].damage
            assert (await costs(runtime, by="run")).total.calls >= 2
            assert (await view(runtime._core, "three")).result is not None
            assert (await runtime._core.store.rebuild()).runs == 3
        assert {problem.run for problem in await runtime._core.store.verify()} <= {"two"}


@pytest.mark.parametrize("seq", [1, 4, 6])
async def test_a_run_with_an_event_that_cannot_be_read_is_marked(store: Path, seq: int) -> None:
    alter(store, "two", seq, lambda data: b"\xc1" + data)
    async with Runtime(str(store), recover=False) as runtime:
        listed = {one.id: one for one in await listing(runtime._core)}
        assert listed["two"].damage == f"event {seq} cannot be read"
        assert "kitaru verify two" in listed["two"].note
        assert (await costs(runtime)).damaged == ("two",)
        rebuilt = await runtime._core.store.rebuild()
        assert [(problem.run, problem.seq) for problem in rebuilt.problems] == [("two", seq)]
        # Its last event said that it has completed, and nothing else does any more.
        assert (await runtime._core.store.run("two")).status == "completed"
        if seq == 1:
            with pytest.raises(CorruptStoreError, match="event 1"):
                await view(runtime._core, "two")
        else:
            assert (await view(runtime._core, "two")).damage == listed["two"].damage


async def test_a_damaged_run_is_not_claimed_again_and_again(store: Path) -> None:
    alter(store, "two", 3, lambda data: b"\xc1" + data)
    db = sqlite3.connect(store)
    db.execute("UPDATE runs SET status = 'running' WHERE id IN ('one', 'two')")
    db.commit()
    db.close()
    async with Runtime(str(store), recover=False) as runtime:
        for _ in range(3):
            await runtime.recover()
        events, _ = await runtime._core.store.readable("two")
    assert sum(isinstance(one.event, RunClaimed) for one in events) <= 1


@pytest.mark.parametrize("name", [*schema.PROJECTIONS, "sqlite_autoindex_runs_1", "runs_open", schema.EVENTS_INDEX])
async def test_a_damaged_table_or_index_is_named_and_made_again(store: Path, name: str) -> None:
    destroy(store, name)
    kept = SqliteStore(store)
    await kept.open()
    problems = await kept.verify()
    whole = [problem.what for problem in problems if not problem.run]
    assert whole
    assert all("`kitaru rebuild` makes it again" in what for what in whole)
    assert any(name in what or "runs" in what for what in whole)
    assert await kept.rebuild() == (3, ())
    assert await kept.verify() == []
    assert [row.status for row in await kept.runs()] == ["completed"] * 3
    await kept.close()


@pytest.mark.parametrize("name", ["events", "artifacts"])
async def test_a_damaged_table_that_cannot_be_made_again_is_named_with_the_way_out(store: Path, name: str) -> None:
    destroy(store, name)
    kept = SqliteStore(store)
    await kept.open()
    (problem, *_) = await kept.verify()
    assert f"the table {name} is damaged" in problem.what
    assert ".recover" in problem.what
    assert (await kept.rebuild()).runs == 3
    assert [row.status for row in await kept.runs()] == ["completed"] * 3
    await kept.close()
