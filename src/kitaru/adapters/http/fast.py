"""HTTP with aiohttp, where it is installed (`kitaru[fast]`): its parser is compiled, so a call costs half as much.

A transport of our own under httpx's interface. `httpx-aiohttp`'s keeps cookies, has one deadline for the first byte and
for all others, and takes a connection that the server closes for one that was never made.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Final

import aiohttp
import httpx
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from yarl import URL

KEEP_SECONDS: Final = 15.0
"""How long an unused connection is kept: shorter than most servers do, so that none is used while it is closed."""

# As the other engine's, h11's; aiohttp's own limit is 8 KiB.
_LONGEST_HEADER: Final = 64 * 1024

_NO_LIMIT: Final = aiohttp.ClientTimeout()


class FastHTTP(httpx.AsyncBaseTransport):
    """Sends requests. Belongs to the event loop it is made on.

    Args:
        tls: How to check an https address; None where only http is called.
    """

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        connector = aiohttp.TCPConnector(
            # Without a context nothing but http is called; True would not be looked at.
            ssl=tls if tls is not None else True,
            limit=0,
            keepalive_timeout=KEEP_SECONDS,
            # Not the one of aiodns, where that happens to be installed: names are found as everywhere else.
            resolver=aiohttp.ThreadedResolver(),
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=_NO_LIMIT,
            auto_decompress=False,
            trust_env=False,
            max_line_size=_LONGEST_HEADER,
            max_field_size=_LONGEST_HEADER,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its answer, the body still to be read.

        Raises:
            httpx.TransportError: No answer arrived.
        """
        limits = request.extensions["timeout"]
        deadline = asyncio.timeout(None)
        body = _Body(request, deadline, limits)
        connect = limits["connect"]
        problem: httpx.TransportError
        try:
            async with deadline:
                answer = await self._session.request(
                    request.method,
                    # Encoded already; to do it again would change an escaped slash.
                    URL(str(request.url), encoded=True),
                    headers=[(name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers.raw],
                    data=body,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(connect=connect) if connect is not None else _NO_LIMIT,
                )
                return httpx.Response(answer.status, headers=answer.raw_headers, stream=_Answer(answer, limits))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            problem = _translated(error, deadline, body)
        raise problem

    async def aclose(self) -> None:
        """Close every connection, those in use too."""
        await self._session.close()


class _Body(Payload):
    """A request's body; it sets the deadline of what follows when it is asked for and when it has gone out."""

    def __init__(self, request: httpx.Request, deadline: asyncio.Timeout, limits: dict[str, float | None]) -> None:
        content = request.content
        super().__init__(content)
        self._size = len(content)
        self._content = content
        self._stream = request.stream
        self._deadline = deadline
        self._limits = limits
        self.begun = False
        self.gone = False

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text, as a payload has to be able to."""
        return self._content.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the body."""
        self.begun = True
        self._wait(self._limits["write"])
        assert isinstance(self._stream, httpx.AsyncByteStream)
        async for piece in self._stream:
            await writer.write(piece)
        self.gone = True
        self._wait(self._limits["read"])

    def _wait(self, seconds: float | None) -> None:
        with contextlib.suppress(RuntimeError):  # the call has been given up
            self._deadline.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)


class _Answer(httpx.AsyncByteStream):
    """The body of an answer."""

    def __init__(self, answer: aiohttp.ClientResponse, limits: dict[str, float | None]) -> None:
        self._answer = answer
        self._limits = limits

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content, between = self._answer.content, self._limits["read"]
        problem: httpx.TransportError
        try:
            while True:
                piece = content.read_nowait()
                if not piece:
                    if content.at_eof():
                        return
                    async with asyncio.timeout(between):
                        piece = await content.readany()
                if piece:
                    yield piece
        except TimeoutError:
            problem = httpx.ReadTimeout("")
        except (aiohttp.ClientError, OSError) as error:
            said = str(error)
            # aiohttp tells of it as of a status 400, although nobody answered so.
            cut = isinstance(error, aiohttp.ClientPayloadError) and "Not enough data" in said
            problem = httpx.ReadError("the connection was closed in the middle of the body" if cut else said)
        raise problem

    async def aclose(self) -> None:
        # A connection whose body was read to its end is back in the pool already.
        self._answer.close()


def _translated(error: Exception, deadline: asyncio.Timeout, body: _Body) -> httpx.TransportError:
    said = str(error)
    match error:
        case aiohttp.ConnectionTimeoutError() | aiohttp.ServerTimeoutError():
            return httpx.ConnectTimeout(said)
        case aiohttp.ClientConnectorError():
            # It names its own setting for certificates, also where there are none.
            return httpx.ConnectError(said.replace(" ssl:default", ""))
        case aiohttp.ServerDisconnectedError():
            return httpx.RemoteProtocolError("Server disconnected without sending a response.")
        case TimeoutError() if deadline.expired():
            return httpx.ReadTimeout("") if body.gone else httpx.WriteTimeout("")
        case aiohttp.ClientResponseError():
            # Its text has the whole address.
            return httpx.RemoteProtocolError(error.message)
        case aiohttp.ClientPayloadError():
            return httpx.RemoteProtocolError(said)
        case _:
            return httpx.ReadError(said) if body.begun else httpx.ConnectError(said)
