"""The one transport: it sends for every adapter, and holds the only retry loop there is.

Proxies and certificates follow the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`,
`SSL_CERT_DIR`), loopback addresses always go direct; `trust_env=False` turns that off. Redirects are never followed.
httpx's own log lines are dropped for requests made here and for no others.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Self

import msgspec

from kitaru.adapters.adapter import Adapter
from kitaru.adapters.call import ModelCall
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.exchange import Exchange, Timeouts
from kitaru.adapters.reply import Attempt, Reply, reply_of
from kitaru.adapters.retry import MAX_RETRY_AFTER, RetryPolicy, retry_after
from kitaru.adapters.secret import clean
from kitaru.errors import AnswerError, CredentialError, ModelConnectionError, ModelError, ProviderError, UsageError

if TYPE_CHECKING:
    from types import TracebackType

    import httpx

    from kitaru.adapters.clients import Clients

MAX_BODY: Final = 64 * 1024 * 1024
"""The largest body that is read, in bytes after decompression."""

# Statuses of a gateway that gave up waiting: what stands behind it may have gone on, and charged.
_GAVE_UP: Final = frozenset({408, 499, 502, 504, 520, 522, 524})


class Sent(msgspec.Struct, frozen=True):
    """A call that was answered.

    Args:
        reply: The answer.
        attempts: Every HTTP attempt, oldest first; the last gave the answer.
        latency: Seconds from the start of the first attempt to the answer, waits included.
        warnings: What the caller should know although the answer is good.
    """

    reply: Reply
    attempts: tuple[Attempt, ...]
    latency: float
    warnings: tuple[str, ...] = ()


class _Job(msgspec.Struct, frozen=True):
    """One call on its way through its attempts."""

    call: ModelCall
    endpoint: Endpoint
    adapter: Adapter
    timeout: Timeouts
    attempts: list[Attempt]
    record: Callable[[Attempt], None] | None


class Transport:
    """Sends calls for every adapter. Belongs to the event loop that first uses it, and is closed there.

    Args:
        trust_env: Take proxies and certificates from the environment.
        max_body: The largest body that is read, in bytes after decompression.
        clock: Monotonic seconds.
        now: UTC seconds since the epoch.
        sleep: Waits between attempts.
        chance: A random number from 0 to 1.
        http: Makes the HTTP transport below a client, to put another one there; it has to leave redirects and
            compressed bodies as they are. None for httpx's own.
    """

    def __init__(
        self,
        *,
        trust_env: bool = True,
        max_body: int = MAX_BODY,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
        http: Callable[[], httpx.AsyncBaseTransport] | None = None,
    ) -> None:
        self._trust_env = trust_env
        self._max_body = max_body
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._chance = chance
        self._http = http
        self._clients: Clients | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection. A closed transport sends nothing more; closing twice does no harm."""
        self._closed = True
        if self._clients is not None:
            await self._clients.aclose()

    async def send(
        self,
        call: ModelCall,
        endpoint: Endpoint,
        adapter: Adapter,
        *,
        retry: RetryPolicy | None = None,
        timeout: Timeouts | None = None,
        record: Callable[[Attempt], None] | None = None,
    ) -> Sent:
        """Send a call until it is answered, may not be tried again, or attempts or time are used up.

        Args:
            call: What is asked.
            endpoint: Where, and as whom.
            adapter: Speaks the provider's wire format.
            retry: How often and how patiently to try.
            timeout: How long to wait.
            record: Told of each attempt as it ends, a cancelled one included.

        Returns:
            The reply and how it came.

        Raises:
            UsageError: The call or the address cannot be right; nothing was sent.
            ModelError: No finished answer. `attempts_of` gives the attempts behind it.
        """
        retry, timeout = retry or RetryPolicy(), timeout or Timeouts()
        job = _Job(call, endpoint, adapter, timeout, [], record)
        begun = self._clock()
        while True:
            clients = self._enter_loop()
            exchange = Exchange()
            left = None if timeout.total is None else timeout.total - (self._clock() - begun)
            try:
                reply = await self._attempt(job, clients, exchange, left)
            except ModelError as failed:
                error = failed
            else:
                return Sent(reply, tuple(job.attempts), self._clock() - begun, reply.warnings)
            wait = None if exchange.final else self._wait(error, len(job.attempts), retry)
            spent = self._clock() - begun
            if wait is None or (timeout.total is not None and spent + wait >= timeout.total):
                error.attempts = tuple(job.attempts)
                if len(job.attempts) > 1:
                    error.add_note(f"{len(job.attempts)} attempts in {spent:.1f} s")
                raise error
            await self._sleep(wait)

    def _wait(self, error: ModelError, failed: int, retry: RetryPolicy) -> float | None:
        """Return the seconds before the next attempt, or None where there is to be none."""
        asked: float | None = None
        match error:
            case ProviderError(retryable=True):
                asked = error.retry_after
            case ModelConnectionError():
                pass
            case _:
                return None
        if asked is not None and asked > MAX_RETRY_AFTER:
            error.add_note(
                f"not tried again: {asked:.0f} s is asked for, and more than {MAX_RETRY_AFTER:.0f} s is refused"
            )
            return None
        return retry.delay(failed, asked=asked, chance=self._chance()) if failed < retry.attempts else None

    async def _attempt(self, job: _Job, clients: Clients, exchange: Exchange, left: float | None) -> Reply:
        """Make one attempt, and note what became of it however it ends."""
        request = job.adapter.build_request(job.call, job.endpoint)
        secrets = (job.endpoint.api_key,) if job.endpoint.api_key else ()
        at, begun = self._now(), self._clock()
        problem, name, billed = "cancelled", "", True
        try:
            body = await clients.exchange(request, job.call.provider, secrets, job.timeout, left, exchange)
            billed = exchange.status in _GAVE_UP
            reply = job.adapter.parse_response(job.call, exchange.status, exchange.headers, body)
            problem, name = "", reply.request_id
            return reply
        except UsageError as error:
            problem = clean(error.message, 300)
            raise
        except ModelError as error:
            problem, name = clean(error.message, 300), _request_id(error)
            if isinstance(error, ProviderError):
                # A success that could not be understood was charged like any other, at a price nobody told.
                billed = billed or 200 <= exchange.status < 300
                if error.retry_after is None:
                    error.retry_after = retry_after(exchange.headers, self._now())
            raise
        finally:
            attempt = Attempt(
                started=at,
                seconds=self._clock() - begun,
                status=exchange.status,
                error=problem,
                request_id=name or exchange.request_id,
                possibly_billed=billed and exchange.sent,
            )
            job.attempts.append(attempt)
            if job.record is not None:
                job.record(attempt)

    def _enter_loop(self) -> Clients:
        if self._closed:
            raise UsageError("the transport is closed", hint="Make a new one.")
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not loop:
            raise UsageError(
                "the transport belongs to another event loop", hint="Make one Transport for each event loop."
            )
        if self._clients is None:
            from kitaru.adapters.clients import Clients

            self._loop = loop
            self._clients = Clients(trust_env=self._trust_env, max_body=self._max_body, make=self._http)
        return self._clients


def _request_id(error: ModelError) -> str:
    match error:
        case ProviderError() | CredentialError():
            return error.request_id or ""
        case AnswerError():
            reply = reply_of(error)
            return reply.request_id if reply else ""
        case _:
            return ""
