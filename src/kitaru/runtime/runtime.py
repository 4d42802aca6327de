"""The public face of a runtime: a store, the runs of this process in it, and their recovery."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from kitaru.runtime.arguments import Duration
from kitaru.runtime.core import Core
from kitaru.runtime.flow import Flow
from kitaru.runtime.fork import Fork, ReplayOptions
from kitaru.runtime.handle import RunHandle
from kitaru.runtime.health import Health
from kitaru.runtime.reading import RunEvent, RunInfo, RunStatus, events_of, handle_of, runs_of, watched
from kitaru.store.protocol import Store

P = ParamSpec("P")
T = TypeVar("T")


class Runtime:
    """A store and the runs of this process in it. Two runtimes in one process share nothing.

    `async with Runtime(...)` opens it, resumes the unfinished runs of loaded flows that nobody owns, and on leaving
    parks its runs instead of failing them.

    Args:
        store: A URL such as `sqlite:///runs.db`, or a store. By default `KITARU_STORE`, else
            `sqlite:///<KITARU_HOME>/kitaru.db`.
        durability: `full`: acknowledged is on disk. `process`: survives a killed process, but not a power cut.
        recover: Whether to resume unowned runs on entry, and every `recover_every` seconds.
        recover_every: Seconds between looks for runs whose process died.
        lease: Seconds without a heartbeat after which a live process counts as stuck.
        replay_grace: Seconds that a resume waits for the flow to come to what the log holds next.
        patience: Seconds that a run's tasks and threads get to end when it leaves memory.
    """

    def __init__(
        self,
        store: str | Path | Store | None = None,
        *,
        durability: str = "full",
        recover: bool = True,
        recover_every: Duration = 30.0,
        lease: Duration = 30.0,
        replay_grace: Duration = 1.0,
        patience: Duration = 10.0,
    ) -> None:
        self._core = Core(
            store,
            durability=durability,
            recover=recover,
            recover_every=recover_every,
            lease=lease,
            replay_grace=replay_grace,
            patience=patience,
        )

    async def __aenter__(self) -> Self:
        await self._core.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._core.close()

    def __repr__(self) -> str:
        return f"<runtime of {self._core.store.place}>"

    async def open(self) -> None:
        """Open the store, once. `async with` does it, and so does whatever needs it.

        Raises:
            StoreError: It cannot be opened.
            ForkedProcessError: In a forked child of the process that made the runtime.
        """
        await self._core.open()

    async def close(self) -> None:
        """Park this process's runs, wait until they have left memory, and close the store. Idempotent."""
        await self._core.close()

    # -- starting and stopping runs -----------------------------------------------------------------------------------

    def start(self, flow: Flow[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, RunHandle[T]]:
        """Start a run on this loop. In a flow it is a child run.

        An id that exists already returns that run's handle: one that nobody owns is resumed, one that another process
        owns is attached to, a finished one is returned as it is.

        Raises:
            UsageError: The inputs do not fit, or the id belongs to another flow or other inputs; in a checkpoint.
            EncodeError: An input cannot be recorded.
            RunStuckError: The id's run killed its process too often.
            StoreError: The run could not be recorded.
        """
        return self._core.start(flow, *args, **kwargs)

    def run(self, flow: Flow[P, T], /, *args: P.args, **kwargs: P.kwargs) -> RunHandle[T]:
        """Start a run on the background loop, from sync code; raises as `start` does. In a flow it is a child run."""
        return self._core.run(flow, *args, **kwargs)

    async def resume(self, run: str, flow: Flow[..., Any] | None = None) -> RunHandle[Any]:
        """Resume a run on this loop. A run that this process or another living one owns is attached to; a finished one
        is returned as it is.

        Args:
            run: The run's whole id.
            flow: Its flow; found by what the run remembers if not given.

        Raises:
            NotFoundError: No such run, or its flow is not to be found.
            StoreError: The log cannot be read or written.
        """
        return await self._core.resume(run, flow)

    async def retry(self, run: str, flow: Flow[..., Any] | None = None) -> RunHandle[Any]:
        """Continue a failed or cancelled run: the steps that failed it execute again, all other outcomes are reused.

        Raises:
            NotFoundError: No such run.
            RunError: It is not failed or cancelled.
        """
        return await self._core.retry(run, flow)

    async def replay(self, run: str, options: ReplayOptions | None = None, flow: Flow[..., Any] | None = None) -> Fork:
        """Make a new run from an old one, on this loop, that executes only what its options and the code ask for.

        Args:
            run: The source run's whole id. Its log is not touched.
            options: What to do otherwise than it did.
            flow: Its flow as it is now; found by what the run remembers if not given.

        Raises:
            NotFoundError: No such run; AmbiguousError: a selector fits several boundaries.
            UsageError: An option does not fit the run or its flow.
        """
        return await self._core.replay(run, options, flow)

    async def cancel(
        self, run: str, reason: str = "", *, now: bool = False, flow: Flow[..., Any] | None = None
    ) -> None:
        """Ask for a run to be cancelled, whoever owns it: its flow sees a cancellation, and its cleanup code runs.

        An orphaned run is resumed here for that. If its flow cannot be loaded, the request stays in its log, and the
        next process that hosts the flow cancels the run.

        Args:
            run: The run's whole id.
            reason: Why; recorded with the run.
            now: Close an orphaned run at once, without its cleanup.
            flow: Its flow; found by what the run remembers if not given.

        Raises:
            NotFoundError: No such run.
            RunError: It has finished.
            EncodeError: The reason holds a secret.
        """
        await self._core.cancel(run, reason, now=now, flow=flow)

    async def recover(self) -> list[str]:
        """Resume, on this loop, the unfinished runs of loaded flows that nobody owns. Returns their ids.

        Raises:
            StoreError: The store cannot be read. A run that cannot be resumed is left for the next time.
        """
        return await self._core.recover()

    def health(self) -> Health:
        """Return how many runs are in memory, and which background work fails and is tried again."""
        return self._core.health()

    # -- looking at runs ----------------------------------------------------------------------------------------------

    async def get(self, run: str) -> RunHandle[Any]:
        """Return the handle of a run, wherever it is, without resuming it.

        Args:
            run: Its id, a unique prefix of it, or `last`, `last~1`, ...

        Raises:
            NotFoundError: No such run, or its flow is not to be found.
            AmbiguousError: The prefix fits several.
        """
        return await handle_of(self._core, run)

    async def runs(
        self,
        *,
        status: RunStatus | Sequence[RunStatus] = (),
        flow: str | None = None,
        since: datetime.datetime | None = None,
        limit: int | None = 20,
        before: str | None = None,
    ) -> list[RunInfo]:
        """Return runs, newest first.

        Args:
            status: Only runs of this status, or of these.
            flow: Only runs of the flow of this name.
            since: Only runs that were started then or later.
            limit: The most to return; None for all.
            before: The id of the last run of the page before.

        Raises:
            UsageError: There is no such status.
            NotFoundError: There is no run `before`.
        """
        return await runs_of(self._core, status=status, flow=flow, since=since, limit=limit, before=before)

    async def events(self, run: str, *, after: int = 0) -> list[RunEvent]:
        """Return a run's log.

        Args:
            run: Its id, a unique prefix of it, or `last`, `last~1`, ...
            after: Only events whose number (`seq`) is greater.

        Raises:
            NotFoundError: No such run.
            CorruptStoreError: An event cannot be read.
        """
        return await events_of(self._core, run, after)

    def watch(self, run: str, *, after: int = 0) -> AsyncIterator[RunEvent]:
        """Iterate a run's events as they are recorded, in whichever process, until the run has finished.

        Args:
            run: Its id, a unique prefix of it, or `last`, `last~1`, ...
            after: Begin with the event whose number (`seq`) follows.

        Raises:
            NotFoundError: No such run.
        """
        return watched(self._core, run, after)
