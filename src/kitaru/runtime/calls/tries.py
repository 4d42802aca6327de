"""The HTTP attempts of model calls that have no outcome yet, as the log tells them: they outlive the process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from kitaru.store.events import (
    AnyEvent,
    Attempt,
    LlmAttempted,
    LlmCompleted,
    LlmRequested,
    RunCancelled,
    RunClaimed,
    RunCompleted,
    RunFailed,
    RunParked,
    RunRetried,
    StepCancelled,
    StepFailed,
)

ABOUT_TRIES: Final[frozenset[type]] = frozenset(
    {
        LlmRequested, LlmAttempted, LlmCompleted, StepCancelled, StepFailed, RunClaimed, RunRetried, RunParked,
        RunCompleted, RunFailed, RunCancelled,
    }
)  # fmt: skip
"""The events that matter here; all others may be passed over without asking."""

INTERRUPTED: Final = "the process ended before an outcome was recorded"


class Earlier(msgspec.Struct, frozen=True):
    """What was tried of one call before.

    Args:
        attempts: Oldest first, those that a dead process left without an answer included. `model` is filled in.
        next_model: The model to go on with, `provider/model`; empty for the first.
    """

    attempts: tuple[Attempt, ...] = ()
    next_model: str = ""


class _Open:
    """A call without outcome: what was tried, and since when another attempt may have been under way."""

    def __init__(self, model: str, since: float) -> None:
        self.model = model
        self.since: float | None = since
        self.attempts: list[Attempt] = []

    def interrupt(self, at: float | None) -> None:
        """Its process died, noticed at `at`, or let go of it then. An attempt that was due later was never sent."""
        if self.since is not None and (at is None or at >= self.since):
            self.attempts.append(Attempt(self.since, 0.0, 0, INTERRUPTED, "", possibly_billed=True, model=self.model))
        self.since = None


class Tries:
    """Reads a log, event by event."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}

    def take(self, event: AnyEvent) -> None:
        """Take the next event of the log; those that are no business of model calls are passed over."""
        match event:
            case LlmRequested(key=key):
                known = self._open.get(key)
                if known is None:
                    self._open[key] = _Open(event.model, event.at)
                else:
                    # A claim has dealt with it, unless the log is read where none was made.
                    known.interrupt(None)
                    known.since = event.at
            case LlmAttempted(key=key) if key in self._open:
                known = self._open[key]
                known.attempts.append(event.tried)
                known.model = event.next_model or known.model
                known.since = event.next_at if event.next_model else None
            case RunClaimed() | RunParked() | RunCompleted() | RunFailed() | RunCancelled():
                for known in self._open.values():
                    known.interrupt(event.at)
            case LlmCompleted(key=key) | StepCancelled(key=key):
                self._open.pop(key, None)
            case StepFailed(key=key) if event.final:
                self._open.pop(key, None)
            case RunRetried():
                for key in event.dropped:
                    self._open.pop(key, None)
            case _:
                pass

    def of(self, key: str) -> Earlier:
        """What was tried of a call that is about to be made again."""
        known = self._open.get(key)
        if known is None:
            return Earlier()
        known.interrupt(None)
        return Earlier(tuple(known.attempts), known.model)

    def attempts_of(self, key: str, *, until: float | None = None) -> tuple[Attempt, ...]:
        """What was tried of a call without outcome, oldest first.

        Args:
            key: The call's.
            until: When it was given up, UTC seconds since the epoch: an attempt that was under way then counts, too.
        """
        known = self._open.get(key)
        if known is None:
            return ()
        if until is not None:
            known.interrupt(until)
        return tuple(known.attempts)

    def open_attempts(self) -> Mapping[str, tuple[Attempt, ...]]:
        """The finished attempts of every call without outcome, by key."""
        return {key: tuple(known.attempts) for key, known in self._open.items()}


def tried(events: Iterable[AnyEvent]) -> Tries:
    """Read a whole log."""
    tries = Tries()
    for event in events:
        tries.take(event)
    return tries
