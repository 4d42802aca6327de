"""Runs that take their process down: how often in a row, by the claims in their log.

A run has one life for each claim of it. A life that ended neither in order (parked, finished) nor with an outcome of
the run's own was a death, if a step ran in it. A log does not hold the start of every short step; so the first lives
are taken for deaths whatever they hold, and a run with `SUSPECT` of them has every start committed from then on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from kitaru.errors import RunStuckError
from kitaru.runtime.keys import name_of
from kitaru.store.events import (
    STUCK,
    LlmAttempted,
    LlmCompleted,
    LlmRequested,
    Overridden,
    Reused,
    RunCancelled,
    RunClaimed,
    RunCompleted,
    RunFailed,
    RunParked,
    RunRetried,
    RunStarted,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepStarted,
    TimerFired,
)
from kitaru.store.protocol import Recorded, RunRow

SUSPECT: Final = 2
"""Deaths in a row after which a run is started only when no other suspect is on trial."""
MOST: Final = 5
"""Deaths in a row after which only a person resumes a run."""

_IN_ORDER: Final = frozenset({RunParked, RunCompleted, RunFailed, RunCancelled, RunRetried})
_PROGRESS: Final = frozenset(
    {StepCompleted, StepFailed, StepCancelled, LlmAttempted, LlmCompleted, TimerFired, Reused, Overridden}
)


class Deaths(NamedTuple):
    """How often in a row, and the step that ran at the last one, as far as the log tells."""

    times: int
    step: str = ""

    @property
    def reason(self) -> str:
        """Why the run is stuck."""
        return f"its process died {self.times} times in a row while {self.step or 'a step'} ran"


NONE: Final = Deaths(0)


def deaths_of(events: Iterable[Recorded]) -> Deaths:
    """The deaths in a row at the end of a log whose run nobody living owns."""
    count, alive, ran, step = 0, False, False, ""
    for _, _, event in events:
        kind = type(event)
        if isinstance(event, RunStarted):
            count, alive, ran = 0, True, False
        elif isinstance(event, RunClaimed):
            count += alive and (ran or count < SUSPECT)
            if not event.unasked:
                # A person's, or a program's that named this run: what was before does not count any more.
                count = 0
            alive, ran = True, False
        elif kind in _IN_ORDER:
            count, alive = 0, False
        elif kind in _PROGRESS:
            count, ran = 0, False
        elif isinstance(event, StepStarted | LlmRequested):
            ran, step = True, name_of(event.key)
    return Deaths(count + (alive and (ran or count < SUSPECT)), step)


def stuck(run: str, reason: str) -> RunStuckError:
    """The error for resuming a stuck run unasked."""
    return RunStuckError(f"run {run} is stuck: {reason}", hint=f"Resume it by hand: `kitaru resume {run}`.")


def is_stuck(row: RunRow) -> bool:
    """Whether a run waits for a person because its process died too often."""
    return row.status == "parked" and row.note.startswith(STUCK)
