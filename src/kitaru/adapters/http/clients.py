"""The HTTP engines under the transport: chosen and made when needed, silent in the log. Imports httpx.

httpx gives the words (request, response, exceptions) and the way through proxies. Direct calls go through an engine of
ours: httpx's client and httpcore's pool take twice as long as the exchange itself, and break down under load.

Every error of the HTTP library becomes one of ours here, without its cause: the library's exceptions and the frames
behind them hold the request, and with it the credential.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Final, cast

import httpx

from kitaru.adapters.http.bodies import BodyTooLargeError, BodyUnreadableError, decoder
from kitaru.adapters.http.exchange import Exchange, Timeouts, lost
from kitaru.adapters.http.incoming import Incoming
from kitaru.adapters.http.proxies import proxy_for, unusable
from kitaru.adapters.masking import Masker
from kitaru.adapters.reply import Reply
from kitaru.adapters.request import without_query
from kitaru.adapters.secret import clean
from kitaru.errors import KitaruError, ModelConnectionError, ModelError, ProviderError, UsageError

_sending: ContextVar[bool] = ContextVar("kitaru_sending", default=False)


class Clients:
    """All HTTP engines of one transport.

    Args:
        trust_env: Take proxies and certificates from the environment.
        max_body: The largest body that is read, in bytes after decompression.
        http: Which engine direct calls go through: `plain`, `fast`, or what makes one; None for what the environment
            asks for, else the fastest that is installed.
    """

    def __init__(
        self, *, trust_env: bool, max_body: int, http: str | Callable[[], httpx.AsyncBaseTransport] | None
    ) -> None:
        self._trust_env = trust_env
        self._max_body = max_body
        self._http = http if http is not None else _engine_named(os.environ.get("KITARU_HTTP", ""))
        self._ways: dict[tuple[str, str, int | None], httpx.AsyncBaseTransport] = {}
        self._made: dict[str, httpx.AsyncBaseTransport] = {}
        self._tls: asyncio.Future[ssl.SSLContext] | None = None

    async def aclose(self) -> None:
        """Close every connection."""
        self._ways.clear()
        while self._made:
            await self._made.popitem()[1].aclose()

    async def exchange(
        self,
        request: httpx.Request,
        provider: str,
        masker: Masker,
        timeout: Timeouts,
        exchange: Exchange,
        incoming: Callable[[int, dict[str, str]], Incoming],
    ) -> Reply:
        """Send one request and return what its answer holds.

        Args:
            request: What to send.
            provider: Who is asked, for messages.
            masker: What to mask in headers and errors.
            timeout: How long to wait at each step.
            exchange: Filled in as it goes.
            incoming: Makes what takes the body, when status and headers are there.

        Raises:
            ModelConnectionError: No answer, or not all of it, arrived.
            ModelError: What `incoming` finds wrong; a body that is too large or cannot be decompressed.
            UsageError: The environment's proxy or certificate settings cannot be used.
        """
        who = f"{provider} at {request.url.host}"
        problem: ModelError
        try:
            return await self._talk(request, masker, timeout, exchange, incoming)
        except httpx.ConnectTimeout:
            problem = lost(who, f"no connection within {_seconds(timeout.connect)}", exchange)
        except httpx.ReadTimeout:
            limit = timeout.between if exchange.status else timeout.first_byte
            problem = lost(who, f"nothing arrived for {_seconds(limit)}", exchange)
        except httpx.WriteTimeout:
            problem = lost(who, f"the request was not taken within {_seconds(timeout.between)}", exchange)
        except BodyTooLargeError:
            problem = _unreadable(provider, exchange, f"a body of more than {self._max_body} bytes")
        except BodyUnreadableError as error:
            problem = _unreadable(provider, exchange, f"a body that cannot be decompressed: {error}")
        except (httpx.TransportError, OSError) as error:
            said = without_query(masker.error_texts.mask(str(error)), str(request.url))
            problem = _broken(who, clean(said, 200) or type(error).__name__, exchange)
        except (ExceptionGroup, ArithmeticError, ValueError) as error:
            # What the libraries below httpx raise for an address that they cannot take. Once an answer has begun, it is
            # a fault of ours.
            if exchange.status or isinstance(error, KitaruError):
                raise
            said = without_query(masker.error_texts.mask(_innermost(error)), str(request.url))
            problem = _broken(who, clean(said, 200), exchange)
        # Raised outside the handlers, so that no context keeps the library's exception alive.
        raise problem

    async def _talk(
        self,
        request: httpx.Request,
        masker: Masker,
        timeout: Timeouts,
        exchange: Exchange,
        incoming: Callable[[int, dict[str, str]], Incoming],
    ) -> Reply:
        url = request.url
        way = self._ways.get((url.scheme, url.host, url.port)) or await self._way(url)
        limits = {"connect": timeout.connect, "read": timeout.first_byte, "write": timeout.between, "pool": None}
        request.extensions["timeout"] = limits
        request.stream = _Watched(request.stream, exchange)
        quiet = _sending.set(True)
        try:
            response = await way.handle_async_request(request)
            assert isinstance(response.stream, httpx.AsyncByteStream)
            try:
                exchange.status = response.status_code
                limits["read"] = timeout.between  # looked at before a body is read
                mask = masker.error_texts.mask
                exchange.headers = {name: mask(value) for name, value in response.headers.items()}
                taking = incoming(exchange.status, exchange.headers)
                read = decoder(exchange.headers.get("content-encoding", ""), self._max_body)
                # A generator, though only an iterator is promised; closed here, not when it is collected.
                async with aclosing(cast("AsyncGenerator[bytes, None]", aiter(response.stream))) as stream:
                    async for piece in stream:
                        taking.feed(read.feed(piece))
                taking.feed(read.finish())
            finally:
                await response.stream.aclose()
        finally:
            _sending.reset(quiet)
        return taking.finish()

    async def _way(self, url: httpx.URL) -> httpx.AsyncBaseTransport:
        """Return the engine to call an address through: a direct one, or one through the environment's proxy."""
        proxy = proxy_for(str(url)) if self._trust_env else None
        secure = url.scheme == "https" or proxy is not None
        name = f"proxy {proxy.url} {proxy.raw_auth}" if proxy is not None else "https" if secure else "http"
        if callable(self._http):
            name, proxy, secure = "given", None, False
        tls = await self._context() if secure else None
        engine = self._made.get(name)
        if engine is None:
            engine = self._made[name] = self._new(tls, proxy)
        self._ways[url.scheme, url.host, url.port] = engine
        return engine

    def _new(self, tls: ssl.SSLContext | None, proxy: httpx.Proxy | None) -> httpx.AsyncBaseTransport:
        _quieten()
        if callable(self._http):
            return self._http()
        if proxy is not None:
            assert tls is not None
            try:
                limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=15.0)
                return httpx.AsyncHTTPTransport(verify=tls, trust_env=False, proxy=proxy, limits=limits)
            except (ValueError, ImportError):
                raise unusable() from None
        if self._http == "fast":
            from kitaru.adapters.http.fast import FastHTTP

            return FastHTTP(tls)
        from kitaru.adapters.http.plain import PlainHTTP

        return PlainHTTP(tls)

    async def _context(self) -> ssl.SSLContext:
        """Return how to check https addresses; made once, away from the loop, for it reads all certificates."""
        if self._tls is None:
            loop = asyncio.get_running_loop()
            self._tls = loop.run_in_executor(None, lambda: httpx.create_ssl_context(trust_env=self._trust_env))
        try:
            return await asyncio.shield(self._tls)
        except (ValueError, OSError):
            self._tls = None
            raise unusable() from None


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__


def _engine_named(name: str) -> str:
    """Return `plain` or `fast`: what is asked for, else what is installed."""
    match name.strip().lower():
        case "":
            return "fast" if find_spec("aiohttp") is not None else "plain"
        case "plain":
            return "plain"
        case "fast" if find_spec("aiohttp") is not None:
            return "fast"
        case "fast":
            raise UsageError("KITARU_HTTP=fast, but aiohttp is not installed", hint="Install it: pip install aiohttp.")
        case other:
            raise UsageError(f"KITARU_HTTP={clean(other, 40)}: no such transport", hint="There are plain and fast.")


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


def _broken(who: str, what: str, exchange: Exchange) -> ModelConnectionError:
    problem = lost(who, what, exchange)
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
    for part in ("httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy", "httpcore.socks",
                 "httpx", "aiohttp.client", "aiohttp.internal"):  # fmt: skip
        logging.getLogger(part).addFilter(_QUIET)
