"""A loopback server that keeps what it is sent and answers what it is told: to compare two clients' requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Request(NamedTuple):
    """What arrived. Header names are lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Recorder:
    """What a recording server got, and what it answers."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[Request] = []
        self.status = 200
        self.content_type = "application/json"
        self.body = b"{}"

    @property
    def only(self) -> Request:
        assert len(self.requests) == 1, [request.path for request in self.requests]
        return self.requests[0]


@contextmanager
def recorder(body: object = None, *, status: int = 200, content_type: str = "application/json") -> Iterator[Recorder]:
    """Serve on loopback; `body` is bytes, or what becomes JSON."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            content = self.rfile.read(length)
            headers = {name.lower(): value for name, value in self.headers.items()}
            found.requests.append(Request(self.path, headers, content))
            self.send_response(found.status)
            self.send_header("content-type", found.content_type)
            self.send_header("content-length", str(len(found.body)))
            self.end_headers()
            self.wfile.write(found.body)

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - the name is the base class's

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Recorder(f"http://127.0.0.1:{server.server_address[1]}")
        found.status, found.content_type = status, content_type
        found.body = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
