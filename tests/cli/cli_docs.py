"""The part of `docs/cli.md` that is each command's `--help`; `python -m tests.cli.cli_docs` writes it anew."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from unittest import mock

from kitaru.cli.app import run

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
MARK: Final = "<!-- What follows is written by: python -m tests.cli.cli_docs -->"
COLUMNS: Final = "80"


def help_of(*path: str) -> str:
    """What `kitaru PATH --help` prints on a terminal of a fixed width."""
    printed = io.StringIO()
    with mock.patch.dict(os.environ, {"COLUMNS": COLUMNS, "NO_COLOR": "1"}), contextlib.redirect_stdout(printed):
        code = run([*path, "--help"])
    if code:
        raise ValueError(f"kitaru {' '.join(path)} --help ends with {code}")
    return printed.getvalue()


def commands() -> list[str]:
    """The commands that `kitaru --help` lists, in its order, a group's own after the group."""
    return [" ".join(path) for path in _below()]


def _below(*above: str) -> Iterator[tuple[str, ...]]:
    listed = help_of(*above).partition("Commands:\n")[2]
    # A summary too long for its line goes on below, further to the right.
    for line in listed.splitlines():
        if line.startswith("  ") and line[2:3].strip():
            path = (*above, line.split()[0])
            yield path
            yield from _below(*path)


def written(text: str) -> str:
    """The document with what is below its mark made anew."""
    head, mark, _ = text.partition(MARK)
    if not mark:
        raise ValueError(f"the document has lost its line {MARK!r}")
    sections = [("kitaru", help_of()), *((f"kitaru {name}", help_of(*name.split())) for name in commands())]
    blocks = [f"\n## {title}\n\n```text\n{said.rstrip()}\n```\n" for title, said in sections]
    return head + MARK + "\n" + "".join(blocks)


def main() -> int:
    """Write the document, where it has changed."""
    before = DOCUMENT.read_text(encoding="utf-8")
    after = written(before)
    if after != before:
        DOCUMENT.write_text(after, encoding="utf-8")
    print(f"{DOCUMENT.name}: {'unchanged' if after == before else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
