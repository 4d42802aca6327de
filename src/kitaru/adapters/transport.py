"""The one transport: it sends for every adapter, and holds the only retry loop there is.

Proxies and certificates follow the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`,
`SSL_CERT_DIR`), loopback addresses always go direct; `trust_env=False` turns that off. Redirects are never followed.
The HTTP libraries' own log lines are dropped for requests made here and for no others.

Where aiohttp is installed (`kitaru[fast]`), direct calls go through it; `KITARU_HTTP=plain` goes without,
`KITARU_HTTP=fast` insists. Both behave alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Final, Literal, Self

import msgspec

from kitaru.adapters.adapter import Adapter, Local
from kitaru.adapters.call import ModelCall
from kitaru.adapters.endpoint import Authorise, Endpoint
from kitaru.adapters.http.exchange import Exchange, Timeouts, lost
from kitaru.adapters.http.incoming import Incoming, Listener, ListenerError, Streamed, Whole, is_stream
from kitaru.adapters.masking import NOTHING, Masker
from kitaru.adapters.provider import ADVISORY
from kitaru.adapters.refusals import FORM, Refusals
from kitaru.adapters.reply import Attempt, Delta, Reply, reply_of
from kitaru.adapters.retry import MAX_RETRY_AFTER, Retry, retry_after
from kitaru.adapters.secret import SecretStr, clean
from kitaru.errors import AnswerError, CredentialError, ModelConnectionError, ModelError, ProviderError, UsageError

if TYPE_CHECKING:
    from types import TracebackType

    import httpx

    from kitaru.adapters.http.clients import Clients

MAX_BODY: Final = 64 * 1024 * 1024
"""The largest body that is read, in bytes after decompression."""

# Statuses of a gateway that gave up waiting: what stands behind it may have gone on, and charged.
_GAVE_UP: Final = frozenset({408, 499, 502, 504, 520, 522, 524})

_KEPT_MASKERS: Final = 64


class Sent(msgspec.Struct, frozen=True):
    """A call that was answered.

    Args:
        reply: The answer.
        attempts: Every HTTP attempt, oldest first; the last gave the answer.
        latency: Seconds from the start of the first attempt to the answer, waits included.
        warnings: What the caller should know although the answer is good.
        first_token: Seconds from the start of the first attempt to the first piece of the answer; None where it did
            not stream.
        streamed: Whether it came as a stream.
    """

    reply: Reply
    attempts: tuple[Attempt, ...]
    latency: float
    warnings: tuple[str, ...] = ()
    first_token: float | None = None
    streamed: bool = False


class _Job:
    """One call on its way through its attempts."""

    __slots__ = ("adapter", "attempts", "begun", "call", "endpoint", "free", "listener", "stream", "streamed",
                 "timeout", "warnings")  # fmt: skip

    def __init__(
        self,
        call: ModelCall,
        endpoint: Endpoint,
        adapter: Adapter,
        timeout: Timeouts,
        listener: Listener,
        begun: float,
        *,
        stream: bool,
    ) -> None:
        self.call = call
        self.endpoint = endpoint
        self.adapter = adapter
        self.timeout = timeout
        self.listener = listener
        self.begun = begun
        self.stream = stream
        self.streamed = False
        self.attempts: list[Attempt] = []
        self.free = 0
        """Attempts that do not count: those that told of a setting to be left out."""
        self.warnings: list[str] = []


class Transport:
    """Sends calls for every adapter. Belongs to the event loop that first uses it, and is closed there or with it.

    Args:
        trust_env: Take proxies and certificates from the environment.
        max_body: The largest body that is read, in bytes after decompression.
        clock: Monotonic seconds.
        now: UTC seconds since the epoch.
        sleep: Waits between attempts.
        chance: A random number from 0 to 1.
        http: The engine of direct calls: `plain`, `fast`, or what makes another one, which has to leave redirects and
            compressed bodies as they are and is given every call. None: see above.
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
        http: Literal["plain", "fast"] | Callable[[], httpx.AsyncBaseTransport] | None = None,
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
        self._farewell: AsyncGenerator[None, None] | None = None
        self._refusals = Refusals()
        self._maskers: dict[tuple[SecretStr, ...], Masker] = {(): NOTHING}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection. A closed transport sends nothing more; closing twice does no harm."""
        self._closed = True
        self._maskers = {(): NOTHING}
        if self._clients is not None:
            await self._clients.aclose()

    def lacking(self, call: ModelCall, base_url: str) -> dict[str, str]:
        """Return what of a call its model has refused here before, and why: advisory settings, forms of the answer.

        Args:
            call: The model call. A setting that is refused in one combination may be accepted in another.
            base_url: The address called.
        """
        return self._refusals.of(call, base_url)

    async def send(
        self,
        call: ModelCall,
        endpoint: Endpoint,
        adapter: Adapter,
        *,
        retry: Retry | None = None,
        timeout: Timeouts | None = None,
        record: Callable[[Attempt, float | None], None] | None = None,
        stream: bool | None = None,
        on_delta: Callable[[Delta], None] | None = None,
        on_restart: Callable[[], None] | None = None,
        failed: int = 0,
        kept: Callable[[], Awaitable[None]] | None = None,
        ready: Callable[[], Awaitable[None]] | None = None,
    ) -> Sent:
        """Send a call until it is answered, may not be tried again, or attempts or time are used up.

        A provider's refusal of an advisory setting is answered at once by an attempt without it, which does not count;
        unless the call is strict.

        Args:
            call: The model call.
            endpoint: Where, and as whom.
            adapter: Speaks the provider's wire format.
            retry: How often and how patiently to try.
            timeout: How long to wait.
            record: Told of each attempt as it ends, a cancelled one included, and of the seconds until the next one,
                before that wait begins; None where there is no next one.
            stream: Whether to ask for a stream; None for what the provider's row says of so long an answer.
            on_delta: Gets the pieces of the answer as they stream, which it then does.
            on_restart: Told that the pieces handed out are void: the stream broke, and the answer begins anew.
            failed: How many attempts of this call have failed already, in a process that is gone. They count, but at
                least one more is made.
            kept: Awaited before every attempt but the first, and before the wait that precedes it: what `record` was
                told is to be on disk when the next request goes out.
            ready: Awaited once, when the first request is built and before it is sent: what has to have happened by
                then may go on meanwhile.

        Returns:
            The reply and how it came.

        Raises:
            UsageError: The call or the address cannot be right; nothing was sent.
            ModelError: No finished answer. `attempts_of` gives the attempts behind it.
        """
        retry, timeout = retry or Retry(), timeout or Timeouts()
        clients = None if _answers_itself(adapter) else self._enter_loop()
        listener = Listener(on_delta, on_restart, self._clock)
        streaming = on_delta is not None or _streams(call, adapter, stream)
        job = _Job(call, endpoint, adapter, timeout, listener, self._clock(), stream=streaming)
        while True:
            exchange = Exchange()
            request = self._built(job)
            if ready is not None:
                await ready()
                ready = None
            outcome, attempt = await self._attempt(job, clients, request, exchange, record)
            job.attempts.append(attempt)
            if isinstance(outcome, Reply):
                return self._sent(job, outcome, attempt, record)
            wait = self._next(job, outcome, retry, failed, final=exchange.final)
            if record is not None:
                record(attempt, wait)
            if wait is None:
                outcome.attempts = tuple(job.attempts)
                if len(job.attempts) > 1:
                    outcome.add_note(f"{len(job.attempts)} attempts in {self._clock() - job.begun:.1f} s")
                raise outcome
            if kept is not None:
                await kept()
            if wait:
                await self._sleep(wait)
            if self._closed and clients is not None:
                raise _closed()

    def _sent(
        self, job: _Job, reply: Reply, attempt: Attempt, record: Callable[[Attempt, float | None], None] | None
    ) -> Sent:
        if record is not None:
            record(attempt, None)
        first = job.listener.first_at
        return Sent(
            reply,
            tuple(job.attempts),
            self._clock() - job.begun,
            (*job.warnings, *reply.warnings),
            None if first is None else first - job.begun,
            job.streamed,
        )

    def _next(self, job: _Job, error: ModelError, retry: Retry, failed: int, *, final: bool) -> float | None:
        """Return the seconds before the next attempt, or None where there is to be none."""
        total, spent = job.timeout.total, self._clock() - job.begun
        if final or (total is not None and spent >= total):
            return None
        if isinstance(error, ProviderError):
            if error.refuses == FORM and self._refusals.learn(job.call, job.endpoint.base_url, FORM, error.message):
                return None  # what asks can ask another way, and sees by `lacking` that it has to
            if self._without_refused(job, error):
                return 0.0
        wait = self._wait(error, failed + len(job.attempts) - job.free, retry)
        return None if wait is not None and total is not None and spent + wait >= total else wait

    def _without_refused(self, job: _Job, error: ProviderError) -> bool:
        """Leave out what the provider refused, where that may be; whether it was."""
        call, setting = job.call, error.refuses
        if setting not in ADVISORY or call.strict or getattr(call.settings, setting, None) is None:
            return False
        fields: dict[str, object] = {setting: None}
        job.call = msgspec.structs.replace(call, settings=msgspec.structs.replace(call.settings, **fields))
        job.free += 1
        why = self._refusals.learn(call, job.endpoint.base_url, setting, error.message)
        job.warnings.append(f"{setting} was left out: {why}")
        return True

    def _wait(self, error: ModelError, failed: int, retry: Retry) -> float | None:
        """Return the seconds before the next attempt as far as the error and the `Retry` decide."""
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

    async def _attempt(
        self,
        job: _Job,
        clients: Clients | None,
        request: httpx.Request,
        exchange: Exchange,
        record: Callable[[Attempt, float | None], None] | None,
    ) -> tuple[Reply | ModelError, Attempt]:
        """Make one attempt. What ends it and is no outcome of a call, such as a cancellation, is recorded here."""
        job.listener.restart()
        at, begun = self._now(), self._clock()

        def ended(problem: str, name: str, *, billed: bool) -> Attempt:
            return Attempt(
                started=at,
                seconds=self._clock() - begun,
                status=exchange.status,
                error=problem,
                request_id=name or exchange.request_id,
                possibly_billed=billed and exchange.sent,
            )

        try:
            reply = await self._answered(job, clients, request, exchange)
        except ModelError as error:
            # The frames behind it hold the answer as it arrived, an echo of the credential included.
            error.__traceback__ = None
            if isinstance(error, ProviderError) and error.retry_after is None:
                limited = error.status == 429 and error.retryable
                error.retry_after = retry_after(exchange.headers, self._now(), limited=limited)
            billed = _maybe_billed(error, exchange.status)
            return error, ended(clean(error.message, 300), _request_id(error), billed=billed)
        except BaseException as error:
            if record is not None:
                record(ended(_why(error), "", billed=True), None)
            raise
        return reply, ended("", reply.request_id, billed=False)

    def _built(self, job: _Job) -> httpx.Request:
        try:
            return job.adapter.build_request(job.call, job.endpoint, stream=job.stream)
        except ModelError as error:
            error.attempts = tuple(job.attempts)
            raise

    async def _answered(self, job: _Job, clients: Clients | None, request: httpx.Request, exchange: Exchange) -> Reply:
        call, adapter, endpoint = job.call, job.adapter, job.endpoint
        masker = NOTHING

        def incoming(status: int, headers: dict[str, str]) -> Incoming:
            job.streamed = job.stream and is_stream(status, headers)
            if job.streamed:
                return Streamed(adapter, call, status, headers, masker, job.listener)
            return Whole(adapter, call, status, headers, masker)

        if clients is None:
            return _local(adapter, request, exchange, incoming)
        total = job.timeout.total
        deadline = asyncio.timeout(None if total is None else total - (self._clock() - job.begun))
        try:
            async with deadline:
                secrets: tuple[SecretStr, ...] = (endpoint.api_key,) if endpoint.api_key else ()
                if endpoint.authorise is not None:
                    secrets += await _authorised(endpoint.authorise, request, call.provider, self._masker(secrets))
                masker = self._masker(secrets)
                return await clients.exchange(request, call.provider, masker, job.timeout, exchange, incoming)
        except TimeoutError:
            if not deadline.expired():
                raise
        except ListenerError:
            assert job.listener.failed is not None
            raise job.listener.failed from None
        exchange.final = True
        raise lost(f"{call.provider} at {request.url.host}", "the time for the whole call is used up", exchange)

    def _masker(self, secrets: tuple[SecretStr, ...]) -> Masker:
        masker = self._maskers.get(secrets)
        if masker is None:
            if len(self._maskers) > _KEPT_MASKERS:
                self._maskers = {(): NOTHING}
            masker = self._maskers[secrets] = Masker(secrets)
        return masker

    def _enter_loop(self) -> Clients:
        if self._closed:
            raise _closed()
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not loop:
            raise UsageError(
                "the transport belongs to another event loop", hint="Make one Transport for each event loop."
            )
        if self._clients is None:
            import kitaru.adapters.http.library  # noqa: F401 - before whatever imports httpx
            from kitaru.adapters.http.clients import Clients

            self._loop = loop
            self._clients = Clients(trust_env=self._trust_env, max_body=self._max_body, http=self._http)
            self._farewell = self._until_the_loop_ends()
            with contextlib.suppress(StopIteration):
                self._farewell.asend(None).send(None)
        return self._clients

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        # A loop closes the async generators that are alive when it shuts down: the one call that it gives libraries.
        try:
            yield
        finally:
            await self.aclose()


def _closed() -> UsageError:
    return UsageError("the transport is closed", hint="Make a new one.")


def _answers_itself(adapter: Adapter) -> bool:
    # What `isinstance` would ask of the protocol, which takes it a tenth of a call.
    if not hasattr(adapter, "answer"):
        return False
    import kitaru.adapters.http.library  # noqa: F401 - its request is httpx's

    return True


def _streams(call: ModelCall, adapter: Adapter, stream: bool | None) -> bool:
    if stream is not None:
        return stream
    over, settings = adapter.row.stream_over, call.settings
    if over is None:
        return False
    if settings.max_tokens is not None:
        return settings.max_tokens > over
    # Without a limit of its own, a call that is to think hard may take as long as one with a high limit.
    return settings.reasoning in ("high", "max") or (
        isinstance(settings.reasoning, int) and settings.reasoning > over // 2
    )


def _local(
    adapter: Adapter, request: httpx.Request, exchange: Exchange, incoming: Callable[[int, dict[str, str]], Incoming]
) -> Reply:
    assert isinstance(adapter, Local)
    status, headers, body = adapter.answer(request)
    exchange.status, exchange.headers = status, dict(headers)
    taking = incoming(status, exchange.headers)
    taking.feed(body)
    return taking.finish()


async def _authorised(
    authorise: Authorise, request: httpx.Request, provider: str, masker: Masker
) -> tuple[SecretStr, ...]:
    """Have the request authorised; whatever goes wrong there is one of our errors."""
    problem: ModelError
    try:
        return tuple(await authorise(request))
    except (ModelError, UsageError):
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {masker.error_texts.mask(str(error))}".rstrip(": ")
        what = f"the credential for {provider} could not be fetched: {clean(said, 200)}"
        problem = ModelConnectionError(what) if isinstance(error, OSError) else CredentialError(what)
    # Raised outside the handler: what the hook raised may hold the credential.
    raise problem


def _maybe_billed(error: ModelError, status: int) -> bool:
    match error:
        case ModelConnectionError():
            return True
        case ProviderError():
            # A success that could not be understood was charged like any other, at a price nobody told.
            return 200 <= status < 300 or status in _GAVE_UP
        case _:
            return False


def _why(error: BaseException) -> str:
    match error:
        case asyncio.CancelledError():
            return "cancelled"
        case UsageError():
            return clean(error.message, 300)
        case _:
            return f"given up: {type(error).__name__}"


def _request_id(error: ModelError) -> str:
    match error:
        case ProviderError() | CredentialError():
            return error.request_id or ""
        case AnswerError():
            reply = reply_of(error)
            return reply.request_id if reply else ""
        case _:
            return ""
