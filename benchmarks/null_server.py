"""A chat server that costs next to nothing: fixed bytes over a raw asyncio protocol, in a process of its own.

`python -m benchmarks.null_server [varied]` prints its port. `varied` gives each answer a text of its own, of 500
characters. Only the standard library, so that any Python runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import string
import sys


def _answer(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "null", "choices": [choice]}
    data = json.dumps({**body, "usage": usage}).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: null-1\r\ncontent-length: %d\r\n\r\n"
    return head % len(data) + data


def text(seed: str) -> str:
    """500 characters that no other seed gives, and that compress no better than prose."""
    chance = random.Random(seed)
    words = ["".join(chance.choices(string.ascii_lowercase, k=chance.randint(2, 9))) for _ in range(110)]
    return " ".join(words)[:500]


class Null(asyncio.Protocol):
    """One connection."""

    fixed = _answer("The tide is high.")
    varied = False
    count = 0

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n")[0]) if at >= 0 else 0
            if len(self._data) < end + 4 + length:
                return
            self._data = self._data[end + 4 + length :]
            assert self._transport is not None
            self._transport.write(self._next())

    @classmethod
    def _next(cls) -> bytes:
        if not cls.varied:
            return cls.fixed
        cls.count += 1
        return _answer(text(f"answer {cls.count}"))


async def main() -> None:
    Null.varied = "varied" in sys.argv
    if hasattr(os, "sched_setaffinity"):
        # The client has the first processor; whoever started this may keep to it.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})
    server = await asyncio.get_running_loop().create_server(Null, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
