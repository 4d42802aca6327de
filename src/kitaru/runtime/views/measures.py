"""How far a run is, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from kitaru.store.events import CancelRequested, RunClaimed, RunCompleted, RunRetried
from kitaru.store.protocol import Recorded, RunRow

DONE: Final = frozenset({"done", "reused", "overridden", "in time"})


class Steps(msgspec.Struct, frozen=True):
    """How many steps of its own a run has begun, how many of them are over, and how many were reused."""

    total: int
    done: int
    reused: int

    def __str__(self) -> str:
        """`4`, `17/20` where not all are done, `2+3r` where some were reused."""
        if self.done != self.total:
            return f"{self.done}/{self.total}"
        return f"{self.total - self.reused}+{self.reused}r" if self.reused else str(self.total)


def counted(states: Iterable[str]) -> Steps:
    """How far steps in these states are."""
    found = list(states)
    return Steps(len(found), sum(state in DONE or state == "cancelled" for state in found), found.count("reused"))


def seconds_of(events: Sequence[Recorded], row: RunRow | None = None) -> float:
    """Seconds from a run's start to its end, or to now while it runs, without those in which no process had it."""
    # Anybody may ask for a cancellation, also while nobody has the run.
    times = [(type(r.event), r.event.at) for r in events if not isinstance(r.event, CancelRequested)]
    if not times:
        return 0.0
    if row is not None and row.live and row.status == "running":
        times.append((RunCompleted, time.time()))
    gaps = (max(0.0, at - before) for (_, before), (kind, at) in pairwise(times) if kind in (RunClaimed, RunRetried))
    return max(0.0, times[-1][1] - times[0][1] - sum(gaps))
