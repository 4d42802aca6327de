"""Cancelling a run, whoever owns it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from kitaru.errors import CredentialError
from kitaru.runtime import loader
from kitaru.runtime.claiming import leased
from kitaru.runtime.host import submit
from kitaru.runtime.log import log
from kitaru.runtime.secrets.private import RunSecrets
from kitaru.store.events import FINISHED, HELD, AnyEvent, CancelRequested, RunCancelled, RunParked
from kitaru.store.protocol import Append

if TYPE_CHECKING:
    from kitaru.runtime.core import Core
    from kitaru.runtime.flow import Flow


async def cancel(runtime: Core, run: str, reason: str, *, now: bool, flow: Flow[..., Any] | None) -> None:
    """Cancel a run: see `Runtime.cancel`."""
    live = runtime.live_run(run)
    secrets = live.secrets if live else RunSecrets(runtime.vault, run)
    secrets.check_text(reason, "the reason of a cancellation")
    row = await runtime.store.run(run)
    if live is not None or row.live or row.status in FINISHED:
        await runtime.store.post(run, CancelRequested(1, time.time(), reason))
        if live is not None:
            live.host.loop.call_soon_threadsafe(live.cancel, reason)
        return
    if now:
        await _close(runtime, run, RunCancelled(1, time.time(), reason), forget=True)
        return
    # First of all: whoever resumes the run from now on cancels it.
    await runtime.store.post(run, CancelRequested(1, time.time(), reason))
    try:
        work = (flow or await loader.flow_of(runtime, run)).work
        await runtime.take_up(run, work)
    except CredentialError as error:
        log().warning("cancel.waiting", run_id=run, why=error.message)
    except Exception as error:  # whatever the file of the flow raises
        log().warning("cancel.left_to_others", run_id=run, why=str(error))
        if row.note.startswith(HELD):
            # Else nobody would resume it unasked.
            await _close(runtime, run, RunParked(1, time.time(), "to be cancelled where its flow is loaded"))


async def _close(runtime: Core, run: str, event: AnyEvent, *, forget: bool = False) -> None:
    host = runtime.host()
    lease = await leased(runtime, run, host)
    await submit(host, Append(run, lease.epoch, [event], host.sink, forget=forget))
