"""The functions that `@flow` and `@checkpoint` take, and how others recognise what these make of them."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any, Final

from kitaru.errors import UsageError

_BELOW: Final = (staticmethod, classmethod, property)


def as_function(function: Callable[..., Any], decorator: str, name: str | None) -> Callable[..., Any]:
    """Return what a decorator was given as a function or method: a partial or a callable object gets one round it.

    Args:
        function: What the decorator was given.
        decorator: Its name, for errors.
        name: The name given to it, if one was.

    Raises:
        UsageError: It is nothing that can be recorded: a class, a generator function, another decorator's result.
    """
    inner = innermost(function)
    _refuse(function, inner, decorator, named=name is not None)
    if isinstance(function, types.FunctionType | types.MethodType):
        return function

    async def call_async(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    def call_sync(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    call: Callable[..., Any] = call_async if inspect.iscoroutinefunction(inner) else call_sync
    if hasattr(function, "__name__"):
        functools.update_wrapper(call, function)
    else:
        found = name or str(getattr(inner, "__name__", ""))
        call.__name__ = call.__qualname__ = type(function).__name__ if found == "__call__" else found
        call.__module__ = _module_that_decorates()
    call.__doc__ = function.__doc__
    call.__annotations__ = dict(getattr(inner, "__annotations__", {}))
    call.__dict__.update(__wrapped__=function, __kitaru_function__=function)
    return call


def innermost(function: object) -> object:
    """Return the function that runs in the end: that of a partial, of a method, or of a callable object."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, types.MethodType):
        function = function.__func__
    if callable(function) and not isinstance(function, type) and not inspect.isroutine(function):
        function = type(function).__call__
    return function


def file_of(function: Callable[..., Any]) -> str:
    """Return the file of the user's own function, below what wraps it."""
    inner = innermost(inspect.unwrap(function))
    if not isinstance(inner, types.FunctionType):
        return ""
    return inspect.getsourcefile(inner) or inner.__code__.co_filename


def mark_async(durable: Any, function: Callable[..., Any], same: Callable[[], Callable[..., Any]]) -> None:
    """Have `iscoroutinefunction` be true of an async flow or checkpoint: frameworks await what it returns then.

    Args:
        durable: The flow or checkpoint.
        function: Its function.
        same: Makes another one like it. Without a reference to the first, no circle keeps that in memory.
    """

    async def call(*args: Any, **kwargs: Any) -> Any:
        return await same()(*args, **kwargs)

    # FastAPI asks this of the `__call__` of an object.
    durable.__call__ = call
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(durable)
    else:
        # Before, `inspect` takes what has these attributes for a function and looks at its code.
        inner: Any = innermost(function)
        durable.__code__, durable.__defaults__, durable.__kwdefaults__ = inner.__code__, None, None


def _refuse(function: object, inner: object, decorator: str, *, named: bool) -> None:
    name = str(getattr(function, "__qualname__", None) or getattr(inner, "__qualname__", ""))
    if isinstance(function, _BELOW):
        kind = type(function).__name__
        hint = f"Write @{decorator} below @{kind}, next to the function."
        if kind == "classmethod" and decorator == "flow":
            hint = "A run cannot record its class: write @staticmethod above @flow, and name the class in the body."
        raise UsageError(f"@{decorator} is above @{kind}", hint=hint)
    if isinstance(function, type):
        raise UsageError(f"@{decorator} on {name}, which is a class", hint="Decorate a function or one of its methods.")
    if hasattr(function, "__kitaru_function__") and not isinstance(function, types.FunctionType):
        raise UsageError(
            f"@{decorator} on {function!r}, which is durable already",
            hint=f"Keep one of the two decorators; or write a function that calls it, and put @{decorator} there.",
        )
    if not callable(function):
        raise UsageError(
            f"@{decorator} on a {type(function).__name__}, which is not a function",
            hint=f'Write @{decorator}, or @{decorator}(name="...") for options.',
        )
    if name.endswith("<lambda>") and not named:
        raise UsageError(f"@{decorator} on a lambda, which has no name", hint='Pass name="...", or write a function.')
    if inspect.isasyncgenfunction(inner) or (inspect.isgeneratorfunction(inner) and not _awaitable(inner)):
        raise UsageError(
            f"@{decorator} on {name}, which is a generator function: what it yields cannot be recorded",
            hint="Return a list. To record each part by itself, call a checkpoint for each.",
        )
    try:
        inspect.signature(function)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"@{decorator} on {name}, which has no signature: {error}", hint="Write a function that calls it."
        ) from None


def _awaitable(inner: object) -> bool:
    """Whether a generator function is one of `types.coroutine`."""
    return isinstance(inner, types.FunctionType) and bool(inner.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE)


def _module_that_decorates() -> str:
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith("kitaru."):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))
