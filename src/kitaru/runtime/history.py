"""What a run's log says, made ready for replay: records by key, turns in order, the rules of a fork."""

from __future__ import annotations

import datetime
import sys
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from kitaru.errors import DecodeError, DivergenceError, NotFoundError
from kitaru.runtime.calls.tries import ABOUT_TRIES, Tries
from kitaru.runtime.keys import name_of
from kitaru.runtime.replay import NO_RULES, STATE_OF, Record, Rules
from kitaru.runtime.turns import RecordedTurn
from kitaru.store import codec
from kitaru.store.events import (
    AnyEvent,
    Blob,
    Boundary,
    BoundaryEvent,
    CancelRequested,
    CodeSeen,
    Copied,
    LlmAttempted,
    Overridden,
    Reused,
    RunClaimed,
    RunPruned,
    RunRetried,
    RunStarted,
    StepCompleted,
    StepFailed,
    StepStarted,
)
from kitaru.store.protocol import Recorded

if TYPE_CHECKING:
    from kitaru.runtime.call import Call

_BOUNDARY = msgspec.msgpack.Decoder(BoundaryEvent)
_RULES = msgspec.msgpack.Decoder(Rules)
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"


class History:
    """The recorded past of one run. An empty one is that of a run that starts now."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.rules: Rules = NO_RULES
        self.records: dict[str, Record] = {}
        self.turns: deque[RecordedTurn] = deque()
        self.order = 0
        self.codes: dict[bytes, Blob] = {}
        self.overridden: set[str] = set()
        self.reused: dict[str, str] = {}
        """Boundaries of a replay that were reused, and the keys that they moved from."""
        self.dropped: set[str] = set()
        """Keys whose outcomes a retry dropped, and that have none yet."""
        self.effects: dict[str, Record] = {}
        """Finished `effects=True` checkpoints inside other checkpoints: the only inner ones that a replay reuses."""
        self.cancel_requested = False
        self.cancel_reason = ""
        self.suspect = False
        """Whether its process died in a row, so that the start of every step is committed before it runs."""
        self.deviations = 0
        self.other_python = False
        self.started: RunStarted | None = None
        self.inner: dict[str, list[Record]] = {}
        """The finished boundaries inside attempts of checkpoints, by the key of the attempt."""
        self._alike: dict[tuple[str, str, bytes], list[Record]] | None = None
        self.pythons: set[str] = set()
        """The Python versions that wrote the log, or made what it copied."""
        self._effects_begun: set[str] = set()
        self.tries = Tries()
        """The attempts of model calls that have no outcome yet."""

    @property
    def root(self) -> str:
        """The run that this one is a replay of, at the end of the chain; its own id where it is none."""
        origin = self.started.origin if self.started is not None else None
        return self.run if origin is None else origin.root or origin.run

    @property
    def may_move(self) -> bool:
        """Whether a key that is not recorded may take the record of another."""
        return self.rules.replaying or self.other_python

    def alike(self, call: Call[Any]) -> list[Record]:
        """The records of boundaries of that call's kind, name and inputs."""
        if self._alike is None:
            self._alike = {}
            for record in self.records.values():
                event = record.event
                self._alike.setdefault((event.kind, name_of(record.key), event.fingerprint), []).append(record)
        return self._alike.get((call.work.kind, name_of(call.key), call.inputs.fingerprint), [])

    def children(self, key: str, attempt: int) -> list[Record]:
        """The finished boundaries inside one attempt of a checkpoint."""
        return self.inner.get(f"{key}>{attempt}", [])

    def never_asked(self) -> list[str]:
        """Own recorded boundaries with an outcome that the flow has not come to."""
        return [r.key for r in self.records.values() if r.own and not r.claimed and r.state in ("completed", "failed")]

    # -- what a divergence says ---------------------------------------------------------------------------------------

    def divergence(self, call: Call[Any], record: Record, why: str) -> DivergenceError:
        """The log holds something else under the key that the code asks for."""
        event = record.event
        if why == "kind":
            recorded, asked = f"a {event.kind}", f"a {call.work.kind}"
        else:
            recorded, asked = shown(event.inputs), shown(call.inputs.data or b"")
        hint = "Mend the code and resume, or replay the run: `kitaru replay " + self.run + "`."
        if any(r is not record for r in self.alike(call)):
            hint = "Only the order of calls of that name differs: does the flow iterate over a set? Sort it. " + hint
        return DivergenceError(
            f"run {self.run} diverged at {call.key}, event {record.seq}\n"
            f"  the log holds:  {call.work.name}({recorded})\n"
            f"  the code asks:  {call.work.name}({asked})\n"
            f"  at {call.where}",
            hint=hint,
        )

    def unreached(
        self, keys: Collection[str], asked: Iterable[str], lines: dict[str, str] | None = None
    ) -> DivergenceError:
        """The flow does not come to boundaries that the log holds."""
        missing = sorted(keys, key=lambda k: self.records[k].seq if k in self.records else 0)
        first = missing[0]
        record = self.records.get(first)
        recorded = f"{first} (event {record.seq}: {shown(record.event.inputs)})" if record is not None else first
        lines = lines or {}
        instead = ", ".join(f"{key} at {lines[key]}" if key in lines else key for key in asked)
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        return DivergenceError(
            f"run {self.run} diverged: the flow does not come to {first}\n"
            f"  the log holds:  {recorded}{more}\n"
            f"  the code asks:  {instead or 'nothing more; it has ended'}",
            hint=f"Mend the code and resume, or replay the run: `kitaru replay {self.run}`.",
        )


def read(run: str, events: Iterable[Recorded], *, python: str = PYTHON) -> History:
    """A run's past from its log."""
    history = History(run)
    turns: dict[int, list[str]] = {}
    copies: dict[int, Copied] = {}
    reused: set[int] = set()
    for recorded in events:
        _take(history, recorded, turns, copies, reused)
    history.other_python = any(p.rpartition(".")[0] != python.rpartition(".")[0] for p in history.pythons)
    for number in sorted(turns):
        if keys := [k for k in turns[number] if _has_turn(history.records.get(k), number)]:
            history.turns.append(RecordedTurn(number, keys, strict=True))
    _add_copies(history, copies, reused)
    return history


def _take(
    history: History, recorded: Recorded, turns: dict[int, list[str]], copies: dict[int, Copied], reused: set[int]
) -> None:
    seq, turn, event = recorded
    if type(event) in ABOUT_TRIES:
        history.tries.take(event)
    if isinstance(event, LlmAttempted):
        return
    if isinstance(event, Boundary):
        _take_boundary(history, seq, turn, event)
        if turn:
            turns.setdefault(turn, []).append(event.key)
    elif isinstance(event, Reused):
        reused.add(event.seq)
        inner = _BOUNDARY.decode(copies[event.seq].event)
        record = Record(event.key, inner, STATE_OF[type(inner)], seq=seq, turn=turn, own=True)
        record.order = event.order or inner.order
        history.order = max(history.order, event.order)
        if attempt := _attempt_around(event.key):
            history.effects[event.key] = record
            history.inner.setdefault(attempt, []).append(record)
            return
        history.records[event.key] = record
        history.reused[event.key] = event.moved_from
        if turn:
            turns.setdefault(turn, []).append(event.key)
    elif isinstance(event, Copied):
        copies[seq] = event
    elif isinstance(event, CodeSeen):
        history.codes[event.digest] = event.source
    elif isinstance(event, Overridden):
        history.overridden.add(event.key)
        history.order = max(history.order, event.order)
        told = StepCompleted(1, event.at, event.key, event.kind, b"", b"", b"", event.order, 1, event.at, event.outcome)
        history.records[event.key] = Record(event.key, told, "completed", seq=seq, turn=turn, own=True)
        if turn:
            turns.setdefault(turn, []).append(event.key)
    elif isinstance(event, RunStarted):
        history.started = event
        history.pythons.add(event.python)
        if event.origin is not None:
            history.rules = _RULES.decode(event.origin.options)
            history.pythons |= history.rules.pythons
    elif isinstance(event, RunClaimed):
        history.pythons.add(event.python)
    elif isinstance(event, RunRetried):
        for key in event.dropped:
            history.records.pop(key, None)
        history.dropped.update(event.dropped)
        history.cancel_requested = False
        history.cancel_reason = ""
    elif isinstance(event, CancelRequested):
        if not history.cancel_requested:
            history.cancel_reason = event.reason
        history.cancel_requested = True


def _take_boundary(history: History, seq: int, turn: int, event: BoundaryEvent | Boundary) -> None:
    assert isinstance(event, BoundaryEvent)
    key = event.key
    history.order = max(history.order, event.order)
    state = STATE_OF.get(type(event), "started")
    if isinstance(event, StepFailed) and not event.final:
        state = "started"
    if isinstance(event, StepFailed):
        # Whatever runs the failed attempt again calls anew what it called.
        attempt = f"{key}>{event.attempt}"
        for inner in [p for p in history.inner if p == attempt or p.startswith(attempt + "/")]:
            del history.inner[inner]
    if around := _attempt_around(key):
        if isinstance(event, StepStarted) and event.effects:
            history._effects_begun.add(key)
        if state != "started":
            record = Record(key, event, state, seq=seq, turn=0, own=True)
            history.inner.setdefault(around, []).append(record)
            if key in history._effects_begun and state != "cancelled":
                history.effects[key] = record
        return
    before = history.records.get(key)
    if before is not None and before.state != "started" and state == "started":
        # A long step's start, queued when its end was already on its way.
        return
    record = Record(key, event, state, seq=seq, turn=turn, own=True)
    if isinstance(event, StepFailed) and not event.final:
        record.attempts = event.attempt
    elif before is not None:
        record.attempts = before.attempts
    history.records[key] = record
    history.reused.pop(key, None)
    if state != "started":
        history.dropped.discard(key)


def _attempt_around(key: str) -> str:
    """The attempt of a checkpoint that a boundary is in; empty for one of the flow's own."""
    parent = key.rpartition("/")[0]
    return parent if ">" in parent else ""


def _has_turn(record: Record | None, number: int) -> bool:
    return record is not None and record.turn == number and record.state != "cancelled"


def _add_copies(history: History, copies: dict[int, Copied], reused: set[int]) -> None:
    turns: dict[int, list[str]] = {}
    for seq, copied in copies.items():
        event = _BOUNDARY.decode(copied.event)
        if seq in reused or event.key in history.records:
            continue
        state = STATE_OF.get(type(event), "started")
        record = Record(event.key, event, state, seq=seq, turn=copied.turn, own=False)
        # What the run has not come to yet is behind all that it has.
        record.order = history.order + event.order
        if _attempt_around(event.key):
            history.effects.setdefault(event.key, record)
            continue
        history.records[event.key] = record
        if copied.turn and state != "cancelled":
            turns.setdefault(copied.turn, []).append(event.key)
    for number in sorted(turns):
        history.turns.append(RecordedTurn(number, turns[number], strict=False))


def not_there(run: str, events: Sequence[Recorded]) -> NotFoundError:
    """Why a run's log does not begin with its start: there is no such run, or it was pruned."""
    if events and isinstance(pruned := events[0].event, RunPruned):
        day = datetime.datetime.fromtimestamp(pruned.at, datetime.UTC).date()
        return NotFoundError(
            f"run {run} of {pruned.flow} was pruned on {day}: its log and its result are gone",
            hint="A run's id is used once: start another run under another id.",
        )
    return NotFoundError(f"there is no run {run}", hint="`kitaru runs` lists them.")


def kitaru_version() -> str:
    """This Kitaru's version."""
    from kitaru import __version__

    return __version__


def shown(blob: Blob) -> str:
    """An encoded value for an error message, shortened."""
    if not isinstance(blob, bytes):
        return f"{blob.size} bytes, artifact {blob.digest.hex()[:12]}"
    if not blob:
        return ""
    try:
        value = codec.display(blob)
    except DecodeError:
        return f"{len(blob)} bytes"
    text = ", ".join(map(repr, value)) if isinstance(value, list) else repr(value)
    return text if len(text) <= 300 else text[:300] + "…"


def events_only(events: Iterable[Recorded]) -> list[AnyEvent]:
    """The events without their places in the log."""
    return [recorded.event for recorded in events]
