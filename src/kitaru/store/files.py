"""Folders and files that only their user can enter and read, whatever the umask; and files read up to a limit."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final

FOLDER: Final = 0o700
FILE: Final = 0o600


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing; existing ones keep their mode.

    Raises:
        OSError: One cannot be made.
    """
    missing = [path, *path.parents]
    missing = missing[: next((at for at, folder in enumerate(missing) if folder.is_dir()), len(missing))]
    for folder in reversed(missing):
        # Another process may be as quick.
        with contextlib.suppress(FileExistsError):
            folder.mkdir(FOLDER)
            folder.chmod(FOLDER)
    path.mkdir(exist_ok=True)


def open_file(path: str | Path, flags: int = os.O_RDWR) -> int:
    """Open a file, making it where it is missing; an existing one keeps its mode.

    Args:
        path: The file.
        flags: Of `os.open`, without `O_CREAT`. With `O_EXCL` an existing file is an error.

    Returns:
        The descriptor.

    Raises:
        OSError: It cannot be opened or made.
    """
    while True:
        try:
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, FILE)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            with contextlib.suppress(FileNotFoundError):
                return os.open(path, flags)
            # A link that leads nowhere, or somebody removed the file just now.
            path = os.path.realpath(path)
            continue
        if stat.S_IMODE(os.fstat(fd).st_mode) != FILE:
            os.fchmod(fd, FILE)
        return fd


def read_file(path: Path, most: int, *, pipes: bool = False) -> bytes:
    """Read a regular file that is not too large, without waiting for the other end of a pipe or device.

    Args:
        path: The file.
        most: Bytes that it may have.
        pipes: Read other files too, such as a shell's `<(command)`.

    Raises:
        FileTooLargeError: It has more.
        OSError: It is not there, cannot be read, or is no regular file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if pipes else os.O_NONBLOCK | os.O_NOCTTY))
    with os.fdopen(fd, "rb") as file:
        kind = os.fstat(fd).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
        if not pipes and not stat.S_ISREG(kind):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        data: bytes | None = b"" if os.fstat(fd).st_size > most else file.read(most + 1)
        if data is None:
            raise BlockingIOError(errno.EAGAIN, "it has nothing to read now", str(path))
        if len(data) > most or os.fstat(fd).st_size > most:
            raise FileTooLargeError(errno.EFBIG, f"it has more than {most >> 20} MB", str(path))
    return data


class FileTooLargeError(OSError):
    """A file has more bytes than may be read."""


def write_file(path: Path, text: str) -> None:
    """Write a file whole or not at all, on disk when this returns. A link to it stays one.

    Raises:
        OSError: It cannot be written.
    """
    path = Path(os.path.realpath(path))
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        with os.fdopen(open_file(part, os.O_WRONLY | os.O_EXCL), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
