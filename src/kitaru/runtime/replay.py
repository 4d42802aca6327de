"""The replay decision: reuse a recorded outcome, execute, wait to be cancelled again, or refuse.

`decide` is the one place where it is made: a pure function of what the log holds under a key, what the code asks for
there, and the rules in force.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

import msgspec

from kitaru.store.events import Blob, BoundaryEvent, LlmCompleted, StepCancelled, StepCompleted, StepFailed, TimerFired

State = Literal["started", "completed", "failed", "cancelled"]


class Record:
    """What the log holds of one boundary: the event that decided it.

    `own`: recorded by the run itself. Otherwise copied from the source of a replay: what may be reused.
    """

    __slots__ = ("attempts", "claimed", "event", "key", "order", "own", "seq", "state", "turn")

    def __init__(self, key: str, event: BoundaryEvent, state: State, *, seq: int, turn: int, own: bool) -> None:
        self.key = key
        self.event = event
        self.state: State = state
        self.seq = seq
        self.turn = turn
        self.own = own
        self.claimed = False
        self.attempts = 0
        self.order = event.order
        """Its place among the starts of the run's boundaries; of a reused one, when this run came to it."""

    @property
    def outcome(self) -> Blob:
        """The encoded outcome of a completed boundary."""
        event = self.event
        # Exact types: this is asked at every boundary of a replay.
        if type(event) is StepCompleted or type(event) is LlmCompleted:
            return event.outcome
        return _NIL

    @property
    def seconds(self) -> float:
        """How long the boundary took, in seconds."""
        started: float = getattr(self.event, "started", self.event.at)
        return max(0.0, self.event.at - started)


_NIL: Final = b"\xc0"

STATE_OF: Final[Mapping[type, State]] = {
    StepCompleted: "completed",
    LlmCompleted: "completed",
    TimerFired: "completed",
    StepFailed: "failed",
    StepCancelled: "cancelled",
}
"""The events that decide a boundary; any other leaves it started."""


class Rules(msgspec.Struct, frozen=True):
    """What a replay was told. A resume of an ordinary run has the defaults, and nothing copied for them to apply to."""

    replaying: bool = False
    keep_code: bool = False
    verify: bool = False
    forced: frozenset[str] = frozenset()
    """Keys that run again (`--from`)."""
    overrides: Mapping[str, Blob] = msgspec.field(default_factory=dict)
    """Outcomes by key (`--override`)."""
    allow_effects: frozenset[str] = frozenset()
    """Names of `effects=True` checkpoints that may run again."""
    models: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Models to ask instead of those that the calls name (`--model`)."""
    pythons: frozenset[str] = frozenset()
    """The Python versions that made what was copied: another one may digest the same source otherwise."""


class Asked(NamedTuple):
    """What the code asks for at a key."""

    key: str
    name: str
    kind: str
    fingerprint: bytes
    code: bytes
    effects: bool


class Verdict(enum.Enum):
    """What to do at a boundary."""

    REUSE = "reuse"
    EXECUTE = "execute"
    OVERRIDE = "override"
    WAIT = "wait"
    """The flow gave this call up the first time; it stays pending until it is given up again."""
    DIVERGE = "diverge"
    FORBID_EFFECT = "effect"
    FORBID_LIVE = "live"


class Decision(NamedTuple):
    """What to do at a boundary, and why where it is not to be reused."""

    verdict: Verdict
    why: str = ""


REUSE: Final = Decision(Verdict.REUSE)
EXECUTE: Final = Decision(Verdict.EXECUTE, "not recorded")
WAIT: Final = Decision(Verdict.WAIT)
OVERRIDE: Final = Decision(Verdict.OVERRIDE)
NO_RULES: Final = Rules()
TIMERS: Final = frozenset({"sleep", "timer"})
"""Kinds that cost nothing but time: one that was given up runs again, so that it may run out this time."""
CODED: Final = frozenset({"step", "flow", "start"})
"""The kinds whose outcome depends on the project's code; without source they count as changed."""


def decide(record: Record | None, asked: Asked, rules: Rules) -> Decision:
    """What to do at a boundary.

    Args:
        record: What the log holds under the asked key (or under the key it moved from).
        asked: What the code asks for.
        rules: The replay's options; `NO_RULES` for a run that is no replay.
    """
    if asked.key in rules.overrides:
        return OVERRIDE
    if record is not None and record.own:
        return resumed(record, asked.kind, asked.fingerprint)
    why = _changed(record, asked, rules)
    if not why and record is not None:
        if record.state == "cancelled" and asked.kind in TIMERS and not rules.verify:
            return Decision(Verdict.EXECUTE, "had not run out")
        return WAIT if record.state == "cancelled" else REUSE
    if rules.verify:
        return Decision(Verdict.FORBID_LIVE, why)
    if asked.effects and rules.replaying and asked.name not in rules.allow_effects:
        return Decision(Verdict.FORBID_EFFECT, why)
    return Decision(Verdict.EXECUTE, why)


def resumed(record: Record, kind: str, fingerprint: bytes) -> Decision:
    """What to do at a boundary that the run's own log holds, and no override concerns."""
    event = record.event
    if event.kind != kind:
        return Decision(Verdict.DIVERGE, "kind")
    if event.fingerprint != fingerprint:
        return Decision(Verdict.DIVERGE, "inputs")
    if record.state == "started":
        return Decision(Verdict.EXECUTE, "was running when the process ended")
    return WAIT if record.state == "cancelled" else REUSE


def _changed(record: Record | None, asked: Asked, rules: Rules) -> str:
    if asked.key in rules.forced:
        return "selected by --from"
    if record is None:
        return "not recorded"
    if record.state == "started":
        return "has no recorded outcome"
    event = record.event
    if event.kind != asked.kind:
        return f"was {event.kind}"
    if event.fingerprint != asked.fingerprint:
        return "inputs changed"
    if asked.effects or (event.code == asked.code and (event.code or asked.kind not in CODED)):
        return ""
    if asked.kind == "llm":
        return "model or its settings changed"
    return "" if rules.keep_code else "code changed"


def moved(alike: Iterable[Record]) -> Record | None:
    """The only unclaimed record among those of one name and fingerprint, if there is exactly one."""
    found = [r for r in alike if not r.claimed and r.state != "started"]
    return found[0] if len(found) == 1 else None
