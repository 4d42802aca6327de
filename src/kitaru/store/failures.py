"""What SQLite's error codes mean in terms of Kitaru's errors."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from kitaru.errors import (
    CorruptStoreError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
)

_FLUSH: Final = frozenset({"SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC"})


def error_name(error: BaseException) -> str:
    """SQLite's own name of an error (such as `SQLITE_FULL`), or "" where it has none."""
    name = getattr(error, "sqlite_errorname", "")
    return name if isinstance(name, str) else ""


def is_failed_flush(error: BaseException) -> bool:
    """Whether a flush to the disk failed, after which the kernel may take lost pages for written ones."""
    return error_name(error) in _FLUSH


def closed_by_flush(path: str) -> StoreClosedError:
    """The error of every write after a failed flush."""
    return StoreClosedError(
        f"{path} closed itself for writing: the disk failed a flush, so what came after it may not be on disk",
        hint="Nothing unacknowledged is trusted. Check the disk, then open the store again and resume its runs.",
    )


def replaced(path: str, gone: str) -> StoreClosedError:
    """The error of every write after the files of an open store were removed or replaced.

    Args:
        path: The database file.
        gone: The file that is no longer the one that was opened.
    """
    return StoreClosedError(
        f"{gone} was removed or replaced while the store {path} was open: writing has stopped, because other processes "
        "no longer see what this one writes",
        hint="The last append may be missing from the file. See that the right file is at that path, then start this "
        "process again: its runs resume from the log.",
    )


def corrupt(path: str, what: str) -> CorruptStoreError:
    """The error for a damaged file, saying how to save what is readable."""
    return CorruptStoreError(
        f"{path} is damaged: {what}",
        hint="Copy it together with its -wal file, then export what is readable: "
        f"sqlite3 {path} .recover | sqlite3 rescued.db",
    )


def undecodable(path: str, run: str, seq: int, error: Exception) -> CorruptStoreError:
    """The error for an event whose bytes are not an event."""
    return corrupt(path, f"event {seq} of run {run}: {error}")


def translate(error: Exception, path: str) -> StoreError:
    """The typed error for one that sqlite3 or the operating system raised.

    Args:
        error: What was raised.
        path: The database file, named in the message.
    """
    if isinstance(error, StoreError):
        return error
    name = error_name(error)
    if name in _FLUSH:
        return closed_by_flush(path)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")):
        return StoreBusyError(
            f"another process holds {path} longer than the busy timeout ({error})",
            hint="Try again, or open the store with a longer busy_timeout.",
        )
    if name == "SQLITE_FULL" or (isinstance(error, OSError) and error.errno in {28, 122}):
        return StoreFullError(
            f"no space left for {path} ({error}); nothing of this append was written", hint="Make room and try again."
        )
    if name == "SQLITE_CANTOPEN" and not Path(path).exists():
        return StoreError(f"{path} is not there", hint="It was moved or removed, or KITARU_STORE names another place.")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")) or isinstance(error, PermissionError):
        return read_only(path, str(error))
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return corrupt(path, str(error))
    if isinstance(error, OSError) and error.errno == 30:
        return read_only(path, str(error))
    detail = f"{name} {error}".strip()
    if isinstance(error, (sqlite3.Error, OSError)):
        return StoreError(f"{path} could not be read or written: {detail}")
    return StoreError(f"{path} refused a write: {type(error).__name__}: {detail}")


def read_only(path: str, why: str) -> StoreReadOnlyError:
    """The error for a file or folder that cannot be written."""
    return StoreReadOnlyError(
        f"{path} cannot be written: {why}",
        hint="Give this user write permission for the file and for its folder, or set KITARU_STORE to another place.",
    )
