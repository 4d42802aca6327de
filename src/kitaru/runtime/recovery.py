"""Going on with runs that nobody owns: those whose process died, and those that wait for a credential."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from kitaru.errors import CredentialError, KitaruError, RunError
from kitaru.runtime import loader
from kitaru.runtime.children import PARENT_ENDED
from kitaru.runtime.host import submit
from kitaru.runtime.log import log
from kitaru.runtime.secrets import private
from kitaru.runtime.secrets.bound import bound
from kitaru.store.events import FINISHED, RunParked
from kitaru.store.protocol import Append

if TYPE_CHECKING:
    from kitaru.runtime.flow import FlowWork
    from kitaru.runtime.runtime import Runtime
    from kitaru.runtime.secrets.private import RunSecrets


async def recovered(runtime: Runtime, diverged: Collection[str]) -> list[str]:
    """Resume, on this loop, the unfinished runs of loaded flows that nobody owns.

    Args:
        runtime: Where.
        diverged: Runs to leave alone.

    Returns:
        The ids of those resumed.
    """
    # Whoever opened the runtime inside `kitaru.credentials` did not mean everybody's runs.
    token = bound.set(None)
    try:
        runs = [run for run in await runtime.store.unowned(()) if run not in diverged]
        return [run for run in runs if runtime.live_run(run) is None and await _resumed(runtime, run)]
    finally:
        bound.reset(token)


async def _resumed(runtime: Runtime, run: str) -> bool:
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
    except KitaruError as error:
        log().warning("recover.failed", run_id=run, error=str(error))
    else:
        return True
    return False


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
