"""The inside of a runtime: what the engine, the views and the command line know of it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, copy_context
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Self, TypeVar

from kitaru.errors import (
    ForkedProcessError,
    KitaruError,
    RunError,
    RunExistsError,
    RunStuckError,
    UsageError,
)
from kitaru.runtime import history as histories
from kitaru.runtime import loader
from kitaru.runtime.arguments import Duration, flag_of, seconds_of, text_of
from kitaru.runtime.background import BackgroundLoop
from kitaru.runtime.blobs import blob_of
from kitaru.runtime.call import current_place
from kitaru.runtime.cancelling import cancel
from kitaru.runtime.children import drop_failures
from kitaru.runtime.claiming import claimed, go_on
from kitaru.runtime.deaths import is_stuck, stuck
from kitaru.runtime.execution import Execution
from kitaru.runtime.flow import Flow, FlowWork
from kitaru.runtime.fork import Fork, ReplayOptions, replay
from kitaru.runtime.handle import RunHandle, ended, left
from kitaru.runtime.health import Health, Problems
from kitaru.runtime.history import PYTHON, History, kitaru_version
from kitaru.runtime.host import Host, drained, submit
from kitaru.runtime.keys import OWN_NAMES, here
from kitaru.runtime.models import current_registry
from kitaru.runtime.recovery import Recovery
from kitaru.runtime.secrets import private as privates
from kitaru.runtime.secrets.bound import bound
from kitaru.runtime.secrets.private import RunSecrets
from kitaru.runtime.secrets.vault import Vault
from kitaru.runtime.starting import run_inside, start_inside
from kitaru.runtime.stores import store_at
from kitaru.store.events import (
    FINISHED,
    STUCK,
    AnyEvent,
    Blob,
    Parent,
    RunStarted,
)
from kitaru.store.names import new_run_id, valid_run_id
from kitaru.store.protocol import Append, Lease, Recorded, Store

if TYPE_CHECKING:
    from kitaru.adapters.secret import SecretStr
    from kitaru.runtime.runtime import Runtime
    from kitaru.runtime.secrets.image import ImageSettings

P = ParamSpec("P")
T = TypeVar("T")

CHECKPOINT_THREADS: Final = 64


class Core:
    """The inside of a `Runtime`, which says what the arguments and methods mean."""

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
        self.store: Store = store_at(store, durability, lease)
        self.vault = Vault(self.store)
        """Seals and opens secrets, and knows which of them this process has read."""
        self.replay_grace = seconds_of(replay_grace, "replay_grace")
        self.patience = seconds_of(patience, "patience")
        self._recover = flag_of(recover, "recover")
        self.recover_every = seconds_of(recover_every, "recover_every", zero=False)
        self._hosts: dict[asyncio.AbstractEventLoop, Host] = {}
        self._executions: dict[str, Execution] = {}
        self.problems = Problems()
        self._recovery = Recovery(self)
        self._lock = threading.Lock()
        self._opened: Future[None] | None = None
        self._background: BackgroundLoop | None = None
        self._pool: ThreadPoolExecutor | None = None
        self.taking: dict[asyncio.Task[Any], str] = {}
        """What is about to make this process the owner of which run."""
        self._pid = os.getpid()
        self._closed = False

    # -- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def enter(self) -> None:
        """Open the store, and resume its orphaned runs."""
        await self.open()
        if self._recover:
            await self._recovery.try_once()
            self.host().spawn(self._recovery.keep())

    async def open(self) -> None:
        """Open the store, once.

        Raises:
            StoreError: It cannot be opened.
            ForkedProcessError: In a forked child of the process that made the runtime.
        """
        opened = self._opening()
        if not opened.done():
            await ended(opened)
        opened.result()

    def open_now(self) -> None:
        """Open the store from sync code, once; raises as `open` does. On an event loop's thread the loop waits."""
        self._opening().result()

    def _opening(self) -> Future[None]:
        self.refuse_fork()
        with self._lock:
            opened = self._opened
            if opened is None:
                opened = self._opened = Future()
                # On no caller's task or loop: all others wait for it, too.
                threading.Thread(target=self._open, args=(opened,), name="kitaru opening", daemon=True).start()
            return opened

    def _open(self, opened: Future[None]) -> None:
        try:
            asyncio.run(self.store.open())
        except BaseException as error:
            with self._lock:
                self._opened = None
            opened.set_exception(error)
        else:
            opened.set_result(None)

    async def close(self) -> None:
        """Park this process's runs, wait until they have left, and close the store. Idempotent."""
        if self._closed:
            return
        self._closed = True
        here_ = asyncio.get_running_loop()
        if here_ in self._hosts:
            await self._hosts[here_].end_chores()
        if taking := [task for task in self.taking if task.get_loop() is here_]:
            await asyncio.wait(taking)
        for loop, host in list(self._hosts.items()):
            if loop is here_:
                await drained(host)
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(drained(host), loop))
        if self._background is not None:
            self._background.stop()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        if self._opened is not None:
            await ended(self._opened)
            await self.store.close()

    def close_at_exit(self) -> None:
        """Park the runs of the background loop and close the store, as the process ends.

        Raises:
            TimeoutError: It took longer than `patience`.
        """
        if self._pid == os.getpid() and self._background is not None:
            self.background(self._close_from_background()).result(timeout=self.patience)

    async def _close_from_background(self) -> None:
        """Park the runs of the background loop, which this is called on; the process's end is theirs on other loops."""
        host = self._hosts.get(asyncio.get_running_loop())
        if host is not None:
            await drained(host)
        await self.store.close()

    def host(self) -> Host:
        """What this runtime keeps for the running event loop."""
        self.refuse_fork()
        loop = asyncio.get_running_loop()
        host = self._hosts.get(loop)
        if host is None:
            with self._lock:
                for closed in [other for other in self._hosts if other.is_closed()]:
                    del self._hosts[closed]
                host = self._hosts[loop] = Host(self, self.store, loop)
        return host

    @property
    def pool(self) -> ThreadPoolExecutor:
        """The threads for sync checkpoints."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(CHECKPOINT_THREADS, thread_name_prefix="kitaru checkpoint")
        return self._pool

    def background(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the runtime's background loop, from sync code."""
        self.refuse_fork()
        with self._lock:
            if self._background is None:
                self._background = BackgroundLoop()
            loop = self._background.loop
        if asyncio._get_running_loop() is loop:
            work.close()
            raise UsageError(
                "sync code on the background loop would wait for itself",
                hint="In an async flow write `await flow.start(...)`, not `flow.run(...)`.",
            )
        # An empty context: what is started there is no part of the run that this code may stand in.
        context = Context()
        context.run(bound.set, bound.get())
        return context.run(asyncio.run_coroutine_threadsafe, work, loop)

    def refuse_fork(self) -> None:
        """Raise `ForkedProcessError` in a forked child of the process that made it."""
        if os.getpid() != self._pid:
            raise ForkedProcessError(
                f"process {os.getpid()} uses a runtime that its parent {self._pid} opened",
                hint="Make a runtime in each process, after the fork.",
            )

    # -- runs ---------------------------------------------------------------------------------------------------------

    def start(self, flow: Flow[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, RunHandle[T]]:
        """See `Runtime.start`."""
        loader.startable(flow)
        place = current_place()
        return self._start(flow, args, kwargs) if place is None else start_inside(place, self, flow, args, kwargs)

    async def _start(self, flow: Flow[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunHandle[T]:
        run = valid_run_id(flow.run_id) if flow.run_id is not None else new_run_id()
        given = RunSecrets(self.vault, run)
        data, fingerprint = await privates.encoded_inputs(self, flow.work, flow.inputs_of(args, kwargs), given)
        return await self.start_encoded(flow.work, run, data, fingerprint, image=flow.image, inputs=given.inputs)

    def run(self, flow: Flow[P, T], /, *args: P.args, **kwargs: P.kwargs) -> RunHandle[T]:
        """Start a run on the background loop, from sync code; raises as `start` does. In a flow it is a child run."""
        loader.startable(flow)
        place = current_place()
        if place is not None:
            return run_inside(place, self, flow, args, kwargs)
        return self.background(self._start(flow, args, kwargs)).result()

    async def _kept(self, run: str, taking: Coroutine[Any, Any, RunHandle[T]]) -> RunHandle[T]:
        """Finish claiming `run` although the caller that waits for it is cancelled: an owned run that
        nobody executes would be stuck until the process ends."""
        context = copy_context()
        context.run(here.set, None)
        # Made directly, not through the loop's factory: it is no task of a flow that calls this.
        task = asyncio.Task(taking, context=context)
        self.taking[task] = run
        task.add_done_callback(self._taken)
        return await asyncio.shield(task)

    def _taken(self, task: asyncio.Task[Any]) -> None:
        del self.taking[task]
        if not task.cancelled():
            task.exception()  # whoever still waits for it gets it

    async def start_encoded(
        self,
        work: FlowWork,
        run: str,
        data: bytes,
        fingerprint: bytes,
        *,
        parent: Parent | None = None,
        image: ImageSettings | None = None,
        inputs: Mapping[bytes, SecretStr],
    ) -> RunHandle[Any]:
        """Start a run whose inputs are encoded, as `start` does.

        Args:
            work: Its flow.
            run: Its id.
            data: Its inputs.
            fingerprint: Theirs.
            parent: The run and boundary that start it.
            image: What it finds in its environment, where that is not what its flow says.
            inputs: The secrets that its inputs may hold, by digest.
        """
        await self.open()
        host = self.host()
        blob, artifacts = blob_of(data)
        models = current_registry()
        registry, more = blob_of(models)
        own = work.image if image is None else image
        outer = self._executions.get(parent.run) if parent is not None else None
        try:
            secrets = await privates.of_new_run(self, run, data, image=own, parent=outer, inputs=inputs)
        except KitaruError:
            # What it needs may be gone because it is over.
            if not await self.store.events(run, limit=1):
                raise
            return await self._attach(work, run, fingerprint)
        secrets.check_text(f"{run} {work.name} {work.ref.qualname}", "the id or the flow's name of a run")
        started = RunStarted(
            v=1, at=time.time(), flow=work.ref, inputs=blob, fingerprint=fingerprint, kitaru=kitaru_version(),
            python=PYTHON, parent=parent, registry=registry, image=secrets.recorded_image(work.image),
            keys=OWN_NAMES,
        )  # fmt: skip
        append = Append(run, 0, [started], host.sink, artifacts={**artifacts, **more}, new=True)
        if secrets.kept:
            append.held = await asyncio.to_thread(secrets.held)
        history = History(run)
        history.started = started

        async def create() -> RunHandle[Any]:
            if run in self._executions:
                raise RunExistsError(f"a run {run} exists already")
            with secrets.entering():
                await submit(host, append)
                return self.begin(host, Lease(run, 1, append.seq), work, data, history, models, secrets)

        try:
            return await self._kept(run, create())
        except RunExistsError:
            return await self._attach(work, run, fingerprint)

    def begin(
        self,
        host: Host,
        lease: Lease,
        work: FlowWork,
        data: bytes,
        history: History,
        registry: bytes,
        secrets: RunSecrets,
    ) -> RunHandle[Any]:
        """Execute a run that this process owns."""
        execution = Execution(host, lease.run, lease.epoch, work, data, history, registry, secrets)
        self._executions[lease.run] = execution
        host.begin(execution)
        return RunHandle(self, lease.run, work, execution)

    async def _attach(self, work: FlowWork, run: str, fingerprint: bytes) -> RunHandle[Any]:
        first = await self.first_event(run)
        if first.flow.name != work.name or first.flow.qualname != work.ref.qualname:
            raise UsageError(
                f"run {run} is a run of {first.flow.name}, not of {work.name}", hint="Choose another run id."
            )
        if first.fingerprint != fingerprint:
            raise UsageError(
                f"run {run} of {work.name} was started with other inputs: {histories.shown(first.inputs)}",
                hint="Choose another run id, or start it with the same inputs.",
            )
        return await self.take_up(run, work, unasked=True)

    async def resume(self, run: str, flow: Flow[..., Any] | None = None) -> RunHandle[Any]:
        """See `Runtime.resume`."""
        await loader.opened(self, run, flow)
        if flow is None:
            flow = await loader.flow_of(self, run)
        return await self.take_up(run, flow.work)

    async def take_up(self, run: str, work: FlowWork, *, unasked: bool = False) -> RunHandle[Any]:
        """As `resume`. `unasked`: nobody named this run, so one that is stuck is an error.

        Raises:
            RunStuckError: As it says.
        """
        while (live := self._executions.get(run)) is not None:
            if not live.leaving:
                return RunHandle(self, run, work, live)
            await left(live)
        row = await self.store.run(run)
        if row.status in FINISHED:
            return RunHandle(self, run, work, None)
        if unasked and is_stuck(row):
            raise stuck(run, row.note.removeprefix(STUCK))
        try:
            return await self._kept(run, claimed(self, run, work, unasked=unasked))
        except RunStuckError:
            raise
        except RunError:
            # Another process owns it, or it finished between the look and the claim.
            return RunHandle(self, run, work, None)

    async def claim_and_resume(
        self, run: str, flow: Flow[..., Any] | None = None, *, unasked: bool = False
    ) -> RunHandle[Any]:
        """As `resume`, but a run that a living process owns is an error.

        Raises:
            RunOwnedError: Another living process owns it.
            RunStuckError: Nobody asked for this run, and its process died too often.
            RunError: It has finished.
        """
        await loader.opened(self, run, flow)
        flow = flow or await loader.flow_of(self, run)
        return await self._kept(run, claimed(self, run, flow.work, unasked=unasked))

    async def begin_fork(
        self,
        run: str,
        work: FlowWork,
        events: Sequence[AnyEvent],
        artifacts: dict[bytes, bytes],
        secrets: RunSecrets,
    ) -> RunHandle[Any]:
        """Start a run whose log begins with these events: a replay.

        Raises:
            RunExistsError: The id is taken.
        """
        await self.open()
        host = self.host()
        append = Append(run, 0, events, host.sink, artifacts=artifacts, new=True)
        if secrets.kept:
            append.held = await asyncio.to_thread(secrets.held)

        async def create() -> RunHandle[Any]:
            with secrets.entering():
                await submit(host, append)
                return await go_on(self, host, Lease(run, 1, append.seq), work, secrets)

        return await self._kept(run, create())

    async def retry(self, run: str, flow: Flow[..., Any] | None = None) -> RunHandle[Any]:
        """See `Runtime.retry`."""
        await loader.opened(self, run, flow)
        row = await self.store.run(run)
        if row.status not in ("failed", "cancelled"):
            raise RunError(
                f"run {run} is {row.status}", hint=f"Only a failed or cancelled run is retried: `kitaru show {run}`."
            )
        flow = flow or await loader.flow_of(self, run)
        # What it needs and nobody has any more stops a retry before it changes anything.
        await privates.of_known_run(self, run, await self.first_event(run), flow.work.image)
        await drop_failures(self, run)
        return await self.claim_and_resume(run, flow)

    async def replay(self, run: str, options: ReplayOptions | None = None, flow: Flow[..., Any] | None = None) -> Fork:
        """See `Runtime.replay`."""
        return await replay(self, run, options, flow)

    async def cancel(
        self, run: str, reason: str = "", *, now: bool = False, flow: Flow[..., Any] | None = None
    ) -> None:
        """See `Runtime.cancel`."""
        await loader.opened(self, run, flow)
        await cancel(self, run, text_of(reason, "cancel: reason"), now=flag_of(now, "cancel: now"), flow=flow)

    async def recover(self) -> list[str]:
        """See `Runtime.recover`."""
        await self.open()
        return await self._recovery.once()

    def health(self) -> Health:
        """See `Runtime.health`."""
        if trouble := self.store.trouble:
            self.problems.failed("store", trouble)
        else:
            self.problems.worked("store")
        return Health(len(self._executions), self.problems.all())

    def ended(self, execution: Execution) -> None:
        """A run has left memory."""
        self._recovery.ended(execution)
        execution.secrets.leave()
        if self._executions.get(execution.run) is execution:
            del self._executions[execution.run]

    def live_run(self, run: str) -> Execution | None:
        """A run in this process's memory."""
        return self._executions.get(run)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def value(self, blob: Blob) -> bytes:
        """The encoded value that an event holds or names."""
        return blob if isinstance(blob, bytes) else await self.store.artifact(blob.digest)

    async def events(self, run: str) -> list[Recorded]:
        """A run's log."""
        await loader.opened(self, run)
        return await self.store.events(run)

    async def first_event(self, run: str) -> RunStarted:
        """A run's first event.

        Raises:
            NotFoundError: No such run, or it was pruned.
        """
        events = await self.store.events(run, limit=1)
        if not events or not isinstance(events[0].event, RunStarted):
            raise histories.not_there(run, events)
        return events[0].event


def core_of(runtime: Runtime | Core) -> Core:
    """The inside of a runtime, where it is not that already."""
    return runtime if isinstance(runtime, Core) else runtime._core
