"""Events to append in tests, and a sink that a test can await."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from kitaru.store.codec import content_digest
from kitaru.store.events import (
    AnyEvent,
    Blob,
    CancelRequested,
    FlowRef,
    Origin,
    Parent,
    Ref,
    RunCompleted,
    RunFailed,
    RunParked,
    RunRetried,
    RunStarted,
    StepCompleted,
)
from kitaru.store.protocol import Append, Recorded, Store, Turn

NOW = 1_800_000_000.0


def started(
    flow: str = "writer", *, at: float = NOW, parent: str | None = None, origin: str | None = None
) -> RunStarted:
    return RunStarted(
        v=1,
        at=at,
        flow=FlowRef("app", flow, "app.py", flow),
        inputs=b"\x90",
        fingerprint=b"f" * 16,
        kitaru="0.1.0",
        python="3.11",
        parent=Parent(parent, "root/child#1") if parent else None,
        origin=Origin(origin, 7, b"") if origin else None,
    )


def step(number: int = 1, outcome: Blob = b"x" * 100) -> StepCompleted:
    return StepCompleted(
        v=1,
        at=NOW,
        key=f"search#{number}",
        kind="step",
        fingerprint=b"f" * 16,
        code=b"c" * 16,
        inputs=b"\x91\xa5tides",
        order=number,
        attempt=1,
        started=NOW,
        outcome=outcome,
    )


def ref(data: bytes) -> Ref:
    return Ref(content_digest(data), len(data))


def kept(*datas: bytes) -> dict[bytes, bytes]:
    return {content_digest(data): data for data in datas}


def completed(at: float = NOW) -> RunCompleted:
    return RunCompleted(v=1, at=at, outcome=b"\xc0")


def failed(at: float = NOW) -> RunFailed:
    return RunFailed(v=1, at=at, error=b"\xc0", causes=("search#1",))


def parked(reason: str = "") -> RunParked:
    return RunParked(v=1, at=NOW, reason=reason)


def retried() -> RunRetried:
    return RunRetried(v=1, at=NOW, dropped=("search#1",))


def cancel(reason: str = "enough") -> CancelRequested:
    return CancelRequested(v=1, at=NOW, reason=reason)


class Listener:
    """A sink on the running loop."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.batches: list[list[Append]] = []
        self.notices: asyncio.Queue[tuple[str, list[Recorded]]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def acknowledged(self, appends: list[Append]) -> None:
        self._loop.call_soon_threadsafe(self._take, appends)

    def _take(self, appends: list[Append]) -> None:
        self.batches.append(appends)
        for append in appends:
            future = append.context
            assert isinstance(future, asyncio.Future)
            if not future.done():
                future.set_result(append)

    def noticed(self, run: str, events: list[Recorded]) -> None:
        self._loop.call_soon_threadsafe(self.notices.put_nowait, (run, events))

    def prepare(
        self,
        run: str,
        epoch: int,
        *events: AnyEvent,
        turn: Turn = Turn.NONE,
        new: bool = False,
        artifacts: dict[bytes, bytes] | None = None,
    ) -> Append:
        context: asyncio.Future[Append] = self._loop.create_future()
        return Append(run, epoch, events, self, turn=turn, new=new, artifacts=artifacts, context=context)

    async def submitted(self, append: Append) -> Append:
        """Submit an append and wait for its acknowledgement, whether or not it failed."""
        self.store.submit(append)
        return await done(append)

    async def tried(
        self,
        run: str,
        epoch: int,
        *events: AnyEvent,
        turn: Turn = Turn.NONE,
        new: bool = False,
        artifacts: dict[bytes, bytes] | None = None,
    ) -> Append:
        return await self.submitted(self.prepare(run, epoch, *events, turn=turn, new=new, artifacts=artifacts))

    async def append(
        self,
        run: str,
        epoch: int,
        *events: AnyEvent,
        turn: Turn = Turn.NONE,
        artifacts: dict[bytes, bytes] | None = None,
    ) -> Append:
        append = await self.tried(run, epoch, *events, turn=turn, artifacts=artifacts)
        if append.error is not None:
            raise append.error
        return append

    async def create(self, run: str, *events: AnyEvent, artifacts: dict[bytes, bytes] | None = None) -> Append:
        append = await self.tried(run, 0, *(events or (started(),)), new=True, artifacts=artifacts)
        if append.error is not None:
            raise append.error
        return append

    async def together(self, appends: Sequence[Append]) -> list[Append]:
        """Submit appends so that the store finds all of them queued at once."""
        first = self.prepare("no such run", 1, step())

        def submit_all() -> None:
            for append in appends:
                self.store.submit(append)

        first.sink = _Then(submit_all)
        self.store.submit(first)
        return [await done(append) for append in appends]


class _Then:
    """A sink that does something in the store's thread: whatever it submits is found in one batch."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def acknowledged(self, appends: list[Append]) -> None:
        self._act()

    def noticed(self, run: str, events: list[Recorded]) -> None:
        raise AssertionError("nothing was appended to this run")


async def done(append: Append) -> Append:
    future = append.context
    assert isinstance(future, asyncio.Future)
    async with asyncio.timeout(20):
        await future
    return append
