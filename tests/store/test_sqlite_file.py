"""What holds of the SQLite file itself: its schema, its mode, its size, and what opening refuses."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kitaru.errors import CorruptStoreError, SchemaError, StoreError, UsageError
from kitaru.store import schema
from kitaru.store.protocol import Head, Problem
from kitaru.store.sqlite import SqliteStore, path_of
from tests.store.logs import NOW, Listener, completed, failed, kept, ref, started, step


async def filled(path: Path, runs: int = 1, steps: int = 3) -> None:
    store = SqliteStore(path)
    await store.open()
    listener = Listener(store)
    for number in range(runs):
        await listener.create(f"run{number}")
        await listener.append(f"run{number}", 1, *(step(each) for each in range(steps)))
    await store.close()


def change(path: Path, sql: str, *values: object) -> None:
    """Alter a file behind the store's back."""
    connection = sqlite3.connect(path)
    for trigger in ("events_keep", "events_stay", "artifacts_keep"):
        connection.execute(f"DROP TRIGGER {trigger}")
    connection.execute(sql, values)
    connection.commit()
    connection.close()


async def problems(path: Path, heads: list[Head] | None = None) -> list[Problem]:
    store = SqliteStore(path)
    await store.open()
    found = await store.verify(heads=heads or [])
    await store.close()
    return found


def test_a_path_may_be_written_as_a_url(tmp_path: Path) -> None:
    assert path_of("sqlite:///runs.db") == Path("runs.db").absolute()
    assert path_of(f"sqlite:///{tmp_path}/runs.db") == tmp_path / "runs.db"
    assert path_of(tmp_path / "a%20?b.db") == tmp_path / "a%20?b.db"
    for text in ("postgres://host/db", "sqlite:///", ":memory:", "a\0b"):
        with pytest.raises(UsageError):
            path_of(text)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:hunter-two@db/runs",
        "postgresql://ann:hunter-two/@x@db/runs",
        "postgresql:/ann:hunter-two@db/runs",
        "sqlite+pysqlite:///r.db?user=ann&sslpassword=hunter-two&x=1",
    ],
)
def test_a_password_in_a_url_is_not_shown(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        path_of(url)
    assert "hunter" not in str(caught.value)
    assert "ann" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["a%20?b#c.db", "caf\u00e9 \u2603.db", "not utf-8 \udcff.db", "line\nbreak.db", "-x;'\".db"]
)
async def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    await filled(path)
    assert path.exists()
    assert await problems(path) == []
    store = SqliteStore(path)
    await store.open()
    assert (await store.rebuild()).runs == 1
    await store.close()


async def test_each_commit_is_flushed_unless_durability_is_process(tmp_path: Path) -> None:
    connection = schema.connect_writer(str(_empty(tmp_path / "a.db")), busy_timeout=1, durability="full")
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    connection = schema.connect_writer(str(_empty(tmp_path / "b.db")), busy_timeout=1, durability="process")
    assert connection.execute("PRAGMA synchronous").fetchone() == (1,)
    connection.close()


def _empty(path: Path) -> Path:
    path.touch()
    return path


async def test_a_step_with_an_outcome_of_100_bytes_takes_at_most_260_bytes(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    store = SqliteStore(path)
    await store.open()
    listener = Listener(store)
    await listener.together([listener.prepare(f"run{run}", 0, started(), new=True) for run in range(20)])
    await listener.together(
        [listener.prepare(f"run{run}", 1, step(number)) for number in range(50) for run in range(20)]
    )
    before = pages(path)
    for number in range(50, 200):
        await listener.together([listener.prepare(f"run{run}", 1, step(number)) for run in range(20)])
    after = pages(path)
    await store.close()
    assert (after - before) * 4096 / 3000 <= 260


def pages(path: Path) -> int:
    """Pages of a database, what is still in its WAL included."""
    connection = sqlite3.connect(path)
    (count,) = connection.execute("PRAGMA page_count").fetchone()
    connection.close()
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE events SET turn = 9",
        "UPDATE events SET data = x'00' WHERE seq = 1",
        "DELETE FROM events",
        "DELETE FROM events WHERE seq = 2",
        "UPDATE artifacts SET data = x'00'",
    ],
)
async def test_the_log_cannot_be_changed_in_place(tmp_path: Path, sql: str) -> None:
    store = SqliteStore(tmp_path / "k.db")
    await store.open()
    data = b"long" * 1000
    await Listener(store).create("tides", started(), step(1, ref(data)), artifacts=kept(data))
    await store.close()
    connection = sqlite3.connect(tmp_path / "k.db")
    with pytest.raises(sqlite3.IntegrityError, match=r"append-only|never change"):
        connection.execute(sql)
    connection.close()


async def test_verify_names_the_run_and_event_that_was_altered(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    await filled(path, runs=2)
    change(path, "UPDATE events SET data = CAST(data || x'00' AS BLOB) WHERE run = 2 AND seq = 3")
    found = await problems(path)
    assert {(problem.run, problem.seq) for problem in found} == {("run1", 3)}


@pytest.mark.parametrize("column", ["turn = 9", "digest = x'00112233445566778899aabbccddeeff'", "name = 'other'"])
async def test_verify_sees_every_column_of_an_event(tmp_path: Path, column: str) -> None:
    path = tmp_path / "k.db"
    await filled(path)
    change(path, f"UPDATE events SET {column} WHERE seq = 1")
    assert [problem.run for problem in await problems(path)][:1] == ["run0"]


async def test_verify_sees_a_gap_and_a_lost_tail(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    await filled(path)
    change(path, "DELETE FROM events WHERE seq = 2")
    (gap,) = await problems(path)
    assert (gap.run, gap.seq) == ("run0", 2)
    await filled(tmp_path / "l.db")
    change(tmp_path / "l.db", "DELETE FROM events WHERE seq = 4")
    (tail,) = await problems(tmp_path / "l.db")
    assert (tail.run, tail.seq) == ("run0", 4)


async def test_a_tail_cut_with_its_head_shows_against_heads_kept_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    await filled(path)
    store = SqliteStore(path)
    await store.open()
    heads = await store.heads()
    await store.close()
    change(path, "DELETE FROM events WHERE seq = 4")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE heads SET seq = 3, digest = (SELECT digest FROM events WHERE seq = 3)")
    connection.commit()
    connection.close()
    assert await problems(path) == []
    (cut,) = await problems(path, heads)
    assert (cut.run, cut.seq) == ("run0", 3)


@pytest.mark.parametrize("sql", ["UPDATE artifacts SET data = x'00'", "DELETE FROM artifacts"])
async def test_verify_sees_a_damaged_artifact(tmp_path: Path, sql: str) -> None:
    path = tmp_path / "k.db"
    store = SqliteStore(path)
    await store.open()
    data = b"long" * 1000
    await Listener(store).create("tides", started(), step(1, ref(data)), artifacts=kept(data))
    await store.close()
    change(path, sql)
    (found,) = await problems(path)
    assert (found.run, found.seq) == ("tides", 2)
    assert "artifact" in found.what


async def test_an_altered_artifact_is_not_handed_out(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    store = SqliteStore(path)
    await store.open()
    data = b"long" * 1000
    await Listener(store).create("tides", started(), step(1, ref(data)), artifacts=kept(data))
    await store.close()
    change(path, "UPDATE artifacts SET data = x'00'")
    await store.open()
    with pytest.raises(CorruptStoreError):
        await store.artifact(ref(data).digest)
    await store.close()


async def test_projections_can_be_made_again_from_the_events_alone(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    store = SqliteStore(path)
    await store.open()
    listener = Listener(store)
    data = b"long" * 1000
    await listener.create("old", started(parent="p"), step(1, ref(data)), completed(), artifacts=kept(data))
    await listener.create("tides", started(origin="o"), step(1, ref(data)))
    await listener.create("moon", started("other", at=NOW + 3), failed(NOW + 5))
    await listener.create("claimed")
    await store.release("claimed", 1)
    await store.claim("claimed", listener, python="3.11")
    await store.prune(older_than=NOW + 1, run="old")
    await store.close()
    before = _dump(path)
    connection = sqlite3.connect(path)
    for table in ("runs", "heads", "refs"):
        connection.execute(f"DELETE FROM {table}")
    connection.commit()
    connection.close()
    assert _dump(path) != before
    await store.open()
    assert (await store.rebuild()).runs == 4
    await store.close()
    assert _dump(path) == before


def _dump(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    lines = [line for line in connection.iterdump() if not line.startswith('INSERT INTO "sqlite_')]
    connection.close()
    return sorted(lines)


async def test_a_file_of_a_newer_version_is_refused_and_left_untouched(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    await filled(path)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(SchemaError, match=str(schema.VERSION + 1)):
        await SqliteStore(path).open()
    assert path.read_bytes() == before


async def test_a_version_that_no_kitaru_writes_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    await filled(path)
    for version in (0, -1):
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA user_version = {version}")
        connection.close()
        with pytest.raises(CorruptStoreError, match=f"its schema version is {version}"):
            await SqliteStore(path).open()


async def test_an_older_file_is_backed_up_and_migrated(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    await filled(path)
    connection = schema.connect_writer(str(path), busy_timeout=1, durability="full")
    before = schema.VERSION
    steps = {before: _add_table("a"), before + 1: _add_table("b")}
    backup = schema.bring_up_to_date(connection, str(path), migrations=steps, current=before + 2)
    assert backup is not None
    assert connection.execute("PRAGMA user_version").fetchone() == (before + 2,)
    assert connection.execute("SELECT count(*) FROM a, b").fetchone() == (0,)
    connection.close()
    old = sqlite3.connect(backup)
    assert old.execute("PRAGMA user_version").fetchone() == (before,)
    assert old.execute("SELECT count(*) FROM events").fetchone() == (4,)
    old.close()
    assert mode_of(backup) == 0o600


async def test_a_migration_that_fails_half_way_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    await filled(path)
    connection = schema.connect_writer(str(path), busy_timeout=1, durability="full")
    before = schema.VERSION
    steps = {before: _add_table("a"), before + 1: _add_table("a")}
    with pytest.raises(sqlite3.OperationalError):
        schema.bring_up_to_date(connection, str(path), migrations=steps, current=before + 2)
    assert connection.execute("PRAGMA user_version").fetchone() == (before,)
    assert connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'a'").fetchone() == (0,)
    connection.close()


def mode_of(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def _add_table(name: str) -> schema.Migration:
    def migrate(connection: sqlite3.Connection) -> None:
        connection.execute(f"CREATE TABLE {name} (x INTEGER) STRICT")

    return migrate


async def test_what_is_no_database_is_refused_with_a_way_to_export(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    path.write_bytes(b"this is a text, not a database" * 100)
    with pytest.raises(CorruptStoreError, match=r"\.recover"):
        await SqliteStore(path).open()
    assert path.read_bytes().startswith(b"this is a text")


async def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE songs (title)")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="another program"):
        await SqliteStore(path).open()


async def test_a_damaged_page_is_reported_and_nothing_is_written_any_more(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    await filled(path, runs=20, steps=30)
    connection = sqlite3.connect(path)
    (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'heads'").fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    store = SqliteStore(path)
    await store.open()
    listener = Listener(store)
    first = await listener.tried("new", 0, started(), new=True)
    second = await listener.tried("newer", 0, started(), new=True)
    await store.close()
    assert isinstance(first.error, CorruptStoreError)
    assert isinstance(second.error, CorruptStoreError)


async def test_two_stores_may_create_one_file_at_once(tmp_path: Path) -> None:
    stores = [SqliteStore(tmp_path / "k.db") for _ in range(6)]
    await asyncio.gather(*(store.open() for store in stores))
    for number, store in enumerate(stores):
        await Listener(store).create(f"run{number}")
    assert len(await stores[0].runs()) == 6
    await asyncio.gather(*(store.close() for store in stores))


UNPRIVILEGED = """
import asyncio, os, sys
from pathlib import Path
from tests.store.logs import Listener, started
from kitaru.errors import StoreReadOnlyError
from kitaru.store.sqlite import SqliteStore

async def main(path):
    scratch = SqliteStore(path + ".scratch")   # everything lazy is imported before the rights go
    await scratch.open()
    await Listener(scratch).create("x")
    await scratch.runs()
    await scratch.close()
    if os.geteuid() == 0:
        os.setegid(65534)
        os.seteuid(65534)
    store = SqliteStore(path)
    await store.open()
    print(len(await store.events("run0")))
    append = await Listener(store).tried("new", 0, started(), new=True)
    assert isinstance(append.error, StoreReadOnlyError), append.error
    print(path in str(append.error))
    try:
        await store.claim("run0", Listener(store), python="3.11")
    except StoreReadOnlyError:
        print("claim refused")
    await store.close()
    try:
        await SqliteStore(os.path.join(os.path.dirname(path), "absent.db")).open()
    except StoreReadOnlyError:
        print("absent refused")

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("folder_mode", [0o755, 0o555])
def test_a_file_that_cannot_be_written_can_be_read(folder_mode: int) -> None:
    if folder_mode == 0o555 and os.geteuid() != 0:
        pytest.skip("without root the script could not make its scratch file in a read-only folder")
    # Not under tmp_path, whose parents only this user may enter.
    folder = Path(tempfile.mkdtemp(prefix="kitaru-read-only-"))
    folder.chmod(0o755)
    try:
        path = folder / "k.db"
        asyncio.run(filled(path))
        path.chmod(0o444)
        script = folder / "script.py"
        script.write_text(UNPRIVILEGED)
        folder.chmod(folder_mode)
        result = _run_script(script, str(path))
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
    assert result == "4\nTrue\nclaim refused\nabsent refused\n"


def _run_script(script: Path, *args: str) -> str:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}/src{os.pathsep}{root}"}
    done = subprocess.run(
        [sys.executable, str(script), *args], capture_output=True, text=True, timeout=30, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
