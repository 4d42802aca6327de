"""Servers that others wrote, as processes on free loopback ports."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx


class NotInstalledError(Exception):
    """A server is not there; the message says how to get it."""


def tool(variable: str, how: str) -> str:
    """The command that an environment variable names.

    Raises:
        NotInstalledError: It names none.
    """
    named = os.environ.get(variable, "").strip()
    if not named or not Path(named).is_file():
        raise NotInstalledError(f"{variable} names no program: {how}")
    return named


def free_port() -> int:
    """A port of this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """One process, until the end of the block or `stop`.

    Args:
        command: What to start; `{port}` stands for the port.
        ready: The path that answers 200 once it is up.
        log: Where its output goes.
        environ: Its environment beside this process's.
        patience: Seconds that it may take to start.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        ready: str,
        log: Path,
        environ: Mapping[str, str] | None = None,
        patience: float = 120.0,
    ) -> None:
        self.port = free_port()
        self._command = [part.replace("{port}", str(self.port)) for part in command]
        self._ready = ready
        self._log = log
        self._environ = dict(environ or {})
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - nothing else goes on
                self._command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environ},
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(self._patience), httpx.AsyncClient(trust_env=False) as client:
                while not await self._up(client):  # noqa: ASYNC110 - it happens in another process
                    await asyncio.sleep(0.1)
        except BaseException:
            self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process, and whatever it started."""
        process, self._process = self._process, None
        if process is None:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, sign)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    continue

    def said(self) -> str:
        """The end of its output."""
        return self._log.read_text(errors="replace")[-2000:]

    async def _up(self, client: httpx.AsyncClient) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"{self._command[0]} ended: {self.said()}")
        try:
            return (await client.get(self.url + self._ready)).status_code == 200
        except httpx.TransportError:
            return False
