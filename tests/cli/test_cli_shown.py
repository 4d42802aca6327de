"""What lists and views of runs show: in little room, while a run sleeps, of groups and conversations."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path

import pytest

from kitaru import Runtime
from kitaru.adapters.standin import StandInServer
from kitaru.errors import RunCancelledError
from kitaru.runtime.loader import load_spec
from tests.cli.conftest import FLOWS, Kitaru


@pytest.mark.parametrize("columns", ["40", "60"])
def test_a_narrow_terminal_shows_every_status(
    kitaru: Kitaru, monkeypatch: pytest.MonkeyPatch, folder: Path, columns: str
) -> None:
    text = FLOWS.replace("async def pages(", "async def a_flow_with_a_rather_long_name_that_takes_room(")
    text = text.replace("fetch(", "a_step_with_a_rather_long_name_that_takes_room(")
    (folder / "long.py").write_text(text, encoding="utf-8")
    kitaru("run", "long.py:a_flow_with_a_rather_long_name_that_takes_room", "-i", "count=2")
    monkeypatch.setenv("COLUMNS", columns)
    for words in (("show", "last"), ("runs",)):
        lines = kitaru(*words).out.splitlines()
        assert all(len(line) <= int(columns) for line in lines)
        assert sum("✓ done" in line for line in lines) == (3 if words[0] == "show" else 1)


def test_more_keeps_the_filters(kitaru: Kitaru) -> None:
    for number in range(3):
        kitaru("run", "flows.py:cry", "-i", "text=a", "--run-id", f"r{number}")
    words = ("runs", "--flow", "cry", "--status", "completed", "--since", "2h", "-n", "1")
    (more,) = [line for line in kitaru(*words).err.splitlines() if line.startswith("More: kitaru ")]
    following = kitaru(*shlex.split(more.removeprefix("More: kitaru ")))
    assert [line.split()[0] for line in following.out.splitlines()] == ["RUN", "r1"]
    assert following.err.startswith("More: kitaru runs --status completed --flow cry --since 2h -n 1 --cursor r1")


async def until_seen(runtime: Runtime, run: str, wanted: set[str]) -> None:
    """Wait until a run's log has events of these types."""
    kinds: list[str] = []
    while not wanted <= set(kinds):
        events = await runtime._core.store.watch(run, after=len(kinds), timeout=10)
        kinds += [type(recorded.event).__name__ for recorded in events]


def test_a_sleeping_run_says_until_when(kitaru: Kitaru) -> None:
    async def park() -> None:
        async with Runtime() as runtime:
            await runtime.start(load_spec("flows.py:waits").options(run_id="w"), 7200.0)
            await until_seen(runtime, "w", {"TimerSet"})

    asyncio.run(park())
    until = r"until \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ, in 2 h"
    assert re.search(f"sleep +… waiting +– +{until}", kitaru("show", "w").out)
    assert re.search(f"sleeps {until}", kitaru("runs").out)
    assert kitaru("runs", "--json").json["runs"][0]["until"] == kitaru("show", "w", "--json").json["until"]


def test_a_cancelled_run_waits_for_nothing(kitaru: Kitaru, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = FLOWS + "\n\n@flow\nasync def both() -> None:\n"
    text += "    await asyncio.gather(kitaru.sleep(7200), waits(7200.0))\n"
    (folder / "both.py").write_text(text, encoding="utf-8")

    async def cancelled() -> None:
        async with Runtime() as runtime:
            handle = await runtime.start(load_spec("both.py:both").options(run_id="w"))
            await until_seen(runtime, "w", {"TimerSet", "ChildStarted"})
            await handle.cancel("enough")
            with pytest.raises(RunCancelledError):
                await handle.result()

    asyncio.run(cancelled())
    shown = kitaru("show", "w").out
    assert len(re.findall(r"(sleep|waits) +✗ cancelled +– +(child run \w+, )?with the run", shown)) == 2
    assert kitaru("show", "w", "--json").json["until"] is None
    assert "child.not_cancelled" not in caplog.text


def test_a_step_in_doubt_is_not_said_to_be_billed(kitaru: Kitaru, folder: Path) -> None:
    text = FLOWS + "\n\n@checkpoint(effects=True)\nasync def mails() -> None:\n"
    text += "    if not os.path.exists('mended'):\n        await asyncio.sleep(600)\n"
    text += "\n\n@flow\nasync def sends() -> None:\n    await mails()\n"
    (folder / "sends.py").write_text(text, encoding="utf-8")

    async def park() -> None:
        async with Runtime() as runtime:
            await runtime.start(load_spec("sends.py:sends").options(run_id="w"))
            await until_seen(runtime, "w", {"StepStarted"})

    asyncio.run(park())
    shown = kitaru("show", "w").out
    assert re.search(r"mails +! in doubt +– +may have had effects", shown)
    assert "  1 step in doubt: started, no outcome recorded; may have had effects, and will run again" in shown
    (folder / "mended").touch()
    assert "! in doubt  mails  has no outcome, may have had effects; it runs again" in kitaru("resume", "w").err


def test_a_long_result_is_cut_at_the_width_with_the_command_that_prints_it(
    kitaru: Kitaru, monkeypatch: pytest.MonkeyPatch
) -> None:
    kitaru("run", "flows.py:cry", "-i", f"text={'tide ' * 60}", "--run-id", "r")
    monkeypatch.setenv("COLUMNS", "200")
    *_, result, command = kitaru("show", "r").out.splitlines()
    assert (len(result), command) == (200, "  whole: kitaru result r")


def test_a_groups_failure_names_the_inner_ones(kitaru: Kitaru, folder: Path) -> None:
    text = FLOWS + "\n\n@flow\nasync def grouped() -> None:\n    async with asyncio.TaskGroup() as group:\n"
    (folder / "grouped.py").write_text(text + '        group.create_task(fails("inner"))\n', encoding="utf-8")
    done = kitaru("run", "grouped.py:grouped", "--run-id", "g")
    for printed in (done.err, kitaru("show", "g").out, kitaru("runs").out):
        assert "(1 sub-exception): ValueError: inner is broken" in printed
    assert 'raise ValueError(f"{name} is broken")' in kitaru("show", "g").out


CHAT = """
import kitaru


def weather(city: str) -> str:
    return "fine"


@kitaru.flow
async def chat(question: str) -> str:
    messages = [{"role": "user", "content": question}]
    while True:
        reply = await kitaru.llm.reply(messages, model="openai/standin", tools=[weather], name="turn")
        if not reply.tool_calls:
            return reply.text
        messages += [reply.message, *(call.result("fine") for call in reply.tool_calls)]
"""


def test_conversations_print_as_conversations(
    kitaru: Kitaru, folder: Path, standin: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", standin.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    (folder / "chat.py").write_text(CHAT, encoding="utf-8")
    done = kitaru("run", "chat.py:chat", "-i", "question=the weather in Bergen", "--run-id", "c")
    assert "tokens, calls weather" in done.err
    assert re.search(r"turn +✓ done.*calls weather", kitaru("show", "c").out)
    assert "\nanswer\n→ weather({" in kitaru("show", "c", "turn[0]").out
    kitaru("replay", "c", "--run-id", "d")
    for run in ("c", "d"):
        shown = kitaru("show", run, "turn[1]").out
        assert re.search(
            r"\nuser\nthe weather in Bergen\n\nassistant\n→ weather\(\{.*\}\)\n\ntool.*\nfine\n\nanswer\n", shown
        )
    changed = kitaru("replay", "c", "-i", "question=the weather in Oslo", "--run-id", "e").out
    assert "inputs changed: messages[0].content: 'the weather in Bergen' → 'the weather in Oslo'" in changed
