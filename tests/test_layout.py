"""The shape of the project: its rooms, who knows whom, and what an import costs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import kitaru

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "kitaru"
PARTS = ("runtime", "adapters", "store", "cli")
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

LONGEST = 600
LONGER: dict[str, str] = {}
"""Modules that may be longer, with the reason."""

HEAVY = ("fastapi", "httpx", "openai", "pydantic", "rich", "starlette", "typer", "uvicorn")

in_a_checkout = pytest.mark.skipif((ROOT / "PKG-INFO").exists(), reason="an sdist does not carry the links")


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a bare interpreter of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT / "src")


@in_a_checkout
@pytest.mark.parametrize("part", PARTS)
def test_the_top_level_shows_each_part_by_a_relative_link(part: str) -> None:
    link = ROOT / part
    assert link.is_symlink()
    assert link.readlink() == Path("src/kitaru", part)
    assert link.resolve(strict=True) == PACKAGE / part


def test_the_package_holds_its_four_parts_and_nothing_else() -> None:
    found = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert found == {*PARTS, "__init__.py", "errors.py", "py.typed"}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_names_what_others_may_use(part: str) -> None:
    assert (PACKAGE / part / "__init__.py").is_file()


def test_imports_follow_the_arrows() -> None:
    pytest.importorskip("importlinter", reason="import-linter comes with the extra `dev`")
    code = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("module", MODULES)
def test_no_module_grows_too_long_without_a_reason(module: str) -> None:
    lines = len((PACKAGE / module).read_text(encoding="utf-8").splitlines())
    if module in LONGER:
        assert lines > LONGEST, f"{module} is short again; drop it from LONGER"
    else:
        assert lines <= LONGEST, f"{module} has {lines} lines; split it, or list it in LONGER with its reason"


def test_every_reason_belongs_to_a_module_that_exists() -> None:
    assert set(LONGER) <= set(MODULES)
    assert all(LONGER.values())


def test_importing_kitaru_loads_nothing_heavy() -> None:
    done = python(f"import kitaru, sys; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_importing_kitaru_prints_nothing_and_starts_no_thread() -> None:
    done = python("import kitaru, threading, sys; sys.exit(threading.active_count() - 1)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", sorted(kitaru.__all__))
def test_every_public_name_exists_and_says_what_it_is_for(name: str) -> None:
    value = getattr(kitaru, name)
    undocumented = [] if inspect.getdoc(value) else [name]
    if inspect.isclass(value):
        undocumented += [
            f"{name}.{method}"
            for method, member in vars(value).items()
            if not method.startswith("_")
            and (inspect.isfunction(member) or isinstance(member, (property, classmethod, staticmethod)))
            and not inspect.getdoc(getattr(value, method))
        ]
    assert undocumented == []
