"""A loop that user code blocks for longer than the lease: the heartbeat does not come from the loop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from kitaru import Runtime, checkpoint, flow
from kitaru.errors import RunOwnedError
from kitaru.store.protocol import Append, Recorded
from kitaru.store.sqlite import SqliteStore

LEASE = 0.3


class Nobody:
    """A sink for a claim that is to be refused."""

    def acknowledged(self, appends: list[Append]) -> None:
        raise AssertionError(appends)

    def noticed(self, run: str, events: list[Recorded]) -> None:
        raise AssertionError(events)


async def test_a_loop_blocked_past_the_lease_loses_nothing(tmp_path: Path) -> None:
    blocked, enough = threading.Event(), threading.Event()

    @checkpoint
    async def blocks_its_loop() -> int:
        blocked.set()
        enough.wait(30)
        return 1

    @flow
    async def stubborn() -> int:
        return await blocks_its_loop() + await blocks_its_loop()

    url = tmp_path / "runs.db"
    runtime = Runtime(f"sqlite:///{url}", lease=LEASE)
    # Not awaited yet: the blocked loop is the one that would say that the run has begun.
    starting = asyncio.create_task(asyncio.to_thread(runtime.run, stubborn.options(run_id="r")))
    await asyncio.to_thread(blocked.wait, 30)
    other = SqliteStore(url, lease=LEASE)
    await other.open()
    loop = asyncio.get_running_loop()
    until = loop.time() + 4 * LEASE
    while loop.time() < until:
        with pytest.raises(RunOwnedError):
            await other.claim("r", Nobody(), python="3.11")
        await asyncio.sleep(LEASE / 4)
    enough.set()
    handle = await starting
    assert await asyncio.to_thread(handle.wait, 30) == 2
    assert (await other.run("r")).epoch == 1
    await other.close()
    await runtime.close()
