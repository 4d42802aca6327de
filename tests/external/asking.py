"""Calls as users make them, in a flow; and what the log holds of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

import kitaru
from kitaru import Reply, Runtime, flow
from kitaru.adapters import Delta, Endpoint, Message, ModelCall, Retry, SecretStr, Sent, Settings, Tool, Transport
from kitaru.adapters import adapter as adapter_of
from kitaru.adapters.providers import split_model
from kitaru.errors import ModelError
from kitaru.store.events import Attempt, LlmAttempted, LlmCompleted, LlmRecord
from tests.runtime.runs import of_type

T = TypeVar("T")


@dataclasses.dataclass
class City:
    """What a typed answer holds."""

    name: str
    days: int


class Got(NamedTuple):
    """What a flow got from its call, and what the log holds of it."""

    value: Any
    record: LlmRecord


class Failed(NamedTuple):
    """What a flow's call failed with, and the attempts in the log."""

    error: ModelError
    attempts: list[Attempt]


class Flows:
    """Runs of one call each."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._names = itertools.count()

    async def run(self, call: Callable[[], Awaitable[T]]) -> tuple[T, str]:
        """The result of a flow that makes these calls, and the run's id."""

        @flow
        async def asks() -> T:
            return await call()

        run = f"run-{next(self._names)}"
        handle = await self._runtime.start(asks.options(run_id=run))
        return await handle.result(), run

    async def text(self, prompt: Any, **options: Any) -> Got:
        """`kitaru.llm` in a flow."""

        async def call() -> Any:
            return await kitaru.llm(prompt, **options)

        value, run = await self.run(call)
        return Got(value, (await of_type(self._runtime, run, LlmCompleted))[-1].llm)

    async def reply(self, prompt: Any, **options: Any) -> Got:
        """`kitaru.llm.reply` in a flow."""

        async def call() -> Reply:
            return await kitaru.llm.reply(prompt, **options)

        value, run = await self.run(call)
        return Got(value, (await of_type(self._runtime, run, LlmCompleted))[-1].llm)

    async def failure(self, prompt: Any, **options: Any) -> Failed:
        """The error of `kitaru.llm` in a flow."""
        caught: list[ModelError] = []

        async def call() -> object:
            try:
                return await kitaru.llm(prompt, **options)
            except ModelError as error:
                caught.append(error)
                return ""

        value, run = await self.run(call)
        if not caught:
            raise AssertionError(f"no error, but {value!r}")
        return Failed(caught[0], [one.tried for one in await of_type(self._runtime, run, LlmAttempted)])


class Streamed(NamedTuple):
    """An answer that streamed, and its pieces."""

    sent: Sent
    deltas: list[Delta]

    def joined(self, kind: str) -> str:
        """The pieces of one kind, put together."""
        return "".join(one.text for one in self.deltas if one.kind == kind)


async def streamed(
    transport: Transport,
    model: str,
    prompt: str,
    base_url: str,
    key: str | None,
    *,
    tools: tuple[Tool, ...] = (),
    attempts: int = 1,
    headers: dict[str, str] | None = None,
    settings: Settings | None = None,
) -> Streamed:
    """A call that is asked for as a stream."""
    provider, name = split_model(model)
    call = ModelCall(provider, name, (Message("user", prompt),), settings or Settings(), tools=tools)
    endpoint = Endpoint(base_url=base_url, api_key=SecretStr(key) if key else None, headers=headers or {})
    deltas: list[Delta] = []
    sent = await transport.send(
        call,
        endpoint,
        adapter_of(provider),
        retry=Retry(attempts=attempts),
        on_delta=deltas.append,
        on_restart=deltas.clear,
    )
    return Streamed(sent, deltas)
