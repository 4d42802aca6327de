"""A gate that requests wait at until a test lets them through, and what the server remembers of its own answers."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

_MOST: Final = 10_000


class Gate:
    """Where requests wait. Safe from any thread.

    Args:
        closed: Whether it is closed from the start.
    """

    def __init__(self, *, closed: bool = False) -> None:
        self._lock = threading.Lock()
        self._match: str | None = "" if closed else None
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def close(self, match: str = "") -> None:
        """Let requests wait whose last message holds what a regular expression finds."""
        with self._lock:
            self._match = match

    def open(self) -> None:
        """Let all through."""
        with self._lock:
            self._match = None
            waiting, self._waiting = self._waiting, []
        for loop, future in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_through, future)

    def ahead(self, text: str) -> asyncio.Future[None] | None:
        """Return what a request with this last message has to wait for; None where it need not."""
        with self._lock:
            if self._match is None or re.search(self._match, text) is None:
                return None
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()
            self._waiting.append((loop, future))
            return future


class Memory:
    """What the server said beside its tool calls, by their ids (with whose they are): some APIs want it unchanged."""

    def __init__(self) -> None:
        self._said: OrderedDict[str, object] = OrderedDict()

    def keep(self, calls: Sequence[str], said: object) -> None:
        """Remember what was said with some calls."""
        for call in calls:
            self._said[call] = said
        while len(self._said) > _MOST:
            self._said.popitem(last=False)

    def said(self, call: str) -> object:
        """Return what was said with a call; None where nothing was, or the call is not the server's."""
        return self._said.get(call)


def _through(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
