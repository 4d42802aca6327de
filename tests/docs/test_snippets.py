"""Every Python block of the documentation runs as it is printed, and every command it shows exists.

`<!-- continues -->` above a block adds it to the former block's file; `<!-- not run: reason -->` leaves it out.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kitaru.adapters.standin import StandInServer
from tests.cli import cli_docs

ROOT = Path(__file__).parents[2]
RUN = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.exists()]
SHOWN = [*RUN, ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md"]

FENCE = re.compile(r"^```(?P<language>[\w-]*)\s*$")
NOTE = re.compile(r"^<!--\s*(?P<note>continues|not run(?::\s*(?P<reason>.*?))?)\s*-->$")
COMMAND = re.compile(r"^\$ (?:[A-Z_]+=\S* +)*kitaru\b(?P<words>.*)$")
ENDS_A_COMMAND = {"|", "||", "&", "&&", ";", ">", ">>", "<", "2>"}


class Block(NamedTuple):
    line: int
    """Of its first line of content, counted from 1."""
    language: str
    note: str
    lines: list[str]


class Program(NamedTuple):
    name: str
    source: str


class Shown(NamedTuple):
    where: str
    words: tuple[str, ...]


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a document, each with the note on the line above it."""
    note, inside = "", None
    for number, line in enumerate(text.splitlines(), start=1):
        if inside is not None:
            if line.strip() == "```":
                yield inside
                note, inside = "", None
            else:
                inside.lines.append(line)
        elif fence := FENCE.match(line):
            inside = Block(number + 1, fence["language"], note, [])
        elif found := NOTE.match(line.strip()):
            note = found["note"]
            if note.startswith("not run") and not found["reason"]:
                raise ValueError(f"line {number}: a block that is not run needs its reason")
        elif line.strip():
            note = ""
    if inside is not None:
        raise ValueError(f"line {inside.line - 1}: the block is not closed")


def programs(document: str, text: str) -> list[Program]:
    """The Python files that a document contains, at its own line numbers, so that a traceback points there."""
    made: list[tuple[int, list[str]]] = []
    may_continue = False
    for block in blocks(text):
        if block.language != "python":
            continue
        if block.note.startswith("not run"):
            may_continue = False
            continue
        if block.note != "continues":
            made.append((block.line, []))
            may_continue = True
        elif not may_continue:
            raise ValueError(f"{document}:{block.line}: nothing before this block that it could continue")
        lines = made[-1][1]
        lines += [""] * (block.line - 1 - len(lines)) + block.lines
    return [Program(f"{document}:{line}", "\n".join(lines) + "\n") for line, lines in made]


def commands(document: str, text: str) -> list[Shown]:
    """The `$ kitaru ...` lines of a document's console blocks, as words."""
    return [
        Shown(f"{document}:{block.line + offset}", words_of(found["words"]))
        for block in blocks(text)
        if block.language == "console"
        for offset, line in enumerate(block.lines)
        if (found := COMMAND.match(line))
    ]


def words_of(rest: str) -> tuple[str, ...]:
    """The words of one command, up to a pipe or a redirection, without the comment at its end."""
    words = shlex.split(rest, comments=True)
    end = next((at for at, word in enumerate(words) if word in ENDS_A_COMMAND), len(words))
    return tuple(words[:end])


@functools.cache
def help_of(*path: str) -> str | None:
    """What `kitaru PATH --help` prints; None where there is no such command."""
    try:
        return cli_docs.help_of(*path)
    except ValueError:
        return None


def missing(words: tuple[str, ...]) -> str | None:
    """The first word of a command that the command line does not know, if any."""
    path: list[str] = []
    said = help_of()
    assert said is not None
    for word in words:
        if not re.search(r"^\s*usage:.* COMMAND\b", said, re.IGNORECASE | re.MULTILINE) or word.startswith("-"):
            break
        path.append(word)
        said = help_of(*path)
        if said is None:
            return word
    options = [word.partition("=")[0] for word in words if re.match(r"--[a-z]|-[a-zA-Z]$", word)]
    return next((option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", said)), None)


PROGRAMS = [program for path in RUN for program in programs(path.name, path.read_text(encoding="utf-8"))]
COMMANDS = [
    shown for path in SHOWN for shown in commands(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
]


@pytest.fixture(scope="module")
def model_url() -> Iterator[str]:
    with StandInServer() as server:
        yield server.base_url


@pytest.mark.parametrize("program", [pytest.param(program, id=program.name) for program in PROGRAMS])
def test_a_printed_program_runs_as_it_is(program: Program, model_url: str, tmp_path: Path) -> None:
    file = tmp_path / "snippet.py"
    file.write_text(program.source, encoding="utf-8")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KITARU_")}
    environment = {
        **inherited,
        "KITARU_DEFAULT_MODEL": "openai/stand-in",
        "KITARU_HOME": str(tmp_path / "home"),
        "OPENAI_API_KEY": "stand-in",
        "OPENAI_BASE_URL": model_url,
        "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),  # a page on tests uses their helpers
    }
    command = [sys.executable, file.name]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment, timeout=90
    )
    assert done.returncode == 0, f"{program.name}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("shown", [pytest.param(shown, id=shown.where) for shown in COMMANDS])
def test_a_printed_command_exists_with_its_options(shown: Shown) -> None:
    assert missing(shown.words) is None, f"{shown.where}: kitaru {shlex.join(shown.words)}"


def test_a_command_that_does_not_exist_is_noticed() -> None:
    assert missing(("no-such-command", "--json")) == "no-such-command"
    assert missing(("runs", "--no-such-option")) == "--no-such-option"


DOCUMENT = """\
```python
a = 1
```
<!-- continues -->
```python
b = a
```

<!-- not run: needs a key -->

```python
c = 1 / 0
```
```console
$ KITARU_HOME=x kitaru runs --json | jq .  # all of them
RUN  FLOW
$ kitaru show last
$ ls
```
```python
d = 4
```
"""


def test_a_continued_block_joins_the_former_ones_file_on_the_documents_lines() -> None:
    joined, last = programs("made-up.md", DOCUMENT)
    assert joined == Program("made-up.md:2", "\na = 1\n\n\n\nb = a\n")
    assert last.name == "made-up.md:21"
    assert last.source.splitlines()[20] == "d = 4"


def test_only_the_lines_that_call_kitaru_are_taken_as_commands() -> None:
    assert commands("made-up.md", DOCUMENT) == [
        Shown("made-up.md:15", ("runs", "--json")),
        Shown("made-up.md:17", ("show", "last")),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "<!-- not run -->\n```python\n```\n",
        "```python\na = 1\n",
        "<!-- continues -->\n```python\n```\n",
        "<!-- not run: no key -->\n```python\n```\n<!-- continues -->\n```python\n```\n",
    ],
)
def test_a_note_without_meaning_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"line \d|nothing before"):
        programs("made-up.md", text)
