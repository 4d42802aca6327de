"""The `kitaru` command: its entry point, and how errors end it."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Sequence
from typing import Annotated, Any, Final, NoReturn

import typer

# What is imported first stands first in the help.
from kitaru.cli import replay, result, runs

# isort: split
from kitaru.cli import costs, model_tools, models, secrets, upkeep
from kitaru.cli.failures import FAILED, INTERRUPTED, OK, USAGE, RunFailedError, exit_code_of
from kitaru.cli.groups import APP
from kitaru.cli.output import Output, drop_stdout
from kitaru.errors import KitaruError, UsageError

COMMANDS: Final = (runs, replay, result, costs, models, model_tools, secrets, upkeep)
"""The rooms whose import declares the commands."""

_USAGE_ERROR: Final[type[Any]] = typer.BadParameter.__mro__[1]
"""Typer's error for a wrong command line; where its module is depends on Typer's version."""


@APP.callback(help="Durable execution for Python flows that call language models.")
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False,
) -> None:
    """What `kitaru` does by itself."""
    if version:
        from kitaru import __version__

        Output().line(f"kitaru {__version__}")
        raise typer.Exit(OK)
    if context.invoked_subcommand is None:
        Output().line(context.get_help().rstrip())
        raise typer.Exit(OK)


def main() -> NoReturn:
    """The entry point."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        drop_stdout()
    if any(t is not threading.main_thread() and t.is_alive() and not t.daemon for t in threading.enumerate()):
        # A sync step cannot be stopped, and the interpreter would wait for it. All that counts is on disk.
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line.

    Args:
        arguments: What follows the program's name.

    Returns:
        The exit code.
    """
    flags = arguments[: list(arguments).index("--")] if "--" in arguments else arguments
    out = Output(as_json="--json" in flags, colour=False if "--no-color" in flags else None)
    try:
        code = _command().main(list(arguments), prog_name="kitaru", standalone_mode=False)
        return code if isinstance(code, int) else OK
    except KitaruError as error:
        _report(out, error)
        return exit_code_of(error)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except _USAGE_ERROR as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "kitaru"
        out.error("usage", error.format_message(), f"See: {path} --help")
        return USAGE
    except Exception as error:
        if os.environ.get("KITARU_DEBUG") == "1":
            raise
        known = _known(error)
        if known is not None:
            _report(out, known)
            return exit_code_of(known)
        out.error(
            "unexpected",
            f"{type(error).__name__}: {error}",
            "Set KITARU_DEBUG=1 and run it again to see the traceback.",
        )
        return FAILED


def _known(error: BaseException) -> KitaruError | None:
    """What an error of Python's own means for a user; None where only its traceback can tell."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, KitaruError):
        return error
    if isinstance(error, MemoryError):
        return UsageError("the memory is exhausted", hint="A value, an attachment or the store is too large for it.")
    if isinstance(error, RecursionError):
        return UsageError("a value is nested too deep")
    if isinstance(error, UnicodeError):
        return UsageError("a value holds bytes or characters that are not UTF-8", hint="Look at the arguments.")
    if isinstance(error, OverflowError):
        return UsageError("a number is too large")
    return None


@functools.cache
def _command() -> Any:
    """The whole command, put together once."""
    return typer.main.get_command(APP)


def _report(out: Output, error: KitaruError) -> None:
    if os.environ.get("KITARU_DEBUG") == "1":
        import traceback

        traceback.print_exception(error, file=out.err)
    details = {"run": error.run, **error.details} if isinstance(error, RunFailedError) else {}
    out.error(error.code, error.message, error.hint, **details)
