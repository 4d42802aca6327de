"""Run as a script: forks a process for each line of orders, which runs a flow that asks models and may kill itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kitaru
from kitaru import Flow, checkpoint, flow
from kitaru.adapters.http import (
    clients,  # noqa: F401 - imported here, so that no child has to
    library,  # noqa: F401
)
from kitaru.adapters.providers import adapter
from kitaru.store.protocol import Append, Recorded, Sink
from kitaru.store.sqlite import SqliteStore

BEFORE = "What came before"
FAILED = 3
"""The exit code where a model's error ended the run."""


@dataclass
class Tide:
    """How high the water stands."""

    place: str
    height: int


async def two(prompt: str, options: dict[str, Any]) -> str:
    first = await kitaru.llm(BEFORE, name="first")
    return first + str(await kitaru.llm(prompt, name="asked", **options))


@checkpoint
async def measured(prompt: str, options: dict[str, Any]) -> str:
    return await two(prompt, options)


@checkpoint(retries=2, backoff=0)
async def measured_again(prompt: str, options: dict[str, Any]) -> str:
    return await two(prompt, options)


@checkpoint(effects=True)
async def measured_with_effect(prompt: str, options: dict[str, Any]) -> str:
    return await two(prompt, options)


def first_time() -> bool:
    mark = Path("failed")
    known = mark.exists()
    mark.touch()
    return not known


@checkpoint(retries=1, backoff=0)
async def failing_once(prompt: str, options: dict[str, Any]) -> str:
    text = await two(prompt, options)
    if first_time():
        raise OSError("the first time")
    return text


@flow
async def plain(prompt: str, options: dict[str, Any]) -> str:
    return await two(prompt, options)


@flow
async def typed(prompt: str, options: dict[str, Any]) -> Tide:
    await kitaru.llm(BEFORE, name="first")
    return await kitaru.llm(prompt, name="asked", response_type=Tide, **options)


@flow
def in_thread(prompt: str, options: dict[str, Any]) -> str:
    first = kitaru.llm(BEFORE, name="first").load()
    return first + str(kitaru.llm(prompt, name="asked", **options).load())


@flow
async def inside(prompt: str, options: dict[str, Any]) -> str:
    return await measured(prompt, options)


@flow
async def inside_retrying(prompt: str, options: dict[str, Any]) -> str:
    return await measured_again(prompt, options)


@flow
async def inside_effect(prompt: str, options: dict[str, Any]) -> str:
    return await measured_with_effect(prompt, options)


@flow
async def inside_second_attempt(prompt: str, options: dict[str, Any]) -> str:
    return await failing_once(prompt, options)


FLOWS: dict[str, Flow[..., Any]] = {
    one.name: one for one in (plain, typed, in_thread, inside, inside_retrying, inside_effect, inside_second_attempt)
}


class Killing(SqliteStore):
    """Kills its process when the `nth` event of a type is to be appended, or, with `after`, when it is on disk."""

    def __init__(self, url: str, kind: str = "", nth: int = 1, *, after: bool = False) -> None:
        super().__init__(url)
        self.kind, self.nth, self.after = kind, nth, after
        self.sinks: dict[Sink, Counted] = {}

    def submit(self, append: Append) -> None:
        if not self.after:
            self.count(append)
        append.sink = self.sinks.setdefault(append.sink, Counted(append.sink, self))
        super().submit(append)

    def count(self, append: Append) -> None:
        found = sum(type(event).__name__ == self.kind for event in append.events)
        self.nth -= found
        if found and self.nth <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Counted:
    """Sees what is on disk before the run does."""

    def __init__(self, sink: Sink, store: Killing) -> None:
        self.sink, self.store = sink, store

    def acknowledged(self, appends: list[Append]) -> None:
        for append in appends if self.store.after else ():
            self.store.count(append)
        self.sink.acknowledged(appends)

    def noticed(self, run: str, events: list[Recorded]) -> None:
        self.sink.noticed(run, events)


async def work(
    *, store: str, flow: str, prompt: str, options: dict[str, Any], resume: bool, kill: dict[str, Any]
) -> int:
    async with kitaru.Runtime(Killing(store, **kill), recover=False) as runtime:
        made = FLOWS[flow]
        if resume:
            handle = await runtime.resume("r", made)
        else:
            handle = await runtime.start(made.options(run_id="r"), prompt, options)
        try:
            await handle.result()
        except kitaru.ModelError:
            return FAILED
    return 0


def serve(do: Callable[..., Awaitable[int]]) -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os._exit(asyncio.run(_awaited(do(**json.loads(line)))))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


async def _awaited(doing: Awaitable[int]) -> int:
    return await doing


if __name__ == "__main__":
    for spoken in ("openai", "anthropic"):
        adapter(spoken)
    serve(work)
