"""A run's log as far as it can be read: damage to one run hides that run's part, and none of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from kitaru.store.events import BoundaryEvent, Copied, Reused
from kitaru.store.protocol import Problem, Recorded

if TYPE_CHECKING:
    from kitaru.runtime.core import Core

UNREADABLE: Final = (msgspec.MsgspecError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError)
"""What reading a value raises where its bytes were altered so that they still decode."""

_COPIED: Final = msgspec.msgpack.Decoder(BoundaryEvent)


async def readable(runtime: Core, run: str) -> tuple[list[Recorded], str]:
    """The events of a run that can be read, in order, and what is damaged.

    Args:
        runtime: Whose store is read.
        run: The run's whole id.

    Returns:
        The events, and a phrase such as "event 3 cannot be read", "" where nothing is damaged.
    """
    events, problems = await runtime.store.readable(run)
    found: list[Recorded] = []
    copies: set[int] = set()
    for recorded in events:
        seq, event = recorded.seq, recorded.event
        if isinstance(event, Copied):
            try:
                _COPIED.decode(event.event)
            except UNREADABLE:
                problems.append(Problem(run, seq, "its copy"))
                continue
            copies.add(seq)
        elif isinstance(event, Reused) and event.seq not in copies:
            continue
        found.append(recorded)
    return found, _phrase([problem.seq for problem in problems])


def _phrase(damaged: list[int]) -> str:
    if not damaged:
        return ""
    more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
    return f"event {min(damaged)}{more} cannot be read"
