"""What a retry of a failed run does again."""

from __future__ import annotations

from collections.abc import Iterable

from kitaru.store.events import LlmCompleted, RunFailed, RunRetried, StepCancelled, StepCompleted, StepFailed
from kitaru.store.protocol import Recorded


def dropped_by_retry(events: Iterable[Recorded]) -> tuple[str, ...]:
    """The keys whose recorded outcomes no longer count.

    These are the failures that ended the run, those that came in the same turn or later (the flow went on to none of
    them), and what the flow gave up after the last outcome it was handed: nobody would give it up again.
    """
    failures: dict[str, tuple[int, int]] = {}
    given_up: dict[str, int] = {}
    causes: tuple[str, ...] = ()
    last = 0
    for seq, turn, event in events:
        if isinstance(event, StepFailed) and event.final and ">" not in event.key:
            failures[event.key] = (seq, turn)
            last = max(last, seq)
        elif isinstance(event, StepCompleted | LlmCompleted):
            if turn:
                last = max(last, seq)
        elif isinstance(event, StepCancelled):
            given_up[event.key] = seq
        elif isinstance(event, RunFailed):
            causes = event.causes
        elif isinstance(event, RunRetried):
            # An earlier retry has dealt with these.
            causes = ()
            for key in event.dropped:
                failures.pop(key, None)
                given_up.pop(key, None)
    first = min((failures[key] for key in causes if key in failures), default=None)
    dropped = [key for key, at in failures.items() if first is not None and at[1] >= first[1]]
    since = first[0] if first is not None else last
    return (*dropped, *(key for key, seq in given_up.items() if seq > since))
