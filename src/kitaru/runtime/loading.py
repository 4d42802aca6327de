"""While a script or module is loaded, nothing in it may start a run: it would start one more at every resume."""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Final

from kitaru.errors import UnguardedError
from kitaru.runtime.log import log

GUARD: Final = 'Guard it: `if __name__ == "__main__":`.'

_file: ContextVar[str] = ContextVar("kitaru_loading", default="")
_LOOP_RUNS: Final = re.compile(r"running event loop|loop is (?:already )?running|Already running")
"""What asyncio, anyio and uvloop say where a loop runs already, as it does while a command loads a flow."""


@contextlib.contextmanager
def loading(file: str) -> Iterator[None]:
    """Refuse to start runs inside."""
    token = _file.set(file)
    try:
        yield
    finally:
        _file.reset(token)


def refuse_while_loading(what: str = "starts a run") -> None:
    """Refuse to start a run where a script or module is being loaded.

    Raises:
        UnguardedError: One is.
    """
    if file := _file.get():
        raise UnguardedError(f"{file} {what} while it is being loaded", hint=GUARD)


def is_unguarded(error: Exception) -> bool:
    """Whether what a module raised while it was loaded comes from a line that only a script is to run."""
    return isinstance(error, UnguardedError) or (
        isinstance(error, RuntimeError) and _LOOP_RUNS.search(str(error)) is not None
    )


def execute_rest(module: ModuleType, path: Path, error: Exception) -> None:
    """Go on loading a script behind the statement that raised, if that starts a run: it is left out, with a warning.

    Args:
        module: The script, executed up to that statement.
        path: Its file.
        error: What the statement raised.

    Raises:
        Exception: `error`, where it says something else; what a later statement raises.
    """
    statements = ast.parse(path.read_bytes(), str(path)).body
    future = [s for s in statements if isinstance(s, ast.ImportFrom) and s.module == "__future__"]
    unknown: set[str] = set()
    while True:
        line = _line_of(module, error.__traceback__)
        at = next((n for n, s in enumerate(statements) if s.lineno <= line <= (s.end_lineno or s.lineno)), None)
        of_what_was_left_out = isinstance(error, NameError) and error.name in unknown
        if at is None or not (is_unguarded(error) or of_what_was_left_out):
            raise error
        _close_coroutines(error.__traceback__)
        log().warning("load.unguarded", file=str(path), line=line, hint=GUARD)
        unknown |= _bound_by(statements[at])
        statements = statements[at + 1 :]
        try:
            exec(compile(ast.Module([*future, *statements], []), str(path), "exec"), vars(module))  # noqa: S102  the file that the user named
        except Exception as another:
            error = another
        else:
            return


def _line_of(module: ModuleType, trace: TracebackType | None) -> int:
    """The line of a module's own code, outside any function, that an exception passed through; 0 where none is."""
    line, inner = 0, ""
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code.co_name == "<module>":
            inner = frame.f_globals.get("__name__", "")
            line = trace.tb_lineno
        trace = trace.tb_next
    return line if inner == module.__name__ else 0


def _bound_by(statement: ast.stmt) -> set[str]:
    stored = (n for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    return {name.id for name in stored}


def _close_coroutines(trace: TracebackType | None) -> None:
    """Nobody awaits the coroutine that was given to the function that refused it."""
    while trace is not None:
        for value in list(trace.tb_frame.f_locals.values()) if trace.tb_frame.f_code.co_name != "<module>" else []:
            if inspect.iscoroutine(value) and inspect.getcoroutinestate(value) == inspect.CORO_CREATED:
                value.close()
        trace = trace.tb_next
