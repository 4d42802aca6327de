"""What a replay did, beside what its source had done: computed from their two logs."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from kitaru.runtime import history as histories
from kitaru.runtime.history import History
from kitaru.runtime.keys import name_of
from kitaru.runtime.replay import Record
from kitaru.store.events import Blob, LlmCompleted, Overridden, Reused, RunCompleted, RunFailed, StepFailed
from kitaru.store.protocol import Recorded

if TYPE_CHECKING:
    from kitaru.runtime.fork import Fork
    from kitaru.runtime.runtime import Runtime

Verdict: TypeAlias = Literal["reused", "executed", "moved", "dropped", "overridden", "would run", "unknown"]
VALUES = frozenset({"now", "uuid", "random", "log"})
"""Kinds of boundaries that a report leaves out unless they ran anew."""


class ReplayLine(msgspec.Struct, frozen=True):
    """One boundary of a replay.

    Times are seconds. `why` says why it ran; `output` how what it gave compares with the source's: `same`, `changed`, `new`, or
    empty where there is nothing to compare. Costs are USD, None where they are not known.
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


class ReplayReport(msgspec.Struct, frozen=True):
    """A replay beside its source. `result` is `same`, `changed`, `failed`, or empty while it has none."""

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


async def report(runtime: Runtime, source: str, fork: str) -> ReplayReport:
    """What the replay `fork` of `source` reused, executed, moved, dropped and was told.

    Raises:
        NotFoundError: One of them does not exist.
    """
    before, after = await runtime.events(source), await runtime.events(fork)
    past, present = histories.read(source, before), histories.read(fork, after)
    lines = _lines(past, present, after)
    return _report(past, present, before, after, lines)


async def dry_report(runtime: Runtime, fork: Fork) -> ReplayReport:
    """What a dry run found: what would run and what it cost last time, and what it could not look behind."""
    before = await runtime.events(fork.source)
    past = histories.read(fork.source, before)
    lines = []
    for record in _in_order(past):
        if record.key in fork.would_run:
            lines.append(_line(record.key, record, "would run", why=fork.would_run[record.key]))
        elif record.key in fork.not_reached:
            lines.append(_line(record.key, record, "unknown", why="depends on what would run"))
        else:
            lines.append(_line(record.key, record, "reused"))
    lines += [
        ReplayLine(key, name_of(key), "step", "would run", why=why)
        for key, why in fork.would_run.items()
        if key not in past.records
    ]
    return _report(past, None, before, [], lines, fork.run)


def _lines(past: History, present: History, after: list[Recorded]) -> list[ReplayLine]:
    reused: dict[str, str] = {}
    overridden: set[str] = set()
    for recorded in after:
        event = recorded.event
        if isinstance(event, Reused):
            reused[event.key] = event.moved_from
        elif isinstance(event, Overridden):
            overridden.add(event.key)
    lines = [
        _line(key, past.records.get(moved_from or key), "moved" if moved_from else "reused", moved_from=moved_from)
        for key, moved_from in reused.items()
    ]
    lines += [_line(key, past.records.get(key), "overridden") for key in overridden]
    gone = set(reused) | {m for m in reused.values() if m} | overridden
    for record in present.records.values():
        if record.own and record.key not in reused and record.state != "started":
            lines.append(_executed(record, past.records.get(record.key), present))
            gone.add(record.key)
    lines += [_line(r.key, r, "dropped") for r in past.records.values() if r.key not in gone and r.state != "started"]
    order = {record.key: record.event.order for record in past.records.values()}
    last = max(order.values(), default=0)
    # What the source had not has no place among its boundaries, and comes after them.
    order |= {r.key: last + r.event.order for r in present.records.values() if r.own and r.key not in order}
    return sorted(lines, key=lambda line: order.get(line.moved_from or line.key, 0))


def _line(
    key: str, was: Record | None, verdict: Verdict, *, why: str = "", moved_from: str = ""
) -> ReplayLine:
    return ReplayLine(
        key,
        name_of(key),
        was.event.kind if was is not None else "step",
        verdict,
        was_seconds=was.seconds if was is not None else None,
        was_cost=_cost(was),
        why=why,
        moved_from=moved_from,
    )


def _executed(record: Record, was: Record | None, present: History) -> ReplayLine:
    event = record.event
    if was is None:
        why, output = "not in the source", "new"
    else:
        if event.key in present.rules.forced:
            why = "asked to run again"
        elif was.event.fingerprint != event.fingerprint:
            why = "inputs changed"
        elif was.event.code != event.code:
            why = "model or its settings changed" if event.kind == "llm" else "code changed"
        elif was.state == "failed":
            why = "had failed the run"
        else:
            why = "had no outcome to reuse"
        output = "same" if _outcome(was) == _outcome(record) else "changed"
    return ReplayLine(
        record.key,
        name_of(record.key),
        event.kind,
        "executed",
        seconds=record.seconds,
        was_seconds=was.seconds if was is not None else None,
        why=why,
        output=output,
        cost=_cost(record),
        was_cost=_cost(was),
    )


def _outcome(record: Record) -> Blob | None:
    if isinstance(record.event, StepFailed):
        return record.event.error
    return record.outcome if record.state == "completed" else None


def _cost(record: Record | None) -> Decimal | None:
    if record is None or not isinstance(record.event, LlmCompleted) or not record.event.llm.cost:
        return None
    return Decimal(record.event.llm.cost)


def _in_order(history: History) -> list[Record]:
    return sorted(history.records.values(), key=lambda record: record.event.order)


def _report(
    past: History,
    present: History | None,
    before: list[Recorded],
    after: list[Recorded],
    lines: list[ReplayLine],
    run: str = "",
) -> ReplayReport:
    kept = [line for line in lines if line.verdict in ("reused", "moved")]
    spent = [line.cost for line in lines if line.verdict == "executed" and line.kind == "llm"]
    saved = [line.was_cost for line in kept if line.kind == "llm"]
    return ReplayReport(
        source=past.run,
        run=present.run if present is not None else run,
        flow=past.started.flow.name if past.started is not None else "",
        lines=tuple(line for line in lines if line.kind not in VALUES or line.verdict not in ("reused", "dropped")),
        seconds=_seconds(after),
        source_seconds=_seconds(before),
        saved_seconds=sum(line.was_seconds or 0.0 for line in kept),
        spent=_sum(spent),
        saved=_sum(saved),
        result=_compared(before, after),
    )


def _seconds(events: list[Recorded]) -> float:
    return max(0.0, events[-1].event.at - events[0].event.at) if events else 0.0


def _sum(costs: list[Decimal | None]) -> Decimal | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if len(known) == len(costs) else None


def _compared(before: list[Recorded], after: list[Recorded]) -> str:
    end = after[-1].event if after else None
    if isinstance(end, RunFailed):
        return "failed"
    if not isinstance(end, RunCompleted):
        return ""
    was = next((r.event for r in reversed(before) if isinstance(r.event, RunCompleted)), None)
    return "same" if was is not None and was.outcome == end.outcome else "changed"
