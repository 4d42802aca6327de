"""Entering asyncio from a command: the runtime while it works, and what a Ctrl-C means."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kitaru.cli.failures import INTERRUPTED
from kitaru.errors import NotFoundError

if TYPE_CHECKING:
    from kitaru.runtime.core import Core

T = TypeVar("T")

_SIGNALS: Final = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def with_runtime(
    store: str | None,
    work: Callable[[Core], Awaitable[T]],
    *,
    new: bool = False,
    absent: T | None = None,
    of: str = "runs",
) -> T:
    """Run `work` with an open runtime, on an event loop of its own.

    Args:
        store: The store's URL; the default one if None.
        work: Gets the runtime, which is closed afterwards; it resumes nothing unasked.
        new: Make a store that does not exist.
        absent: What to return where the store does not exist; an error if None.
        of: What is looked for in the store, for that error.

    Raises:
        NotFoundError: The store does not exist.
    """
    import anyio

    from kitaru.runtime.core import Core
    from kitaru.runtime.stores import store_at

    if not new and not (found := store_at(store, "full", 30.0)).exists():
        if absent is not None:
            return absent
        raise NotFoundError(
            f"no {of} yet in {found.place}",
            hint="The store does not exist. Name another one with --store or KITARU_STORE, or run a flow.",
        )

    async def enter() -> T:
        async with Core(store, recover=False) as runtime:
            if store is not None:
                # The default runtime of the user's code uses the same store, also where that
                # code changes the working folder.
                os.environ["KITARU_STORE"] = runtime.store.url
            return await work(runtime)

    return anyio.run(enter)


def place_of(store: str | None) -> str:
    """Where a store is, for people."""
    from kitaru.runtime.stores import store_at

    return store_at(store, "full", 30.0).place


class Interrupts:
    """While a run goes, the first Ctrl-C (or SIGTERM, or a closed terminal) asks for it to be parked, the second ends
    the process at once. Before the run exists, the first one ends the command.
    """

    def __init__(self) -> None:
        self._asked: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._count = 0
        self.last_words = ""
        """What is written to stderr when the process ends at once."""

    def arm(self) -> asyncio.Event:
        """From now on an interrupt sets the event returned. Called on the loop."""
        self._loop, self._asked = asyncio.get_running_loop(), asyncio.Event()
        return self._asked

    @contextlib.contextmanager
    def installed(self) -> Iterator[Interrupts]:
        """Handle signals inside."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before: dict[int, Any] = {}
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's background job
                before[number] = signal.signal(number, self._caught)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        # A plain handler, not the loop's: the user's code may be blocking the loop.
        del number, frame
        if self._asked is None or self._loop is None:
            raise KeyboardInterrupt
        self._count += 1
        if self._count == 1:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._asked.set)
            return
        with contextlib.suppress(OSError):
            os.write(2, self.last_words.encode("ascii", "backslashreplace"))
        os._exit(INTERRUPTED)
