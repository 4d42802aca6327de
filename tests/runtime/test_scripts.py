"""Flows in scripts: found again from another process, and not started twice while they load."""

from __future__ import annotations

from pathlib import Path

import pytest

from kitaru import Runtime, UsageError
from kitaru.errors import NotFoundError, UnguardedError
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
from __future__ import annotations
import asyncio
import anyio
import kitaru
from kitaru import checkpoint, flow

@checkpoint
def plain(text: str) -> str:
    return text

@flow
def quick() -> int:
    return 1

@flow
async def slow() -> int:
    return 2

async def main() -> None:
    print(await slow())

{start}

@flow
async def behind() -> int:
    return 3
"""

STARTS = [
    "print(quick.run().wait())",
    "print(asyncio.run(slow()))",
    "asyncio.run(main())",
    "anyio.run(main)",
    "number = quick().load()\nprint(number)",
    "a, b = asyncio.run(main()), 1\nif b:\n    print(a)",
    'text = kitaru.llm("hello", model="test/echo").load()\nprint(text)',
    "try:\n    asyncio.run(main())\nfinally:\n    pass",
]


@pytest.mark.parametrize("start", STARTS)
async def test_a_script_is_loaded_without_the_runs_that_it_starts(
    tmp_path: Path, runtime: Runtime, start: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "unguarded.py"
    path.write_text(UNGUARDED.format(start=start))
    caplog.set_level("WARNING", "kitaru")
    handle = await runtime.start(loader.load_spec(f"{path}:behind"))
    assert await handle.result() == 3
    assert len(await runtime._core.store.runs()) == 1
    lines = [path.read_text().splitlines()[vars(record)["line"] - 1].strip() for record in caplog.records]
    assert lines[0] in start


@pytest.mark.parametrize("start", STARTS[:3])
def test_a_script_is_loaded_alike_where_no_loop_runs(tmp_path: Path, start: str) -> None:
    path = tmp_path / "unguarded.py"
    path.write_text(UNGUARDED.format(start=start))
    assert loader.load_spec(f"{path}:behind").name == "behind"


def test_what_else_a_script_raises_is_raised(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(UNGUARDED.format(start="asyncio.run(main())\nprint(nowhere)"))
    with pytest.raises(NameError, match="nowhere"):
        loader.load_spec(f"{path}:behind")


def test_a_module_that_starts_a_run_while_it_is_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unguarded_module.py").write_text(UNGUARDED.format(start=STARTS[0]))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnguardedError, match="starts a run while it is being loaded") as caught:
        loader.load_spec("unguarded_module:behind")
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
        while [one.status for one in await rt.runs()] != ["completed"]:
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
