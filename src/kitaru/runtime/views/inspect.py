"""A run as a person looks at it: its state, its boundaries in the order of their start, what failed it and where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import msgspec

from kitaru.errors import CorruptStoreError, KitaruError, NotFoundError
from kitaru.runtime.calls.answered import response_of
from kitaru.runtime.calls.packed import needs_outcome
from kitaru.runtime.deaths import is_stuck
from kitaru.runtime.keys import name_of
from kitaru.runtime.selecting import checkpoint_around, events_of, selected
from kitaru.runtime.views.costs import paid, total
from kitaru.runtime.views.measures import counted, seconds_of
from kitaru.runtime.views.readable import readable
from kitaru.runtime.views.shown import (
    Failure,
    conversation_of,
    displayed,
    failure_of,
    outcome_shown,
    tools_called,
    traceback_of,
)
from kitaru.runtime.views.transcript import iso, struct_as_json
from kitaru.store.events import (
    FINISHED,
    STUCK,
    AnyEvent,
    Attempt,
    Blob,
    Boundary,
    BoundaryEvent,
    ChildStarted,
    Copied,
    Deviated,
    FlowRef,
    LlmAttempted,
    LlmCompleted,
    LlmRecord,
    LlmRequested,
    Overridden,
    Ref,
    Reused,
    RunCompleted,
    RunFailed,
    RunRetried,
    RunStarted,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepStarted,
    TimerFired,
    TimerSet,
)
from kitaru.store.names import new_run_id
from kitaru.store.protocol import Recorded, RunRow

if TYPE_CHECKING:
    from kitaru.runtime.core import Core
    from kitaru.runtime.handle import RunHandle

VALUES: Final = frozenset({"now", "uuid", "random", "log"})
"""Kinds of boundaries that are values rather than steps."""

_BOUNDARY: Final = msgspec.msgpack.Decoder(BoundaryEvent)


class BoundaryView(msgspec.Struct):
    """One boundary of a run.

    `state` is a word: `done`, `failed`, `in doubt` (it was started and has no outcome, so it may have been billed),
    `running`, `retrying`, `waiting` (a timer, a child run), `cancelled` (the flow gave it up), `in time` (a
    timeout that did not run out), `reused`, `overridden`, or `to run again`. Times are UTC seconds since the epoch,
    sizes bytes, `seconds` how long it took.
    """

    key: str
    name: str
    kind: str
    state: str
    seq: int
    order: int
    started: float
    seconds: float | None = None
    attempt: int = 1
    inside: str = ""
    """The key of the checkpoint that it was called in."""
    depth: int = 0
    inputs_size: int = 0
    outcome_size: int = 0
    artifact: str = ""
    model: str = ""
    llm: LlmRecord | None = None
    attempts: tuple[Attempt, ...] = ()
    """Failed HTTP attempts of a model call."""
    failure: Failure | None = None
    reused_from: str = ""
    moved_from: str = ""
    deadline: float | None = None
    child: str = ""
    tools: tuple[str, ...] = ()
    """The tools that a model's answer calls."""
    effects: bool = False
    metadata: dict[str, object] = {}
    cost: Decimal | None = None
    """USD of a model call, answers that could not be used included; None where it is not known. A reused one's is what
    it had cost."""


class RunView(msgspec.Struct):
    """A run. `status` is `interrupted` where the run's owner died, `stuck` where that happened too often. `help` is the
    command that helps."""

    id: str
    flow: str
    file: str
    status: str
    created: float
    updated: float
    seconds: float
    live: bool
    python: str
    kitaru: str
    inputs: object
    boundaries: list[BoundaryView]
    note: str = ""
    source: str = ""
    parent: str = ""
    result: object = None
    failure: Failure | None = None
    causes: tuple[str, ...] = ()
    metadata: dict[str, object] = {}
    deviations: tuple[str, ...] = ()
    events: int = 0
    help: str = ""
    cost: Decimal | None = None
    """USD of the model calls that the run made itself, as far as it is known."""
    damage: str = ""
    """What of the log cannot be read; it is not in the rest."""

    def as_json(self) -> dict[str, object]:
        """For machines, with the names that a list of runs has."""
        shown = struct_as_json(self)
        source, parent = shown.pop("source"), shown.pop("parent")
        note, damage = shown.pop("note"), shown.pop("damage")
        started = shown.pop("created")
        until = sleeps_until(self.boundaries)
        return {
            **shown, "started": started, "until": iso(until) if until is not None else None,
            "replay_of": source or None, "parent": parent or None,
            "note": note or None, "damage": damage or None,
            "steps": msgspec.structs.asdict(counted(step.state for step in self.steps)),
        }  # fmt: skip

    @property
    def steps(self) -> list[BoundaryView]:
        """The boundaries of the flow's own code that are steps."""
        return [b for b in self.boundaries if not b.inside and b.kind not in VALUES]

    @property
    def in_doubt(self) -> list[BoundaryView]:
        """The boundaries that were started and have no outcome."""
        return [b for b in self.boundaries if b.state == "in doubt"]


class StepView(msgspec.Struct):
    """One boundary with what it was given and what it gave, as JSON shows them."""

    run: str
    boundary: BoundaryView
    inputs: object = None
    outcome: object = None
    messages: list[dict[str, Any]] = []
    response: object = None
    attempts: tuple[Attempt, ...] = ()
    failures: tuple[Failure, ...] = ()
    traceback: str = ""
    settings: object = None


def status_of(row: RunRow) -> str:
    """A run's status for people: one that is running but owned by nobody living is `interrupted`, one whose process
    died too often to be resumed unasked is `stuck`."""
    if is_stuck(row):
        return "stuck"
    return "interrupted" if row.status == "running" and not row.live else row.status


def runs_here(handle: RunHandle[Any]) -> bool:
    """Whether a handle's run is in this process, rather than followed or finished."""
    return handle._execution is not None


async def park(handle: RunHandle[Any], reason: str) -> None:
    """Have a run of this loop leave memory, saying why in its log, and wait until it has."""
    execution = handle._execution
    if execution is not None and not execution.finished.done():
        execution.leave(reason)
    await handle.park()


async def view(runtime: Core, run: str) -> RunView:
    """A run as its log tells it.

    Args:
        run: Its whole id.

    Raises:
        NotFoundError: No such run, or it was pruned.
        CorruptStoreError: Its first event cannot be read.
    """
    row = await runtime.store.run(run)
    events, damage = await readable(runtime, run)
    if not events or not isinstance(events[0].event, RunStarted):
        if damage:
            raise CorruptStoreError(
                f"run {run} is damaged: {damage}",
                hint=f"`kitaru events {run}` prints the events that can be read, `kitaru verify` names all damage, and "
                "`kitaru runs` lists the other runs.",
            )
        raise NotFoundError(f"run {run} was pruned; its log is gone", hint="`kitaru runs` lists the others.")
    started = events[0].event
    shown = RunView(
        id=run, flow=started.flow.name, file=started.flow.file, status=status_of(row), created=row.created,
        updated=row.updated, seconds=seconds_of(events, row), live=row.live, python=started.python,
        kitaru=started.kitaru, inputs=await displayed(runtime, started.inputs), boundaries=[],
        note=row.note.removeprefix(STUCK),
        source=row.origin or "", parent=row.parent or "", events=row.seq, damage=damage,
    )  # fmt: skip
    shown.boundaries = boundaries(events, row)
    shown.cost = spent(shown.boundaries)
    for log in await _logs(runtime, events):
        _attach(shown, *log)
    shown.deviations = tuple(r.event.note for r in events if isinstance(r.event, Deviated))
    end = next((r.event for r in reversed(events) if isinstance(r.event, RunCompleted | RunFailed | RunRetried)), None)
    if isinstance(end, RunCompleted) and row.status == "completed":
        shown.result = await displayed(runtime, end.outcome)
    elif isinstance(end, RunFailed) and row.status == "failed":
        shown.failure = await failure_of(runtime, end.error)
        shown.causes = end.causes
    await _add_failures(runtime, events, shown.boundaries)
    await _add_tools(runtime, events, shown.boundaries)
    shown.help = _help(shown)
    return shown


async def step(runtime: Core, run: str, selector: str) -> StepView:
    """One boundary of a run.

    Args:
        run: The run's whole id.
        selector: As `selecting.selected` takes it.

    Raises:
        NotFoundError, AmbiguousError: The selector fits none, or several.
    """
    events, _ = await readable(runtime, run)
    shown = await view(runtime, run)
    key = selected(run, events, selector)
    found = next(b for b in shown.boundaries if b.key == key)
    seen = StepView(run, found)
    failures = []
    for event in events_of(events, found.key):
        if isinstance(event, Overridden):
            seen.outcome = await displayed(runtime, event.outcome)
            continue
        if isinstance(event, LlmAttempted):
            seen.attempts = (*seen.attempts, event.tried)
            continue
        seen.inputs = await displayed(runtime, event.inputs)
        if isinstance(event, LlmRequested | LlmCompleted) or event.kind == "llm":
            seen.messages, seen.settings = await conversation_of(runtime, event.inputs)
        if isinstance(event, StepCompleted | LlmCompleted):
            seen.outcome = await outcome_shown(runtime, event)
        if isinstance(event, LlmCompleted):
            seen.response = await _response(runtime, event)
            seen.attempts = event.llm.attempts
        if isinstance(event, StepFailed):
            failures.append(await failure_of(runtime, event.error))
            seen.traceback = await traceback_of(runtime, event.error)
    seen.failures = tuple(failures)
    return seen


# -- boundaries --------------------------------------------------------------------------------------------------------


def boundaries(events: Sequence[Recorded], row: RunRow) -> list[BoundaryView]:
    """A run's boundaries in the order of their start, each after the checkpoint that it was called in."""
    found: dict[str, BoundaryView] = {}
    copies: dict[int, Copied] = {}
    for seq, _, event in events:
        if isinstance(event, Copied):
            copies[seq] = event
        elif isinstance(event, Reused):
            copy = copies[event.seq]
            inner = _BOUNDARY.decode(copy.event)
            shown = _taken_up(found.get(event.key), seq, inner, event.key)
            shown.started, shown.state = event.at, "reused"
            shown.reused_from, shown.moved_from = copy.run, event.moved_from
            found[event.key] = shown
        elif isinstance(event, Overridden):
            found[event.key] = BoundaryView(
                event.key,
                name_of(event.key),
                event.kind,
                "overridden",
                seq,
                event.order,
                event.at,
                outcome_size=_size(event.outcome),
            )
        elif isinstance(event, RunRetried):
            for key in event.dropped:
                if key in found:
                    found[key].state = "to run again"
        elif isinstance(event, LlmAttempted):
            if event.key in found:
                found[event.key].attempts = (*found[event.key].attempts, event.tried)
        elif isinstance(event, Boundary):
            assert isinstance(event, BoundaryEvent)
            before = found.get(event.key)
            late = isinstance(event, StepStarted) and before is not None and before.attempt == event.attempt
            if late and before is not None and before.state in ("done", "failed", "cancelled", "in time"):
                continue  # a long step's start, queued when its end was already on its way
            found[event.key] = _taken_up(before, seq, event, event.key)
    for shown in found.values():
        _settle(shown, row)
        if shown.kind == "llm":
            shown.cost = paid(shown.llm, shown.attempts)
    return _in_order(found, row)


def sleeps_until(found: Iterable[BoundaryView]) -> float | None:
    """When the first of the sleeps is over that a run waits for."""
    return min((b.deadline for b in found if b.kind == "sleep" and b.state == "waiting" and b.deadline), default=None)


def spent(found: Iterable[BoundaryView]) -> Decimal | None:
    """What a run's own model calls cost, USD, as far as it is known; None where nothing is."""
    return total([b.cost for b in found if b.state != "reused" and (b.llm is not None or b.cost is not None)])


def _taken_up(before: BoundaryView | None, seq: int, event: BoundaryEvent, key: str) -> BoundaryView:
    shown = BoundaryView(
        key, name_of(key), event.kind, "running", seq, event.order, getattr(event, "started", event.at),
        attempt=event.attempt, inside=checkpoint_around(key), depth=key.count(">"), inputs_size=_size(event.inputs),
    )  # fmt: skip
    if before is not None:
        shown.model, shown.effects, shown.child = before.model, before.effects, before.child
        shown.attempts = before.attempts
    if isinstance(event, StepStarted):
        shown.effects = event.effects
    elif isinstance(event, LlmRequested):
        shown.model = event.model
    elif isinstance(event, ChildStarted):
        shown.child = event.child
    elif isinstance(event, TimerSet):
        shown.deadline = event.deadline
    elif isinstance(event, StepFailed):
        shown.state = "failed" if event.final else "retrying"
    elif isinstance(event, StepCancelled):
        shown.state = "in time" if event.kind == "timer" else "cancelled"
    else:
        shown.state = "done"
    if isinstance(event, StepCompleted | LlmCompleted):
        shown.outcome_size = _size(event.outcome)
        shown.artifact = event.outcome.digest.hex() if isinstance(event.outcome, Ref) else ""
    if isinstance(event, LlmCompleted):
        shown.llm, shown.model = event.llm, event.llm.model
    if isinstance(event, StepCompleted | StepFailed | StepCancelled | LlmCompleted | TimerFired):
        shown.seconds = max(0.0, event.at - event.started)
    return shown


def _settle(shown: BoundaryView, row: RunRow) -> None:
    """What an open boundary is, given whether anybody runs the run."""
    if row.live and row.status not in FINISHED:
        if shown.state == "running" and shown.deadline is not None:
            shown.state = "waiting"
        return
    if shown.state == "retrying":
        shown.state = "to run again"
    elif shown.state == "running" and row.status in FINISHED and (shown.deadline is not None or shown.child):
        shown.state = "cancelled"
    elif shown.state == "running":
        shown.state = "waiting" if shown.deadline is not None or shown.child else "in doubt"


def _in_order(found: dict[str, BoundaryView], row: RunRow) -> list[BoundaryView]:
    for shown in list(found.values()):
        # A checkpoint that the process died in has no event of its own yet, but what was called inside does.
        inner = shown
        while inner.inside and inner.inside not in found:
            over = inner.inside
            state = "running" if row.live else "to run again"
            made = BoundaryView(over, name_of(over), "step", state, inner.seq, inner.order - 1, inner.started)
            made.inside = checkpoint_around(over)
            made.depth = over.count(">")
            found[over] = inner = made
    if any(shown.state in ("reused", "overridden") for shown in found.values()):
        ranked = sorted(found.values(), key=lambda shown: (shown.started, shown.seq))
    else:
        ranked = sorted(found.values(), key=lambda shown: (shown.order, shown.seq))
    under: dict[str, list[BoundaryView]] = {}
    for shown in ranked:
        under.setdefault(shown.inside, []).append(shown)
    ordered: list[BoundaryView] = []
    todo = list(reversed(under.get("", [])))
    while todo:
        shown = todo.pop()
        ordered.append(shown)
        todo += reversed(under.get(shown.key, []))
    return ordered


def _size(blob: Blob) -> int:
    return blob.size if isinstance(blob, Ref) else len(blob)


# -- what the run was told and what became of it -----------------------------------------------------------------------


async def _add_failures(runtime: Core, events: Iterable[Recorded], found: Iterable[BoundaryView]) -> None:
    wanted = {shown.key: shown for shown in found if shown.state in ("failed", "retrying", "to run again")}
    for recorded in events:
        event = recorded.event
        if isinstance(event, StepFailed) and event.key in wanted:
            wanted[event.key].failure = await failure_of(runtime, event.error)


async def _add_tools(runtime: Core, events: Iterable[Recorded], found: Iterable[BoundaryView]) -> None:
    wanted = {b.key: b for b in found if b.llm is not None and b.llm.whole and b.llm.finish == "tool_calls"}
    for recorded in events:
        event = recorded.event
        if isinstance(event, Copied):
            event = _BOUNDARY.decode(event.event)
        if isinstance(event, LlmCompleted) and event.key in wanted:
            wanted[event.key].tools = await tools_called(runtime, event)


async def _logs(runtime: Core, events: Iterable[Recorded]) -> list[tuple[str, dict[str, object]]]:
    """The metadata of `kitaru.log`, with the key that it was logged under."""
    logs: dict[str, dict[str, object]] = {}
    copies = {r.seq: r.event for r in events if isinstance(r.event, Copied)}
    for recorded in events:
        event: AnyEvent = recorded.event
        if isinstance(event, Reused):
            event = _BOUNDARY.decode(copies[event.seq].event)
        if isinstance(event, StepCompleted) and event.kind == "log":
            value = await displayed(runtime, event.outcome)
            if isinstance(value, dict):
                logs[event.key] = value
    return list(logs.items())


def _attach(shown: RunView, key: str, metadata: dict[str, object]) -> None:
    parent, inside, _ = key.rpartition("/")
    over = parent.rpartition(">")[0] if inside and ">" in parent else ""
    for boundary in shown.boundaries:
        if over and boundary.key == over:
            boundary.metadata = {**boundary.metadata, **metadata}
            return
    shown.metadata = {**shown.metadata, **metadata}


async def _response(runtime: Core, event: LlmCompleted) -> object:
    try:
        response = await runtime.value(event.response)
        outcome = await runtime.value(event.outcome) if needs_outcome(response) else b""
        return msgspec.json.decode(response_of(event, response, outcome))
    except (KitaruError, msgspec.DecodeError):
        return None


def _help(shown: RunView) -> str:
    if shown.status in ("interrupted", "parked", "stuck"):
        return f"kitaru resume {shown.id}"
    if shown.status in ("failed", "cancelled"):
        return f"kitaru retry {shown.id}"
    if shown.status == "running":
        return f"kitaru events {shown.id} -f"
    return ""


# -- where it comes from -----------------------------------------------------------------------------------------------


def fresh_run_id() -> str:
    """An id for a run that is about to start, to be told before it does."""
    return new_run_id()


async def flow_ref(runtime: Core, run: str) -> FlowRef:
    """Where a run's flow lives.

    Raises:
        NotFoundError: No such run, or it was pruned.
    """
    return (await runtime.first_event(run)).flow


async def opening_view(runtime: Core, run: str) -> RunView:
    """A run as it was asked for, without its boundaries: quick, however long its log."""
    row = await runtime.store.run(run)
    started = await runtime.first_event(run)
    return RunView(
        id=run, flow=started.flow.name, file=started.flow.file, status=status_of(row), created=row.created,
        updated=row.updated, seconds=0.0, live=row.live, python=started.python, kitaru=started.kitaru,
        inputs=await displayed(runtime, started.inputs), boundaries=[], source=row.origin or "",
        parent=row.parent or "",
    )  # fmt: skip
