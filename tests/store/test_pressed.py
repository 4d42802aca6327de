"""Artifacts in their rows: compressed where that saves enough, under the digest of their content."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from kitaru.errors import CorruptStoreError
from kitaru.store.artifacts import node
from kitaru.store.codec import content_digest
from kitaru.store.events import Ref
from kitaru.store.pressed import content_of, pressed
from kitaru.store.sqlite import SqliteStore
from tests.store.logs import Listener, completed, started, step

TEXT = b"The tide is high at noon and low at six. " * 100


def ref(data: bytes) -> Ref:
    return Ref(content_digest(data), len(data))


async def kept(path: Path, *contents: bytes) -> list[tuple[int, int]]:
    """Put these into a store as the outcomes of a run; the size and the mark of their rows."""
    store = SqliteStore(path)
    await store.open()
    steps = [step(number, ref(data)) for number, data in enumerate(contents, 1)]
    artifacts = {content_digest(data): data for data in contents}
    await Listener(store).create("tides", started(), *steps, completed(), artifacts=artifacts)
    await store.close()
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT length(data), compressed FROM artifacts ORDER BY id").fetchall()
    connection.close()
    return rows


async def test_a_text_is_stored_compressed_and_read_as_it_was(tmp_path: Path) -> None:
    ((size, mark),) = await kept(tmp_path / "k.db", TEXT)
    assert size < len(TEXT) // 8
    assert mark == 1
    store = SqliteStore(tmp_path / "k.db")
    await store.open()
    assert await store.artifact(content_digest(TEXT)) == TEXT
    assert await store.verify() == []
    await store.close()


async def test_what_saves_less_than_an_eighth_is_stored_as_it_is(tmp_path: Path) -> None:
    noise, short = os.urandom(2000), b"tide " * 10
    assert await kept(tmp_path / "k.db", noise, short) == [(2000, 0), (50, 0)]


async def test_a_large_artifact_is_read_whole(tmp_path: Path) -> None:
    large = os.urandom(300_000) + bytes(2_000_000)
    await kept(tmp_path / "k.db", large)
    store = SqliteStore(tmp_path / "k.db")
    await store.open()
    assert await store.artifact(content_digest(large)) == large
    await store.close()


@pytest.mark.parametrize("damage", ["data = x'ff00ff'", "data = substr(data, 1, 20)", "compressed = 0"])
async def test_damage_to_a_compressed_artifact_is_found_and_nothing_of_it_handed_out(
    tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "k.db"
    await kept(path, TEXT)
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER artifacts_keep")
    connection.execute(f"UPDATE artifacts SET {damage}")
    connection.commit()
    connection.close()
    store = SqliteStore(path)
    await store.open()
    with pytest.raises(CorruptStoreError):
        await store.artifact(content_digest(TEXT))
    (found,) = await store.verify()
    assert "was altered" in found.what
    await store.close()


async def test_what_a_compressed_node_names_is_kept_rebuilt_and_pruned_with_it(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "k.db")
    await store.open()
    first, listener = node([], TEXT), Listener(store)
    second = node([content_digest(first)], TEXT * 2)
    artifacts = {content_digest(one): one for one in (first, second)}
    await listener.create("tides", started(), step(1, ref(second)), completed(), artifacts=artifacts)
    await listener.create("moon", started(), step(1, ref(second)), completed())
    assert (await store.rebuild()).runs == 2
    await store.prune(older_than=0, run="tides")
    assert await store.artifact(content_digest(first)) == first
    assert await store.verify() == []
    assert (await store.prune(older_than=0, run="moon")).artifacts == 2
    await store.close()


@pytest.mark.parametrize("content", [b"", b"x", TEXT, bytes(100_000), bytes(range(256))])
def test_any_content_comes_back(content: bytes) -> None:
    assert content_of(*pressed(content)) == content
