"""Runs and their events as users of a runtime get them."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import msgspec

from kitaru.errors import UsageError
from kitaru.runtime import loader
from kitaru.runtime.handle import RunHandle
from kitaru.store.events import FINISHED

if TYPE_CHECKING:
    from kitaru.runtime.core import Core
    from kitaru.store.protocol import Recorded, RunRow

RunStatus: TypeAlias = Literal[
    "running", "parked", "interrupted", "stuck", "completed", "failed", "cancelled", "pruned"
]
"""A run's status: `interrupted` is one that was running in a process that died, `stuck` one that killed its process too
often to be resumed unasked."""


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A run in a list. Times are in UTC; `events` is the number of the last event in its log."""

    id: str
    flow: str
    status: RunStatus
    started: datetime.datetime
    updated: datetime.datetime
    events: int
    note: str = ""
    """Why it is parked, stuck or cancelled."""
    parent: str | None = None
    """The id of the run that started it."""
    replay_of: str | None = None
    """The id of the run that it was replayed from."""


class RunEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a run's log, as `kitaru events --json` shows it.

    `seq` is its number, `type` its name, such as `StepCompleted`, `at` its time in UTC, `key` its boundary's key or "",
    and `fields` what else it holds, as JSON.
    """

    seq: int
    type: str
    at: datetime.datetime
    key: str = ""
    fields: dict[str, Any] = {}


async def handle_of(core: Core, run: str) -> RunHandle[Any]:
    """A run's handle; nothing is claimed."""
    name = await _found(core, run)
    flow = await loader.flow_of(core, name)
    live = core.live_run(name)
    return RunHandle(core, name, flow.work, live if live is not None and not live.leaving else None)


async def runs_of(
    core: Core,
    *,
    status: RunStatus | Sequence[RunStatus],
    flow: str | None,
    since: datetime.datetime | None,
    limit: int | None,
    before: str | None,
) -> list[RunInfo]:
    """Runs, newest first."""
    wanted = [status] if isinstance(status, str) else list(status)
    for one in wanted:
        if one not in get_args(RunStatus):
            raise UsageError(f"there is no status {one!r}", hint=f"There are {', '.join(get_args(RunStatus))}.")
    await core.open()
    earliest = None if since is None else since.timestamp()
    rows = await core.store.runs(status=wanted, flow=flow, since=earliest, limit=limit, before=before)
    return [_info(row) for row in rows]


async def events_of(core: Core, run: str, after: int) -> list[RunEvent]:
    """A run's events after one of them."""
    name = await _found(core, run)
    return [_event(recorded) for recorded in await core.store.events(name, after=after)]


async def watched(core: Core, run: str, after: int) -> AsyncIterator[RunEvent]:
    """A run's events as they come, until it has finished."""
    name = await _found(core, run)
    while True:
        finished = (await core.store.run(name)).status in FINISHED
        found = await core.store.watch(name, after=after, timeout=0.0 if finished else 1.0)
        for recorded in found:
            after = recorded.seq
            yield _event(recorded)
        if finished and not found:
            return


async def _found(core: Core, run: str) -> str:
    await loader.opened(core, run)
    return await core.store.find(run)


def _info(row: RunRow) -> RunInfo:
    from kitaru.runtime.views.inspect import status_of

    return RunInfo(
        id=row.id, flow=row.flow, status=cast("RunStatus", status_of(row)), started=_time(row.created),
        updated=_time(row.updated), events=row.seq, note=row.note, parent=row.parent, replay_of=row.origin,
    )  # fmt: skip


def _event(recorded: Recorded) -> RunEvent:
    from kitaru.runtime.views.transcript import event_as_json

    fields = event_as_json(recorded)
    for name in ("seq", "turn", "type", "at"):
        del fields[name]
    key = fields.pop("key", "")
    return RunEvent(
        seq=recorded.seq, type=type(recorded.event).__name__, at=_time(recorded.event.at), key=str(key), fields=fields
    )


def _time(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC)
