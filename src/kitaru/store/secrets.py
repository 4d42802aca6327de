"""Sealed values in a SQLite store: named secrets, and what runs need that no event may hold. No key is seen here."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from kitaru.errors import UsageError
from kitaru.store import failures
from kitaru.store.names import new_run_id
from kitaru.store.protocol import Held, Sealed, SealedAt, SecretRow

T = TypeVar("T")

_KEEP: Final = "INSERT OR REPLACE INTO sealed (kind, holder, key, version, sealer, data) VALUES (?, ?, ?, ?, ?, ?)"
_PLACES: Final = "SELECT kind, holder, key, version, sealer, data FROM sealed"


class Write(Protocol):
    """Does work in the writer's thread, inside one transaction, and returns when it is on disk."""

    def __call__(self, work: Callable[[sqlite3.Connection], T], /) -> T: ...


class SqliteSecrets:
    """The sealed values of one file.

    Args:
        path: The file, named in errors.
        connect: Makes a connection that reads.
        write: Does work in the writer's thread, inside one transaction.
    """

    def __init__(self, path: str, connect: Callable[[], sqlite3.Connection], write: Write) -> None:
        self._path = path
        self._connect = connect
        self._write = write
        self._connection: sqlite3.Connection | None = None
        self._gate = threading.Lock()
        self._identity = b""

    def close(self) -> None:
        """Close the connection that reads."""
        with self._gate:
            connection, self._connection = self._connection, None
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()

    def identity(self) -> bytes:
        """The store's own random id, made with it."""
        if not self._identity:
            ((self._identity,),) = self._rows("SELECT id FROM vault")
        return self._identity

    def secrets(self) -> list[SecretRow]:
        """All secrets, by name."""
        keys: dict[str, list[str]] = {}
        for holder, key in self._rows("SELECT holder, key FROM sealed WHERE kind = 'secret' ORDER BY key"):
            keys.setdefault(holder, []).append(key)
        rows = self._rows("SELECT id, name, owner, private, version, created, updated FROM secrets ORDER BY name, id")
        return [_row(row, keys.get(row[0], ())) for row in rows]

    def values(self, secret: str) -> list[tuple[SealedAt, Sealed]]:
        """The sealed values of a secret, by its id; none where there is no such secret."""
        return _sealed(self._rows(f"{_PLACES} WHERE kind = 'secret' AND holder = ? ORDER BY key", (secret,)))

    def put(
        self,
        name: str,
        owner: str,
        private: bool | None,
        seal: Callable[[str, int], Mapping[str, Sealed]],
        *,
        new: bool = False,
    ) -> SecretRow:
        """Create an owner's secret, or set the named values of it; see the protocol.

        Raises:
            UsageError: It is there, and should have been new.
        """

        def work(db: sqlite3.Connection) -> SecretRow:
            found = db.execute(
                "SELECT id, private, version, created FROM secrets WHERE owner = ? AND name = ?", (owner, name)
            ).fetchone()
            if found is not None and new:
                raise UsageError(f"there is a secret {name!r} already", hint="Change it: `kitaru secrets set`.")
            now = time.time()
            secret, hidden, version, created = found or (new_run_id(), 1, 0, now)
            version += 1
            hidden = int(hidden if private is None else private)
            sealed = seal(secret, version)
            db.execute(
                "INSERT OR REPLACE INTO secrets (id, name, owner, private, version, created, updated) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (secret, name, owner, hidden, version, created, now),
            )
            db.executemany(_KEEP, [("secret", secret, key, version, *value) for key, value in sealed.items()])
            keys = db.execute("SELECT key FROM sealed WHERE kind = 'secret' AND holder = ? ORDER BY key", (secret,))
            return _row((secret, name, owner, hidden, version, created, now), [key for (key,) in keys])

        return self._write(work)

    def delete(self, secret: str) -> bool:
        """Remove a secret and its values, by its id. Returns whether there was one."""

        def work(db: sqlite3.Connection) -> bool:
            db.execute("DELETE FROM sealed WHERE kind = 'secret' AND holder = ?", (secret,))
            return db.execute("DELETE FROM secrets WHERE id = ?", (secret,)).rowcount > 0

        return self._write(work)

    def held(self, run: str) -> list[Held]:
        """What is kept for a run beside its log."""
        rows = self._rows("SELECT key, sealer, data FROM sealed WHERE kind = 'run' AND holder = ? ORDER BY key", (run,))
        return [Held(key, None if data is None else Sealed(sealer, data)) for key, sealer, data in rows]

    def hold(self, run: str, held: Sequence[Held]) -> None:
        """Keep this for a run, in place of what has the same keys."""
        self._write(lambda db: hold(db, run, held))

    def digest_keys(self) -> list[tuple[SealedAt, Sealed]]:
        """The sealed keys of digests, oldest first."""
        return _sealed(self._rows(f"{_PLACES} WHERE kind = 'digest' ORDER BY version, key"))

    def add_digest_key(self, seal: Callable[[SealedAt], Sealed], sealer: bytes) -> None:
        """Keep a sealed key of digests, unless there is one of this sealer's making."""

        def work(db: sqlite3.Connection) -> None:
            made_by = sealer.hex()
            if db.execute("SELECT 1 FROM sealed WHERE kind = 'digest' AND key = ?", (made_by,)).fetchone():
                return
            (version,) = db.execute("SELECT coalesce(max(version), 0) + 1 FROM sealed WHERE kind = 'digest'").fetchone()
            at = SealedAt("digest", "", made_by, version)
            db.execute(_KEEP, (*at, *seal(at)))

        self._write(work)

    def reseal(self, again: Callable[[SealedAt, Sealed], Sealed | None]) -> tuple[int, int]:
        """Replace every sealed value, all or none; see the protocol."""

        def work(db: sqlite3.Connection) -> tuple[int, int]:
            # All in memory before the first write: what `again` raises leaves nothing half done.
            found = _sealed(db.execute(f"{_PLACES} WHERE data IS NOT NULL").fetchall())
            made = [(at, again(at, sealed)) for at, sealed in found]
            replaced = [(*at, *sealed) for at, sealed in made if sealed is not None]
            db.executemany(_KEEP, replaced)
            return len(replaced), len(made) - len(replaced)

        return self._write(work)

    def _rows(self, sql: str, values: Iterable[str] = ()) -> list[Any]:
        try:
            with self._gate:
                if self._connection is None:
                    self._connection = self._connect()
                return self._connection.execute(sql, tuple(values)).fetchall()
        except (sqlite3.Error, OSError) as error:
            raise failures.translate(error, self._path) from error


def hold(db: sqlite3.Connection, run: str, held: Iterable[Held]) -> None:
    """Keep this for a run, in place of what has the same keys, inside the caller's transaction."""
    db.executemany(_KEEP, [("run", run, key, 0, *(sealed or (None, None))) for key, sealed in held])


def forget(db: sqlite3.Connection, run: str) -> None:
    """Drop the values kept for a run, inside the caller's transaction. That it needed them stays known."""
    db.execute("UPDATE sealed SET sealer = NULL, data = NULL WHERE kind = 'run' AND holder = ?", (run,))


def _row(row: tuple[Any, ...], keys: Sequence[str]) -> SecretRow:
    secret, name, owner, private, version, created, updated = row
    return SecretRow(secret, name, owner, bool(private), version, created, updated, tuple(keys))


def _sealed(rows: Iterable[tuple[Any, ...]]) -> list[tuple[SealedAt, Sealed]]:
    return [
        (SealedAt(kind, holder, key, version), Sealed(sealer, data))
        for kind, holder, key, version, sealer, data in rows
    ]
