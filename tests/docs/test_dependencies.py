"""Each dependency is used, declared and explained."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PARTS = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").split("\n## ")


def names(requirements: list[str]) -> set[str]:
    """The packages of a list of requirements, without the project's own extras."""
    return {re.split(r"[^\w-]", one, maxsplit=1)[0] for one in requirements} - {"kitaru"}


def explained(title: str, column: int) -> set[str]:
    """The packages in one column of the table below a heading."""
    (part,) = [part for part in PARTS if part.startswith(title)]
    rows = [line.split("|") for line in part.splitlines() if line.startswith("|")][2:]
    return {name.strip(" `") for row in rows for name in row[column].split(",")} - {""}


def imported() -> set[str]:
    """Top-level modules that the package imports, anywhere in a module, and that Python does not bring."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "src" / "kitaru").rglob("*.py")]
    found = {
        name.partition(".")[0]
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
    }
    return found - set(sys.stdlib_module_names) - {"kitaru"}


def test_what_is_installed_with_kitaru_is_what_it_imports() -> None:
    # Not the extra `pydantic`: pydantic is never imported, only met where a user has imported it.
    offered = {name for extra in ("serve", "fast", "litellm", "keyring") for name in names(EXTRAS[extra])}
    declared = names(PROJECT["dependencies"]) | offered
    assert imported() == {{"pyyaml": "yaml"}.get(name, name.replace("-", "_")) for name in declared}


def test_every_dependency_at_run_time_has_its_reason() -> None:
    assert explained("At run time", 1) == names(PROJECT["dependencies"])


def test_every_extra_has_its_reason() -> None:
    offered = set(EXTRAS) - {"dev", "test"}
    assert explained("Extras", 1) == offered
    assert explained("Extras", 2) == {name for extra in offered for name in names(EXTRAS[extra])}


def test_every_tool_has_its_reason() -> None:
    assert explained("For tests", 1) == names(EXTRAS["test"]) | names(EXTRAS["dev"])


def test_no_text_installs_a_package_of_this_name_from_the_index() -> None:
    # Another project has the name there.
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "src").rglob("*.py")]
    advice = re.compile(r"(?:install|add|uvx|pipx run)\s+[\"']?kitaru\b")
    assert [path.name for path in texts if advice.search(path.read_text(encoding="utf-8"))] == []
