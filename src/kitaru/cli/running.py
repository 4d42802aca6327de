"""Waiting for a run in this process, and what is said of its end."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from kitaru.cli import render
from kitaru.cli.failures import CREDENTIALS, FAILED, INTERRUPTED, OK, LoadError, RunFailedError
from kitaru.cli.output import Output
from kitaru.cli.progress import Progress
from kitaru.cli.session import Interrupts, with_runtime
from kitaru.cli.wording import duration
from kitaru.errors import CredentialError, KitaruError, RunParkedError

if TYPE_CHECKING:
    from kitaru.runtime.core import Core
    from kitaru.runtime.handle import RunHandle
    from kitaru.runtime.views.inspect import RunView

_SOON: Final = 0.5
"""Seconds after which somebody who pressed Ctrl-C is told what is waited for."""


@contextlib.contextmanager
def users_code(out: Output) -> Iterator[None]:
    """While the user's code runs, what it prints goes to stderr: stdout is for the result."""
    with contextlib.redirect_stdout(out.err):
        yield


@contextlib.contextmanager
def loads(what: str) -> Iterator[None]:
    """While a flow is loaded from the user's file or module.

    Raises:
        LoadError: The file raised; names its line.
    """
    from kitaru.runtime.loading import GUARD, is_unguarded
    from kitaru.runtime.views.shown import is_own

    try:
        yield
    except KitaruError:
        raise
    except SystemExit as error:
        raise LoadError(
            f"{what} ends the process while it is loaded: sys.exit({error.code!r})",
            hint='Guard what only a script does: `if __name__ == "__main__":`.',
        ) from error
    except SyntaxError as error:
        raise LoadError(f"{what} cannot be loaded: {error.msg}\n  at {error.filename}:{error.lineno}") from error
    except Exception as error:
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if is_own(frame.filename)]
        line = f"\n  at {render.short_path(own[-1].filename)}:{own[-1].lineno}  {own[-1].line}" if own else ""
        raise LoadError(
            f"{what} cannot be loaded: {type(error).__name__}: {error}{line}",
            hint=GUARD if is_unguarded(error) else None,
        ) from error


def run_to_end(
    out: Output,
    store: str | None,
    begin: Callable[[Core], Awaitable[RunHandle[Any] | None]],
    *,
    finish: Callable[[Core, RunHandle[Any]], Awaitable[int]] | None = None,
    after: Callable[[], int] = lambda: 0,
    tell: bool = True,
    new: bool = False,
) -> int:
    """Begin a run, wait for its end, and say what became of it.

    Args:
        begin: Starts or resumes it, and says so; None where there is nothing to wait for.
        finish: Says what it gave; prints the flow's result by default.
        after: The last event that progress does not tell of.
        tell: Whether progress tells of anything.
        new: Make a store that does not exist.

    Returns:
        The exit code.

    Raises:
        KitaruError: The run failed, or could not go on.
    """
    interrupts = Interrupts()

    async def work(runtime: Core) -> int:
        handle = await begin(runtime)
        if handle is None:
            return OK
        interrupts.last_words = f"\nEnded at once. Resume it: kitaru resume {handle.id}\n"
        asked = interrupts.arm()
        try:
            ended = await _wait(out, Progress(out, runtime, handle.id, after(), off=not tell), handle, asked)
        except Exception as error:
            raise await _failed(runtime, handle.id, error) from error
        if not ended:
            return _left(out, handle)
        return await (finish or _print_result(out))(runtime, handle)

    with users_code(out), interrupts.installed():
        return with_runtime(store, work, new=new)


async def _wait(out: Output, progress: Progress, handle: RunHandle[Any], asked: asyncio.Event) -> bool:
    """Whether the run came to its end; False when it was parked first."""
    from kitaru.runtime.views.inspect import park, runs_here

    telling = asyncio.create_task(progress.keep())
    waiting = asyncio.create_task(handle.result())
    stopping = asyncio.create_task(asked.wait())
    try:
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            if runs_here(handle):
                parking = asyncio.create_task(park(handle, "interrupted"))
                if not (await asyncio.wait([parking], timeout=_SOON))[0]:
                    out.note("Waiting for a step that runs in a thread; Ctrl-C again ends the process at once.")
                await parking
                # It may have come to its end just before, or have been stopped by something worse.
                await handle.result()
                return True
            return False
        waiting.result()
        return True
    except RunParkedError:
        if asked.is_set():
            return False
        raise
    finally:
        for task in (telling, waiting, stopping):
            task.cancel()
        await asyncio.wait([telling, waiting, stopping])
        with contextlib.suppress(KitaruError):
            await progress.rest()


def _left(out: Output, handle: RunHandle[Any]) -> int:
    from kitaru.runtime.views.inspect import runs_here

    if runs_here(handle):
        message, hint = f"Parked {handle.id}.", f"kitaru resume {handle.id}"
        if out.as_json:
            out.error("parked", message, f"Resume it: {hint}", run=handle.id)
        else:
            out.always(f"{message} Resume it: {hint}")
    else:
        out.always(f"No longer waiting for {handle.id}; its own process continues it. See: kitaru show {handle.id}")
    return INTERRUPTED


async def _failed(runtime: Core, run: str, error: Exception) -> Exception:
    """What to say of a run that gave no result."""
    from kitaru.runtime.views.inspect import view

    try:
        seen = await view(runtime, run)
    except KitaruError:
        return error
    return run_failure(seen, error) or error


def run_failure(seen: RunView, error: Exception | None = None) -> RunFailedError | None:
    """The failure that a run's log holds; None when the log holds none."""
    if seen.status == "cancelled":
        reason = f": {seen.note}" if seen.note else ""
        return RunFailedError(f"run {seen.id} was cancelled{reason}", run=seen.id, hint=f"Retry it: {seen.help}")
    if seen.status != "failed" or seen.failure is None:
        return None
    failure = seen.failure
    at = f"\n  at {render.where(failure)}" if failure.file else ""
    return RunFailedError(
        f"run {seen.id} failed after {duration(seen.seconds)}: {render.type_of(failure)}: {failure.message}{at}",
        run=seen.id,
        hint=f"Retry it: {seen.help}",
        exit_code=CREDENTIALS if isinstance(error, CredentialError) else FAILED,
        details={"type": failure.type, "file": failure.file, "line": failure.line},
    )


def _print_result(out: Output) -> Callable[[Core, RunHandle[Any]], Awaitable[int]]:
    async def finish(runtime: Core, handle: RunHandle[Any]) -> int:
        from kitaru.runtime.views.inspect import view

        print_result(out, await view(runtime, handle.id))
        return OK

    return finish


def print_result(out: Output, seen: RunView) -> None:
    """The end of a completed run: its result on stdout."""
    if out.as_json:
        out.document(
            {"run": seen.id, "flow": seen.flow, "status": seen.status, "seconds": seen.seconds, "result": seen.result}
        )
        return
    out.note(out.paint(f"✓ done in {duration(seen.seconds)}", "green", err=True) + f"  {seen.id}")
    print_value(out, seen.result)


def print_value(out: Output, value: object) -> None:
    """A whole value on stdout: a text as such, all else as JSON."""
    if isinstance(value, str):
        out.text(value)
    else:
        out.line(out.json_text(value, indent=2))
