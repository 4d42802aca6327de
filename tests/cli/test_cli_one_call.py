"""A model call outside any flow, from the command line: a run that its log alone can resume and replay."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kitaru as library
from kitaru.adapters.standin import Options, Rule, StandInServer
from tests.cli.conftest import Kitaru

RULES = (Rule("capital", "Oslo"), Rule("tide", '{"hour": 3}'))


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInServer]:
    """A model server that the calls of this process reach; their runs are in the store that commands read."""
    with StandInServer(Options(rules=RULES)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        yield server


def bodies(server: StandInServer) -> list[Any]:
    return [seen.body for seen in server.requests]


def test_an_unchanged_call_is_reused(kitaru: Kitaru, server: StandInServer) -> None:
    assert library.llm("The capital?", model="openai/a", system="Be short.", name="where").load() == "Oslo"
    done = kitaru("replay", "last", "--json")
    assert (done.json["output"], [line["verdict"] for line in done.json["lines"]]) == ("Oslo", ["reused"])
    assert len(server.requests) == 1


@pytest.mark.parametrize("option", ["openai/a=openai/b", "openai/b"])
def test_another_model_is_asked_what_the_first_was(kitaru: Kitaru, server: StandInServer, option: str) -> None:
    messages = [{"role": "user", "content": "x" * 3000}, {"role": "assistant", "content": "y"}]
    library.llm([*messages, {"role": "user", "content": "The capital?"}], model="openai/a", temperature=0.5).load()
    done = kitaru("replay", "last", "--model", option)
    assert re.search(r"● llm +executed .*model or its settings changed", done.out)
    first, second = bodies(server)
    assert (first["model"], second["model"]) == ("a", "b")
    assert {**first, "model": "b"} == second


@pytest.mark.parametrize("form", [{"response_type": dict[str, int]}, {"json_keys": ["hour"]}], ids=["typed", "json"])
def test_an_answers_form_is_in_the_log(kitaru: Kitaru, server: StandInServer, form: dict[str, object]) -> None:
    library.llm("When is high tide?", model="openai/a", **form).load()  # type: ignore[call-overload]  # any of them
    assert "Result same" in kitaru("replay", "last").out
    assert kitaru("replay", "last", "--from", "llm", "--json").json["output"] == {"hour": 3}
    first, second = bodies(server)
    assert first == second


def test_a_whole_reply_is_replayed(kitaru: Kitaru, server: StandInServer) -> None:
    library.llm.reply("The capital?", model="openai/a").load()
    assert "Result same" in kitaru("replay", "last").out


def test_a_call_that_was_killed_is_resumed(kitaru: Kitaru, server: StandInServer) -> None:
    code = "import kitaru; kitaru.llm('The capital?', model='openai/a').load()"
    with server.hold():
        process = subprocess.Popen([sys.executable, "-c", code])
        server.wait_for(1)
        process.kill()
        process.wait()
    done = kitaru("resume", "last")
    assert (done.code, done.out) == (0, "Oslo\n")
    assert "! in doubt  llm" in done.err
