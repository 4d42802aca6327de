"""A project of one module that is run, edited, loaded afresh, and replayed."""

from __future__ import annotations

import asyncio
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

from kitaru import Flow, ReplayOptions, Runtime
from kitaru.runtime.views.report import ReplayReport, report
from kitaru.store.events import AnyEvent
from tests.runtime.replay import noted
from tests.runtime.runs import PATIENCE

HEAD = """
import asyncio
import os
from dataclasses import dataclass

import kitaru
from kitaru import checkpoint, flow
from tests.runtime.replay.noted import ran
"""


class Replayed:
    """What a replay did: its run, result or failure, what ran, and its report."""

    def __init__(
        self, run: str, result: Any, error: BaseException | None, ran: list[str], report: ReplayReport
    ) -> None:
        self.run = run
        self.result = result
        self.error = error
        self.ran = ran
        self.report = report

    def with_verdict(self, *verdicts: str) -> list[str]:
        """The keys with one of these verdicts, sorted."""
        return sorted(line.key for line in self.report.lines if line.verdict in verdicts)

    @property
    def executed(self) -> list[str]:
        """The keys that the report says were executed, sorted."""
        return self.with_verdict("executed")

    @property
    def outputs(self) -> dict[str, str]:
        """How what each executed boundary gave compares with the source's."""
        return {line.key: line.output for line in self.report.lines if line.verdict == "executed"}


class Project:
    """One module in a folder, under a name that stays while its text changes, and runs of its flows in one store."""

    def __init__(self, folder: Path, runtime: Runtime, *, name: str = "flows_under_replay") -> None:
        self.path = folder / f"{name}.py"
        self.name = name
        self.runtime = runtime
        self.text = ""
        self.module = ModuleType(name)

    def load(self, text: str) -> ModuleType:
        """Write the module and load it as a new process would."""
        self.text = HEAD + textwrap.dedent(text)
        return self._load()

    def edit(self, *changes: tuple[str, str]) -> ModuleType:
        """Replace texts that are there once, and load the module afresh."""
        for old, new in changes:
            assert self.text.count(old) == 1, f"{old!r} is there {self.text.count(old)} times"
            self.text = self.text.replace(old, new)
        return self._load()

    def _load(self) -> ModuleType:
        self.path.write_text(self.text)
        # Compiled here: a cached bytecode file is told apart from an edited source by whole seconds only.
        module = ModuleType(self.name)
        module.__file__ = str(self.path)
        sys.modules[self.name] = module
        exec(compile(self.text, str(self.path), "exec"), vars(module))
        self.module = module
        return module

    def flow(self, name: str) -> Flow[..., Any]:
        """A flow of the module as it is now."""
        found = getattr(self.module, name)
        assert isinstance(found, Flow)
        return found

    async def run(self, name: str, *args: Any, run: str = "source") -> Any:
        """Run a flow to its end."""
        noted.taken()
        handle = await self.runtime.start(self.flow(name).options(run_id=run), *args)
        async with asyncio.timeout(PATIENCE):
            return await handle.result()

    async def replay(self, name: str, options: ReplayOptions | None = None, *, source: str = "source") -> Replayed:
        """Replay a run with the module as it is now, to its end."""
        noted.taken()
        before = await self.runtime._core.events(source)
        fork = await self.runtime.replay(source, options, self.flow(name))
        result, error = None, None
        try:
            async with asyncio.timeout(PATIENCE):
                result = await fork.handle.result()
        except TimeoutError:
            raise
        except Exception as failure:
            error = failure
        # A source that still runs may go on; what there was stays.
        assert (await self.runtime._core.events(source))[: len(before)] == before
        return Replayed(fork.run, result, error, noted.taken(), await report(self.runtime, source, fork.run))

    async def log(self, run: str) -> list[AnyEvent]:
        """A run's events."""
        return [recorded.event for recorded in await self.runtime._core.events(run)]
