"""Going on with runs that nobody owns: those whose process died, and those that wait for a credential."""

from __future__ import annotations

import asyncio
import operator
from typing import TYPE_CHECKING, Final

from kitaru.errors import CorruptStoreError, CredentialError, KitaruError, RunError, StoreError
from kitaru.runtime import loader
from kitaru.runtime.children import PARENT_ENDED, child_id
from kitaru.runtime.deaths import SUSPECT, deaths_of
from kitaru.runtime.log import log
from kitaru.runtime.secrets.bound import bound

if TYPE_CHECKING:
    from kitaru.runtime.core import Core
    from kitaru.runtime.execution import Execution

_LONGEST: Final = 64
"""In looks for runs: the longest that one which cannot be resumed waits for the next try."""
_GLANCE: Final = 0.1
_STILL: Final = 5
"""Glances at a suspect that show it at no step, after which it waits for something else."""


class Recovery:
    """Resumes a runtime's unowned runs. No error, of the store or of one run, ends it."""

    def __init__(self, runtime: Core) -> None:
        self._runtime = runtime
        self._unfit: set[str] = set()
        """Runs that are damaged, or whose log this process's code does not fit: neither changes while it lives."""
        self._on_trial: str | None = None
        """The suspect that has been started last, and may yet take the process down."""
        self._looks = 0
        self._due: dict[str, tuple[int, int]] = {}
        """For runs that could not be resumed: the look that tries them again, and how many it has waited for."""

    async def keep(self) -> None:
        """Look for runs to resume, every `recover_every` seconds."""
        while True:
            await asyncio.sleep(self._runtime.recover_every)
            await self.try_once()

    async def try_once(self) -> list[str]:
        """As `once`; what fails is noted, and tried at the next look."""
        problems = self._runtime.problems
        try:
            found = await self.once()
        except Exception as error:
            if problems.failed("recovery", error):
                log().error("recover.failed", error=str(error), exc_info=not isinstance(error, KitaruError))
            return []
        problems.worked("recovery")
        return found

    async def once(self) -> list[str]:
        """Resume, on this loop, the unfinished runs of loaded flows that nobody owns.

        Returns:
            The ids of those resumed.
        """
        runtime = self._runtime
        self._looks += 1
        # Whoever opened the runtime inside `kitaru.credentials` did not mean everybody's runs.
        token = bound.set(None)
        try:
            runs = await runtime.store.unowned(())
            for run in self._due.keys() - set(runs):
                self._worked(run)
            found, suspects = [], []
            for run in filter(self._is_due, runs):
                if deaths := await self._deaths(run):
                    suspects.append((deaths, run))
                elif await self._resumed(run):
                    found.append(run)
            # Who has died least goes first: it is more likely to be a neighbour of the one that takes us down.
            for _, run in sorted(suspects, key=operator.itemgetter(0)):
                if self._on_trial is None and await self._resumed(run):
                    self._on_trial = run
                    runtime.host().spawn(self._watch(run))
                    found.append(run)
            return found
        finally:
            bound.reset(token)

    def ended(self, execution: Execution) -> None:
        """A run has left memory."""
        stop = execution.stopped_by
        if stop is None:
            self._worked(execution.run)
        elif isinstance(stop, KitaruError) and not isinstance(stop, StoreError):
            self._unfit.add(execution.run)

    async def _deaths(self, run: str) -> int:
        """How often in a row this run took its process down, if that is often enough to suspect it."""
        store = self._runtime.store
        try:
            if (await store.run(run)).epoch < SUSPECT:
                return 0
            count = deaths_of(await store.events(run)).times
        except KitaruError:
            return 0  # told of when it is resumed
        return count if count >= SUSPECT else 0

    async def _watch(self, run: str) -> None:
        """Wait until a suspect has an outcome or runs no step, and then go on with the next."""
        idle = 0
        while idle < _STILL and (live := self._runtime.live_run(run)) is not None and live.suspect:
            idle = 0 if self._runs_a_step(live) else idle + 1
            await asyncio.sleep(_GLANCE)
        self._on_trial = None
        await self.try_once()

    def _runs_a_step(self, live: Execution) -> bool:
        if live.turns.recorded:
            return True
        for flight in live.flights.values():
            if flight.call.work.kind in ("step", "llm"):
                return True
            child = self._runtime.live_run(child_id(live.run, flight.key))
            if child is not None and child.suspect and self._runs_a_step(child):
                return True
        return False

    def _is_due(self, run: str) -> bool:
        due, _ = self._due.get(run, (0, 0))
        return due <= self._looks and run not in self._unfit and self._runtime.live_run(run) is None

    async def _resumed(self, run: str) -> bool:
        runtime = self._runtime
        try:
            first = await runtime.first_event(run)
            flow = loader.loaded_flow(first.flow)
            if flow is None:
                return False
            if first.parent is not None and first.parent.on_end != "abandon":
                await runtime.cancel(run, PARENT_ENDED, flow=flow)
            else:
                await runtime.claim_and_resume(run, flow, unasked=True)
        except RunError:
            # Another process was quicker.
            return False
        except CredentialError as error:
            log().info("recover.waiting", run_id=run, why=error.message)
            return False
        except Exception as error:
            if isinstance(error, CorruptStoreError):
                # It would be claimed in vain each time.
                self._unfit.add(run)
            waited = min(2 * self._due.get(run, (0, 0))[1] or 1, _LONGEST)
            self._due[run] = (self._looks + waited, waited)
            if runtime.problems.failed(f"run {run}", error):
                exc_info = not isinstance(error, KitaruError)
                log().warning("recover.failed", run_id=run, error=str(error), exc_info=exc_info)
            return False
        self._worked(run)
        return True

    def _worked(self, run: str) -> None:
        self._due.pop(run, None)
        self._runtime.problems.worked(f"run {run}")
