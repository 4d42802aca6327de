"""Durable calls on threads that are not the flow's own: refused, because no resume could repeat their order."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from kitaru.errors import UsageError

if TYPE_CHECKING:
    from kitaru.runtime.execution import Execution

live_runs: Final[WeakSet[Execution]] = WeakSet()
"""The runs in this process's memory, of all runtimes."""


def foreign_thread(execution: Execution) -> UsageError:
    """The error for a durable call of a flow's own code on a thread that carries the flow's context."""
    return UsageError(
        f"run {execution.run} of {execution.flow.name}: a durable call at {_line()} runs in "
        f"{threading.current_thread().name}, which is not the flow's own thread",
        hint="For parallel steps, use .submit() or .map() in a sync flow, asyncio.gather or kitaru.map in an async "
        "one. Code that needs threads of its own belongs in a checkpoint.",
    )


def refuse_stray(name: str) -> None:
    """Refuse a call that no run would record where it may be a live flow's: on a thread without the flow's context.

    Raises:
        UsageError: Runs are live, and this thread is neither the main one nor one whose event loop has runs.
    """
    if not live_runs or threading.current_thread() is threading.main_thread() or _on_a_loop_with_runs():
        return
    outside = "" if name.startswith("kitaru.") else f" Outside any flow, call {name}.__wrapped__(...)."
    raise UsageError(
        f"{name} at {_line()} runs in {threading.current_thread().name}, a thread that belongs to no run, while runs "
        "are live: the call would not be recorded, and a resume would repeat it",
        hint="In a flow, use .submit() or .map() (sync), asyncio.gather or kitaru.map (async). In a checkpoint, start "
        f"the thread's work with contextvars.copy_context().run(...).{outside}",
    )


def _on_a_loop_with_runs() -> bool:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return False
    return bool(getattr(loop.get_task_factory(), "kitaru", False))


def _line() -> str:
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("kitaru."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
