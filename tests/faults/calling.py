"""Orders to processes that ask models and are killed, by themselves or by the test; and what is left of their runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kitaru import Runtime
from kitaru.adapters.standin import StandInServer
from kitaru.runtime.views.costs import CostRow, costs
from kitaru.runtime.views.inspect import RunView, view
from kitaru.store.events import AnyEvent, Attempt, LlmAttempted, LlmCompleted, LlmRequested
from tests.faults.asking_flows import BEFORE
from tests.runtime.runs import PATIENCE, environment

FLOWS = Path(__file__).with_name("asking_flows.py")
KEY = "key-of-the-test"
ENDED, KILLED = 0, -9
"""How a child ends: with a result, or by the kill."""


class Callers:
    """A process that has imported everything and forks a child for each order: a new process without its start-up."""

    def __init__(self, folder: Path, server: StandInServer) -> None:
        self.child = 0
        self.process = subprocess.Popen(
            [sys.executable, str(FLOWS)],
            env=environment(folder, KITARU_MODEL_REGISTRY=registry(server), OPENAI_API_KEY=KEY, ANTHROPIC_API_KEY=KEY),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, **order: object) -> None:
        """Have a child carry an order out."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        self.child = self._number()

    def end(self) -> int:
        """Wait for the child's exit code."""
        code = self._number()
        self.child = 0
        return code

    def kill(self) -> None:
        """Kill the child, if there is one."""
        if self.child:
            os.kill(self.child, signal.SIGKILL)
            assert self.end() == KILLED

    def close(self) -> None:
        self.process.communicate(timeout=PATIENCE)

    def _number(self) -> int:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the callers have ended"
        return int(line)


class Seen(NamedTuple):
    """A run as its log tells it."""

    events: list[AnyEvent]
    shown: RunView
    costs: CostRow

    @property
    def in_doubt(self) -> list[str]:
        """The names of the boundaries in doubt."""
        return [boundary.name for boundary in self.shown.in_doubt]

    @property
    def failures(self) -> list[LlmAttempted]:
        return [event for event in self.events if isinstance(event, LlmAttempted)]

    def answered(self, name: str = "asked") -> LlmCompleted:
        """The last answer of a call."""
        return [e for e in self.events if isinstance(e, LlmCompleted) and name_of(e.key) == name][-1]

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """All that was tried of the call that was killed."""
        return self.answered().llm.attempts

    def requested(self, name: str = "asked") -> int:
        """How often a call was announced."""
        return sum(isinstance(e, LlmRequested) and name_of(e.key) == name for e in self.events)


class Case:
    """One flow that asks a prompt of its own, in a store of its own."""

    def __init__(self, server: StandInServer, callers: Callers, store: str, flow: str, word: str) -> None:
        self.server, self.callers, self.store, self.flow = server, callers, store, flow
        self.prompt = f"How high is the tide? {word}"
        self.options: dict[str, Any] = {}

    def start(self, *, resume: bool = False, kill: dict[str, object] | None = None) -> None:
        """Have a child begin the run, or resume it."""
        self.callers.start(
            store=self.store, flow=self.flow, prompt=self.prompt, options=self.options, resume=resume, kill=kill or {}
        )

    def run(self, *, resume: bool = False, **kill: object) -> int:
        """Start the run in a child, or resume it, and give the child's exit code."""
        self.start(resume=resume, kill=kill)
        return self.callers.end()

    def resume(self) -> int:
        return self.run(resume=True)

    def kill_at(self, count: int, *, resume: bool = False) -> None:
        """Start the run, or resume it, and kill its process when the server has got so many requests in all."""
        self.start(resume=resume)
        self.server.wait_for(count, PATIENCE)
        self.callers.kill()

    @property
    def asked(self) -> int:
        """How often the prompt was asked."""
        return sum(found.total for found in self.server.counts.prompts if found.text == self.prompt)

    @property
    def asked_before(self) -> int:
        """How often what came before it was asked."""
        return sum(found.total for found in self.server.counts.prompts if found.text == BEFORE)

    async def seen(self) -> Seen:
        """Look at the run from outside."""
        async with Runtime(self.store, recover=False) as reader:
            events = [recorded.event for recorded in await reader._core.events("r")]
            return Seen(events, await view(reader._core, "r"), (await costs(reader)).total)


def registry(server: StandInServer) -> str:
    """Two aliases at the server, at a price: an address on loopback alone would be free."""
    prices = {"input": "1000", "output": "1000"}
    aliases = {
        name: {"model": f"{provider}/stand-in", "base_url": server.address(provider), "prices": prices}
        for name, provider in (("fast", "openai"), ("other", "anthropic"))
    }
    return json.dumps({"aliases": aliases, "default": "fast"})


def name_of(key: str) -> str:
    """The name in a boundary's key."""
    return key.rpartition("/")[2].partition("#")[0]


def words(attempts: Sequence[Attempt]) -> list[str]:
    """What became of each attempt, in a word: `ok`, a status, or `possible`: perhaps billed, nobody knows."""
    return ["ok" if not one.error else "possible" if one.possibly_billed else str(one.status) for one in attempts]
