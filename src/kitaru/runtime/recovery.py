"""Going on with runs that nobody owns: those whose process died, and those that wait for a credential."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from kitaru.errors import CorruptStoreError, CredentialError, KitaruError, RunError, StoreError
from kitaru.runtime import loader
from kitaru.runtime.children import PARENT_ENDED
from kitaru.runtime.host import submit
from kitaru.runtime.log import log
from kitaru.runtime.secrets import private
from kitaru.runtime.secrets.bound import bound
from kitaru.store.events import FINISHED, RunParked
from kitaru.store.protocol import Append

if TYPE_CHECKING:
    from kitaru.runtime.execution import Execution
    from kitaru.runtime.flow import FlowWork
    from kitaru.runtime.runtime import Runtime
    from kitaru.runtime.secrets.private import RunSecrets

_LONGEST: Final = 64
"""In looks for runs: the longest that one which cannot be resumed waits for the next try."""


class Recovery:
    """Resumes a runtime's unowned runs. No error, of the store or of one run, ends it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._unfit: set[str] = set()
        """Runs that are damaged, or whose log this process's code does not fit: neither changes while it lives."""
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
            return [run for run in runs if self._is_due(run) and await self._resumed(run)]
        finally:
            bound.reset(token)

    def ended(self, execution: Execution) -> None:
        """A run has left memory."""
        stop = execution.stopped_by
        if stop is None:
            self._worked(execution.run)
        elif isinstance(stop, KitaruError) and not isinstance(stop, StoreError):
            self._unfit.add(execution.run)

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
                await runtime.cancel(run, PARENT_ENDED)
            else:
                await runtime.claim_and_resume(run, flow)
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


async def secrets_or_park(runtime: Runtime, run: str, work: FlowWork) -> RunSecrets:
    """What a run that goes on needs. One whose credential nobody has is parked, so that nobody resumes it unasked.

    Raises:
        CredentialError: A credential is missing.
        KitaruError: As `private.of_known_run`.
    """
    try:
        return await private.of_known_run(runtime, run, await runtime.first_event(run), work.image)
    except CredentialError:
        row = await runtime.store.run(run)
        kept = await asyncio.to_thread(runtime.vault.of_run, run)
        reason = private.waits_for([name.partition(":")[2] for name, value in kept.items() if value is None])
        if not row.live and row.status not in FINISHED and row.note != reason:
            host = runtime.host()
            lease = await runtime.lease(run, host)
            await submit(host, Append(run, lease.epoch, [RunParked(1, time.time(), reason)], host.sink))
        raise
