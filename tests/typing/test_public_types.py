"""The public API as two independent type checkers see it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLES = Path(__file__).parent / "samples"
TOOLS = "the checkers come with the extra `dev`"
NAMES = sorted(path.name for path in SAMPLES.glob("*.py"))

WRONG = """\
from typing import assert_type

from kitaru import checkpoint


@checkpoint
async def count(text: str) -> int:
    return len(text)


async def main() -> None:
    assert_type(await count("a"), str)
"""


@pytest.fixture(scope="module")
def pyright_says() -> dict[str, list[str]]:
    """What pyright reports, by the name of the sample."""
    pytest.importorskip("pyright", reason=TOOLS)
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        pytest.fail(f"pyright did not run: {done.stdout}{done.stderr}")
    assert report["summary"]["filesAnalyzed"] >= len(NAMES)
    said: dict[str, list[str]] = {}
    for found in report["generalDiagnostics"]:
        line = found["range"]["start"]["line"] + 1
        said.setdefault(Path(found["file"]).name, []).append(f"line {line}: {found['severity']}: {found['message']}")
    return said


@pytest.mark.parametrize("name", NAMES)
def test_pyright_accepts_what_users_write(name: str, pyright_says: dict[str, list[str]]) -> None:
    assert pyright_says.get(name, []) == []


def test_mypy_strict_accepts_what_users_write() -> None:
    pytest.importorskip("mypy", reason=TOOLS)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), str(SAMPLES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_wrong_type_is_reported(checker: str, tmp_path: Path) -> None:
    """The checks above can fail: the same checkers, the same settings, one wrong claim."""
    pytest.importorskip(checker, reason=TOOLS)
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG)
    # pyright takes no project's settings for a single file; its interpreter shows it the installed package.
    options = {"mypy": ["--config-file", str(ROOT / "pyproject.toml")], "pyright": ["--pythonpath", sys.executable]}
    command = [sys.executable, "-m", checker, *options[checker], str(wrong)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert "wrong.py:12" in done.stdout
