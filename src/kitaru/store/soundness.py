"""Whether SQLite's own structures are sound, which of them are not, and how one that is not is taken out."""
# what is put into SQL text is names out of the schema, quoted

from __future__ import annotations

import re
import sqlite3
from typing import Final

from kitaru.store import schema
from kitaru.store.protocol import Problem

_MOST: Final = 100
_UNUSED: Final = re.compile(r"Page \d+ is never used")


def damaged(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Each damaged table or index: `table` or `index`, its name, and what SQLite says of it."""
    found = []
    for table in schema.tables():
        said = _check(connection, table)
        if not said:
            continue
        indexes = [
            name
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = ? ORDER BY name", (table,)
            )
        ]
        named = [name for name in indexes if _names(said, name) or not _can_be_read(connection, table, name)]
        # Entries that an index lacks are told of as faults of its table's rows.
        if not named or not _can_be_read(connection, table):
            found.append(("table", table, said))
        found += [("index", name, said) for name in named]
    return found


def problems(connection: sqlite3.Connection) -> list[Problem]:
    """What `verify` says of damaged tables and indexes, and of their repair."""
    return [
        Problem("", 0, f"the {kind} {name} is damaged ({said}); {_way_out(name)}")
        for kind, name, said in damaged(connection)
    ]


def made_again(connection: sqlite3.Connection) -> set[str]:
    """Damaged tables and indexes that `rebuild` makes again: an index of a projection counts as its table."""
    return {made for _, name, _ in damaged(connection) if (made := _remade(name)) is not None}


def _way_out(name: str) -> str:
    if _remade(name) is not None:
        return "`kitaru rebuild` makes it again"
    return "it cannot be made again: restore a backup, or export what is readable with sqlite3's .recover"


def _remade(name: str) -> str | None:
    if name == schema.EVENTS_INDEX or name in schema.PROJECTIONS:
        return name
    found = [table for table in schema.PROJECTIONS if name.startswith((f"{table}_", f"sqlite_autoindex_{table}_"))]
    return found[0] if found else None


def _check(connection: sqlite3.Connection, table: str) -> str:
    try:
        rows = connection.execute(f"PRAGMA integrity_check({_quoted(table)})").fetchmany(_MOST)
    except sqlite3.DatabaseError as error:
        return str(error)
    lines = [line for (text,) in rows for line in str(text).splitlines()]
    # `rebuild` leaves pages unused that nothing can be read from.
    faults = [line for line in lines if line != "ok" and not line.startswith("***") and not _UNUSED.fullmatch(line)]
    return "; ".join(faults[:3])


def _names(said: str, index: str) -> bool:
    return re.search(rf"index {re.escape(index)}\b", said) is not None


def _can_be_read(connection: sqlite3.Connection, table: str, index: str = "") -> bool:
    by = f"INDEXED BY {_quoted(index)}" if index else "NOT INDEXED"
    try:
        connection.execute(f"SELECT count(*) FROM {_quoted(table)} {by}").fetchone()
    except sqlite3.OperationalError:
        # A partial index cannot serve this query.
        return True
    except sqlite3.DatabaseError:
        return False
    return True


def forget(connection: sqlite3.Connection, name: str) -> None:
    """Take a damaged table with its indexes, or a damaged index, out of the schema; inside a transaction.

    DROP reads every page, to use it again, and fails at one that is damaged. The pages stay unused instead.
    """
    connection.execute("PRAGMA writable_schema = ON")
    try:
        connection.execute(
            "DELETE FROM sqlite_schema WHERE name = ?1 OR (tbl_name = ?1 AND type != 'trigger')", (name,)
        )
    finally:
        connection.execute("PRAGMA writable_schema = RESET")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
