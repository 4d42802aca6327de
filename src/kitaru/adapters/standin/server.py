"""Running the stand-in: as an ASGI application, in a thread of a test, or as a process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, Self

import msgspec

from kitaru.adapters.standin.endpoint import Endpoint, cut
from kitaru.adapters.standin.gate import Gate
from kitaru.adapters.standin.ledger import Counts, Ledger, Seen
from kitaru.adapters.standin.options import Options
from kitaru.adapters.standin.routing import BASES
from kitaru.errors import UsageError

if TYPE_CHECKING:
    from types import TracebackType

    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

_THREAD: Final = "kitaru-stand-in"


def app(options: Options | None = None, *, ledger: Ledger | None = None, gate: Gate | None = None) -> Starlette:
    """Return the stand-in server as an ASGI application.

    It answers wherever one of the APIs would: `POST /v1/chat/completions`, `/v1/responses`, `/v1/messages`,
    `/v1beta/models/MODEL:generateContent`, `/v2/chat`, `/api/chat` and more; below `/at/PROVIDER` on the paths of that
    provider only. `GET /_kitaru/requests` gives the counts, `DELETE` forgets them.

    Args:
        options: How to answer.
        ledger: Where requests are counted; its own by default, with the journal that the options name.
        gate: Where requests wait; its own by default, closed where the options say so.

    Raises:
        UsageError: The extra `serve` is not installed, or the journal cannot be opened.
    """
    try:
        from starlette.applications import Starlette
        from starlette.responses import Response
        from starlette.routing import Mount, Route
    except ImportError:
        _missing()
    settings = options or Options()
    book = ledger or Ledger(settings.journal)

    async def requests(request: Request) -> Response:
        if request.method == "DELETE":
            book.reset()
            return Response(status_code=204)
        return Response(msgspec.json.encode(book.counts()), media_type="application/json")

    return Starlette(
        routes=[
            Route("/_kitaru/requests", requests, methods=["GET", "DELETE"]),
            Mount("/", Endpoint(settings, book, gate or Gate(closed=settings.hold))),
        ]
    )


def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    options: Options | None = None,
    *,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Run the stand-in in this process until it is interrupted or terminated.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        options: How to answer.
        ready: Told the base URL once connections are taken.

    Raises:
        UsageError: The address cannot be listened on, or the extra `serve` is not installed.
    """
    ledger = Ledger((options or Options()).journal)
    try:
        asgi = app(options, ledger=ledger)
        with _listen(host, port) as listener:
            server = _server(asgi, lambda: ready(_base_url(listener)) if ready else None, grace=2)
            # uvicorn shuts down in order and then raises the signal again.
            with contextlib.suppress(KeyboardInterrupt):
                server.run(sockets=[listener])
    finally:
        ledger.close()


class StandInServer:
    """A stand-in server in a thread of this process, on a free loopback port.

    `with StandInServer() as server:` and `async with` both work; the port is bound on entry.

    Args:
        options: How to answer.
    """

    def __init__(self, options: Options | None = None) -> None:
        self._options = options or Options()
        self._gate = Gate(closed=self._options.hold)
        self._ledger: Ledger | None = None
        self._listener: socket.socket | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The server's address, without a path."""
        return self.base_url.removesuffix("/v1")

    @property
    def base_url(self) -> str:
        """What a client of OpenAI's takes as base URL, `/v1` included."""
        if self._listener is None:
            raise UsageError(
                "the mock model server is not running", hint="Enter it: `with StandInServer() as server:`."
            )
        return _base_url(self._listener)

    @property
    def counts(self) -> Counts:
        """What it was asked so far; exact, also while requests are under way, and after the server stopped."""
        return self._ledger.counts() if self._ledger else Counts()

    @property
    def requests(self) -> tuple[Seen, ...]:
        """The requests themselves, since the last reset; those that no API could read, too."""
        return self._ledger.seen() if self._ledger else ()

    def address(self, provider: str) -> str:
        """Return the base URL of one provider's API, as its own client takes it; only its own paths are served there.

        Args:
            provider: Its name. One that is not known speaks OpenAI's API.
        """
        return f"{self.url}/at/{provider}{BASES.get(provider, '/v1')}"

    def wait_for(self, count: int, timeout: float = 10) -> None:
        """Wait, in a thread that may block, until so many requests have arrived since the last reset.

        Args:
            count: How many.
            timeout: The longest wait, in seconds.

        Raises:
            TimeoutError: They have not.
        """
        if self._ledger is None or not self._ledger.wait_for(count, timeout):
            raise TimeoutError(f"{self.counts.total} of {count} requests arrived within {timeout:g} s")

    @contextlib.contextmanager
    def hold(self, match: str = "") -> Iterator[None]:
        """Let requests wait, unanswered, until the end of the block.

        Args:
            match: A regular expression; only those wait in whose last message it is found.
        """
        self._gate.close(match)
        try:
            yield
        finally:
            self._gate.open()

    def release(self) -> None:
        """Answer all requests that wait, and let no more wait."""
        self._gate.open()

    def reset(self) -> None:
        """Forget what it was asked."""
        if self._ledger:
            self._ledger.reset()

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise UsageError("this mock model server is running already")
        self._ledger = Ledger(self._options.journal, keep=True)
        up = threading.Event()
        self._server = _server(app(self._options, ledger=self._ledger, gate=self._gate), up.set, grace=0)
        self._listener = _listen("127.0.0.1", 0)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, name=_THREAD, daemon=True
        )
        self._thread.start()
        up.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        assert self._thread is not None
        assert self._listener is not None
        assert self._ledger is not None
        self._server.end()
        self._thread.join()
        self._listener.close()
        self._ledger.close()
        self._thread = self._listener = None

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)


class _Expected(logging.Filter):
    """Drops the server's complaints about answers that are cut on purpose, or because a test is over."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (cut.get() or record.threadName == _THREAD)


_EXPECTED: Final = _Expected()


class _Server(Protocol):
    """Of uvicorn's server, what is used here, and a way to end it without its next look at the clock."""

    def run(self, sockets: list[socket.socket] | None = None) -> None: ...
    def end(self) -> None: ...


def _server(asgi: ASGIApp, started: Callable[[], None], *, grace: int) -> _Server:
    try:
        import uvicorn
    except ImportError:
        _missing()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            self.loop = asyncio.get_running_loop()
            self.over = asyncio.Event()
            try:
                await super().startup(sockets)
            finally:
                started()

        async def main_loop(self) -> None:
            tick = 0
            while not await self.on_tick(tick):
                tick += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.over.wait(), 0.1)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            if grace:
                await super().shutdown(sockets)
            else:
                await self.cut_off()
            await asyncio.gather(*self.server_state.tasks, return_exceptions=True)
            # A closed connection is let go of one pass of the loop later; a loop that ends before leaks its socket.
            await _pass()

        async def cut_off(self) -> None:
            # What uvicorn does where no time is granted, without its pauses of a tenth of a second.
            for server in self.servers:
                server.close()
            await _pass()  # a connection that was taken already is made known
            for connection in list(self.server_state.connections):
                connection.shutdown()
            await _pass()
            for task in self.server_state.tasks:
                task.cancel()

        def end(self) -> None:
            """Stop soon; to be called in any thread."""
            self.should_exit = True
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self.loop.call_soon_threadsafe(self.over.set)

    logging.getLogger("uvicorn.error").addFilter(_EXPECTED)
    config = uvicorn.Config(
        asgi,
        loop="asyncio",
        http="h11",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=grace,
    )
    return Server(config)


async def _pass() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # With the protocol named, asyncio turns Nagle's delay off; without it every answer takes 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise UsageError(f"{host!r} is not an address to listen on: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        raise UsageError(
            f"port {port} of {host} cannot be listened on: {error}", hint="Choose another --port, or 0 for a free one."
        ) from None
    return listener


def _base_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def _missing() -> NoReturn:
    raise UsageError(
        "the mock model server needs packages that are not installed",
        hint="Install them: pip install starlette uvicorn.",
    )
