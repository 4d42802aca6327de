"""Processes that die, stop, or are told to end while runs are under way."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kitaru import Runtime
from kitaru.adapters.standin import Fault, Options, StandInServer
from kitaru.store.events import LlmCompleted, LlmRequested, RunClaimed, StepCancelled, StepCompleted, StepStarted
from tests.runtime.runs import Script, environment, keys_of, of_type, ran

STEPS = """
import asyncio, os, sys, time
import kitaru
from kitaru import checkpoint, flow

def note(text):
    with open("ran.txt", "a") as file:
        file.write(text + "\\n")

@checkpoint
async def step(number: int) -> int:
    note(f"step{number}")
    if number == 3 and "hold" in sys.argv:
        print("reached", flush=True)
        await asyncio.Event().wait()
    return number

@checkpoint(effects=True)
async def charge() -> str:
    note("charge")
    if "hold-charge" in sys.argv:
        print("reached", flush=True)
        await asyncio.Event().wait()
    return "paid"

@checkpoint
def sync_step(number: int) -> int:
    note(f"step{number}")
    if number == 3 and "hold" in sys.argv:
        print("reached", flush=True)
        time.sleep(1.5)
    return number

@flow
async def in_turn() -> int:
    return sum([await step(number) for number in range(5)])

@flow
async def together() -> int:
    async def last():
        await asyncio.gather(*(step(number) for number in range(3)))
        return await step(3)
    return sum(await asyncio.gather(last(), step(3), step(4)))

@flow
async def grouped() -> int:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(step(number)) for number in (3, 1, 2)]
    return sum(task.result() for task in tasks)

@flow
async def charges() -> str:
    return await charge()

@flow
def plain() -> int:
    return sum(sync_step(number).load() for number in range(5))

FLOWS = {f.name: f for f in (in_turn, together, grouped, charges, plain)}

async def entered():
    async with kitaru.Runtime() as rt:
        handle = await rt.start(FLOWS[sys.argv[1]].options(run_id="r"))
        if "error" in sys.argv:
            while not os.path.exists("go"):
                await asyncio.sleep(0.01)
            raise SystemExit("an application's error")
        print(await handle.result())

async def bare():
    handle = await FLOWS[sys.argv[1]].options(run_id="r").start()
    print(await handle.result())

if __name__ == "__main__":
    asyncio.run(bare() if "bare" in sys.argv else entered())
"""


def script(folder: Path, *args: str) -> Script:
    return Script(folder, STEPS, *args)


async def cancelled_and_done(folder: Path) -> tuple[list[str], list[str]]:
    async with Runtime(f"sqlite:///{folder}/runs.db", recover=False) as reader:
        return await keys_of(reader, "r", StepCancelled), await keys_of(reader, "r", StepCompleted)


@pytest.mark.parametrize("flow", ["in_turn", "together", "grouped", "plain"])
def test_after_a_kill_only_the_open_steps_run_again(tmp_path: Path, flow: str) -> None:
    with script(tmp_path, flow, "hold") as first:
        first.until("reached")
        first.kill()
    before = list(ran(tmp_path / "ran.txt"))
    _, done = asyncio.run(cancelled_and_done(tmp_path))
    with script(tmp_path, flow) as second:
        assert second.end() == {"in_turn": "10", "together": "10", "grouped": "6", "plain": "10"}[flow]
    again = list(ran(tmp_path / "ran.txt"))[len(before) :]
    assert len(done) + len(again) == {"in_turn": 5, "together": 6, "grouped": 3, "plain": 5}[flow]
    assert again.count("step3") >= 1


def test_an_effect_that_was_running_is_in_doubt_and_runs_again(tmp_path: Path) -> None:
    with script(tmp_path, "charges", "hold-charge") as first:
        first.until("reached")
        first.kill()

    async def starts() -> list[int]:
        async with Runtime(f"sqlite:///{tmp_path}/runs.db", recover=False) as reader:
            return [event.attempt for event in await of_type(reader, "r", StepStarted)]

    assert asyncio.run(starts()) == [1]
    with script(tmp_path, "charges") as second:
        assert second.end() == "paid"
    assert list(ran(tmp_path / "ran.txt")) == ["charge", "charge"]
    assert len(asyncio.run(starts())) == 2


@pytest.mark.parametrize("flow", ["together", "grouped", "plain"])
@pytest.mark.parametrize("how", ["entered", "bare"])
def test_ctrl_c_records_no_step_as_given_up_and_the_run_goes_on_later(tmp_path: Path, flow: str, how: str) -> None:
    with script(tmp_path, flow, "hold", how) as first:
        first.until("reached")
        first.signal(signal.SIGINT)
        assert "KeyboardInterrupt" in first.end(code=None)
    given_up, _ = asyncio.run(cancelled_and_done(tmp_path))
    assert given_up == []
    with script(tmp_path, flow) as second:
        assert second.end() == {"together": "10", "grouped": "6", "plain": "10"}[flow]


def test_sigterm_records_no_step_as_given_up_and_the_run_goes_on_later(tmp_path: Path) -> None:
    with script(tmp_path, "together", "hold") as first:
        first.until("reached")
        first.signal(signal.SIGTERM)
        first.end(code=-signal.SIGTERM)
    given_up, _ = asyncio.run(cancelled_and_done(tmp_path))
    assert given_up == []
    with script(tmp_path, "together") as second:
        assert second.end() == "10"


def test_an_applications_error_parks_the_runs_of_its_runtime(tmp_path: Path) -> None:
    with script(tmp_path, "together", "hold", "error") as first:
        first.until("reached")
        (tmp_path / "go").touch()
        assert "an application's error" in first.end(code=1) + first.end(code=None)
    given_up, _ = asyncio.run(cancelled_and_done(tmp_path))
    assert given_up == []
    with script(tmp_path, "together") as second:
        assert second.end() == "10"


STUCK = """
import asyncio, sys
import kitaru
from kitaru import checkpoint, flow

@checkpoint
async def step(number: int) -> int:
    print(f"step{number}", flush=True)
    if number == 1 and "hold" in sys.argv:
        sys.stdin.readline()
    return number

@flow
async def steps() -> int:
    return sum([await step(number) for number in range(3)])

async def main():
    async with kitaru.Runtime(lease=1.0) as rt:
        if "hold" in sys.argv:
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        while True:
            handle = await rt.start(steps.options(run_id="r"))
            try:
                print("result", await handle.result(), flush=True)
                return
            except kitaru.KitaruError as error:
                print(type(error).__name__, flush=True)
                if "hold" in sys.argv:
                    return
            await asyncio.sleep(0.1)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_process_stopped_past_its_lease_loses_the_run_and_its_late_result(tmp_path: Path) -> None:
    path = tmp_path / "stuck.py"
    path.write_text(STUCK)
    stopped = subprocess.Popen(
        [sys.executable, str(path), "hold"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert stopped.stdout is not None
        assert stopped.stdin is not None
        while stopped.stdout.readline().strip() != "step1":
            assert stopped.poll() is None
        stopped.send_signal(signal.SIGSTOP)

        async def take_over() -> list[str]:
            with Script(tmp_path, STUCK) as second:
                await asyncio.to_thread(second.until, "result 3")
                await asyncio.to_thread(second.end)
            async with Runtime(f"sqlite:///{tmp_path}/runs.db", recover=False) as reader:
                assert len(await of_type(reader, "r", RunClaimed)) == 1
                return await keys_of(reader, "r", StepCompleted)

        before = asyncio.run(take_over())
        stopped.send_signal(signal.SIGCONT)
        out, errors = stopped.communicate("go\n", timeout=20)
        # Its epoch is over; here the run has even ended meanwhile.
        assert out.split() in (["FencedError"], ["RunError"]), out + errors
        assert before == ["step", "step[1]", "step[2]"]

        async def log() -> list[str]:
            async with Runtime(f"sqlite:///{tmp_path}/runs.db", recover=False) as reader:
                return await keys_of(reader, "r", StepCompleted)

        assert asyncio.run(log()) == before
    finally:
        if stopped.poll() is None:
            stopped.kill()
            stopped.communicate()


MODEL = """
import asyncio, sys
import kitaru
from kitaru import flow

@flow
async def asks(base_url: str) -> str:
    first = await kitaru.llm("first question", model="openai/stand-in", base_url=base_url, name="first")
    return first + await kitaru.llm("second question", model="openai/stand-in", base_url=base_url, name="second")

async def main():
    async with kitaru.Runtime() as rt:
        print(await (await rt.start(asks.options(run_id="r"), sys.argv[1])).result())

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_finished_answer_is_not_paid_for_twice_after_a_kill(tmp_path: Path) -> None:
    with StandInServer(Options(faults=(Fault("hang", first=1, match="second"),))) as server:
        with Script(tmp_path, MODEL, server.base_url) as first:
            while sum(prompt.in_flight for prompt in server.counts.prompts if "second" in prompt.text) == 0:
                assert first.process.poll() is None
            first.kill()

        async def log() -> tuple[list[str], list[str]]:
            async with Runtime(f"sqlite:///{tmp_path}/runs.db", recover=False) as reader:
                return await keys_of(reader, "r", LlmRequested), await keys_of(reader, "r", LlmCompleted)

        # The second one is in doubt: it was asked, and nobody knows whether it was answered.
        assert asyncio.run(log()) == (["first", "second"], ["first"])
        with Script(tmp_path, MODEL, server.base_url) as second:
            second.end()
        counts = {prompt.text: prompt.total for prompt in server.counts.prompts}
        assert counts == {"first question": 1, "second question": 2}
        assert asyncio.run(log()) == (["first", "second", "second"], ["first", "second"])
