"""The tables of a SQLite store, how a file is opened, and how an older one is brought up to date.

Only `events`, `artifacts`, `pieces`, `owners`, `owned` and the tables of secrets hold what cannot be made again;
`runs`, `heads`, `refs` and `piece_refs` are projections of the events. A run's id is in the row of its first event.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias
from urllib.parse import quote

from kitaru.errors import SchemaError, StoreError, StoreReadOnlyError
from kitaru.store import files
from kitaru.store.failures import corrupt, error_name, translate

APPLICATION_ID: Final = 0x4B495441
VERSION: Final = 3

Durability: TypeAlias = Literal["full", "process"]
Migration: TypeAlias = Callable[[sqlite3.Connection], None]

_SECRETS: Final = (
    "CREATE TABLE vault (no INTEGER PRIMARY KEY CHECK (no = 1), id BLOB NOT NULL) STRICT",
    "INSERT INTO vault (no, id) VALUES (1, randomblob(16))",
    """CREATE TABLE secrets (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, owner TEXT NOT NULL, private INTEGER NOT NULL,
        version INTEGER NOT NULL, created REAL NOT NULL, updated REAL NOT NULL, UNIQUE (owner, name)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE sealed (
        kind TEXT NOT NULL, holder TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, sealer BLOB, data BLOB,
        PRIMARY KEY (kind, holder, key)
    ) STRICT, WITHOUT ROWID""",
)


_PIECES: Final = (
    """CREATE TABLE pieces (
        id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, data BLOB NOT NULL, compressed INTEGER NOT NULL
    ) STRICT""",
    """CREATE TRIGGER pieces_keep BEFORE UPDATE ON pieces
        BEGIN SELECT RAISE(ABORT, 'pieces never change'); END""",
)
_PIECE_REFS: Final = (
    "CREATE TABLE piece_refs (piece INTEGER NOT NULL, run INTEGER NOT NULL, PRIMARY KEY (piece, run)) STRICT, "
    "WITHOUT ROWID"
)


def _to_second(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE artifacts ADD COLUMN compressed INTEGER NOT NULL DEFAULT 0")
    for statement in _SECRETS:
        connection.execute(statement)


def _to_third(connection: sqlite3.Connection) -> None:
    for statement in (*_PIECES, _PIECE_REFS):
        connection.execute(statement)


MIGRATIONS: Final[Mapping[int, Migration]] = {1: _to_second, 2: _to_third}
"""By the version a migration starts from; it leads to the next one, inside the caller's transaction."""

PROJECTIONS: Final = ("runs", "heads", "refs", "piece_refs")
EVENTS_INDEX: Final = "events_run_seq"
_EVENTS_INDEX: Final = f"CREATE UNIQUE INDEX {EVENTS_INDEX} ON events (run, seq)"

_PROJECTIONS: Final = (
    """CREATE TABLE runs (
        no INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, flow TEXT NOT NULL, status TEXT NOT NULL,
        created REAL NOT NULL, updated REAL NOT NULL, parent TEXT, origin TEXT, note TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX runs_open ON runs (flow) WHERE status IN ('running', 'parked')",
    """CREATE TABLE heads (
        run INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, turn INTEGER NOT NULL,
        digest BLOB NOT NULL
    ) STRICT""",
    "CREATE TABLE refs (digest BLOB NOT NULL, run INTEGER NOT NULL, PRIMARY KEY (digest, run)) STRICT, WITHOUT ROWID",
    _PIECE_REFS,
)

_TABLES: Final = (
    """CREATE TABLE events (
        id INTEGER PRIMARY KEY, run INTEGER NOT NULL, seq INTEGER NOT NULL, turn INTEGER NOT NULL, data BLOB NOT NULL,
        digest BLOB NOT NULL, name TEXT
    ) STRICT""",
    _EVENTS_INDEX,
    # As SQLite words it where the migration adds the last column.
    (
        "CREATE TABLE artifacts (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, data BLOB NOT NULL, "
        "compressed INTEGER NOT NULL DEFAULT 0) STRICT"
    ),
    """CREATE TABLE owners (
        no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, pid INTEGER NOT NULL, boot TEXT NOT NULL, beat REAL NOT NULL,
        lease REAL NOT NULL
    ) STRICT""",
    "CREATE TABLE owned (run INTEGER PRIMARY KEY, owner INTEGER NOT NULL) STRICT",
    # A run may lose its events up to `seq` while its ticket is here; no ticket outlives its transaction.
    "CREATE TABLE tickets (run INTEGER PRIMARY KEY, seq INTEGER NOT NULL) STRICT",
    """CREATE TRIGGER events_keep BEFORE UPDATE ON events
        BEGIN SELECT RAISE(ABORT, 'events are append-only'); END""",
    """CREATE TRIGGER events_stay BEFORE DELETE ON events
        WHEN NOT EXISTS (SELECT 1 FROM tickets WHERE run = OLD.run AND seq >= OLD.seq)
        BEGIN SELECT RAISE(ABORT, 'events are append-only'); END""",
    """CREATE TRIGGER artifacts_keep BEFORE UPDATE ON artifacts
        BEGIN SELECT RAISE(ABORT, 'artifacts never change'); END""",
    *_PIECES,
    *_PROJECTIONS,
    *_SECRETS,
)


def connect(
    path: str, *, busy_timeout: float, mode: Literal["rw", "ro"] = "rw", immutable: bool = False
) -> sqlite3.Connection:
    """Connect to an existing file, in autocommit mode.

    Args:
        path: The file, absolute.
        busy_timeout: Seconds to wait for a lock.
        mode: `ro` cannot write.
        immutable: Read without locks, for a file that nobody can write.

    Raises:
        sqlite3.Error: It cannot be opened.
    """
    uri = f"file:{quote(os.fsencode(path))}?mode={mode}" + ("&immutable=1" if immutable else "")
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=busy_timeout)
    try:
        connection.execute(f"PRAGMA busy_timeout = {int(busy_timeout * 1000)}")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_writer(path: str, *, busy_timeout: float, durability: Durability) -> sqlite3.Connection:
    """The connection that writes: WAL, flushed as `durability` asks, checkpoints left to the caller.

    SQLite's own checkpoint inside a commit swallows a failed flush, which must never pass unseen.
    """
    connection = connect(path, busy_timeout=busy_timeout)
    try:
        _use_wal(connection, busy_timeout)
        connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        if sys.platform == "darwin":
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("PRAGMA checkpoint_fullfsync = ON")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        connection.execute("PRAGMA cache_size = -16384")
        connection.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: str, *, busy_timeout: float, read_only: bool, immutable: bool) -> sqlite3.Connection:
    """A connection that only reads."""
    connection = connect(path, busy_timeout=busy_timeout, mode="ro" if read_only else "rw", immutable=immutable)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _use_wal(connection: sqlite3.Connection, busy_timeout: float) -> None:
    deadline = time.monotonic() + busy_timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # Switching modes does not always wait for the other process that is doing the same.
            if not error_name(error).startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return


def create_file(path: str) -> None:
    """Make the folder and an empty file that only this user can read, unless the file is there.

    SQLite gives the -wal and -shm files the mode of the database file.
    """
    files.make_folder(Path(path).parent)
    with contextlib.suppress(FileExistsError):
        os.close(files.open_file(path, os.O_RDWR | os.O_EXCL))


def version_of(connection: sqlite3.Connection, path: str, *, current: int = VERSION) -> int:
    """The schema version of a file, 0 for an empty one, changing nothing.

    Raises:
        SchemaError: It is newer than `current`.
        CorruptStoreError: It is no database, or has a version that no Kitaru writes.
        StoreError: It is some other program's database.
    """
    try:
        # One statement, so that another process cannot create the tables in between.
        application, version, tables = connection.execute(
            "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema) "
            "FROM pragma_application_id, pragma_user_version"
        ).fetchone()
    except sqlite3.DatabaseError as error:
        if error_name(error) in {"SQLITE_NOTADB", "SQLITE_CORRUPT"}:
            raise corrupt(path, str(error)) from error
        raise
    if application == 0 and version == 0 and tables == 0:
        return 0
    if application != APPLICATION_ID:
        raise StoreError(f"{path} is another program's database", hint="Give Kitaru a file of its own.")
    if version > current:
        raise SchemaError(
            f"{path} has schema version {version}, and this Kitaru knows up to {current}; it was left untouched",
            hint="Upgrade Kitaru, or use another store.",
        )
    assert isinstance(version, int)
    if version < 1:
        raise corrupt(path, f"its schema version is {version}")
    return version


def probe(path: str, *, busy_timeout: float, immutable: bool = False, read_only: bool = False) -> int:
    """The schema version of a file, found without changing it. Raises as `version_of` does."""
    mode: Literal["rw", "ro"] = "ro" if read_only else "rw"
    with contextlib.closing(connect(path, busy_timeout=busy_timeout, mode=mode, immutable=immutable)) as connection:
        version = version_of(connection, path)
        _refuse_foreign(connection, path, version)
        return version


def _refuse_foreign(connection: sqlite3.Connection, path: str, version: int) -> None:
    """Check that what has the names of our tables are these tables, and that no other trigger acts on them.

    A file from elsewhere may hold a view without end in the place of a table, or a trigger that writes.

    Raises:
        StoreError: It holds one.
    """
    for kind, name, table, sql in connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema"):
        ours = _schema().get(name)
        if kind == "trigger":
            foreign = table in _schema() and ours != (kind, _plain(sql))
        elif ours is None or kind == "index":
            continue
        else:
            # An older version's table has other columns; it is one that the migration knows, or that fails.
            foreign = kind != "table" or (ours != (kind, _plain(sql)) if version == VERSION else "VIRTUAL" in sql[:20])
        if foreign:
            raise StoreError(
                f"{path} holds the {kind} {name!r} in a form that Kitaru did not make; the file was left untouched",
                hint="Use it only if you trust its source: look at it with sqlite3, and drop what does not belong.",
            )


@functools.cache
def _schema() -> dict[str, tuple[str, str]]:
    """What the current version's tables, indexes and triggers are: kind and text by name."""
    with contextlib.closing(sqlite3.connect(":memory:")) as fresh:
        create_tables(fresh)
        rows = fresh.execute("SELECT name, type, sql FROM sqlite_schema WHERE sql IS NOT NULL")
        return {name: (kind, _plain(sql)) for name, kind, sql in rows}


def _plain(sql: str | None) -> str:
    return "".join((sql or "").split()).replace('"', "").lower()


def tables() -> list[str]:
    """The names of the tables."""
    return [name for name, (kind, _) in _schema().items() if kind == "table"]


def probe_for_reading(path: str, failed: StoreReadOnlyError, *, busy_timeout: float) -> bool:
    """How a file that cannot be written can be read: True when only as one that nobody changes.

    Args:
        path: The file.
        failed: Why it cannot be written; raised when it cannot be read either.
        busy_timeout: Seconds to wait for a lock.
    """
    wal = Path(f"{path}-wal")
    for immutable in (False, True):
        if immutable and wal.exists() and wal.stat().st_size:
            # Commits that are still in the WAL would be left out.
            break
        with contextlib.suppress(sqlite3.Error, OSError):
            if probe(path, busy_timeout=busy_timeout, immutable=immutable, read_only=True) == VERSION:
                return immutable
    raise failed


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """BEGIN IMMEDIATE, then COMMIT, or ROLLBACK when the body raises."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back by itself after some errors.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def bring_up_to_date(
    connection: sqlite3.Connection,
    path: str,
    *,
    migrations: Mapping[int, Migration] = MIGRATIONS,
    current: int = VERSION,
) -> str | None:
    """Create the tables of an empty file, or migrate an older one after a backup beside it.

    Args:
        connection: The writing connection.
        path: Its file.
        migrations: By the version each starts from.
        current: The version to reach.

    Returns:
        The backup's path, when there was something to migrate.

    Raises:
        SchemaError, CorruptStoreError, StoreError: As `version_of`.
    """
    if version_of(connection, path, current=current) == current:
        return None
    backup = _back_up(connection, path) if version_of(connection, path, current=current) else None
    with transaction(connection):
        # Another process may have been faster.
        version = version_of(connection, path, current=current)
        if version == 0:
            create_tables(connection)
            version = VERSION
        while version < current:
            migrations[version](connection)
            version += 1
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {version}")
    return backup


def create_tables(connection: sqlite3.Connection) -> None:
    """Create every table, index and trigger of the current version."""
    for statement in _TABLES:
        connection.execute(statement)


def create_projections(connection: sqlite3.Connection) -> None:
    """Drop the projections, whatever is left of them, and create them empty."""
    for table in PROJECTIONS:
        connection.execute(f"DROP TABLE IF EXISTS {table}")
    for statement in _PROJECTIONS:
        connection.execute(statement)


def create_events_index(connection: sqlite3.Connection) -> None:
    """Create the index of the events."""
    connection.execute(_EVENTS_INDEX)


def _back_up(connection: sqlite3.Connection, path: str) -> str:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    target = f"{path}.v{version}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}.bak"
    create_file(target)
    copy = sqlite3.connect(target)
    try:
        # The only sound way to copy: opening the file itself and closing it again would drop SQLite's locks on it.
        connection.backup(copy)
    except sqlite3.Error as error:
        raise translate(error, target) from error
    finally:
        copy.close()
    return target
