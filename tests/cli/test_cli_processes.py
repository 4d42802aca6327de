"""The command as a process: killed, interrupted, piped, beside another one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kitaru.adapters.standin import Options as StandInOptions
from kitaru.adapters.standin import StandInServer, parse_fault
from tests.cli.conftest import SOURCES, Command, Kitaru, wait_until


def test_a_killed_run_is_interrupted_and_resumes_where_it_was(
    command: type[Command], kitaru: Kitaru, folder: Path
) -> None:
    with command("run", "flows.py:waits", "-i", "seconds=600", "--run-id", "w") as running:
        running.until("fetch")
        running.signal(signal.SIGKILL)
    assert kitaru("show", "w", "--json").json["status"] == "interrupted"
    assert "kitaru resume w" in kitaru("runs", "--status", "interrupted").out
    with command("resume", "w") as resumed:
        assert resumed.until("Resume") == "Resume w  waits(seconds=600.0)\n"
        resumed.signal(signal.SIGINT)
        assert resumed.end().code == 130
    assert (folder / "ran.txt").read_text() == "fetch1\n"


def test_a_call_that_a_kill_cut_off_is_shown_in_doubt(
    command: type[Command], kitaru: Kitaru, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StandInServer(StandInOptions(faults=(parse_fault("hang*1;match=Shorten"),))) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "stand-in")
        with command("run", "flows.py:asks", "-i", "question=why", "--run-id", "a") as running:
            running.until("short")
            wait_until(lambda: server.counts.in_flight == 1)
            running.signal(signal.SIGKILL)
        out = kitaru("show", "a").out
        assert "! in doubt" in out
        assert "may have been billed" in out
        done = kitaru("resume", "a")
        assert done.code == 0
        assert "! in doubt  short  has no outcome" in done.err
        assert [prompt.total for prompt in server.counts.prompts] == [1, 2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_parks_the_run(command: type[Command], kitaru: Kitaru, number: signal.Signals) -> None:
    with command("run", "flows.py:waits", "-i", "seconds=600", "--run-id", "w") as running:
        running.until("fetch")
        running.signal(number)
        done = running.end()
    assert (done.code, done.out) == (130, "")
    assert done.err.endswith("Parked w. Resume it: kitaru resume w\n")
    assert kitaru("show", "w", "--json").json["status"] == "parked"


def test_a_second_interrupt_ends_the_process_at_once(command: type[Command], folder: Path) -> None:
    with command("run", "flows.py:sleeper", "-i", "name=nap.txt", "--run-id", "s") as running:
        wait_until((folder / "nap.txt").exists)
        running.signal(signal.SIGINT)
        running.until("Ctrl-C again ends the process at once")
        running.signal(signal.SIGINT)
        done = running.end()
    assert done.code == 130
    assert "kitaru resume s" in done.err


def test_a_run_of_another_process_is_not_taken_from_it(command: type[Command], kitaru: Kitaru) -> None:
    with command("run", "flows.py:waits", "-i", "seconds=600", "--run-id", "w") as running:
        running.until("fetch")
        done = kitaru("resume", "w")
        assert done.code == 1
        assert str(running.process.pid) in done.err
        assert "● running" in kitaru("runs").out


def test_cancel_reaches_the_process_that_runs_it(command: type[Command], kitaru: Kitaru) -> None:
    with command("run", "flows.py:waits", "-i", "seconds=600", "--run-id", "w") as running:
        running.until("fetch")
        assert kitaru("cancel", "w", "--reason", "no longer wanted").out == "Cancelled w.\n"
        done = running.end()
    assert done.code == 1
    assert "run w was cancelled: no longer wanted" in done.err


def test_a_parked_run_is_resumed_and_cancelled(command: type[Command], kitaru: Kitaru) -> None:
    with command("run", "flows.py:waits", "-i", "seconds=600", "--run-id", "w") as running:
        running.until("fetch")
        running.signal(signal.SIGINT)
        running.end()
    assert kitaru("cancel", "w", "--json").json == {"run": "w", "status": "cancelled"}
    assert kitaru("cancel", "w").code == 1


def test_a_parked_run_whose_flow_is_gone_is_cancelled_later_or_closed_now(
    command: type[Command], kitaru: Kitaru, folder: Path
) -> None:
    with command("run", "flows.py:waits", "-i", "seconds=600", "--run-id", "w") as running:
        running.until("fetch")
        running.signal(signal.SIGINT)
        running.end()
    (folder / "flows.py").rename(folder / "elsewhere.py")
    done = kitaru("cancel", "w")
    assert "its flow cannot be loaded here" in done.out
    assert "kitaru cancel w --now" in done.out
    assert kitaru("show", "w", "--json").json["status"] == "parked"
    assert kitaru("cancel", "w", "--now").out == "Cancelled w.\n"


def test_events_can_be_followed_while_another_process_runs(command: type[Command], kitaru: Kitaru) -> None:
    with command("run", "flows.py:waits", "-i", "seconds=600", "--run-id", "w") as running:
        running.until("fetch")
        with command("events", "w", "-f", "--json") as following:
            assert following.process.stdout is not None
            assert json.loads(following.process.stdout.readline())["type"] == "RunStarted"
            kitaru("cancel", "w")
            done = following.end()
    assert done.code == 0
    assert json.loads(done.out.splitlines()[-1])["type"] == "RunCancelled"


def test_a_reader_that_has_seen_enough_is_no_error(command: type[Command], kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:pages", "-i", "count=400", "-q")
    with command("events", "last") as printing:
        assert printing.process.stdout is not None
        printing.process.stdout.readline()
        printing.process.stdout.close()
        assert printing.process.stderr is not None
        assert printing.process.stderr.read() == ""
        assert printing.process.wait(20) == 0


def test_symbols_are_ascii_where_the_output_is(command: type[Command], kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=für 漢")
    with command("show", "last", PYTHONIOENCODING="ascii") as showing:
        done = showing.end()
    assert done.code == 0
    assert done.out.isascii()
    assert "+ done" in done.out


def test_the_stand_in_says_where_it_answers_and_counts(command: type[Command], folder: Path) -> None:
    import urllib.request

    with command("mock-llm", "--journal", "requests.jsonl", "--json") as serving:
        assert serving.process.stdout is not None
        ready = json.loads(serving.process.stdout.readline())
        with urllib.request.urlopen(ready["base_url"].removesuffix("/v1") + "/_kitaru/requests") as answer:
            assert json.load(answer)["total"] == 0
        serving.signal(signal.SIGTERM)
        serving.process.wait(20)
    assert (folder / "requests.jsonl").exists()
    assert ready["environment"]["OPENAI_BASE_URL"] == ready["base_url"]


@pytest.mark.parametrize("arguments", [["--latency", "slow"], ["--fault", "nonsense"], ["--port", "70000"]])
def test_a_wrong_option_of_the_stand_in_is_wrong_usage(kitaru: Kitaru, arguments: list[str]) -> None:
    assert kitaru("mock-llm", *arguments).code == 2


def test_help_loads_neither_http_nor_a_server() -> None:
    code = (
        "import sys\nfrom kitaru.cli.app import run\nrun(['--help'])\n"
        "print([n for n in ('httpx', 'uvicorn', 'starlette', 'pydantic', 'aiosqlite', 'rich') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SOURCES)
    assert done.stdout.splitlines()[-1] == "[]"
