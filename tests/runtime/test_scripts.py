"""Flows in scripts: found again from another process, and not started twice while they load."""

from __future__ import annotations

from pathlib import Path

import pytest

from kitaru import Runtime, UsageError
from kitaru.errors import NotFoundError
from kitaru.runtime import loader
from tests.runtime.runs import Script, ran

SCRIPT = """
import asyncio, sys
import dataclasses
import kitaru
from kitaru import checkpoint, flow

@dataclasses.dataclass
class Draft:
    text: str

class Refused(Exception):
    pass

def note(text):
    with open("ran.txt", "a") as file:
        file.write(text + "\\n")

@checkpoint
async def write(topic: str) -> Draft:
    note("write")
    return Draft(topic.upper())

@checkpoint
async def refuse() -> None:
    note("refuse")
    raise Refused("not that")

@checkpoint
async def wait() -> str:
    if "hold" in sys.argv:
        print("reached", flush=True)
        await asyncio.Event().wait()
    return "end"

@flow
async def writer(topic: str) -> Draft:
    draft = await write(topic)
    try:
        await refuse()
    except Refused as error:
        draft = dataclasses.replace(draft, text=f"{draft.text}, {error}")
    await wait()
    assert type(draft) is Draft
    return draft

if __name__ == "__main__":
    print(writer.options(run_id="r").run("tides").wait().text)
"""

RESUMER = """
import asyncio, sys
import kitaru

async def main():
    async with kitaru.Runtime() as rt:
        handle = await rt.resume("r")
        print((await handle.result()).text)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_flow_of_a_script_is_resumed_by_another_process_with_its_classes(tmp_path: Path) -> None:
    with Script(tmp_path, SCRIPT, "hold") as first:
        first.until("reached")
        first.kill()
    with Script(tmp_path, RESUMER, name="resumer.py") as second:
        assert second.end() == "TIDES, not that"
    assert list(ran(tmp_path / "ran.txt")) == ["write", "refuse"]


def test_a_script_resumes_its_own_run_by_starting_it_again(tmp_path: Path) -> None:
    with Script(tmp_path, SCRIPT, "hold") as first:
        first.until("reached")
        first.kill()
    with Script(tmp_path, SCRIPT) as second:
        assert second.end() == "TIDES, not that"
    assert list(ran(tmp_path / "ran.txt")) == ["write", "refuse"]


UNGUARDED = """
from kitaru import flow

@flow
def quick() -> int:
    return 1

print(quick.run().wait())
"""


def test_a_script_that_starts_a_run_while_it_is_loaded_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "unguarded.py"
    path.write_text(UNGUARDED)
    with pytest.raises(UsageError, match="starts a run while it is being loaded") as caught:
        loader.load_file(path)
    assert '__name__ == "__main__"' in str(caught.value)


async def test_a_run_of_a_script_that_is_gone_cannot_be_found(tmp_path: Path) -> None:
    with Script(tmp_path, SCRIPT, "hold") as first:
        first.until("reached")
        first.kill()
    (tmp_path / "script.py").unlink()
    async with Runtime(f"sqlite:///{tmp_path}/runs.db", recover=False) as runtime:
        with pytest.raises(NotFoundError, match=r"script\.py"):
            await runtime.resume("r")


async def test_a_run_whose_flow_was_renamed_says_which_flows_there_are(tmp_path: Path) -> None:
    with Script(tmp_path, SCRIPT, "hold") as first:
        first.until("reached")
        first.kill()
    (tmp_path / "script.py").write_text(SCRIPT.replace("writer", "author"))
    async with Runtime(f"sqlite:///{tmp_path}/runs.db", recover=False) as runtime:
        with pytest.raises(UsageError, match="author"):
            await runtime.resume("r")


async def test_an_unknown_run_is_not_found(runtime: Runtime) -> None:
    with pytest.raises(NotFoundError, match="nobody"):
        await runtime.resume("nobody")


RECOVERS = """
import asyncio, sys
import kitaru
from kitaru import checkpoint, flow

def note(text):
    with open("ran.txt", "a") as file:
        file.write(text + "\\n")

@checkpoint
async def step(number: int) -> int:
    note(f"step{number}")
    if number == 1 and "hold" in sys.argv:
        print("reached", flush=True)
        await asyncio.Event().wait()
    return number

@flow
async def steps() -> int:
    return sum([await step(number) for number in range(3)])

async def main():
    async with kitaru.Runtime() as rt:
        if "hold" in sys.argv:
            await (await rt.start(steps.options(run_id="r"))).result()
        # Nothing is started: entering the runtime is enough.
        while (await rt.store.run("r")).status != "completed":
            await asyncio.sleep(0.01)
        print("recovered", flush=True)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_entering_a_runtime_resumes_the_runs_of_a_process_that_was_killed(tmp_path: Path) -> None:
    with Script(tmp_path, RECOVERS, "hold") as first:
        first.until("reached")
        first.kill()
    with Script(tmp_path, RECOVERS) as second:
        second.until("recovered")
        second.end()
    assert list(ran(tmp_path / "ran.txt")) == ["step0", "step1", "step1", "step2"]
