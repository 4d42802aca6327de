"""Shared by the tests of model calls: one call in a flow, what came of it, and what the server was sent."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import Any

from kitaru import ModelError, Runtime
from kitaru.adapters.standin import StandInServer
from kitaru.store.events import LlmCompleted, LlmRecord
from tests.runtime.runs import of_type, run_of

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
"""The smallest picture."""


async def asked(runtime: Runtime, call: Callable[[], Awaitable[object]]) -> object:
    """What a call in a flow gives. It is the only one of the run `r`."""
    seen: list[object] = []

    async def body() -> None:
        seen.append(await call())

    await run_of(runtime, body)
    return seen[0]


async def failed(runtime: Runtime, call: Callable[[], Awaitable[object]]) -> ModelError:
    """The error of a call in a flow."""
    seen: list[ModelError] = []

    async def body() -> None:
        try:
            await call()
        except ModelError as error:
            seen.append(error)

    await run_of(runtime, body)
    return seen[0]


async def record(runtime: Runtime) -> LlmRecord:
    """What the log holds of the call."""
    (done,) = await of_type(runtime, "r", LlmCompleted)
    return done.llm


def body(server: StandInServer, at: int = -1) -> dict[str, Any]:
    """What the server was sent."""
    found = server.requests[at].body
    assert isinstance(found, dict)
    return found
