"""Runs the code blocks of guides word for word against the stand-in server.

`python -m tests.runtime.public_guides FOLDER` takes the pages (`.md`, `.mdx`) of a folder in the order of their names.
The public Kitaru guides belong to others and are no part of this repository: put their pages into a folder of yours.

Each page has a home of its own. Its commands run in their order, as in one shell: what is exported holds for what
follows. Each Python block is a file of its own, with `kitaru`, `flow` and `checkpoint` imported, and every flow in it
is run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

from kitaru.adapters.standin import Options, StandInServer

ROOT: Final = Path(__file__).resolve().parents[2]
KEY: Final = "sk-..."
"""The key of such guides, as they print it; the server takes no other."""

_FENCE: Final = re.compile(
    r"^(?P<indent> *)```(?P<language>bash|python)[^\n]*\n(?P<code>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL
)

# Blocks that stand for a user's own code, or need what is not ours.
_LEFT_OUT: Final = {
    "from zenml": "needs another package",
    "tools=[...]": "stands for a reader's own code",
    "uv run pytest": "names a test of another repository",
}

_BEFORE: Final = """\
import kitaru
from kitaru import checkpoint, flow


class client:
    @staticmethod
    def authenticate(key: str) -> None:
        assert key, "there is no key"


"""

_AFTER: Final = """


if __name__ == "__main__":
    import inspect

    _made = list(globals().values())
    for _one in _made:
        if isinstance(_one, kitaru.Flow):
            print(_one.run(*["kitaru"] * len(inspect.signature(_one).parameters)).wait())
    if not any(isinstance(_one, kitaru.Flow) for _one in _made):
        for _one in _made:
            if isinstance(_one, kitaru.Checkpoint) and not inspect.signature(_one).parameters:
                print(_one())
"""


_KITARU: Final = ("-c", "from kitaru.cli.app import main; main()")


class Block(NamedTuple):
    """A block of a page, or one command of it."""

    line: int
    language: str
    code: str


class Outcome(NamedTuple):
    """What became of a block."""

    where: str
    code: str
    word: Literal["ran", "failed", "left out"]
    said: str = ""


def blocks(text: str) -> Iterator[Block]:
    """The shell's commands, one by one, and the Python blocks of a page."""
    for found in _FENCE.finditer(text):
        line, indent = text.count("\n", 0, found.start()) + 2, len(found["indent"])
        code = "".join(row[indent:] for row in found["code"].splitlines(keepends=True))
        if found["language"] == "python":
            yield Block(line, "python", code)
            continue
        for at, row in enumerate(code.splitlines()):
            if row.strip() and not row.lstrip().startswith("#"):
                yield Block(line + at, "bash", row.strip())


def run_page(name: str, text: str, folder: Path, url: str) -> list[Outcome]:
    """Run a page.

    Args:
        name: What it is called.
        text: The page.
        folder: An empty one.
        url: Where OpenAI's API is served.
    """
    shell = Shell(folder, url)
    found = []
    for block in blocks(text):
        where, first = f"{name}:{block.line}", block.code.strip().splitlines()[0]
        why = next((why for words, why in _LEFT_OUT.items() if words in block.code), "")
        if why:
            found.append(Outcome(where, first, "left out", why))
            continue
        failed = shell.python(block.code) if block.language == "python" else shell.command(block.code)
        found.append(Outcome(where, first, "failed" if failed else "ran", failed))
    return found


class Shell:
    """What a reader of a page has: a folder, an environment, the command.

    Args:
        folder: For its files and its home.
        url: Where OpenAI's API is served.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._count = 0
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KITARU_", "OPENAI_"))}
        self._environment = {
            **kept,
            "KITARU_HOME": str(folder / "home"),
            "OPENAI_BASE_URL": url,
            "PYTHONPATH": str(ROOT / "src"),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
        }

    def command(self, line: str) -> str:
        """Run one command; what went wrong, or an empty text."""
        words = shlex.split(line, comments=True)
        if words[:2] == ["uv", "run"]:
            words = words[2:]
        match words:
            case ["export", assigned]:
                name, _, value = assigned.partition("=")
                self._environment[name] = value
                return ""
            case ["kitaru", *rest]:
                return self._call(*_KITARU, *rest)
            case ["python", script, *rest]:
                return self._call(str(ROOT / script), *rest)
            case ["pip", "install", *_] | ["uv", "sync", *_]:
                return _missing_extras(line)
            case _:
                return f"{words[0]} is no command of these guides"

    def python(self, code: str) -> str:
        """Run a Python block; what went wrong, or an empty text."""
        if "model=" in code and "fast" in code:
            self._given("fast")
        if "create_secret(" in code:
            for name in ("openai-creds", "github-creds"):
                self._call(*_KITARU, "secrets", "delete", name, "--yes")
        elif "secret" in code:
            self.command(f"kitaru secrets set openai-creds --OPENAI_API_KEY={KEY}")
            self.command("kitaru secrets set github-creds --GITHUB_TOKEN=token-of-the-test")
        self._count += 1
        file = self._folder / f"block_{self._count}.py"
        file.write_text(_BEFORE + code + _AFTER, encoding="utf-8")
        return self._call(str(file))

    def _given(self, alias: str) -> None:
        """Register an alias that a page takes for granted."""
        if self._call(*_KITARU, "model", "show", alias):
            self.command(f"kitaru secrets set openai-creds --OPENAI_API_KEY={KEY}")
            self.command(f"kitaru model register {alias} --model openai/gpt-5-nano --secret openai-creds")

    def _call(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=self._folder,
            env=self._environment, stdin=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
        return "" if done.returncode == 0 else f"ended with {done.returncode}: {done.stderr.strip() or done.stdout}"


def _missing_extras(line: str) -> str:
    """What an install line asks for that is not offered, or an empty text."""
    offered = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    asked = [one for group in re.findall(r"kitaru\[([\w,-]+)\]", line) for one in group.split(",")]
    asked += re.findall(r"--extra (\S+)", line)
    missing = [one for one in asked if one not in offered]
    return f"there is no extra {', '.join(missing)}" if missing else ""


def main(folder: str) -> int:
    """Run the pages of a folder and print what became of each block."""
    import tempfile

    found: list[Outcome] = []
    pages = sorted(path for path in Path(folder).iterdir() if path.suffix in (".md", ".mdx"))
    for page in pages:
        with tempfile.TemporaryDirectory() as home, StandInServer(Options(api_key=KEY)) as server:
            found += run_page(page.name, page.read_text(encoding="utf-8"), Path(home), server.base_url)
    for one in found:
        print(f"{one.word:9} {one.where:44} {one.code[:70]}")
        if one.said:
            print(f"{'':9} {one.said}")
    failed = sum(one.word == "failed" for one in found)
    print(f"{len(pages)} pages, {len(found)} blocks and commands, {failed} failed")
    return 1 if failed or not found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
