"""Runs as a list shows them: a line each, with what a reader wants to know first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Final, get_args

import msgspec

from kitaru.errors import AmbiguousError, KitaruError, NotFoundError
from kitaru.runtime.reading import RunStatus
from kitaru.runtime.views.inspect import VALUES, boundaries, sleeps_until, spent, status_of
from kitaru.runtime.views.measures import Steps, counted, seconds_of
from kitaru.runtime.views.readable import UNREADABLE, readable
from kitaru.runtime.views.shown import failure_of
from kitaru.runtime.views.transcript import iso
from kitaru.store.events import FINISHED, HELD, STUCK, RunFailed
from kitaru.store.protocol import Recorded, RunRow

if TYPE_CHECKING:
    from kitaru.runtime.core import Core

STATUSES: Final[tuple[str, ...]] = get_args(RunStatus)
_SHORT: Final = 8
_GENERATED: Final = re.compile(r"[a-z2-7]{16}")
_ENOUGH: Final = 20_000
"""Events that one listing reads at most to count steps."""


class Listed(msgspec.Struct, frozen=True):
    """A run in a list.

    `short` is the shortest prefix of the id, from 8 characters, that means this run. `steps` is None where the log is
    too long to be counted. `seconds` leaves out the time in which no process had the run. `damage` says what of the log
    cannot be read.
    """

    id: str
    short: str
    flow: str
    status: str
    created: float
    updated: float
    seconds: float | None
    steps: Steps | None
    cost: Decimal | None
    note: str
    source: str | None
    parent: str | None
    events: int
    damage: str = ""
    until: float | None = None
    """When the sleep is over that an unfinished run is in."""

    def as_json(self) -> dict[str, object]:
        """For machines: whole id, ISO times."""
        return {
            "id": self.id, "flow": self.flow, "status": self.status, "started": iso(self.created),
            "updated": iso(self.updated), "seconds": self.seconds,
            "steps": msgspec.structs.asdict(self.steps) if self.steps is not None else None,
            "cost": format(self.cost, "f") if self.cost is not None else None, "note": self.note or None,
            "replay_of": self.source, "parent": self.parent, "events": self.events,
            "damage": self.damage or None, "until": iso(self.until) if self.until is not None else None,
        }  # fmt: skip


async def listing(
    runtime: Core,
    *,
    status: Sequence[str] = (),
    flow: str | None = None,
    since: float | None = None,
    limit: int = 20,
    before: str | None = None,
) -> list[Listed]:
    """Runs, newest first; the arguments are those of the store's `runs`."""
    rows = await runtime.store.runs(status=status, flow=flow, since=since, limit=limit, before=before)
    found, read = [], 0
    for row in rows:
        events: list[Recorded] = []
        damage = ""
        if read + row.seq <= _ENOUGH:
            events, damage = await readable(runtime, row.id)
            read += len(events)
        try:
            listed = await _listed(runtime, row, events, damage)
        except (KitaruError, *UNREADABLE) as error:
            listed = await _listed(runtime, row, [], damage or f"its log cannot be read: {error}")
        found.append(listed)
    return found


async def _listed(runtime: Core, row: RunRow, events: list[Recorded], damage: str) -> Listed:
    status = status_of(row)
    short = await _short(runtime, row.id)
    seconds = seconds_of(events, row) if events else max(0.0, row.updated - row.created)
    steps, cost = _steps(events, row)
    return Listed(
        row.id, short, row.flow, status, row.created, row.updated,
        None if status == "pruned" else seconds, steps, cost,
        await _note(runtime, row, events, short, damage), row.origin, row.parent, row.seq, damage,
        sleeps_until(boundaries(events, row)) if events and status not in FINISHED else None,
    )  # fmt: skip


def _steps(events: list[Recorded], row: RunRow) -> tuple[Steps | None, Decimal | None]:
    if row.status == "pruned" or not events:
        return None, None
    found = [b for b in boundaries(events, row) if b.kind not in VALUES]
    return counted(b.state for b in found if not b.inside), spent(found)


async def _note(runtime: Core, row: RunRow, events: list[Recorded], short: str, damage: str) -> str:
    parts = [f"damaged: {damage}; kitaru verify {short}"] if damage else []
    if row.origin is not None:
        parts.append(f"replay of {await _short(runtime, row.origin)}")
    if row.parent is not None:
        parts.append(f"child of {await _short(runtime, row.parent)}")
    status = status_of(row)
    if status == "failed":
        end = events[-1].event if events else None
        if isinstance(end, RunFailed):
            failure = await failure_of(runtime, end.error)
            cause = f"{end.causes[0]}: " if end.causes else ""
            kind = failure.type.rpartition(".")[2]
            message = (failure.message.splitlines() or [""])[0]
            parts.append(f"{cause}{kind}: {message}")
        parts.append(f"kitaru retry {short}")
    elif status in ("interrupted", "parked", "stuck"):
        if status == "stuck":
            parts.append(row.note.removeprefix(STUCK))
        elif row.note.startswith(f"{HELD}: "):
            parts.append(row.note.removeprefix(f"{HELD}: "))
        parts.append(f"kitaru resume {short}")
    elif row.note:
        parts.append(row.note)
    return "; ".join(parts)


async def _short(runtime: Core, run: str) -> str:
    if _GENERATED.fullmatch(run) is None:
        return run
    for length in range(_SHORT, len(run), 2):
        try:
            if await runtime.store.find(run[:length]) == run:
                return run[:length]
        except (AmbiguousError, NotFoundError):
            continue
    return run
