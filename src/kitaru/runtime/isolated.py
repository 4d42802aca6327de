"""Awaiting code in a context of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Generator
from contextvars import Context
from types import CoroutineType, TracebackType
from typing import Any


class Isolated(Generator[Any, None, Any]):
    """An awaitable that runs another one in `context`: what that sets there is not seen by whoever awaits."""

    __slots__ = ("_inner", "_run")

    def __init__(self, context: Context, inner: Awaitable[Any]) -> None:
        self._inner: Coroutine[Any, Any, Any] = inner if isinstance(inner, CoroutineType) else _awaited(inner)
        self._run = context.run

    def __await__(self) -> Generator[Any, None, Any]:
        return self

    def __next__(self) -> Any:
        return self._run(self._inner.send, None)

    def send(self, value: Any, /) -> Any:
        return self._run(self._inner.send, value)

    def throw(self, typ: Any, val: BaseException | object | None = None, tb: TracebackType | None = None, /) -> Any:
        if val is None and tb is None:
            return self._run(self._inner.throw, typ)
        return self._run(self._inner.throw, typ, val, tb)

    def close(self) -> None:
        self._run(self._inner.close)


async def _awaited(inner: Awaitable[Any]) -> Any:
    return await inner
