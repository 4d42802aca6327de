"""Whether code raised an exception itself or met it from outside, and what a task may end with."""

from __future__ import annotations

import asyncio
import functools
import opcode
import signal
import threading
from collections.abc import Coroutine
from types import CodeType, TracebackType
from typing import Any, Final, NoReturn

from kitaru.errors import Suspended
from kitaru.store import codec

UNFIT: Final = (SystemExit, KeyboardInterrupt, GeneratorExit, Suspended)
"""Exceptions that neither a task nor a future can hold without harm to others."""
_RAISE: Final = opcode.opmap["RAISE_VARARGS"]


def raised_inside(error: BaseException) -> bool:
    """Whether the code that is awaited in the calling frame raised `error` itself. A signal's handler, and a coroutine
    that is being closed, raise theirs from outside."""
    trace = error.__traceback__
    if isinstance(error, GeneratorExit):
        # `close()` raises one in each frame, after it has closed what that frame awaits.
        return trace is not None and trace.tb_next is not None
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or not isinstance(error, SystemExit | KeyboardInterrupt):
        return True
    handlers = {code for number in signal.valid_signals() if (code := _code_of(signal.getsignal(number))) is not None}
    last = None
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return False
        last, trace = trace, trace.tb_next
    # Python's own handler of Ctrl-C has no frame: its exception appears in the middle of any instruction.
    return not isinstance(error, KeyboardInterrupt) or (
        last is not None and last.tb_frame.f_code.co_code[last.tb_lasti] == _RAISE
    )


def _code_of(handler: object) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    code: object = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None


def for_task(error: BaseException) -> BaseException:
    """What a task may end with in place of `error`, where code of the run raised that itself: asyncio ends its loop
    where a task ends with SystemExit or KeyboardInterrupt, and closes the coroutine that gets a GeneratorExit. Where an
    application ends without closing its runtime, it prints every task that has ended with another exception."""
    if isinstance(error, Suspended):
        return asyncio.CancelledError("the run leaves memory")
    return codec.as_exception(error) if raised_inside(error) else error


def raise_unchanged(error: BaseException) -> NoReturn:
    """Raise `error` with the context that it has; a plain `raise` sets it to what the code around is handling."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
        del error, context


class Contained(Coroutine[Any, Any, Any]):
    """A coroutine that runs as a task of a run: see `for_task`."""

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner

    def send(self, value: Any, /) -> Any:
        try:
            return self._inner.send(value)
        except UNFIT as error:
            raise_unchanged(for_task(error))

    def throw(self, typ: Any, val: BaseException | object | None = None, tb: TracebackType | None = None, /) -> Any:
        try:
            return self._inner.throw(typ) if val is None and tb is None else self._inner.throw(typ, val, tb)
        except UNFIT as error:
            raise_unchanged(for_task(error))

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Any:
        return self._inner.__await__()

    def __getattr__(self, name: str) -> Any:
        # What debuggers, anyio and asyncio itself ask of a coroutine: cr_frame, cr_await, __qualname__.
        return getattr(self._inner, name)
