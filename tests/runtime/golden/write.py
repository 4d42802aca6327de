"""Write the golden logs: `python -m tests.runtime.golden.write FILE` runs every flow of `flows` into a new store.

The stored file was written by release 0.1.0, before its engine was changed. Later engines must resume and replay it.
"""

from __future__ import annotations

import asyncio
import gzip
import sqlite3
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from kitaru import Flow, KitaruError, ReplayOptions, Runtime
from kitaru.adapters.standin import Rule, StandInServer
from kitaru.store.events import StepStarted
from tests.adapters.talks import OPTIONS, WIRES, address, model_of
from tests.runtime.golden import flows
from tests.runtime.runs import of_type, until

RUNS: Final[dict[str, tuple[Flow[..., Any], tuple[Any, ...]]]] = {
    "plain": (flows.plain_steps, (3,)),
    "thread": (flows.in_a_thread, (3,)),
    "threads": (flows.steps_with_threads, (3,)),
    "values": (flows.values, ("Brest",)),
    "large": (flows.large, ()),
    "growing": (flows.growing, (12,)),
    "failures": (flows.failures, ()),
    "failed": (flows.fails_at_last, ()),
    "combinators": (flows.combinators, (3,)),
    "given-up": (flows.given_up, ()),
    "recorded": (flows.recorded_values, ()),
    "effects": (flows.with_effects, (250,)),
    "parent": (flows.parent, (3,)),
    "parent-of-failure": (flows.parent_of_failure, ()),
    "default": (flows.with_default, (3,)),
    "echo": (flows.echoed, ("tides",)),
    "inside": (flows.asks_inside, ("tides",)),
}
"""The runs that call no server, by id: their flow and its inputs."""

FORKS: Final[dict[str, ReplayOptions]] = {
    "fork-same": ReplayOptions(),
    "fork-input": ReplayOptions(inputs={"x": 5}),
    "fork-from": ReplayOptions(from_=("double_in_thread",)),
    "fork-override": ReplayOptions(overrides={"double_in_thread": "99"}),
}
"""Replays of `plain`, by id."""


async def settled(handle: Any) -> object:
    try:
        return await handle.result()
    except (KitaruError, flows.TideError) as error:
        return error


async def write(path: Path) -> None:
    async with Runtime(f"sqlite:///{path}", recover=False) as runtime:
        for run, (flow, inputs) in RUNS.items():
            print(run, await settled(await runtime.start(flow.options(run_id=run), *inputs)))
        for run, options in FORKS.items():
            fork = await runtime.replay("plain", msgspec.structs.replace(options, run_id=run), flows.plain_steps)
            print(run, await settled(fork.handle))
        fork = await runtime.replay("echo", ReplayOptions(run_id="fork-echo"), flows.echoed)
        print("fork-echo", await settled(fork.handle))
        print("retried", await settled(await runtime.start(flows.fails_at_last.options(run_id="retried"))))
        print("retried", await settled(await runtime.retry("retried", flows.fails_at_last)))
        for run in ("cancelled", "parked"):
            handle = await runtime.start(flows.waits_for_ever.options(run_id=run))
            await until(partial(of_type, runtime, run, StepStarted))
            if run == "cancelled":
                await handle.cancel("enough")
                print(run, await settled(handle))
        rules = (*OPTIONS.rules, Rule("Which city", answer='{"city": "Oslo"}'))
        with StandInServer(type(OPTIONS)(rules=rules)) as server:
            for name in (name for name in WIRES if name != "test"):
                server.reset()
                model, url = f"{name}/{model_of(name)}", address(server, name)
                print(name, await settled(await runtime.start(flows.talk.options(run_id=f"talk-{name}"), model, url)))
            for name in ("openai", "anthropic", "google"):
                model, url = f"{name}/{model_of(name)}", address(server, name)
                run = f"city-{name}"
                print(name, await settled(await runtime.start(flows.structured.options(run_id=run), model, url)))


def main() -> None:
    """Write the file named by the first argument."""
    with tempfile.TemporaryDirectory() as folder:
        path, whole = Path(folder, "runs.db"), Path(folder, "whole.db")
        asyncio.run(write(path))
        connection = sqlite3.connect(path)
        connection.execute("VACUUM INTO ?", (str(whole),))
        connection.close()
        Path(sys.argv[1]).write_bytes(gzip.compress(whole.read_bytes(), 9, mtime=0))


if __name__ == "__main__":
    main()
