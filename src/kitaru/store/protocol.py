"""What a store is: the one protocol behind which events and artifacts live.

A store knows runs, events, artifacts and owners; it knows nothing of flows or models. Appends go through `submit`,
which never blocks and is safe from any thread; acknowledgements come back through a `Sink`, once a batch, after the
batch is on disk. Everything else is async and reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

import msgspec

from kitaru.errors import KitaruError
from kitaru.store.entity import Entity
from kitaru.store.events import AnyEvent, Status


class Turn(IntEnum):
    """How an append takes part in the order in which a run's outcomes are handed to its flow."""

    NONE = 0
    """Carries no outcome; its events get turn 0."""
    SHARED = 1
    """Shares a turn with the run's other SHARED appends that become durable in the same batch."""
    OWN = 2
    """Gets a turn of its own, even within a batch; the next SHARED append starts a new one."""


class Sealed(NamedTuple):
    """A sealed value: the id of the key that it was sealed under, and the ciphertext."""

    sealer: bytes
    data: bytes


class SealedAt(NamedTuple):
    """Where a sealed value lies. `kind` is `secret`, `run` or `digest`; `holder` the id of the secret or run."""

    kind: str
    holder: str
    key: str
    version: int


class Held(NamedTuple):
    """What a run needs and no event may hold: a credential, a secret input. `sealed` is None where it is not kept."""

    key: str
    sealed: Sealed | None


class SecretRow(msgspec.Struct, frozen=True):
    """A secret without its values. `version` counts the times that it was set."""

    id: str
    name: str
    owner: str
    private: bool
    version: int
    created: float
    updated: float
    keys: tuple[str, ...] = ()


class Append(Entity):
    """Events of one run to be appended together, and, once acknowledged, what became of them.

    Args:
        run: The run's id.
        epoch: The epoch under which this process owns the run; 0 together with `new`.
        events: In order. All or none of them become durable.
        artifacts: Content by digest; committed with the events. Content the store has already is not written again.
        turn: How the events take part in the order of outcomes.
        new: Create the run; the first event is its `RunStarted`. The store claims it for this process at epoch 1.
        held: What is kept for the run beside its log, from the same commit on.
        forget: What is kept for the run beside its log goes with the same commit; what it needed stays known.
        context: The caller's own; the store does not look at it.

    Filled in before it reaches the sink: `seq` (of the first event; the others follow it without gaps), `turn_no` (0
    when `turn` is NONE), and `error` (None when all is on disk).
    """

    run: str
    epoch: int
    events: Sequence[AnyEvent]
    sink: Sink
    artifacts: Mapping[bytes, bytes] | None = None
    turn: Turn = Turn.NONE
    new: bool = False
    held: Sequence[Held] = ()
    forget: bool = False
    context: object = None
    seq: int = 0
    turn_no: int = 0
    error: KitaruError | None = None


class Recorded(NamedTuple):
    """An event as it stands in a run's log. `seq` starts at 1."""

    seq: int
    turn: int
    event: AnyEvent


class Sink(Protocol):
    """Where a store reports to. Called in the store's own thread, so it must be quick and must not touch an event loop
    except by its thread-safe means."""

    def acknowledged(self, appends: list[Append]) -> None:
        """All appends of one committed (or failed) batch that named this sink, in the order they were submitted."""

    def noticed(self, run: str, events: list[Recorded]) -> None:
        """Events that another process appended to a run that this one owns."""


class Lease(NamedTuple):
    """This process's claim on a run: what it must name to append."""

    run: str
    epoch: int
    seq: int


class RunRow(msgspec.Struct, frozen=True):
    """A run as a listing shows it. `live` says whether a living process owns it."""

    id: str
    flow: str
    status: Status
    created: float
    updated: float
    epoch: int
    seq: int
    live: bool
    parent: str | None = None
    origin: str | None = None
    note: str = ""


class Problem(NamedTuple):
    """Something `verify` found. `seq` is 0 when it concerns the whole run, `run` is "" when it concerns the store."""

    run: str
    seq: int
    what: str


class Rebuilt(NamedTuple):
    """What `rebuild` did: how many runs there are, and what of their logs could not be read."""

    runs: int
    problems: tuple[Problem, ...]


class Head(NamedTuple):
    """A run's last event: what to keep elsewhere, to notice later that a tail was cut."""

    run: str
    seq: int
    digest: bytes


class Pruned(NamedTuple):
    """What `prune` removed."""

    runs: int
    events: int
    artifacts: int


class SecretStore(Protocol):
    """Sealed values beside the log. It never sees a key.

    Its calls wait for the disk, a moment each, and may be made from any thread while the store is open; every change
    is one transaction.
    """

    def identity(self) -> bytes:
        """The store's own random id, made with it."""

    def secrets(self) -> list[SecretRow]:
        """All secrets, by name."""

    def values(self, secret: str) -> list[tuple[SealedAt, Sealed]]:
        """The sealed values of a secret, by its id; none where there is no such secret."""

    def put(
        self,
        name: str,
        owner: str,
        private: bool | None,
        seal: Callable[[str, int], Mapping[str, Sealed]],
        *,
        new: bool = False,
    ) -> SecretRow:
        """Create an owner's secret, or set the named values of it.

        Args:
            name: Its name.
            owner: Whose it is.
            private: Whether only the owner gets to see it; None leaves it, and makes a new one private.
            seal: Gives the sealed values by key, from the secret's id and the version that it gets.
            new: Refuse to change one that is there.

        Raises:
            UsageError: It is there, and should have been new.
        """

    def delete(self, secret: str) -> bool:
        """Remove a secret and its values, by its id. Returns whether there was one."""

    def held(self, run: str) -> list[Held]:
        """What is kept for a run beside its log."""

    def hold(self, run: str, held: Sequence[Held]) -> None:
        """Keep this for a run, in place of what has the same keys."""

    def digest_keys(self) -> list[tuple[SealedAt, Sealed]]:
        """The sealed keys of digests, oldest first."""

    def add_digest_key(self, seal: Callable[[SealedAt], Sealed], sealer: bytes) -> None:
        """Keep a sealed key of digests, unless there is one of this sealer's making."""

    def reseal(self, again: Callable[[SealedAt, Sealed], Sealed | None]) -> tuple[int, int]:
        """Replace every sealed value, all or none.

        Args:
            again: Gives the value sealed anew, or None where it has to be left.

        Returns:
            How many were replaced, and how many left.
        """


class Store(Protocol):
    """A log of runs. See the conformance suite in `tests/store` for what each promise means in detail."""

    @property
    def url(self) -> str:
        """Where it lives, as the user would write it."""

    @property
    def place(self) -> str:
        """Where it lives, for people: a path, or a URL without its password."""

    def exists(self) -> bool:
        """Whether it is there already, or would be made by opening it."""

    @property
    def secrets(self) -> SecretStore:
        """The sealed values beside the log."""

    @property
    def trouble(self) -> str:
        """What its own upkeep (heartbeats, looking for others' events) failed with last, or why it takes no writes any
        more; empty where all is well."""

    async def open(self) -> None:
        """Open or create it, migrating an older schema after a backup.

        Raises:
            StoreError: It cannot be opened; the subclass says why.
        """

    async def close(self) -> None:
        """Write what was submitted, acknowledge it, give up ownership, and close. Idempotent."""

    def submit(self, append: Append) -> None:
        """Queue an append; `append.sink` hears of it when it is on disk or has failed. Never blocks, never raises for
        the state of the disk.

        Raises:
            StoreClosedError: The store is not open.
            ForkedProcessError: Called in a forked child of the process that opened it.
        """

    async def claim(self, run: str, sink: Sink, *, python: str, unasked: bool = False) -> Lease:
        """Become the run's owner under a new epoch, recording `RunClaimed`, if nobody living owns it. `unasked`, which
        is recorded: nobody named this run.

        Raises:
            NotFoundError: No such run.
            RunOwnedError: A living process owns it (this one included); names its pid.
            RunError: The run has finished.
        """

    async def release(self, run: str, epoch: int) -> None:
        """Stop owning a run without an event. Does nothing when the epoch is no longer the newest."""

    async def post(self, run: str, event: AnyEvent) -> int:
        """Append an event without owning the run; its owner notices it. Returns the event's seq.

        Raises:
            NotFoundError: No such run.
            RunError: The run has finished.
        """

    async def retry(self, run: str, event: AnyEvent) -> int:
        """Append a `RunRetried` to a failed or cancelled run, which makes it parked again. Returns the event's seq."""

    async def events(self, run: str, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """A run's events with `seq` greater than `after`, in order."""

    async def readable(self, run: str) -> tuple[list[Recorded], list[Problem]]:
        """A run's events as far as they can be decoded, and what is wrong with the others."""

    async def watch(self, run: str, *, after: int, timeout: float) -> list[Recorded]:
        """As `events`, but wait up to `timeout` seconds for the first one to come, whichever process appends it."""

    async def artifact(self, digest: bytes) -> bytes:
        """An artifact's content.

        Raises:
            NotFoundError: No such artifact.
            CorruptStoreError: Its content does not have that digest.
        """

    async def run(self, run: str) -> RunRow:
        """One run by its whole id.

        Raises:
            NotFoundError: No such run.
        """

    async def find(self, name: str) -> str:
        """The id that a user's name for a run means: the id, a unique prefix of it, `last`, `last~1`, ...

        Raises:
            NotFoundError, AmbiguousError
        """

    async def runs(
        self,
        *,
        status: Sequence[str] = (),
        flow: str | None = None,
        since: float | None = None,
        limit: int | None = 20,
        before: str | None = None,
    ) -> list[RunRow]:
        """Runs, newest first. `status` also knows `interrupted`: running, but owned by nobody living, and `stuck`:
        parked for a reason that begins with `STUCK`. `before` is the id after which the next page starts."""

    async def unowned(self, flows: Sequence[str]) -> list[str]:
        """Ids of unfinished runs of these flows (of any, when empty) that nobody living owns and nobody parked on
        purpose, with a reason that begins with `HELD`; of child runs only those whose parent has finished."""

    async def heads(self) -> list[Head]:
        """The head of every run."""

    async def verify(self, run: str | None = None, *, heads: Sequence[Head] = ()) -> list[Problem]:
        """Check the digest chain of one run or all, the artifacts they name, and the heads kept elsewhere."""

    async def rebuild(self) -> Rebuilt:
        """Make every projection again from the events that can be read."""

    async def prune(self, *, older_than: float, run: str | None = None) -> Pruned:
        """Remove finished, unowned runs last touched before `older_than` (UTC epoch seconds), or the one named, leaving
        a tombstone each, and the artifacts that no event names any more."""
