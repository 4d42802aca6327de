"""A store that somebody else sends: what it holds beside a log is not followed, and what it inflates to is limited."""

from __future__ import annotations

import sqlite3
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.errors import CorruptStoreError, StoreError
from kitaru.store import pieces, pressed
from kitaru.store.sqlite import SqliteStore
from tests.cases import cases
from tests.store.logs import Listener, kept, ref, started, step

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"


async def filled(path: Path) -> bytes:
    """A store with one run and an artifact; returns the artifact's content."""
    data = b"long" * 2_000
    store = SqliteStore(path)
    await store.open()
    await Listener(store).create("tides", started(), step(1, ref(data)), artifacts=kept(data))
    await store.close()
    return data


def execute(path: Path, *statements: str) -> None:
    with sqlite3.connect(path, isolation_level=None) as db:
        for statement in statements:
            db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    "statements",
    [
        ("DROP TABLE runs", f"CREATE VIEW runs (id) AS {ENDLESS}"),
        ("DROP TABLE heads", "CREATE VIRTUAL TABLE heads USING fts5(run)"),
        ("DROP TABLE heads", "CREATE TABLE heads (run, epoch, seq, turn, digest AS (zeroblob(1000000000)))"),
        ("CREATE TRIGGER more AFTER INSERT ON events BEGIN DELETE FROM secrets; END",),
        (
            "DROP TRIGGER artifacts_keep",
            "CREATE TRIGGER artifacts_keep BEFORE UPDATE ON artifacts BEGIN DELETE FROM secrets; END",
        ),
    ],
)
async def test_tables_and_triggers_that_kitaru_did_not_make_are_refused(
    tmp_path: Path, statements: tuple[str, ...]
) -> None:
    path = tmp_path / "k.db"
    await filled(path)
    execute(path, *statements)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="Kitaru did not make"):
        await SqliteStore(path).open()
    assert path.read_bytes() == before


async def test_a_users_own_view_and_index_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    await filled(path)
    execute(path, "CREATE VIEW mine AS SELECT id FROM runs", "CREATE INDEX by_status ON runs (status)")
    store = SqliteStore(path)
    await store.open()
    assert [row.id for row in await store.runs()] == ["tides"]
    await store.close()


def bomb(size: int) -> bytes:
    press = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    megabyte = bytes(1 << 20)
    return b"".join([*(press.compress(megabyte) for _ in range(size >> 20)), press.flush()])


async def test_a_compressed_artifact_is_not_inflated_without_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pressed, "LARGEST", 4 << 20)
    path = tmp_path / "k.db"
    data = await filled(path)
    small = bomb(16 << 20)
    execute(path, "DROP TRIGGER artifacts_keep", f"UPDATE artifacts SET data = x'{small.hex()}', compressed = 1")
    store = SqliteStore(path)
    await store.open()
    assert pressed.content_of(small, 1) == small
    with pytest.raises(CorruptStoreError):
        await store.artifact(ref(data).digest)
    assert [problem.run for problem in await store.verify()] == ["tides"]
    await store.close()


def test_a_content_that_repeats_a_piece_without_end_is_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "LARGEST", 1 << 20)
    ids = bytes((2, *[0] * 9_999))
    edges = zlib.compress(b"", 1, -zlib.MAX_WBITS)
    data = b"".join((len(ids).to_bytes(4, "big"), ids, bytes(4), edges))
    assert len(pieces.joined(data, [(1, bytes(100), 0)])) == 1_000_000
    assert pieces.joined(data, [(1, bytes(1_000), 0)]) == b""


@settings(max_examples=cases(400))
@given(st.binary(max_size=400))
def test_any_bytes_are_read_as_the_ids_of_pieces_at_once(data: bytes) -> None:
    assert all(number.bit_length() <= 80 for number in pieces.ids_in(len(data).to_bytes(4, "big") + data))


async def test_an_event_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kitaru.store import queries

    path = tmp_path / "k.db"
    await filled(path)
    monkeypatch.setattr(queries, "_LARGEST_EVENT", 100)
    store = SqliteStore(path)
    await store.open()
    _, problems = await store.readable("tides")
    assert problems
    with pytest.raises(CorruptStoreError):
        await store.events("tides")
    await store.close()
