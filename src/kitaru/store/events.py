"""The event types: what a run's log can hold.

An event is immutable. Its msgpack form is an array whose first element is the tag and whose second is the schema
version, so an older reader can skip what it does not know and a newer one can fill in what was not written yet: fields
are only ever added at the end, with a default.

Times (`at`, `started`, `deadline`) are UTC seconds since the epoch. `order` counts the starts of boundaries in a run.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

SCHEMA_VERSION: Final = 1

Kind: TypeAlias = Literal[
    "step", "llm", "flow", "sleep", "timer", "now", "uuid", "random", "save", "load", "log", "start", "handle"
]

OnParentEnd: TypeAlias = Literal["cancel", "abandon"]
"""What becomes of a run that a flow has started when that flow's run ends."""


class Ref(msgspec.Struct, frozen=True, array_like=True):
    """A value kept as an artifact, because it is too large for an event."""

    digest: bytes
    size: int


Blob: TypeAlias = bytes | Ref
"""An encoded value: inline, or a reference to an artifact."""


class FlowRef(msgspec.Struct, frozen=True, array_like=True):
    """Where a flow lives, so that any shell in the project can load it again."""

    module: str
    qualname: str
    file: str
    name: str


class Parent(msgspec.Struct, frozen=True, array_like=True):
    """The run and boundary that started a child run. `on_end` is empty where the parent waits for the child."""

    run: str
    key: str
    on_end: str = ""


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """The run that a replay was forked from, the last event it saw of it, and the replay's options (encoded).

    `root` is the run at the end of the chain of origins; empty where that is `run`, or was not recorded yet.
    """

    run: str
    seq: int
    options: bytes
    root: str = ""


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """Tokens of one model call. Totals first; the others are parts of them. None means the provider did not say."""

    input: int | None = None
    output: int | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    cache_write_1h: int | None = None
    input_audio: int | None = None
    cached_audio: int | None = None
    output_audio: int | None = None
    billed_input: int | None = None
    billed_output: int | None = None
    searches: int | None = None
    tier: str = ""


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """One HTTP attempt of a model call.

    `model` is the `provider/model` that was asked; empty where it is the call's own. An answer that arrived and could
    not be used was paid for: `usage` and `cost` (USD, empty where it is not known) are its own.
    """

    started: float
    seconds: float
    status: int = 0
    error: str = ""
    request_id: str = ""
    possibly_billed: bool = False
    model: str = ""
    usage: Usage | None = None
    cost: str = ""


class LlmRecord(msgspec.Struct, frozen=True, array_like=True):
    """What is recorded of a finished model call beside its outcome.

    `model` is the `provider/model` that answered, `alias` the name that the call used, where it was one. `cost` is USD
    as a decimal number, empty where it is not known, of the answer alone; `prices` the unit prices that it was
    computed from (JSON), `price_version` their table's. `json_mode` says how JSON was asked for, `via` that a gateway
    was called. `trail` names the models that were asked before, each with the reason why it did not answer. `whole`:
    the outcome is the message of a whole reply alone, and `reasoning` and `refusal` are that reply's.
    """

    provider: str
    model: str
    answered_by: str
    finish: str
    usage: Usage
    latency: float
    request_id: str = ""
    credential: str = "none"
    attempts: tuple[Attempt, ...] = ()
    warnings: tuple[str, ...] = ()
    cost: str = ""
    cost_source: str = ""
    first_token: float | None = None
    cache_hit: bool = False
    alias: str = ""
    prices: str = ""
    price_version: str = ""
    json_mode: str = ""
    streamed: bool = False
    via: str = ""
    trail: tuple[tuple[str, str], ...] = ()
    reasoning: str = ""
    refusal: str | None = None
    whole: bool = False


class Event(msgspec.Struct, frozen=True, array_like=True):
    """What every event starts with: the schema version and the time."""

    v: int
    at: float


class RunStarted(Event, frozen=True, array_like=True, tag=1):
    flow: FlowRef
    inputs: Blob
    fingerprint: bytes
    kitaru: str
    python: str
    parent: Parent | None = None
    origin: Origin | None = None
    registry: Blob = b""
    image: bytes = b""
    keys: int = 0
    """How keys name tasks. 0: by qualified names, those of a limited map all alike; 1: by the functions' own names."""


class Boundary(Event, frozen=True, array_like=True):
    """What every event of a boundary names."""

    key: str
    kind: Kind
    fingerprint: bytes
    code: bytes
    inputs: Blob
    order: int
    attempt: int


class StepStarted(Boundary, frozen=True, array_like=True, tag=2):
    """A boundary that is running: committed before an effect or model call, and while a long step runs."""

    effects: bool = False


class StepCompleted(Boundary, frozen=True, array_like=True, tag=3):
    started: float
    outcome: Blob


class StepFailed(Boundary, frozen=True, array_like=True, tag=4):
    """An attempt failed; when `final`, this failure is the boundary's outcome."""

    started: float
    error: Blob
    final: bool


class StepCancelled(Boundary, frozen=True, array_like=True, tag=5):
    """The flow gave up a boundary (a timeout, a lost race). An outcome it never saw is kept, and never handed back."""

    started: float
    outcome: Blob | None = None


class LlmRequested(Boundary, frozen=True, array_like=True, tag=6):
    """A model call about to be sent. Its `code` digests the call after aliases and defaults, before any adapter.

    A conversation too long to stand in `inputs` is a chain of artifacts, each naming its parent and holding one
    message; `prompt` is its last one.
    """

    model: str
    prompt: Ref | None = None


class LlmCompleted(Boundary, frozen=True, array_like=True, tag=7):
    started: float
    outcome: Blob
    response: Blob
    llm: LlmRecord


class LlmAttempted(Boundary, frozen=True, array_like=True, tag=27):
    """An attempt of a model call failed. Another may have been sent, to `next_model`, at or after `next_at`."""

    tried: Attempt
    next_model: str = ""
    next_at: float = 0.0


class TimerSet(Boundary, frozen=True, array_like=True, tag=8):
    deadline: float


class TimerFired(Boundary, frozen=True, array_like=True, tag=9):
    started: float


class ChildStarted(Boundary, frozen=True, array_like=True, tag=13):
    child: str


class Reused(Event, frozen=True, array_like=True, tag=14):
    """A replay took this boundary's outcome from the copy at `seq` of its own log."""

    key: str
    seq: int
    moved_from: str = ""
    order: int = 0


class Copied(Event, frozen=True, array_like=True, tag=15):
    """A boundary's outcome, copied from the source run when a replay was forked: what it may reuse."""

    run: str
    seq: int
    turn: int
    event: msgspec.Raw


class Overridden(Event, frozen=True, array_like=True, tag=16):
    """A replay was told this boundary's outcome."""

    key: str
    outcome: Blob
    kind: Kind = "step"
    order: int = 0


class RunClaimed(Event, frozen=True, array_like=True, tag=17):
    """A process took the run over. `unasked`: by itself, and not because anybody named this run."""

    epoch: int
    owner: str
    python: str
    unasked: bool = False


class RunParked(Event, frozen=True, array_like=True, tag=18):
    reason: str


class RunCompleted(Event, frozen=True, array_like=True, tag=19):
    outcome: Blob


class RunFailed(Event, frozen=True, array_like=True, tag=20):
    """`causes` are the keys of the boundaries whose failure ended the run."""

    error: Blob
    causes: tuple[str, ...]


class RunCancelled(Event, frozen=True, array_like=True, tag=21):
    reason: str


class RunRetried(Event, frozen=True, array_like=True, tag=22):
    """A failed run goes on; the outcomes of `dropped` no longer count."""

    dropped: tuple[str, ...]


class CancelRequested(Event, frozen=True, array_like=True, tag=23):
    """Somebody asked the run's owner to cancel it. May be appended by a process that does not own the run."""

    reason: str


class Deviated(Event, frozen=True, array_like=True, tag=24):
    """Recorded outcomes were handed back in another order than the first time, because waiting for it would not end."""

    note: str


class CodeSeen(Event, frozen=True, array_like=True, tag=25):
    """The source that a code digest stands for, so that another Python version can settle it by parsing both."""

    digest: bytes
    source: Blob


class RunPruned(Event, frozen=True, array_like=True, tag=26):
    """The tombstone of a pruned run: all that is left of its log."""

    seq: int
    head: bytes
    flow: str
    created: float = 0.0


AnyEvent: TypeAlias = (
    RunStarted
    | StepStarted
    | StepCompleted
    | StepFailed
    | StepCancelled
    | LlmRequested
    | LlmAttempted
    | LlmCompleted
    | TimerSet
    | TimerFired
    | ChildStarted
    | Reused
    | Copied
    | Overridden
    | RunClaimed
    | RunParked
    | RunCompleted
    | RunFailed
    | RunCancelled
    | RunRetried
    | CancelRequested
    | Deviated
    | CodeSeen
    | RunPruned
)

BoundaryEvent: TypeAlias = (
    StepStarted
    | StepCompleted
    | StepFailed
    | StepCancelled
    | LlmRequested
    | LlmAttempted
    | LlmCompleted
    | TimerSet
    | TimerFired
    | ChildStarted
)

Status: TypeAlias = Literal["running", "parked", "completed", "failed", "cancelled", "pruned"]

STATUS_AFTER: Final[dict[type[Event], Status]] = {
    RunStarted: "running",
    RunClaimed: "running",
    RunRetried: "parked",
    RunParked: "parked",
    RunCompleted: "completed",
    RunFailed: "failed",
    RunCancelled: "cancelled",
    RunPruned: "pruned",
}
"""The status of a run after each event that changes it; other events leave it."""

HELD: Final = "held"
"""A `RunParked` whose reason begins so was parked on purpose: nobody resumes the run unasked."""

STUCK: Final = f"{HELD} as stuck: "
"""How the reason begins where the run's process died too often in a row."""

FINISHED: Final[frozenset[Status]] = frozenset({"completed", "failed", "cancelled", "pruned"})
"""The statuses in which a run no longer runs and has no owner."""
