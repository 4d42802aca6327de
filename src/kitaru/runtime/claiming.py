"""Becoming the owner of a run that nobody living owns, and going on with it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from kitaru.errors import CredentialError, RunOwnedError
from kitaru.runtime import history as histories
from kitaru.runtime.deaths import MOST, SUSPECT, deaths_of, stuck
from kitaru.runtime.history import PYTHON
from kitaru.runtime.host import submit
from kitaru.runtime.log import log
from kitaru.runtime.secrets import private
from kitaru.runtime.secrets.bound import bound
from kitaru.store.events import FINISHED, STUCK, RunParked
from kitaru.store.protocol import Append, Lease

if TYPE_CHECKING:
    from kitaru.runtime.core import Core
    from kitaru.runtime.flow import FlowWork
    from kitaru.runtime.handle import RunHandle
    from kitaru.runtime.host import Host
    from kitaru.runtime.secrets.private import RunSecrets


async def claimed(runtime: Core, run: str, work: FlowWork, *, unasked: bool) -> RunHandle[Any]:
    """Own a run and go on with it.

    Raises:
        RunOwnedError: Another living process owns it.
        RunStuckError: Nobody asked for this run, and its process died too often.
        RunError: It has finished; CredentialError: It needs a credential that is not at hand.
    """
    host = runtime.host()
    secrets = await secrets_or_park(runtime, run, work)
    with secrets.entering():
        lease = await leased(runtime, run, host, unasked=unasked)
        try:
            if bound.get() is not None and secrets.kept:
                held = await asyncio.to_thread(secrets.held)
                await asyncio.to_thread(runtime.store.secrets.hold, run, held)
            return await go_on(runtime, host, lease, work, secrets, unasked=unasked)
        except BaseException:
            await runtime.store.release(run, lease.epoch)
            raise


async def leased(runtime: Core, run: str, host: Host, *, unasked: bool = False) -> Lease:
    """Become the owner of a run that nobody living owns; raises as the store's `claim` does."""
    try:
        return await runtime.store.claim(run, host.sink, python=PYTHON, unasked=unasked)
    except RunOwnedError:
        if runtime.live_run(run) is not None or list(runtime.taking.values()).count(run) > 1:
            raise
        # It may be this store's own for nobody: left behind where its release could not be written.
        await runtime.store.release(run, (await runtime.store.run(run)).epoch)
        return await runtime.store.claim(run, host.sink, python=PYTHON, unasked=unasked)


async def go_on(
    runtime: Core, host: Host, lease: Lease, work: FlowWork, secrets: RunSecrets, *, unasked: bool = False
) -> RunHandle[Any]:
    """Execute a run that this process owns, from what its log holds."""
    events = await runtime.store.events(lease.run)
    history = histories.read(lease.run, events)
    if unasked and lease.epoch > SUSPECT:
        deaths = deaths_of(event for event in events if event.seq < lease.seq)
        if deaths.times >= MOST:
            parked = RunParked(1, time.time(), STUCK + deaths.reason)
            await submit(host, Append(lease.run, lease.epoch, [parked], host.sink))
            log().error("run.stuck", run_id=lease.run, why=deaths.reason)
            raise stuck(lease.run, deaths.reason)
        history.suspect = deaths.times >= SUSPECT
    if history.other_python:
        history.codes = {digest: await runtime.value(source) for digest, source in history.codes.items()}
    assert history.started is not None
    data = await runtime.value(history.started.inputs)
    registry = await runtime.value(history.started.registry)
    return runtime.begin(host, lease, work, data, history, registry, secrets)


async def secrets_or_park(runtime: Core, run: str, work: FlowWork) -> RunSecrets:
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
            lease = await leased(runtime, run, host)
            await submit(host, Append(run, lease.epoch, [RunParked(1, time.time(), reason)], host.sink))
        raise
