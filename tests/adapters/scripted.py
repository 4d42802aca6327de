"""A loopback server that answers each request as a script says, byte by byte; a clock whose waits take no time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import pytest

from kitaru.adapters import Endpoint, Message, ModelCall, SecretStr, Sent, Transport, adapter
from kitaru.errors import ModelError

OPENAI = adapter("openai")
CALL = ModelCall("openai", "m", (Message("user", "hi"),))
CANARY = "key-of-the-test/7+41d0b9e6"
GOOD = b'{"model":"m","choices":[{"message":{"content":"hello"},"finish_reason":"stop"}]}'


class Seen(NamedTuple):
    line: str
    headers: dict[str, str]
    body: bytes
    names: tuple[str, ...] = ()


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Seen], Awaitable[None]]


class Scripted:
    """A server that answers each request with the next script, the last one for ever, and keeps what it saw."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self.scripts: list[Script] = []
        self.base_url = ""
        self.writers: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers[asyncio.current_task()] = writer
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *rest = head.decode().strip().split("\r\n")
                fields = [field.partition(": ") for field in rest]
                headers = {name.lower(): value for name, _, value in fields}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                seen = Seen(line, headers, body, tuple(name.lower() for name, _, _ in fields))
                self.seen.append(seen)
                script = self.scripts[min(len(self.seen), len(self.scripts)) - 1]
                await script(reader, writer, seen)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


def answer(body: bytes = GOOD, status: int = 200, **headers: str) -> Script:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: Seen) -> None:
        fields = {"content-length": str(len(body)), "content-type": "application/json"}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"HTTP/1.1 {status} Word\r\n{head}\r\n".encode() + body)

    return script


def stream(*pieces: bytes, content_type: str = "text/event-stream", **headers: str) -> Script:
    """Answer with a chunk for each piece, and the end of the body."""

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: Seen) -> None:
        writer.write(stream_head(content_type, **headers))
        for piece in pieces:
            writer.write(chunk(piece))
            await writer.drain()
        writer.write(chunk(b""))

    return script


def stream_head(content_type: str = "text/event-stream", **headers: str) -> bytes:
    fields = {"content-type": content_type, "transfer-encoding": "chunked"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 200 OK\r\n{head}\r\n".encode()


def chunk(piece: bytes) -> bytes:
    return f"{len(piece):x}\r\n".encode() + piece + b"\r\n"


def event(delta: dict[str, object], finish: str | None = None) -> bytes:
    """One event of a chat completion."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"model": "m", "choices": [choice]}).encode() + b"\n\n"


END = event({}, "stop") + b"data: [DONE]\n\n"
HELLO = (event({"role": "assistant", "content": "hel"}), event({"content": "lo"}), END)


async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: Seen) -> None:
    writer.close()


async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter, __: Seen) -> None:
    await reader.read()


async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: Seen) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nx-request-id: req-9\r\ncontent-length: 500\r\n\r\n{")
    await reader.read()


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[Scripted]:
    server = Scripted()
    server.scripts = list(scripts)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.base_url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        for _ in range(5):  # asyncio leaks a connection whose server closes between its arrival and its handler's start
            await asyncio.sleep(0)
        listening.close()
        for writer in server.writers.values():
            writer.close()
        await asyncio.gather(*(task for task in server.writers if task))


class Clock:
    """Waits that take no time, and are kept."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.at = 0.0

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.at += seconds

    def read(self) -> float:
        return self.at

    def transport(self) -> Transport:
        return Transport(clock=self.read, sleep=self.sleep, chance=lambda: 0.0)


def at(server: Scripted) -> Endpoint:
    return Endpoint(base_url=server.base_url, api_key=SecretStr(CANARY))


async def fails(sending: Awaitable[Sent]) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await sending
    return caught.value
