"""What model calls cost, read from the logs of all runs: what is certain, what may have been billed beside it, and what
replays saved.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import msgspec

from kitaru.errors import DecodeError, KitaruError, NotFoundError, UsageError
from kitaru.runtime.calls.tries import ABOUT_TRIES, Tries
from kitaru.runtime.core import core_of
from kitaru.runtime.views.readable import UNREADABLE, readable
from kitaru.store import codec
from kitaru.store.events import (
    FINISHED,
    Attempt,
    Blob,
    BoundaryEvent,
    ChildStarted,
    Copied,
    LlmAttempted,
    LlmCompleted,
    LlmRecord,
    LlmRequested,
    Reused,
    RunRetried,
    StepCancelled,
    StepFailed,
    Usage,
)
from kitaru.store.protocol import Recorded, RunRow

if TYPE_CHECKING:
    from kitaru.runtime.core import Core
    from kitaru.runtime.runtime import Runtime

By: TypeAlias = Literal["model", "flow", "run", "day", "alias"]
BY: Final[tuple[str, ...]] = get_args(By)
"""What costs can be listed by."""

_BOUNDARY: Final = msgspec.msgpack.Decoder(BoundaryEvent)


class CostRow(msgspec.Struct, frozen=True):
    """What the calls under one name cost.

    Amounts are USD: None where nothing is known, zero where all is free. Tokens are those of every answer that arrived,
    None where no provider counted any.

    Args:
        name: The model, flow, run, day (UTC) or alias; empty for calls without alias.
        calls: Calls made, those without a usable answer included.
        unanswered: How many of them ended, or were interrupted, without one.
        reused: Calls that a replay did not make again.
        input: Tokens read, the cached ones included.
        cached: Tokens read from a provider's cache.
        output: Tokens produced.
        cost: What was certainly billed, as far as it is known.
        saved: What the reused calls had cost.
        unpriced: Answers whose cost is not known.
        possible: Attempts that were sent and brought no answer: they may have been billed beside `cost`.
        possible_cost: What those would come to at the price of the same call's answer.
        possible_unknown: How many of those have no such answer.
    """

    name: str
    calls: int
    unanswered: int
    reused: int
    input: int | None
    cached: int | None
    output: int | None
    cost: Decimal | None
    saved: Decimal | None
    unpriced: int
    possible: int
    possible_cost: Decimal | None
    possible_unknown: int


class Costs(msgspec.Struct, frozen=True):
    """What calls cost.

    Args:
        by: What `rows` are by.
        rows: The dearest first; days newest first.
        total: All of them together.
        unpriced: Models whose answers have no known cost, each with how many.
        prices: Versions of the price table that were used, oldest first.
        damaged: Runs whose logs cannot be read whole; their calls are counted as far as they can.
    """

    by: By
    rows: tuple[CostRow, ...]
    total: CostRow
    unpriced: tuple[tuple[str, int], ...]
    prices: tuple[str, ...]
    damaged: tuple[str, ...] = ()


async def costs(runtime: Runtime | Core, *, by: By = "model", since: float | None = None) -> Costs:
    """Return what the calls of all runs cost. A pruned run's calls are gone with its log.

    Args:
        runtime: Whose store is read.
        by: What to list them by.
        since: UTC seconds since the epoch: only calls that ended, and reuses that happened, from then on.

    Raises:
        UsageError: `by` is none of these.
    """
    if by not in BY:
        raise UsageError(f"costs cannot be listed by {by!r}", hint=f"They can by {', '.join(BY)}.")
    runtime = core_of(runtime)
    tally = _Tally(by, since)
    sources = _Sources(runtime)
    damaged: list[str] = []
    for row in await runtime.store.runs(limit=None):
        if row.status == "pruned" or (since is not None and row.updated < since):
            continue
        events, damage = await readable(runtime, row.id)
        try:
            for reuse in tally.take(row, events):
                async for record in sources.of(reuse):
                    tally.reused(row, record, reuse.at)
        except (KitaruError, *UNREADABLE) as error:
            damage = damage or str(error)
        if damage:
            damaged.append(row.id)
    return msgspec.structs.replace(tally.result(), damaged=tuple(damaged))


def nothing(by: By) -> Costs:
    """Return the costs of a store without calls."""
    return _Tally(by, None).result()


def paid(llm: LlmRecord | None, attempts: Iterable[Attempt]) -> Decimal | None:
    """Return what is known to have been paid for one call, USD: its answer, and those that could not be used.

    Args:
        llm: What was recorded of its answer, if it has one.
        attempts: Its attempts, where it has none.

    Returns:
        None where nothing is known.
    """
    answers = [one for one in (llm.attempts if llm is not None else attempts) if one.cost or one.usage is not None]
    return total([*([llm.cost] if llm is not None else []), *(one.cost for one in answers)])


def total(amounts: Sequence[Decimal | str | None]) -> Decimal | None:
    """Return the sum of the amounts that are known.

    Returns:
        None where none is, or where those that are come to nothing.
    """
    known = [Decimal(amount) for amount in amounts if amount is not None and amount != ""]
    whole = sum(known, Decimal(0))
    return whole if known and (whole or len(known) == len(amounts)) else None


def by_boundary(events: Iterable[Recorded]) -> dict[str, Decimal | None]:
    """Return what the flow's own boundaries of one run cost, by key: model calls, and checkpoints that made some."""
    amounts: dict[str, list[str]] = {}
    failed: dict[str, list[str]] = {}
    for _, _, event in events:
        if isinstance(event, LlmAttempted):
            if event.tried.cost or event.tried.usage is not None:
                failed.setdefault(event.key, []).append(event.tried.cost)
        elif isinstance(event, LlmCompleted):
            failed.pop(event.key, None)
            wasted = [one.cost for one in event.llm.attempts if one.cost or one.usage is not None]
            amounts.setdefault(_outermost(event.key), []).extend([event.llm.cost, *wasted])
        elif isinstance(event, StepFailed | StepCancelled) and event.key in failed:
            amounts.setdefault(_outermost(event.key), []).extend(failed.pop(event.key))
    for key, spent in failed.items():
        amounts.setdefault(_outermost(key), []).extend(spent)
    return {key: total(spent) for key, spent in amounts.items()}


def _outermost(key: str) -> str:
    return key.partition(">")[0]


# -- adding up ---------------------------------------------------------------------------------------------------------


class _Sum:
    """What becomes a row."""

    def __init__(self) -> None:
        self.calls = self.unanswered = self.reused = self.unpriced = self.possible = self.possible_unknown = 0
        self.input: int | None = None
        self.cached: int | None = None
        self.output: int | None = None
        self.cost: Decimal | None = None
        self.saved: Decimal | None = None
        self.possible_cost: Decimal | None = None

    def count(self, usage: Usage) -> None:
        self.input = _plus(self.input, usage.input)
        self.cached = _plus(self.cached, usage.cached_input)
        self.output = _plus(self.output, usage.output)

    def add(self, other: CostRow) -> None:
        for name in CostRow.__struct_fields__[1:]:
            setattr(self, name, _plus(getattr(self, name), getattr(other, name)))

    def row(self, name: str) -> CostRow:
        found: dict[str, Any] = {field: getattr(self, field) for field in CostRow.__struct_fields__[1:]}
        if self.unpriced and not self.cost:
            found["cost"] = None  # what is free says nothing of what is not known
        return CostRow(name, **found)


class _Tally:
    """Adds up the logs of runs."""

    def __init__(self, by: By, since: float | None) -> None:
        self._by = by
        self._since = since or 0.0
        self._sums: dict[str, _Sum] = {}
        self._unpriced: dict[str, int] = {}
        self._versions: set[str] = set()
        self._free: dict[str, bool] = {}

    def take(self, row: RunRow, events: Sequence[Recorded]) -> list[_Reuse]:
        """Take a run's log.

        Returns:
            What it reused, and that may stand for calls in other logs.
        """
        tries = Tries()
        asked: dict[str, LlmRequested] = {}
        copies: dict[int, Copied] = {}
        reuses: list[_Reuse] = []
        for seq, _, event in events:
            if type(event) is LlmCompleted:
                asked.pop(event.key, None)
                if event.at >= self._since:
                    self._answered(row, event)
            elif isinstance(event, LlmRequested):
                asked[event.key] = event
            elif isinstance(event, StepCancelled) and event.key in asked:
                self._unanswered(row, asked.pop(event.key), tries.attempts_of(event.key, until=event.at), event.at)
            elif isinstance(event, StepFailed) and event.final and event.key in asked:
                self._unanswered(row, asked.pop(event.key), tries.attempts_of(event.key), event.at)
            elif isinstance(event, RunRetried):
                for key in asked.keys() & set(event.dropped):
                    self._unanswered(row, asked.pop(key), tries.attempts_of(key), event.at)
            elif isinstance(event, Copied):
                copies[seq] = event
            elif isinstance(event, Reused) and event.at >= self._since:
                reuse = _reuse(event, copies[event.seq])
                if isinstance(reuse.event, LlmCompleted):
                    self.reused(row, reuse.event.llm, event.at)
                else:
                    reuses.append(reuse)
            if type(event) in ABOUT_TRIES:
                tries.take(event)
        going_on = row.live and row.status not in FINISHED
        for key, request in asked.items():
            # A call that is under way is none yet, but what its failed attempts cost is spent.
            attempts = tries.attempts_of(key, until=None if going_on else time.time())
            at = max(request.at, *(one.started for one in attempts)) if attempts else request.at
            self._unanswered(row, request, attempts, at, ended=not going_on)
        return reuses

    def _answered(self, row: RunRow, event: LlmCompleted) -> None:
        llm, at = event.llm, event.at
        sums = self._of(row, llm.model, llm.alias, at)
        sums.calls += 1
        sums.count(llm.usage)
        self._price(sums, llm.model, llm.cost)
        if llm.price_version:
            self._versions.add(llm.price_version)
        if len(llm.attempts) > 1:
            for attempt in llm.attempts:
                self._attempt(row, attempt, llm.model, llm.alias, at, {llm.model: llm.cost})

    def _unanswered(
        self, row: RunRow, request: LlmRequested, attempts: Sequence[Attempt], at: float, *, ended: bool = True
    ) -> None:
        if not attempts or at < self._since:
            return
        alias = _alias(request.inputs) if self._by == "alias" else ""
        if ended:
            sums = self._of(row, attempts[-1].model or request.model, alias, at)
            sums.calls += 1
            sums.unanswered += 1
        known = {one.model or request.model: one.cost for one in attempts if one.cost}
        for attempt in attempts:
            self._attempt(row, attempt, request.model, alias, at, known)

    def _attempt(self, row: RunRow, attempt: Attempt, model: str, alias: str, at: float, known: dict[str, str]) -> None:
        """Add one that brought no usable answer; `known` are the costs of the same call's answers, by model."""
        if not attempt.error:
            return
        model = attempt.model or model
        if attempt.usage is not None or attempt.cost:
            sums = self._of(row, model, alias, at)
            if attempt.usage is not None:
                sums.count(attempt.usage)
            self._price(sums, model, attempt.cost)
        elif attempt.possibly_billed:
            like = known.get(model, "")
            if (like and not Decimal(like)) or self._is_free(model):
                return
            sums = self._of(row, model, alias, at)
            sums.possible += 1
            if like:
                sums.possible_cost = _plus(sums.possible_cost, Decimal(like))
            else:
                sums.possible_unknown += 1

    def reused(self, row: RunRow, llm: LlmRecord, at: float) -> None:
        """Add a call that the run did not have to make."""
        sums = self._of(row, llm.model, llm.alias, at)
        sums.reused += 1
        sums.saved = _plus(sums.saved, paid(llm, ()))

    def _price(self, sums: _Sum, model: str, cost: str) -> None:
        if cost:
            sums.cost = _plus(sums.cost, Decimal(cost))
        else:
            sums.unpriced += 1
            self._unpriced[model] = self._unpriced.get(model, 0) + 1

    def _of(self, row: RunRow, model: str, alias: str, at: float) -> _Sum:
        match self._by:
            case "model":
                name = model
            case "flow":
                name = row.flow
            case "run":
                name = row.id
            case "day":
                name = datetime.datetime.fromtimestamp(at, datetime.UTC).date().isoformat()
            case _:
                name = alias
        return self._sums.setdefault(name, _Sum())

    def _is_free(self, model: str) -> bool:
        name = model.partition("/")[0]
        if name not in self._free:
            from kitaru.adapters import provider

            try:
                self._free[name] = provider(name).free
            except UsageError:
                self._free[name] = False
        return self._free[name]

    def result(self) -> Costs:
        """Return what was added up."""
        rows = [sums.row(name) for name, sums in self._sums.items()]
        if self._by == "day":
            rows.sort(key=lambda row: row.name, reverse=True)
        else:
            rows.sort(key=lambda row: (-(row.cost or 0), -row.calls, -row.reused, row.name))
        whole = _Sum()
        for row in rows:
            whole.add(row)
        unpriced = sorted(self._unpriced.items(), key=lambda one: (-one[1], one[0]))
        return Costs(self._by, tuple(rows), whole.row("total"), tuple(unpriced), tuple(sorted(self._versions)))


def _plus(one: Any, other: Any) -> Any:
    return one if other is None else other if one is None else one + other


def _alias(inputs: Blob) -> str:
    """The alias that a call names, from its encoded inputs; empty where it names none that can be told."""
    if not isinstance(inputs, bytes):
        return ""
    try:
        named: Any = codec.decoder()(inputs)
        model = named[1]["model"]
    except (DecodeError, ValueError, TypeError, LookupError):
        return ""
    return model if isinstance(model, str) and "/" not in model else ""


# -- what a reused checkpoint or child run stands for ------------------------------------------------------------------


class _Reuse(msgspec.Struct, frozen=True):
    """What a run took from another's log: from which, what was called what there, and when it took it."""

    run: str
    key: str
    event: BoundaryEvent
    at: float


class _Source(msgspec.Struct, frozen=True):
    """What of a log may be reused with what is around it."""

    calls: list[tuple[str, LlmRecord]]
    reuses: dict[str, _Reuse]
    children: dict[str, str]


class _Sources:
    """Finds the calls that a reused checkpoint or child run had made, through replays of replays."""

    def __init__(self, runtime: Core) -> None:
        self._runtime = runtime
        self._read: dict[str, _Source] = {}

    async def of(self, reuse: _Reuse) -> AsyncIterator[LlmRecord]:
        """Give the calls' records."""
        source = await self._source(reuse.run)
        if (before := source.reuses.get(reuse.key)) is not None:
            if isinstance(before.event, LlmCompleted):
                yield before.event.llm
                return
            async for found in self.of(before):
                yield found
            return
        if reuse.event.kind in ("flow", "start"):
            if (child := source.children.get(reuse.key)) is not None:
                async for found in self._whole(child):
                    yield found
            return
        inside = f"{reuse.key}>{reuse.event.attempt}/"
        for key, record in source.calls:
            if key.startswith(inside):
                yield record
        for key, inner in source.reuses.items():
            if key.startswith(inside):
                async for found in self.of(inner):
                    yield found

    async def _whole(self, run: str) -> AsyncIterator[LlmRecord]:
        source = await self._source(run)
        for _, record in source.calls:
            yield record
        for reuse in source.reuses.values():
            if isinstance(reuse.event, LlmCompleted):
                yield reuse.event.llm
                continue
            async for found in self.of(reuse):
                yield found
        for child in source.children.values():
            async for found in self._whole(child):
                yield found

    async def _source(self, run: str) -> _Source:
        if (known := self._read.get(run)) is not None:
            return known
        found = self._read[run] = _Source([], {}, {})
        copies: dict[int, Copied] = {}
        for seq, _, event in await self._events(run):
            if isinstance(event, LlmCompleted):
                found.calls.append((event.key, event.llm))
            elif isinstance(event, ChildStarted):
                found.children[event.key] = event.child
            elif isinstance(event, Copied):
                copies[seq] = event
            elif isinstance(event, Reused):
                found.reuses[event.key] = _reuse(event, copies[event.seq])
        return found

    async def _events(self, run: str) -> list[Recorded]:
        try:
            return (await readable(self._runtime, run))[0]
        except NotFoundError:
            return []


def _reuse(event: Reused, copy: Copied) -> _Reuse:
    return _Reuse(copy.run, event.moved_from or event.key, _BOUNDARY.decode(copy.event), event.at)
