"""`kitaru costs`, and costs where runs and steps are shown."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from kitaru import Runtime
from kitaru.adapters.standin import Fault, Options, StandInServer
from kitaru.cli.costs import tokens
from kitaru.store.events import LlmCompleted, LlmRecord, Usage
from tests.cli.conftest import Kitaru
from tests.store.logs import NOW, Listener, completed, started

PRICED = """
import kitaru
from kitaru import checkpoint, flow

QUICK = {"max_attempts": 2, "initial_delay": 0.001}


@checkpoint
async def research(question: str) -> str:
    return await kitaru.llm(question, model="fast", name="inner")


@flow
async def asks(question: str, model: str = "fast") -> str:
    return await kitaru.llm(question, model=model, name="answer", retry=QUICK)


@flow
async def both(question: str) -> str:
    await kitaru.llm(question, model="test/echo", name="echo")
    return await research(question)
"""


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInServer]:
    """A stand-in behind the alias `fast`, at 1000 dollars a million tokens; `dropped` loses its first answer."""
    (folder / "priced.py").write_text(PRICED)
    with StandInServer(Options(faults=(Fault("drop", first=1, match="dropped"), Fault("500", match="hopeless")))) as up:
        alias = {"model": "openai/stand-in", "base_url": up.base_url, "prices": {"input": "1000", "output": "1000"}}
        monkeypatch.setenv("KITARU_MODEL_REGISTRY", json.dumps({"aliases": {"fast": alias}}))
        yield up


def asked(kitaru: Kitaru, question: str, flow: str = "asks", *more: str) -> int:
    return kitaru("run", f"priced.py:{flow}", "-i", f"question={question}", *more).code


async def unpriced() -> None:
    """Record a call whose price nobody knows."""
    llm = LlmRecord("openrouter", "openrouter/foo", "foo", "stop", Usage(7, 3), 1.0)
    call = LlmCompleted(1, NOW, "answer", "llm", b"f", b"", b"\x92\x90\x80", 1, 1, NOW, b"\xa2hi", b"{}", llm)
    async with Runtime(recover=False) as runtime:
        await Listener(runtime._core.store).create("r", started(), call, completed())


def table(out: str) -> list[list[str]]:
    return [re.split(r" {2,}", line.strip()) for line in out.splitlines()]


def test_a_store_without_calls_says_so_and_is_no_error(kitaru: Kitaru, folder: Path) -> None:
    done = kitaru("costs")
    assert (done.code, done.out, done.err) == (0, "", f"No model calls yet in {folder}/default.db\n")
    assert kitaru("costs", "--since", "1h").err == "No such model calls.\n"
    assert kitaru("costs", "--json").json["rows"] == []


def test_costs_are_a_table_by_model_with_a_total(kitaru: Kitaru, server: StandInServer) -> None:
    assert asked(kitaru, "tides", "both") == 0
    head, paid, free, total = table(kitaru("costs").out)
    assert head == ["MODEL", "CALLS", "REUSED", "INPUT", "CACHED", "OUTPUT", "COST", "SAVED"]
    assert paid[:3] == ["openai/stand-in", "1", "0"]
    assert paid[-2].startswith("$0.")
    assert (free[0], free[-2:]) == ("test/echo", ["free", "–"])
    assert (total[0], total[-2]) == ("total", paid[-2])
    assert server.counts.total == 1


def test_one_row_needs_no_total(kitaru: Kitaru, server: StandInServer) -> None:
    del server
    asked(kitaru, "tides")
    assert [row[0] for row in table(kitaru("costs", "--by", "flow").out)] == ["FLOW", "asks"]


@pytest.mark.parametrize(("by", "names"), [("run", ["one"]), ("alias", ["fast", "(none)"]), ("flow", ["both"])])
def test_costs_are_listed_by_what_is_asked_for(
    kitaru: Kitaru, server: StandInServer, by: str, names: list[str]
) -> None:
    del server
    asked(kitaru, "tides", "both", "--run-id", "one")
    _, *rows = table(kitaru("costs", "--by", by).out)
    assert [row[0] for row in rows if row[0] != "total"] == names


def test_what_a_replay_reused_is_saved(kitaru: Kitaru, server: StandInServer) -> None:
    asked(kitaru, "tides", "both")
    assert kitaru("replay", "last").code == 0
    _, paid, free, _ = table(kitaru("costs").out)
    assert paid[1:3] == free[1:3] == ["1", "1"]
    assert paid[-1] == paid[-2]
    assert free[-1] == "–"
    assert server.counts.total == 1


def test_an_answer_without_a_price_is_unpriced_and_never_nothing(kitaru: Kitaru) -> None:
    asyncio.run(unpriced())
    done = kitaru("costs")
    assert table(done.out)[1][-2:] == ["–", "–"]
    assert "1 answer unpriced (openrouter/foo)" in done.out
    assert kitaru("costs", "--json").json["unpriced"] == [{"model": "openrouter/foo", "answers": 1}]
    assert "COST" not in kitaru("runs").out
    assert "$" not in kitaru("show", "last").out


def test_what_may_have_been_billed_stands_apart(kitaru: Kitaru, server: StandInServer) -> None:
    assert asked(kitaru, "dropped tides") == 0
    assert server.counts.total == 2
    done = kitaru("costs")
    cost = table(done.out)[1][-2]
    assert f"1 attempt possibly billed: about {cost} more at most" in done.out
    (row,) = kitaru("costs", "--json").json["rows"]
    assert (row["possible"], row["possible_cost"], row["possible_unknown"]) == (1, row["cost"], 0)


def test_calls_without_an_answer_are_counted(kitaru: Kitaru, server: StandInServer) -> None:
    assert asked(kitaru, "hopeless tides") == 1
    assert server.counts.total == 2
    assert "1 call without a usable answer" in kitaru("costs").out


def test_json_has_exact_amounts_as_text(kitaru: Kitaru, server: StandInServer) -> None:
    del server
    asked(kitaru, "tides")
    found = kitaru("costs", "--since", "1h", "--json").json
    (row,) = found["rows"]
    assert Decimal(row["cost"]) == Decimal(row["input"] + row["output"]) / 1000
    assert found["total"]["cost"] == row["cost"]
    assert (found["by"], found["prices"]) == ("model", [])
    assert found["since"].endswith("Z")


@pytest.mark.parametrize("arguments", [["--by", "week"], ["--since", "soon"]])
def test_wrong_options_are_wrong_usage(kitaru: Kitaru, arguments: list[str]) -> None:
    done = kitaru("costs", *arguments)
    assert done.code == 2
    assert arguments[1] in done.err


@pytest.mark.parametrize(
    ("number", "words"),
    [(None, "–"), (0, "0"), (9999, "9999"), (10_000, "10k"), (310_400, "310k"), (999_500, "1.0M"), (1_940_000, "1.9M")],
)
def test_tokens_are_in_words(number: int | None, words: str) -> None:
    assert tokens(number) == words


def test_runs_and_show_have_the_cost_of_calls_inside_checkpoints(kitaru: Kitaru, server: StandInServer) -> None:
    del server
    asked(kitaru, "tides", "both")
    cost = table(kitaru("costs").out)[1][-2]
    assert cost in kitaru("runs").out
    shown = kitaru("show", "last").out
    assert shown.count(cost) == 2
    assert "test/echo, 1+1 tokens, free" in shown


def test_a_run_of_free_calls_is_free(kitaru: Kitaru, server: StandInServer) -> None:
    assert asked(kitaru, "tides", "asks", "-i", "model=test/echo") == 0
    assert "free" in kitaru("runs").out
    assert server.counts.total == 0


def test_a_step_says_who_knows_its_price(kitaru: Kitaru, server: StandInServer) -> None:
    del server
    asked(kitaru, "tides")
    assert re.search(r"cost +\$0\.\d{4}, by the alias's prices", kitaru("show", "last", "answer").out)


def test_a_reused_call_shows_what_it_had_cost(kitaru: Kitaru, server: StandInServer) -> None:
    del server
    asked(kitaru, "tides")
    kitaru("replay", "last")
    assert re.search(r"reused .* was \$0\.\d{4}", kitaru("show", "last").out)
