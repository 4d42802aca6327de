"""What the tests of the command line get: a folder with a flow file, and the command in this process or another."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

from kitaru.cli.app import run as run_command

SOURCES = Path(__file__).resolve().parents[2] / "src"
PATIENCE = 20.0

FLOWS = """
import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path

import kitaru
from kitaru import checkpoint, flow

SUFFIX = "!"


@dataclass
class Page:
    title: str
    size: int


@checkpoint
async def fetch(number: int) -> Page:
    with open("ran.txt", "a") as file:
        file.write(f"fetch{number}\\n")
    return Page(f"page {number}", number)


@checkpoint
async def end(text: str) -> str:
    return text + SUFFIX


@flow
async def pages(count: int, tag: str = "plain") -> list[Page]:
    kitaru.log(tag=tag)
    return [await fetch(number) for number in range(count)]


@flow
async def cry(text: str) -> str:
    print("the flow prints")
    return await end(text)


@flow
async def nothing(text: str | None = None, page: Page | None = None) -> dict[str, object]:
    return {"text": text, "page": page}


@checkpoint
async def fails(name: str) -> str:
    if not os.path.exists("mended"):
        raise ValueError(f"{name} is broken")
    return "mended"


@flow
async def broken(name: str) -> str:
    await fetch(1)
    return await fails(name)


@flow
async def waits(seconds: float) -> str:
    await fetch(1)
    await kitaru.sleep(seconds)
    return "slept"


@flow
async def asks(question: str) -> str:
    answer = await kitaru.llm(question, model="openai/standin", name="answer")
    return await kitaru.llm(f"Shorten: {answer}", model="openai/standin", name="short")


@flow
async def thinks(question: str) -> str:
    return await kitaru.llm(question, model="openai/o3", temperature=0.2, name="think")


@checkpoint
def naps(name: str) -> str:
    Path(name).write_text("napping")
    time.sleep(600)
    return name


@flow
def sleeper(name: str) -> str:
    return naps(name).load()


@checkpoint
async def asks_inside(question: str) -> str:
    kitaru.log(asked=question)
    return await kitaru.llm(question, model="openai/standin", name="inner")


@flow
async def nested(question: str) -> str:
    return await asks_inside(question)


@checkpoint
async def slow() -> None:
    await asyncio.sleep(600)


@checkpoint(retries=1, backoff=0.01)
async def flaky(name: str) -> str:
    if not os.path.exists(name):
        Path(name).touch()
        raise OSError("not yet")
    return name


@flow
async def child(text: str) -> str:
    return await end(text)


@flow
async def many_kinds(text: str) -> str:
    try:
        await asyncio.wait_for(slow(), 0.01)
    except TimeoutError:
        pass
    await kitaru.sleep(0.001)
    await kitaru.save("kept", str(kitaru.uuid()))
    await flaky("flaky.txt")
    return await child(text)


@flow
async def evil() -> str:
    kitaru.log(note="a\\x1b]0;owned\\x07b\\x1b[31mred\\u202e")
    return await end("x\\x1b[2J\\x9b31my\\r\\nz")
"""


class Done(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The document that a command printed, without the version of its schema."""
        found = json.loads(self.out)
        if isinstance(found, dict):
            found.pop("schema", None)
        return found

    @property
    def error(self) -> Any:
        return json.loads(self.err.splitlines()[-1])["error"]


Kitaru = Callable[..., Done]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with `flows.py` in it."""
    (tmp_path / "flows.py").write_text(FLOWS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def kitaru(folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Kitaru]:
    """The command, in this process."""
    logger = logging.getLogger("kitaru")
    level = logger.level

    def call(*arguments: str) -> Done:
        capsys.readouterr()
        code = run_command(arguments)
        return Done(code, *capsys.readouterr())

    yield call
    logger.setLevel(level)


class Command:
    """The command in a process of its own."""

    def __init__(self, *arguments: str, **more: str) -> None:
        code = "import sys; sys.argv[0] = 'kitaru'; from kitaru.cli.app import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SOURCES), **more},
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def until(self, words: str) -> str:
        """Read stderr until a line holds these words."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if words in line:
                return line
        raise AssertionError(f"the command ended ({self.process.wait()}) without {words!r}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> Done:
        out, err = self.process.communicate(timeout=PATIENCE)
        return Done(self.process.returncode, out, err)


def wait_until(condition: Callable[[], bool]) -> None:
    """Look again and again until something that another process or thread does has come about."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def command(folder: Path) -> type[Command]:
    """The command, in a process of its own."""
    del folder
    return Command
