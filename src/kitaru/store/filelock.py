"""A lock between processes on a file of its own."""

from __future__ import annotations

import fcntl
import os
import time
from typing import Final

from kitaru.errors import StoreBusyError
from kitaru.store import files

_FIRST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.01


class FileLock:
    """A context manager that holds the lock; it does not nest.

    Args:
        path: The lock's file; made when missing, never removed.
        timeout: Seconds to wait for another holder.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._fd = files.open_file(path)

    def __enter__(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + self._timeout
        pause = _FIRST_PAUSE
        while True:
            time.sleep(pause)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise StoreBusyError(
                        f"another process holds {self._path} longer than {self._timeout:g} s",
                        hint="Try again, or open the store with a longer busy_timeout.",
                    ) from None
                pause = min(pause * 1.5, _LONGEST_PAUSE)
            else:
                return

    def __exit__(self, *exc: object) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._fd)
