"""The HTTP clients under the transport: made when needed, striped under load, silent in the log. Imports httpx.

Every error of the HTTP library becomes one of ours here, without its cause: the library's exceptions and the frames
behind them hold the request, and with it the credential.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Final, cast

import httpx

from kitaru.adapters.bodies import BodyTooLargeError, BodyUnreadableError, decoder
from kitaru.adapters.exchange import Exchange, Timeouts
from kitaru.adapters.secret import SHORTEST_IN_ANSWERS, SHORTEST_IN_ERRORS, SecretStr, clean, mask, mask_text
from kitaru.errors import ModelConnectionError, ModelError, ProviderError, UsageError

# One pool slows down with what is in flight in it: it walks all its connections and requests at every step. Measured
# at 64 calls at once: one pool 280 calls/s, 16 pools 550, 64 pools 700. A further one is opened only when all have
# enough to do, so a lone caller keeps reusing one connection.
_IN_FLIGHT_EACH: Final = 1
_MOST_CLIENTS: Final = 64

# Shorter than most servers keep an idle connection, so that none is reused at the moment it is closed.
_KEEPALIVE_SECONDS: Final = 15.0

_sending: ContextVar[bool] = ContextVar("kitaru_sending", default=False)


class Clients:
    """All HTTP clients of one transport.

    Args:
        trust_env: Take proxies and certificates from the environment.
        max_body: The largest body that is read, in bytes after decompression.
        make: Makes the HTTP transport below a client; None for httpx's own.
    """

    def __init__(self, *, trust_env: bool, max_body: int, make: Callable[[], httpx.AsyncBaseTransport] | None) -> None:
        self._trust_env = trust_env
        self._max_body = max_body
        self._make = make
        self._clients: list[_Client] = []
        self._tls: ssl.SSLContext | None = None

    @property
    def count(self) -> int:
        """How many clients are open."""
        return len(self._clients)

    async def aclose(self) -> None:
        """Close every connection."""
        while self._clients:
            await self._clients.pop().http.aclose()

    async def exchange(
        self,
        request: httpx.Request,
        provider: str,
        secrets: tuple[SecretStr, ...],
        timeout: Timeouts,
        left: float | None,
        exchange: Exchange,
    ) -> bytes:
        """Send one request and return the body of its answer, decompressed, echoes of the secrets masked.

        Args:
            request: What to send.
            provider: Who is asked, for messages.
            secrets: What to mask in body and headers.
            timeout: How long to wait at each step.
            left: Seconds left of the whole call.
            exchange: Filled in as it goes.

        Raises:
            ModelConnectionError: No answer, or not all of it, arrived.
            ProviderError: A body that is too large or cannot be decompressed.
            UsageError: The environment's proxy or certificate settings cannot be used.
        """
        who = f"{provider} at {request.url.host}"
        problem: ModelError
        deadline = asyncio.timeout(left)
        try:
            async with deadline:
                return await self._talk(request, secrets, timeout, exchange)
        except httpx.ConnectTimeout:
            problem = _lost(who, f"no connection within {_seconds(timeout.connect)}", exchange)
        except httpx.ReadTimeout:
            limit = timeout.between if exchange.status else timeout.first_byte
            problem = _lost(who, f"nothing arrived for {_seconds(limit)}", exchange)
        except httpx.WriteTimeout:
            problem = _lost(who, f"the request was not taken within {_seconds(timeout.between)}", exchange)
        except BodyTooLargeError:
            problem = _unreadable(provider, exchange, f"a body of more than {self._max_body} bytes")
        except BodyUnreadableError as error:
            problem = _unreadable(provider, exchange, f"a body that cannot be decompressed: {error}")
        except TimeoutError:
            if not deadline.expired():
                raise
            problem = _lost(who, "the time for the whole call is used up", exchange)
            exchange.final = True
        except (httpx.TransportError, OSError) as error:
            problem = _broken(who, clean(mask_text(str(error), secrets), 200) or type(error).__name__, exchange)
        # Raised outside the handlers, so that no context keeps the library's exception alive.
        raise problem

    async def _talk(
        self, request: httpx.Request, secrets: tuple[SecretStr, ...], timeout: Timeouts, exchange: Exchange
    ) -> bytes:
        limits = {"connect": timeout.connect, "read": timeout.first_byte, "write": timeout.between, "pool": None}
        request.extensions["timeout"] = limits
        request.stream = _Watched(request.stream, exchange)
        client = self._client()
        client.in_flight += 1
        quiet = _sending.set(True)
        try:
            response = await client.http.send(request, stream=True, follow_redirects=False, auth=None)
            try:
                exchange.status = response.status_code
                limits["read"] = timeout.between  # the pool looks here before it reads a body
                exchange.headers = {name: mask_text(value, secrets) for name, value in response.headers.items()}
                body = await self._body(response)
            finally:
                await response.aclose()
        finally:
            _sending.reset(quiet)
            client.in_flight -= 1
        # A placeholder for a key, as local servers want one, may well occur in an answer.
        good = 200 <= exchange.status < 300
        return mask(body, secrets, shortest=SHORTEST_IN_ANSWERS if good else SHORTEST_IN_ERRORS)

    async def _body(self, response: httpx.Response) -> bytes:
        read = decoder(response.headers.get("content-encoding", ""), self._max_body)
        pieces: list[bytes] = []
        # A generator, though httpx only promises an iterator; closed here, not when it is collected.
        async with aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_raw())) as stream:
            pieces.extend([read.feed(piece) async for piece in stream])
        pieces.append(read.finish())
        return b"".join(pieces)

    def _client(self) -> _Client:
        """Return the first client with room, a new one while there may be more, else the least busy."""
        for client in self._clients:
            if client.in_flight < _IN_FLIGHT_EACH:
                return client
        if len(self._clients) < _MOST_CLIENTS:
            client = _Client(self._new())
            self._clients.append(client)
            return client
        return min(self._clients, key=lambda client: client.in_flight)

    def _new(self) -> httpx.AsyncClient:
        _quieten()
        try:
            if self._tls is None:
                self._tls = httpx.create_ssl_context(trust_env=self._trust_env)
            return httpx.AsyncClient(
                verify=self._tls,
                trust_env=self._trust_env,
                transport=self._make() if self._make else None,
                mounts=dict.fromkeys(("all://localhost", "all://127.0.0.1", "all://[::1]")),
                timeout=None,  # noqa: S113 - every request brings its own
                limits=httpx.Limits(
                    max_connections=None, max_keepalive_connections=64, keepalive_expiry=_KEEPALIVE_SECONDS
                ),
            )
        except (ValueError, OSError, ImportError, httpx.InvalidURL):
            # The library's message would quote the proxy's address, and its password.
            raise UsageError(
                "the proxy or certificate settings of the environment cannot be used",
                hint="Look at HTTP_PROXY, HTTPS_PROXY, ALL_PROXY (socks needs httpx[socks]) and SSL_CERT_FILE.",
            ) from None


class _Client:
    """An HTTP client and the number of requests under way in it."""

    __slots__ = ("http", "in_flight")

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.in_flight = 0


class _Watched(httpx.AsyncByteStream):
    """A request's body that notes when it is asked for: then a connection stands, and bytes go out."""

    def __init__(self, inner: httpx.SyncByteStream | httpx.AsyncByteStream, exchange: Exchange) -> None:
        assert isinstance(inner, httpx.AsyncByteStream)
        self._inner = inner
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._exchange.sent = True
        async for piece in self._inner:
            yield piece


def _seconds(limit: float | None) -> str:
    return "the time allowed" if limit is None else f"{limit:g} s"


def _lost(who: str, what: str, exchange: Exchange) -> ModelConnectionError:
    if exchange.status:
        when = f"after the answer had begun ({exchange.status})"
    elif exchange.sent:
        when = "after the request was sent, so it may have been billed"
    else:
        when = "before the request was sent"
    return ModelConnectionError(f"no answer from {who}: {what}, {when}", sent=exchange.sent)


def _broken(who: str, what: str, exchange: Exchange) -> ModelConnectionError:
    problem = _lost(who, what, exchange)
    if "CERTIFICATE_VERIFY_FAILED" in what:
        problem.hint = "For a certificate authority of your own, set SSL_CERT_FILE to its certificate."
        exchange.final = True
    elif not exchange.sent:
        problem.hint = "Check that the server runs, the base URL, and the proxy variables."
    return problem


def _unreadable(provider: str, exchange: Exchange, what: str) -> ProviderError:
    name = exchange.request_id
    return ProviderError(
        f"{provider} answered {exchange.status} with {what}" + (f" (request {name})" if name else ""),
        status=exchange.status,
        request_id=name or None,
    )


class _Quiet(logging.Filter):
    """Drops the library's records, which hold addresses and headers, while a request of ours is under way."""

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - the signature is logging's
        return not _sending.get()


_QUIET: Final = _Quiet()


def _quieten() -> None:
    # A logger's filter sees only what is logged on that logger itself; adding one twice does nothing.
    for part in ("connection", "http11", "http2", "proxy", "socks"):
        logging.getLogger(f"httpcore.{part}").addFilter(_QUIET)
    logging.getLogger("httpx").addFilter(_QUIET)
