"""Logs that one Python version wrote and another one goes on with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.runs import environment

FLOWS = """
import asyncio, sys
import kitaru
from kitaru import ReplayOptions, checkpoint, flow
from kitaru.runtime.views.report import report

WORDS = {"b": [1, 2.5], "a": ("x",)}

def helper(text):
    return f"{text:>{4}}" f"{WORDS['b'][0]}"

@checkpoint
async def step(text):
    with open("ran.txt", "a") as file:
        file.write("step\\n")
    return [helper(part) for part in text if (kept := part)]

@checkpoint
async def held(texts):
    if "write" in sys.argv:
        await asyncio.Event().wait()
    return len(texts)

@flow
async def whole(text):
    return await step(text)

@flow
async def cut(text):
    return await held(await kitaru.gather(step(text), step(text + "!")))

async def main():
    async with kitaru.Runtime(recover=False) as runtime:
        if "write" in sys.argv:
            await (await runtime.start(whole.options(run_id="whole"), "abc")).result()
            await runtime.start(cut.options(run_id="cut"), "abc")
            while sum(type(r.event).__name__ == "StepCompleted" for r in await runtime._core.events("cut")) < 2:
                await asyncio.sleep(0.01)
        else:
            print(await (await runtime.resume("cut", cut)).result())
            fork = await runtime.replay("whole", ReplayOptions(), whole)
            await fork.handle.result()
            again = await runtime.replay(fork.run, ReplayOptions(), whole)
            await again.handle.result()
            for source, run in (("whole", fork.run), (fork.run, again.run)):
                print([line.verdict for line in (await report(runtime, source, run)).lines])

asyncio.run(main())
"""


def _run(python: str, folder: Path, what: str) -> str:
    command = [python, "flows.py", what]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("direction", ["there", "back"])
def test_a_log_of_one_python_resumes_and_replays_on_another_executing_nothing(tmp_path: Path, direction: str) -> None:
    others = [path for path in OTHERS if path]
    if not others:
        pytest.skip("name Pythons that have kitaru's dependencies in KITARU_OTHER_PYTHONS")
    for number, other in enumerate(others):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "flows.py").write_text(FLOWS)
        one, two = (sys.executable, other) if direction == "there" else (other, sys.executable)
        _run(one, folder, "write")
        before = (folder / "ran.txt").read_text()
        assert _run(two, folder, "read").splitlines() == ["2", "['reused']", "['reused']"]
        assert (folder / "ran.txt").read_text() == before == "step\n" * 3


OTHERS = os.environ.get("KITARU_OTHER_PYTHONS", "").split(os.pathsep)
