"""Sealed values in a SQLite file, and a file that was made before there were any."""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kitaru.store import schema
from kitaru.store.protocol import Sealed, SealedAt
from kitaru.store.sealing import Sealer, UnsealError, key_from_text, keyed_digest, new_key
from kitaru.store.sqlite import SqliteStore
from tests.store import secrets_conformance
from tests.store.conformance import Place
from tests.store.logs import Listener, parked

OLD = Path(__file__).parent / "files" / "version-1.db.gz"
STORE = b"s" * 16
AT = SealedAt("secret", "id", "KEY", 1)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "k.db")
    await store.open()
    yield store
    await store.close()


def old_file(folder: Path) -> Path:
    path = folder / "old.db"
    path.write_bytes(gzip.decompress(OLD.read_bytes()))
    return path


def backups(folder: Path) -> list[Path]:
    return list(folder.glob("old.db.v1-*.bak"))


# -- sealing -----------------------------------------------------------------------------------------------------------


def test_a_sealed_value_opens_in_its_place_and_shows_nothing() -> None:
    sealer = Sealer(new_key(), "here")
    sealed = sealer.seal(STORE, AT, b"the value of the test")
    assert sealer.open(STORE, AT, sealed) == b"the value of the test"
    assert b"value" not in sealed.data
    assert sealed.sealer == sealer.id
    assert sealer.seal(STORE, AT, b"the value of the test") != sealed


@pytest.mark.parametrize(
    "other",
    [AT._replace(kind="run"), AT._replace(holder="id2"), AT._replace(key="OTHER"), AT._replace(version=2)],
)
def test_a_sealed_value_does_not_open_in_another_place(other: SealedAt) -> None:
    sealer = Sealer(new_key(), "here")
    sealed = sealer.seal(STORE, AT, b"value")
    with pytest.raises(UnsealError):
        sealer.open(STORE, other, sealed)
    with pytest.raises(UnsealError):
        sealer.open(b"another store", AT, sealed)


@pytest.mark.parametrize("position", [0, 1, 13, -1])
def test_an_altered_value_does_not_open(position: int) -> None:
    sealer = Sealer(new_key(), "here")
    sealed = sealer.seal(STORE, AT, b"value")
    data = bytearray(sealed.data)
    data[position] ^= 1
    with pytest.raises(UnsealError):
        sealer.open(STORE, AT, Sealed(sealed.sealer, bytes(data)))


def test_a_truncated_value_does_not_open() -> None:
    sealer = Sealer(new_key(), "here")
    sealed = sealer.seal(STORE, AT, b"value")
    for length in range(len(sealed.data)):
        with pytest.raises(UnsealError):
            sealer.open(STORE, AT, Sealed(sealed.sealer, sealed.data[:length]))


def test_a_key_is_read_as_hexadecimal_or_base64_and_any_other_text_is_a_passphrase() -> None:
    key = bytes(range(32))
    plain = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    assert key_from_text(key.hex(), STORE) == key
    assert key_from_text(plain, STORE) == key
    assert key_from_text(plain.rstrip("="), STORE) == key
    derived = key_from_text("correct horse", STORE)
    assert len(derived) == 32
    assert derived != key_from_text("correct horse", b"another store....")
    assert derived == key_from_text(" correct horse\n", STORE)


def test_equal_values_have_equal_digests_under_one_key_only() -> None:
    assert keyed_digest(b"k" * 32, b"value") == keyed_digest(b"k" * 32, b"value")
    assert keyed_digest(b"k" * 32, b"value") != keyed_digest(b"l" * 32, b"value")


# -- tables ------------------------------------------------------------------------------------------------------------


class TestKeeping(secrets_conformance.Keeping):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return lambda: SqliteStore(tmp_path / "log" / "kitaru.db")


async def test_each_store_has_an_identity_of_its_own(store: SqliteStore, tmp_path: Path) -> None:
    other = SqliteStore(tmp_path / "other.db")
    await other.open()
    assert len(store.secrets.identity()) == 16
    assert store.secrets.identity() != other.secrets.identity()
    await other.close()


# -- a file of version 1 -----------------------------------------------------------------------------------------------


async def test_a_file_of_version_1_opens_migrated_after_a_backup(tmp_path: Path) -> None:
    path = old_file(tmp_path)
    store = SqliteStore(path)
    await store.open()
    assert await store.verify() == []
    assert {row.id: row.status for row in await store.runs()} == {"done": "completed", "half": "parked"}
    row = store.secrets.put("creds", "me", None, lambda *_: {"A": Sealed(b"sealer--", b"1")})
    assert row.keys == ("A",)
    await store.close()
    (backup,) = backups(tmp_path)
    kept = sqlite3.connect(backup)
    assert kept.execute("PRAGMA user_version").fetchone() == (1,)
    assert kept.execute("SELECT count(*) FROM events").fetchone()[0] > 0
    kept.close()


async def test_a_migrated_file_has_the_tables_of_a_new_one(tmp_path: Path) -> None:
    old, new = SqliteStore(old_file(tmp_path)), SqliteStore(tmp_path / "new.db")
    tables = []
    for store in (old, new):
        await store.open()
        await store.close()
        connection = sqlite3.connect(store.path)
        tables.append(set(connection.execute("SELECT type, name, sql FROM sqlite_schema")))
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        connection.close()
    assert tables[0] == tables[1]


async def test_two_stores_may_migrate_one_file_at_once(tmp_path: Path) -> None:
    import asyncio

    path = old_file(tmp_path)
    one, two = SqliteStore(path), SqliteStore(path)
    await asyncio.gather(one.open(), two.open())
    assert one.secrets.identity() == two.secrets.identity()
    listener = Listener(one)
    await listener.create("fresh")
    await listener.append("fresh", 1, parked())
    assert (await two.run("fresh")).status == "parked"
    await one.close()
    await two.close()
