"""Waking those who wait for a run's next event when this store's own writer has committed one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator


class Signals:
    """Who waits for which run, on which event loop."""

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._waiting: dict[str, set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = {}

    def announce(self, runs: set[str]) -> None:
        """Wake all who wait for these runs. Any thread."""
        if not self._waiting:
            return
        with self._gate:
            woken = [one for run in runs & self._waiting.keys() for one in self._waiting[run]]
        for loop, event in woken:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(event.set)

    @contextlib.contextmanager
    def listening(self, run: str) -> Iterator[asyncio.Event]:
        """An event on the running loop that is set whenever the run got events."""
        entry = (asyncio.get_running_loop(), asyncio.Event())
        with self._gate:
            self._waiting.setdefault(run, set()).add(entry)
        try:
            yield entry[1]
        finally:
            with self._gate:
                waiting = self._waiting[run]
                waiting.discard(entry)
                if not waiting:
                    del self._waiting[run]
