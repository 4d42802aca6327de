"""A loopback server that answers each path as it is told to."""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self


class Canned(NamedTuple):
    """One answer; a body in pieces is sent piece by piece, and cut off where `whole` is False."""

    status: int = 200
    body: bytes | tuple[bytes, ...] = b""
    content_type: str = "application/json"
    whole: bool = True


class CannedServer:
    """Answers by path, and keeps what it was asked.

    Args:
        answers: By path; others get a 404 as FastAPI sends it.
        tls: Speak TLS.
    """

    def __init__(self, answers: dict[str, Canned], tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[tuple[str, str, bytes, dict[str, str]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.asked.append((self.command, self.path, body, headers))
                missing = Canned(404, b'{"detail":"Not Found"}')
                answer = answers.get(self.path.partition("?")[0], missing)
                pieces = answer.body if isinstance(answer.body, tuple) else (answer.body,)
                self.send_response(answer.status)
                self.send_header("content-type", answer.content_type)
                size = sum(map(len, pieces)) + (0 if answer.whole else 10)
                self.send_header("content-length", str(size))
                self.end_headers()
                for piece in pieces:
                    self.wfile.write(piece)
                    self.wfile.flush()
                self.close_connection = True

            do_GET = do_POST  # noqa: N815 - the base class's names

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
