"""A store for looking without touching: it acknowledges everything and keeps nothing."""

from __future__ import annotations

from typing import Any

from kitaru.store.protocol import Append, Store


class UnrecordedStore:
    """Reads from another store; what is appended is acknowledged at once and forgotten."""

    def __init__(self, behind: Store) -> None:
        self._behind = behind
        self._seq = 0
        self._turn = 0

    def __getattr__(self, name: str) -> Any:
        # Reading, and the rest of the protocol, is the store's behind it.
        return getattr(self._behind, name)

    def submit(self, append: Append) -> None:
        """Acknowledge at once."""
        append.seq = self._seq + 1
        self._seq += len(append.events)
        if append.turn:
            self._turn += 1
            append.turn_no = self._turn
        append.sink.acknowledged([append])

    async def release(self, run: str, epoch: int) -> None:
        """There is nothing to give up."""
        del run, epoch
