"""The command and its hidden group for the words of other guides."""

from __future__ import annotations

from typing import Final

import typer

APP: Final = typer.Typer(
    name="kitaru",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["--help", "-h"]},
)
EXECUTIONS: Final = typer.Typer(
    name="executions", rich_markup_mode=None, help="The same commands under their old names."
)
APP.add_typer(EXECUTIONS, hidden=True)
