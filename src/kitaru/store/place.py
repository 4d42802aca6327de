"""Where a store's file really is, and whether the files that are open are still the ones at their paths.

SQLite keeps its write-ahead log, and Kitaru its lock files, beside the database under its name. So a database has one
name only: symbolic links are followed, and a file with two names of its own is refused.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from kitaru.errors import StoreError

_SIDE_FILES: Final = ("", "-wal", "-shm", ".lock")


def real_path(path: str) -> str:
    """The one path of a file, whether it exists or not: absolute, without links and `..`."""
    return os.path.realpath(path)


def refuse_second_names(path: str) -> None:
    """Check that an existing file can be reached under one name only.

    Args:
        path: Its real path.

    Raises:
        StoreError: It is no regular file, has hard links, or is mounted without its folder.
        OSError: It cannot be looked at.
    """
    found = Path(path).stat()
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path} is not a regular file", hint="Give the store a file of its own.")
    if found.st_nlink > 1:
        raise StoreError(
            f"{path} has {found.st_nlink} names (hard links), and each name would get a write-ahead log and lock files "
            "of its own: commits would be lost and steps run twice",
            hint=f"Remove the other names (`find DIR -samefile {path}` lists them), make them symbolic links, or "
            "open a copy.",
        )
    if is_mount_point(path, _mounts()):
        raise StoreError(
            f"{path} is a mount of a single file: its write-ahead log and lock files would be outside of the mount",
            hint="Mount the folder that holds the database, not the file.",
        )


def is_mount_point(path: str, mounts: bytes) -> bool:
    """Whether something is mounted at a path.

    Args:
        path: A real path.
        mounts: What /proc/self/mountinfo holds.
    """
    wanted = os.fsencode(path)
    return any(_unescaped(line.split(b" ")[4]) == wanted for line in mounts.splitlines())


def _unescaped(field: bytes) -> bytes:
    # proc_pid_mountinfo(5): blanks, tabs, line breaks and backslashes are written as \ooo.
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), field)


def _mounts() -> bytes:
    try:
        return Path("/proc/self/mountinfo").read_bytes()
    except OSError:
        return b""


class OpenFiles:
    """The files of an open store, remembered by device and inode.

    Args:
        path: The database's real path.
    """

    def __init__(self, path: str) -> None:
        paths = [path + end for end in _SIDE_FILES]
        self._known = [(each, at.st_dev, at.st_ino) for each in paths if (at := _found(each)) is not None]

    def changed(self) -> str | None:
        """The first of them that is gone, replaced, empty or out of reach; None where all are as they were."""
        for number, (path, device, inode) in enumerate(self._known):
            found = _found(path)
            # A database in WAL mode has a first page; its WAL is empty at times.
            if found is None or found.st_ino != inode or found.st_dev != device or (number == 0 and found.st_size == 0):
                return path
        return None


def _found(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116  # before every write: a Path costs more than the call
    except OSError:
        # Also where it may be there and cannot be looked at: nothing that cannot be checked is acknowledged.
        return None
