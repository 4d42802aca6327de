"""The reference of the command line says what the command line says."""

from __future__ import annotations

import re

import pytest

from kitaru.cli import failures
from tests.cli.cli_docs import DOCUMENT, MARK, commands, help_of, written

SOURCES = DOCUMENT.parents[1] / "src" / "kitaru"


def introduction() -> str:
    return DOCUMENT.read_text(encoding="utf-8").partition(MARK)[0]


def test_the_reference_is_what_help_prints() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == written(text), "docs/cli.md is not what --help says; write it anew: python -m tests.cli.cli_docs"


def test_a_changed_help_text_is_noticed() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert written(text.replace("List runs.", "List the runs.")) == text


def test_a_document_without_its_mark_is_not_overwritten() -> None:
    with pytest.raises(ValueError, match="has lost its line"):
        written("# The command line\n")


def test_the_width_of_the_terminal_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    before = help_of("replay")
    monkeypatch.setenv("COLUMNS", "60")
    assert help_of("replay") == before


def test_every_exit_code_has_its_line() -> None:
    codes = {value for name, value in vars(failures).items() if name.isupper() and isinstance(value, int)}
    rows = re.findall(r"^\| (\d+) \|", introduction(), re.MULTILINE)
    assert [int(code) for code in rows] == sorted(codes)


def test_every_variable_that_is_read_is_named() -> None:
    read = {
        name
        for path in SOURCES.rglob("*.py")
        for name in re.findall(r'"(KITARU_[A-Z_]+|NO_COLOR|OPENAI_[A-Z_]+)"', path.read_text(encoding="utf-8"))
    }
    assert {"KITARU_STORE", "NO_COLOR", "OPENAI_API_KEY"} <= read
    assert read - set(re.findall(r"`([A-Z_]+)`", introduction())) == set()


@pytest.mark.parametrize("name", commands())
def test_a_commands_examples_call_it(name: str) -> None:
    examples = re.findall(r"^ {4}\$ (.*)$", help_of(*name.split()), re.MULTILINE)
    assert examples
    assert all(line.startswith(f"kitaru {name}") for line in examples)
