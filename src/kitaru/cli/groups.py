"""The command and its groups, one of them hidden, for the words of other guides."""

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

MODEL: Final = typer.Typer(
    name="model",
    rich_markup_mode=None,
    invoke_without_command=True,
    help="""Register, check and import aliases for models.

\b
Examples:
  $ kitaru model register fast --model openai/gpt-5-nano --secret openai-creds
  $ kitaru model list
  $ kitaru model check fast""",
)
APP.add_typer(MODEL)

SECRETS: Final = typer.Typer(
    name="secrets",
    rich_markup_mode=None,
    invoke_without_command=True,
    help="""Secrets, stored encrypted: set, list, show, delete, rekey.

\b
Examples:
  $ kitaru secrets set openai-creds OPENAI_API_KEY
  $ kitaru secrets list""",
)
APP.add_typer(SECRETS)
