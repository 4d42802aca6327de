"""How a command is declared: its own options, and those that all share."""

from __future__ import annotations

import inspect
import logging
import typing
from collections.abc import Callable
from typing import Annotated, Any, Concatenate, Final, ParamSpec

import typer

from kitaru.cli.failures import EXIT_CODES, OK
from kitaru.cli.output import Output, drop_stdout

P = ParamSpec("P")

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, a unique prefix of it, `last`, or `last~1`.")]
Inputs = Annotated[
    list[str] | None, typer.Option("--input", "-i", metavar="NAME=VALUE", help="An input of the flow; may be repeated.")
]
RunId = Annotated[
    str | None,
    typer.Option("--run-id", metavar="ID", help="The new run's ID; starting an ID again returns the same run."),
]

Moved = Annotated[
    str | None,
    typer.Option("--flow", metavar="FILE:FLOW", help="The run's flow, if it moved or was renamed."),
]

_SHARED: Final[dict[str, tuple[Any, object]]] = {
    "store": (
        Annotated[
            str | None,
            typer.Option("--store", metavar="URL", help="The store, such as sqlite:///runs.db.", envvar="KITARU_STORE"),
        ],
        None,
    ),
    "as_json": (Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")], False),
    "quiet": (Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")], False),
    "verbose": (Annotated[bool, typer.Option("--verbose", "-v", help="Print Kitaru's own log on stderr.")], False),
    "no_color": (Annotated[bool, typer.Option("--no-color", help="No colours.")], False),
}


class Context:
    """What every command gets: where to print, and which store."""

    def __init__(self, out: Output, store: str | None) -> None:
        self.out = out
        self.store = store


def command(
    *groups: tuple[typer.Typer, str], examples: str, details: str = "", any_option: bool = False
) -> Callable[[Callable[Concatenate[Context, P], int]], Callable[Concatenate[Context, P], int]]:
    """Declare a command: a plain function that returns its exit code.

    Args:
        groups: Where it belongs, and under which name.
        examples: Command lines, shown first in its help.
        details: More to say, after the examples.
        any_option: Hand options that it does not know to its last argument, as they were typed.
    """

    def declare(function: Callable[Concatenate[Context, P], int]) -> Callable[Concatenate[Context, P], int]:
        def entered(**given: Any) -> None:
            store, as_json, quiet, verbose, no_color = (given.pop(name) for name in _SHARED)
            out = Output(as_json=as_json, quiet=quiet, colour=False if no_color else None)
            configure_logging(out, verbose=verbose)
            try:
                code = function(Context(out, store or None), **given)  # type: ignore[call-arg]  # what Typer parsed for it
            except BrokenPipeError:
                drop_stdout()  # whoever reads it has seen enough
                code = OK
            raise typer.Exit(code)

        own = list(inspect.signature(function).parameters.values())[1:]
        hints = typing.get_type_hints(function, include_extras=True)
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
            for name, (hint, default) in _SHARED.items()
        ]
        own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[p.name]) for p in own]
        entered.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]  # what Typer reads
        entered.__annotations__ = {p.name: p.annotation for p in [*own, *shared]}
        lines = "\n".join(f"  $ {line}" for line in examples.strip().splitlines())
        summary = inspect.getdoc(function) or ""
        text = f"{summary}\n\n\b\nExamples:\n{lines}\n\n{details}\n\n{EXIT_CODES}"
        for group, name in groups:
            settings = {"ignore_unknown_options": True} if any_option else None
            group.command(name, help=text, context_settings=settings)(entered)
        return function

    return declare


class _Fields(logging.Formatter):
    """A log line with the fields that structlog put beside it."""

    _OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        from kitaru.cli.output import clean

        fields = " ".join(f"{name}={value}" for name, value in vars(record).items() if name not in self._OWN)
        return clean(f"{record.levelname.lower()}: {record.getMessage()} {fields}")


def configure_logging(out: Output, *, verbose: bool) -> None:
    """Send Kitaru's own log to stderr: warnings, or, with `--verbose`, all of it."""
    logger = logging.getLogger("kitaru")
    for handler in [h for h in logger.handlers if isinstance(h.formatter, _Fields)]:
        logger.removeHandler(handler)
    handler = logging.StreamHandler(out.err)
    handler.setFormatter(_Fields())
    if not (verbose or out.quiet):
        # The progress lines say it.
        handler.addFilter(lambda record: record.getMessage() != "llm.warning")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.ERROR if out.as_json else logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
