"""What a replay did, beside what its source had done: computed from their two logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from kitaru.errors import KitaruError, NotFoundError
from kitaru.runtime import history as histories
from kitaru.runtime.calls.answered import outcome_of
from kitaru.runtime.children import child_id
from kitaru.runtime.core import core_of
from kitaru.runtime.history import History
from kitaru.runtime.keys import name_of
from kitaru.runtime.replay import TIMERS, Record
from kitaru.runtime.views.costs import by_boundary, paid
from kitaru.runtime.views.difference import differences
from kitaru.runtime.views.measures import seconds_of
from kitaru.runtime.views.shown import conversation_of
from kitaru.store import codec
from kitaru.store.events import Blob, LlmCompleted, RunCancelled, RunCompleted, RunFailed, StepFailed
from kitaru.store.protocol import Recorded

if TYPE_CHECKING:
    from kitaru.runtime.core import Core
    from kitaru.runtime.fork import Fork
    from kitaru.runtime.runtime import Runtime

Verdict: TypeAlias = Literal["reused", "executed", "moved", "dropped", "overridden", "would run", "unknown"]
VALUES = frozenset({"now", "uuid", "random", "log"})
"""Kinds of boundaries that a report leaves out unless they ran anew."""
_ENDS = (RunCompleted, RunFailed, RunCancelled)
_NAMED = 3


class ReplayLine(msgspec.Struct, frozen=True):
    """One boundary of a replay.

    Times are seconds. `why` says why it ran, and what of its code or inputs changed; `output` how what it gave compares
    with the source's: `same`, `changed`, `new`, or empty where there is nothing to compare. Costs are USD, None where
    they are not known. `child` is the report of a child run that was replayed with it.
    """

    key: str
    name: str
    kind: str
    verdict: Verdict
    seconds: float | None = None
    was_seconds: float | None = None
    why: str = ""
    output: str = ""
    cost: Decimal | None = None
    was_cost: Decimal | None = None
    moved_from: str = ""
    child: ReplayReport | None = None


class ReplayReport(msgspec.Struct, frozen=True):
    """A replay beside its source.

    `saved_seconds` and `saved` are what the reused boundaries had taken and cost, those of child runs included, whether
    or not they ran beside others; `spent` is what the executed ones cost, for a dry run what they had cost. `result` is
    `same`, `changed`, `failed`, or empty while it has none; `differences` says where `source_output` and `output`, as
    shown, differ.
    """

    source: str
    run: str
    flow: str
    lines: tuple[ReplayLine, ...]
    seconds: float
    source_seconds: float
    saved_seconds: float
    spent: Decimal | None
    saved: Decimal | None
    result: str = ""
    source_output: object = None
    output: object = None
    differences: tuple[str, ...] = ()


async def report(runtime: Runtime | Core, source: str, fork: str) -> ReplayReport:
    """What the replay `fork` of `source` reused, executed, moved, dropped and was told.

    Raises:
        NotFoundError: One of them does not exist.
    """
    runtime = core_of(runtime)
    before, after = await runtime.events(source), await runtime.events(fork)
    past, present = histories.read(source, before), histories.read(fork, after)
    ended = _end(after)
    compared = _Compared(runtime, past, present, by_boundary(before), by_boundary(after))
    lines = await compared.lines(came_to_its_end=isinstance(ended, RunCompleted))
    return await _report(runtime, past, present, before, after, lines)


async def dry_report(runtime: Core, fork: Fork) -> ReplayReport:
    """What a dry run found: what would run and what it cost last time, and what it could not look behind."""
    before = await runtime.events(fork.source)
    past = histories.read(fork.source, before)
    costs = by_boundary(before)
    rules, records = fork.execution.rules, fork.execution.records
    lines = []
    for record in sorted(_own(past), key=lambda record: record.order):
        if _ran_in_time(record):
            continue
        if record.key in fork.would_run:
            lines.append(_line(record.key, record, "would run", costs, why=fork.would_run[record.key]))
        elif record.key in rules.overrides:
            lines.append(_line(record.key, record, "overridden", costs))
        elif record.key in rules.forced:
            lines.append(_line(record.key, record, "would run", costs, why="selected by --from"))
        elif record.key in fork.not_reached or (record.key not in records and record.state != "started"):
            # Without anything that would run, there is nothing that could still lead there.
            behind: Verdict = "unknown" if fork.would_run else "dropped"
            lines.append(
                _line(record.key, record, behind, costs, why="depends on what would run" if fork.would_run else "")
            )
        elif record.key in past.overridden:
            lines.append(_line(record.key, record, "overridden", costs))
        elif record.state != "started":
            lines.append(_line(record.key, record, "reused", costs))
    lines += [
        ReplayLine(key, name_of(key), "step", "would run", why=why)
        for key, why in fork.would_run.items()
        if key not in past.records
    ]
    return await _report(runtime, past, None, before, [], lines, fork.run)


class _Compared:
    """A replay's boundaries beside its source's."""

    def __init__(
        self,
        runtime: Core,
        past: History,
        present: History,
        had_cost: Mapping[str, Decimal | None],
        cost: Mapping[str, Decimal | None],
    ) -> None:
        self._runtime = runtime
        self._past = past
        self._present = present
        self._had_cost = had_cost
        self._cost = cost
        self._was = {record.key: record for record in _own(past)}

    async def lines(self, *, came_to_its_end: bool) -> list[ReplayLine]:
        past, present = self._past, self._present
        found: list[ReplayLine] = []
        taken: set[str] = set()
        order: dict[str, int] = {}
        for record in _own(present):
            was = self._was.get(record.key)
            if record.key in present.reused:
                moved_from = present.reused[record.key]
                was = self._was.get(moved_from or record.key)
                found.append(
                    _line(record.key, was, "moved" if moved_from else "reused", self._had_cost, moved_from=moved_from)
                )
                taken.add(moved_from or record.key)
            elif record.key in present.overridden:
                found.append(
                    _line(record.key, was, "overridden", self._had_cost, output=await self._output(record, was))
                )
            elif _ran_in_time(record) and (was is None or _ran_in_time(was)):
                pass
            elif was is not None and record.state == was.state == "cancelled" and record.event.attempt == 0:
                found.append(_line(record.key, was, "reused", self._had_cost))
            elif record.state != "started":
                found.append(await self._executed(record, was))
            else:
                continue
            taken.add(record.key)
            order[record.key] = record.order
        for record in _own(past):
            if record.key in taken or record.state == "started" or _ran_in_time(record):
                continue
            if came_to_its_end:
                found.append(_line(record.key, record, "dropped", self._had_cost))
            else:
                found.append(_line(record.key, record, "unknown", self._had_cost, why="the replay has not come to it"))
        # In the replay's order; what it did not come to, where it was in the source: behind what was before it there.
        at, last = dict(order), 0
        for record in sorted(self._was.values(), key=lambda record: record.order):
            last = order.get(record.key, last)
            at.setdefault(record.key, last)
        return sorted(found, key=lambda line: (at.get(line.key, 0), line.verdict in ("dropped", "unknown")))

    async def _executed(self, record: Record, was: Record | None) -> ReplayLine:
        event = record.event
        why = await self._why(record, was)
        child = None
        if event.kind in ("flow", "start"):
            child = await self._child(record.key)
        output = "new" if was is None else await self._output(record, was)
        if event.kind == "load" and output == "same":
            return _line(record.key, was, "reused", self._had_cost)
        return ReplayLine(
            record.key,
            name_of(record.key),
            event.kind,
            "executed",
            seconds=record.seconds,
            was_seconds=was.seconds if was is not None else None,
            why=why,
            output=output,
            cost=_cost(record, self._cost),
            was_cost=_cost(was, self._had_cost),
            child=child,
        )

    async def _child(self, key: str) -> ReplayReport | None:
        try:
            return await report(self._runtime, child_id(self._past.run, key), child_id(self._present.run, key))
        except NotFoundError:
            return None

    async def _why(self, record: Record, was: Record | None) -> str:
        event = record.event
        if was is None:
            return "not in the source"
        if record.key in self._present.rules.forced:
            return "selected by --from"
        if was.event.kind != event.kind:
            return f"was {was.event.kind}"
        if event.kind == "log":
            return "written again"
        if was.event.fingerprint != event.fingerprint:
            shown = [await self._inputs(one) for one in (was, record)]
            return _with("inputs changed", differences(shown[0], shown[1], most=_NAMED))
        if was.event.code != event.code:
            if event.kind == "llm":
                return "model or its settings changed"
            return _with("code changed", await self._edited(was.event.code, event.code))
        if was.state == "failed":
            return "had failed the run"
        if was.state == "cancelled" and event.kind in TIMERS:
            return "had not run out"
        return "had no outcome to reuse"

    async def _edited(self, was: bytes, now: bytes) -> tuple[str, ...]:
        from kitaru.runtime.code.digest import what_changed

        sources = [self._past.codes.get(was), self._present.codes.get(now)]
        if any(source is None for source in sources):
            return ()
        read = [await self._runtime.value(source) for source in sources if source is not None]
        names = [name.rpartition(".")[2] for name in what_changed(*read)]
        more = len(names) - _NAMED
        return (*names[:_NAMED], f"and {more} more") if more > 0 else tuple(names)

    async def _output(self, record: Record, was: Record | None) -> str:
        if was is None or was.state == "cancelled":
            return ""
        return "same" if await self._outcome(was) == await self._outcome(record) else "changed"

    async def _outcome(self, record: Record) -> object:
        if isinstance(record.event, StepFailed):
            # Tracebacks of one failure differ with every line that is edited above it.
            return codec.describe_exception(await self._runtime.value(record.event.error))
        if isinstance(record.event, LlmCompleted) and record.event.llm.whole:
            return outcome_of(await self._runtime.value(record.outcome))
        return record.outcome if record.state == "completed" else None

    async def _inputs(self, record: Record) -> object:
        if record.event.kind != "llm":
            return await _displayed(self._runtime, record.event.inputs)
        messages, settings = await conversation_of(self._runtime, record.event.inputs)
        return {"messages": messages, "settings": settings}


def _own(history: History) -> Iterable[Record]:
    """What a run came to itself: a replay's log also holds what it might have reused."""
    return [record for record in history.records.values() if record.own]


def _ran_in_time(record: Record) -> bool:
    """Whether it is a timeout that did not run out: nothing came of it."""
    return record.event.kind == "timer" and record.state == "cancelled"


def _with(what: str, details: tuple[str, ...]) -> str:
    return f"{what}: {', '.join(details)}" if details else what


def _line(
    key: str,
    was: Record | None,
    verdict: Verdict,
    costs: Mapping[str, Decimal | None],
    *,
    why: str = "",
    moved_from: str = "",
    output: str = "",
) -> ReplayLine:
    return ReplayLine(
        key,
        name_of(key),
        was.event.kind if was is not None else "step",
        verdict,
        was_seconds=was.seconds if was is not None else None,
        was_cost=_cost(was, costs),
        why=why,
        output=output,
        moved_from=moved_from,
    )


def _cost(record: Record | None, costs: Mapping[str, Decimal | None]) -> Decimal | None:
    """What a boundary cost, the calls inside a checkpoint included; `costs` are those that its run made itself."""
    if record is None:
        return None
    if record.key not in costs and isinstance(record.event, LlmCompleted):
        return paid(record.event.llm, ())
    return costs.get(record.key)


async def _report(
    runtime: Core,
    past: History,
    present: History | None,
    before: list[Recorded],
    after: list[Recorded],
    lines: list[ReplayLine],
    run: str = "",
) -> ReplayReport:
    kept = [line for line in lines if line.verdict in ("reused", "moved")]
    children = [line.child for line in lines if line.child is not None]
    spent = [line.cost for line in lines if line.verdict == "executed" and _counts(line, line.cost)]
    spent += [line.was_cost for line in lines if line.verdict == "would run" and _counts(line, line.was_cost)]
    spent += [child.spent for child in children]
    saved = [line.was_cost for line in kept if _counts(line, line.was_cost)] + [child.saved for child in children]
    was, now = _end(before), _end(after)
    was_shown, now_shown = await _result(runtime, was), await _result(runtime, now)
    result = ""
    if isinstance(now, RunFailed):
        result = "failed"
    elif isinstance(now, RunCompleted):
        # What a model call of its own was read as is not loaded in its replay.
        same = isinstance(was, RunCompleted) and (was.outcome == now.outcome or was_shown == now_shown)
        result = "same" if same else "changed"
    return ReplayReport(
        source=past.run,
        run=present.run if present is not None else run,
        flow=past.started.flow.name if past.started is not None else "",
        lines=tuple(line for line in lines if line.kind not in VALUES or line.verdict in ("executed", "would run")),
        seconds=seconds_of(after),
        source_seconds=seconds_of(before),
        saved_seconds=sum(line.was_seconds or 0.0 for line in kept) + sum(child.saved_seconds for child in children),
        spent=_sum(spent),
        saved=_sum(saved),
        result=result,
        source_output=was_shown,
        output=now_shown,
        differences=differences(was_shown, now_shown) if now is not None and result != "same" else (),
    )


def _counts(line: ReplayLine, cost: Decimal | None) -> bool:
    return line.kind == "llm" or cost is not None


def _end(events: list[Recorded]) -> RunCompleted | RunFailed | RunCancelled | None:
    """The event that a run ended with; None where it goes on, or was retried."""
    end = events[-1].event if events else None
    return end if isinstance(end, _ENDS) else None


async def _result(runtime: Core, end: RunCompleted | RunFailed | RunCancelled | None) -> object:
    if isinstance(end, RunCompleted):
        return await _displayed(runtime, end.outcome)
    if isinstance(end, RunFailed):
        name, message = codec.describe_exception(await runtime.value(end.error))
        return {name.rpartition(":")[2]: message}
    return None


async def _displayed(runtime: Core, blob: Blob) -> object:
    try:
        return codec.display(await runtime.value(blob)) if blob else None
    except KitaruError as error:
        return {"unreadable": error.message}


def _sum(costs: list[Decimal | None]) -> Decimal | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if len(known) == len(costs) else None
