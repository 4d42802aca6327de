"""Shared by the tests of the runtime: reading logs, stopping runs in the middle, running scripts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from kitaru import Flow, Runtime, flow
from kitaru.store.events import AnyEvent, Boundary, CodeSeen, RunClaimed, RunParked
from kitaru.store.protocol import Recorded

E = TypeVar("E")

SOURCES = Path(__file__).resolve().parents[2] / "src"
PATIENCE = 20.0
"""Seconds after which a test that waits for something gives up."""


async def log_of(runtime: Runtime, run: str) -> list[AnyEvent]:
    """The events of a run."""
    return [recorded.event for recorded in await runtime._core.events(run)]


async def of_type(runtime: Runtime, run: str, kind: type[E]) -> list[E]:
    """The events of one type in a run's log."""
    return [event for event in await log_of(runtime, run) if isinstance(event, kind)]


async def keys_of(runtime: Runtime, run: str, kind: type[Boundary]) -> list[str]:
    """The keys of a run's boundary events of one type, in order."""
    return [event.key for event in await of_type(runtime, run, kind)]


def told(events: Iterable[Recorded]) -> list[Recorded]:
    """A log without the events that only say who held the run when."""
    return [one for one in events if not isinstance(one.event, RunClaimed | RunParked | CodeSeen)]


async def stopped(url: str, flow: Flow[Any, Any], run: str, reached: asyncio.Event, *args: Any) -> None:
    """Start a run, and close its runtime as soon as `reached` is set."""
    async with Runtime(url, recover=False, replay_grace=0.2) as first:
        handle = await first.start(flow.options(run_id=run), *args)
        waiting = asyncio.create_task(reached.wait())
        ended = asyncio.create_task(handle.result())
        await asyncio.wait({waiting, ended}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        ended.cancel()
        if ended.done() and not ended.cancelled():
            ended.result()
        assert reached.is_set()


async def resumed(url: str, flow: Flow[Any, Any], run: str, *, grace: float = 0.2) -> Any:
    """The result of a run that a new runtime goes on with."""
    async with Runtime(url, recover=False, replay_grace=grace) as second:
        handle = await second.resume(run, flow)
        async with asyncio.timeout(PATIENCE):
            return await handle.result()


async def recorded(url: str, run: str) -> list[Recorded]:
    """A run's log, read by a runtime of its own."""
    async with Runtime(url, recover=False) as reader:
        return await reader._core.events(run)


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait until something that no event of this loop tells of has come to be so."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - it happens in the store, or in another process
            await asyncio.sleep(0.01)


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The environment of a script: its own store and home, nobody's keys."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "PYTHONPATH": str(SOURCES),
        "PYTHONUNBUFFERED": "1",
        "KITARU_HOME": str(folder / "home"),
        "KITARU_STORE": f"sqlite:///{folder}/runs.db",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
        **more,
    }


class Script:
    """A Python script in a process of its own."""

    def __init__(self, folder: Path, source: str, *args: str, name: str = "script.py", **more: str) -> None:
        path = folder / name
        path.write_text(source)
        self.process = subprocess.Popen(
            [sys.executable, str(path), *args],
            cwd=folder,
            env=environment(folder, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate(timeout=PATIENCE)
            raise AssertionError(f"the script ended ({self.process.returncode}):\n{errors}")
        return line.strip()

    def until(self, text: str) -> None:
        """Read until it prints this line."""
        while self.line() != text:
            pass

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would, and wait until it is gone."""
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)

    def end(self, *, code: int | None = 0) -> str:
        """What else it prints until it ends; `code` is the exit code it must have, None for any."""
        out, errors = self.process.communicate(timeout=PATIENCE)
        if code is not None:
            assert self.process.returncode == code, errors
        return out.strip() if code == 0 else out + errors

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def ran(path: Path) -> Sequence[str]:
    """The lines that steps of a script noted in a file."""
    return path.read_text().split() if path.exists() else []


async def run_of(runtime: Runtime, body: Callable[[], Coroutine[object, object, object]]) -> object:
    """Run a flow of this body, as the run `r`, to its result."""
    return await (await runtime.start(flow(name="body")(body).options(run_id="r"))).result()
