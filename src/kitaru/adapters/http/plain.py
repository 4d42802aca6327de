"""HTTP/1.1 with what every installation has: h11, the parser below httpx, on connections of our own.

httpcore, which lies between the two, gives way to the event loop at each of its locks, and its pool walks all its
connections at every step: at 64 calls at once it takes most of the time there is.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, TypeAlias

import h11
import httpx

from kitaru.adapters.http.wire import Wire

MOST_IDLE: Final = 64
"""How many unused connections to one host are kept."""

KEEP_SECONDS: Final = 15.0
"""How long an unused connection is kept: shorter than most servers do, so that none is used while it is closed."""

# As httpcore's: the most bytes of a response's head.
_LONGEST_HEAD: Final = 100 * 1024

_Place: TypeAlias = tuple[str, str, int]
_Limits: TypeAlias = Mapping[str, float | None]


class PlainHTTP(httpx.AsyncBaseTransport):
    """Sends requests.

    Args:
        tls: How to check an https address; None where only http is called.
    """

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        if tls is not None:
            tls.set_alpn_protocols(["http/1.1"])
        self._idle: dict[_Place, list[_Connection]] = {}
        self._open: set[_Connection] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its answer, the body still to be read.

        Raises:
            httpx.TransportError: No answer arrived.
        """
        limits: _Limits = request.extensions["timeout"]
        url = request.url
        place = (url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80))
        connection = self._free(place) or await self._connect(place, limits["connect"])
        try:
            head = await connection.ask(request, limits)
        except BaseException:
            self._close(connection)
            raise
        return httpx.Response(
            head.status_code, headers=head.headers.raw_items(), stream=_Body(self, place, connection, limits)
        )

    async def aclose(self) -> None:
        """Close every connection, those in use too."""
        self._idle.clear()
        for connection in list(self._open):
            self._close(connection)
        # The event loop's own part of it.
        await asyncio.sleep(0)

    def keep(self, place: _Place, connection: _Connection) -> None:
        """Take back a connection whose exchange has ended, well or not."""
        idle = self._idle.setdefault(place, [])
        if connection in self._open and connection.renewed() and len(idle) < MOST_IDLE:
            idle.append(connection)
        else:
            self._close(connection)

    def _free(self, place: _Place) -> _Connection | None:
        idle = self._idle.get(place)
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
            self._close(connection)
        return None

    async def _connect(self, place: _Place, timeout: float | None) -> _Connection:
        scheme, host, port = place
        loop = asyncio.get_running_loop()
        # uvloop does not know the option: it tries one address after the other.
        eyeballs: dict[str, Any] = {"happy_eyeballs_delay": 0.25} if isinstance(loop, asyncio.BaseEventLoop) else {}
        problem: httpx.TransportError
        try:
            async with asyncio.timeout(timeout):
                _, wire = await loop.create_connection(
                    Wire, host, port, ssl=self._tls if scheme == "https" else None, **eyeballs
                )
        except TimeoutError:
            problem = httpx.ConnectTimeout("")
        except (OSError, UnicodeError) as error:  # the second: a host that is no name
            problem = httpx.ConnectError(str(error))
        else:
            connection = _Connection(wire)
            self._open.add(connection)
            return connection
        raise problem

    def _close(self, connection: _Connection) -> None:
        self._open.discard(connection)
        connection.wire.close()


class _Connection:
    """One connection and what was said over it."""

    __slots__ = ("_since", "_state", "wire")

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LONGEST_HEAD)
        self._since = 0.0

    @property
    def usable(self) -> bool:
        """Whether an unused connection is fit for another request."""
        return not self.wire.stirred and time.monotonic() - self._since < KEEP_SECONDS

    def renewed(self) -> bool:
        """Whether the exchange is over in good order, and another may follow."""
        if self._state.our_state is not h11.DONE or self._state.their_state is not h11.DONE or self.wire.stirred:
            return False
        self._state.start_next_cycle()
        self._since = time.monotonic()
        return True

    async def ask(self, request: httpx.Request, limits: _Limits) -> h11.Response:
        """Send a request and return the head of its answer.

        Raises:
            httpx.TransportError: No answer arrived.
        """
        assert isinstance(request.stream, httpx.AsyncByteStream)
        problem: httpx.TransportError
        try:
            said = [self._said(h11.Request(method=request.method, target=request.url.raw_path,
                                           headers=request.headers.raw))]  # fmt: skip
            said += [self._said(h11.Data(data=piece)) async for piece in request.stream]
            said.append(self._said(h11.EndOfMessage()))
            await self.wire.write(b"".join(said), limits["write"])
        except h11.LocalProtocolError:
            # Its message quotes the header.
            problem = httpx.LocalProtocolError("the request cannot be sent")
        except TimeoutError:
            problem = httpx.WriteTimeout("")
        except OSError:
            # A server may refuse a request before it has read it, and say why.
            return await self._head(limits["read"])
        else:
            return await self._head(limits["read"])
        raise problem

    def _said(self, event: h11.Event) -> bytes:
        return self._state.send(event) or b""

    async def _head(self, timeout: float | None) -> h11.Response:
        while True:
            event = await self._event(timeout)
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse) or event.status_code == 101:
                raise httpx.RemoteProtocolError("the server speaks another protocol")

    async def piece(self, timeout: float | None) -> bytes:
        """Return the next piece of the body; nothing at its end.

        Raises:
            httpx.TransportError: The rest does not arrive.
        """
        while self._state.their_state is h11.SEND_BODY:
            event = await self._event(timeout)
            if isinstance(event, h11.Data) and event.data:
                return bytes(event.data)
        return b""

    async def _event(self, timeout: float | None) -> object:
        problem: httpx.TransportError
        try:
            while (event := self._state.next_event()) is h11.NEED_DATA:
                data = await self.wire.read(timeout)
                if not data and self._state.their_state is h11.SEND_RESPONSE:
                    raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
                self._state.receive_data(data)
            return event
        except h11.RemoteProtocolError as error:
            problem = httpx.RemoteProtocolError(str(error))
        except TimeoutError:
            problem = httpx.ReadTimeout("")
        except OSError as error:
            problem = httpx.ReadError(str(error))
        raise problem


class _Body(httpx.AsyncByteStream):
    """The body of an answer; its connection goes back when it is closed."""

    def __init__(self, http: PlainHTTP, place: _Place, connection: _Connection, limits: _Limits) -> None:
        self._http = http
        self._place = place
        self._connection: _Connection | None = connection
        self._limits = limits

    async def __aiter__(self) -> AsyncIterator[bytes]:
        connection, between = self._connection, self._limits["read"]
        while connection is not None and (piece := await connection.piece(between)):
            yield piece

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._http.keep(self._place, connection)
