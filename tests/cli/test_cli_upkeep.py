"""Looking after the store from the command line, and what every command has in common."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import sys
from pathlib import Path

import pytest

from kitaru import __version__
from kitaru.cli.output import Output, clean, clean_lines
from kitaru.cli.wording import duration, money, period
from tests.cli.conftest import Kitaru

ALTERED = "CAST(replace(data, X'61686F79', X'61686F7A') AS BLOB)"


def damage(folder: Path, *, where: str = "seq = 1", text: str = ALTERED) -> None:
    """Alter one event, as a broken disk might."""
    with sqlite3.connect(folder / "default.db") as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.execute(f"UPDATE events SET data = {text} WHERE {where}")
    connection.close()


NOTHING_YET = {
    0: ["runs", "costs", "secrets list", "model list"],
    3: ["show last", "events last", "verify", "rebuild", "resume last", "retry last", "cancel last", "replay last"],
}


@pytest.mark.parametrize(("code", "line"), [(code, line) for code, lines in NOTHING_YET.items() for line in lines])
def test_a_command_that_reads_makes_no_store(kitaru: Kitaru, folder: Path, code: int, line: str) -> None:
    before = {path.name for path in folder.iterdir()}
    done = kitaru(*line.split(), "--store", "sqlite:///new/runs.db")
    assert done.code == code
    if not line.startswith("model"):
        assert f"yet in {folder}/new/runs.db" in done.err
    assert {path.name for path in folder.iterdir()} == before


def test_a_store_that_does_not_exist_has_no_runs(kitaru: Kitaru, folder: Path) -> None:
    assert kitaru("runs").err == f"No runs yet in {folder}/default.db\n"
    assert kitaru("runs", "--json").json == {"runs": [], "cursor": None}


DEEP = "[" * 20_000 + "]" * 20_000


@pytest.mark.parametrize(
    "line",
    [
        ["run", "flows.py:nothing", "--input", f"text={DEEP}"],
        ["run", "flows.py:nothing", "--input-json", '{"text": ' + DEEP + "}"],
        ["run", "flows.py:nothing", "--input-json", "@/dev/zero"],
        ["replay", "mine", "--override", f"fetch={DEEP}"],
        ["runs", "--flow", "\udcff"],
        ["runs", "--limit", "9" * 30],
        ["verify", "--heads", "/dev/zero"],
    ],
)
def test_an_input_without_bounds_is_wrong_usage(kitaru: Kitaru, line: list[str]) -> None:
    kitaru("run", "flows.py:pages", "-i", "count=1", "--run-id", "mine")
    done = kitaru(*line)
    assert done.code == 2
    assert "Error:" not in done.err
    assert "KITARU_DEBUG" not in done.err


def test_verify_of_a_sound_log_says_so(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=ahoy")
    done = kitaru("verify")
    assert (done.code, done.out) == (0, "✓ 1 run verified\n")
    assert kitaru("verify", "last", "--json").json == {"ok": True, "runs": 1, "problems": []}


def test_verify_of_an_altered_log_names_the_event_and_ends_with_1(kitaru: Kitaru, folder: Path) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=ahoy", "--run-id", "mine")
    damage(folder)
    done = kitaru("verify", "--json")
    assert done.code == 1
    assert {(problem["run"], problem["seq"]) for problem in done.json["problems"]} == {("mine", 1)}
    assert re.search(r"mine +event 1 +the event was altered", kitaru("verify").out)


def test_a_result_that_is_damaged_is_not_shown_as_null(kitaru: Kitaru, folder: Path) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=ahoy", "--run-id", "mine")
    damage(folder, where="seq = (SELECT max(seq) FROM events)", text="X'FF'")
    shown = kitaru("show", "mine").out
    assert "damaged" in shown
    assert "result" not in shown


def test_heads_that_were_kept_find_a_run_that_is_gone(kitaru: Kitaru, folder: Path) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=ahoy", "--run-id", "mine")
    assert kitaru("verify", "--write-heads", "heads.json").code == 0
    assert kitaru("verify", "--heads", "heads.json").out == "✓ 1 run verified, 1 head compared\n"
    heads = json.loads((folder / "heads.json").read_text())
    heads["heads"].append({"run": "gone", "seq": 3, "digest": "00"})
    (folder / "heads.json").write_text(json.dumps(heads))
    done = kitaru("verify", "--heads", "heads.json")
    assert done.code == 1
    assert re.search(r"gone +the run is missing", done.out)


def test_no_heads_are_written_of_a_log_with_problems(kitaru: Kitaru, folder: Path) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=ahoy")
    damage(folder)
    assert kitaru("verify", "--write-heads", "heads.json").code == 1
    assert not (folder / "heads.json").exists()


@pytest.mark.parametrize("text", ["", "{}", '{"kitaru_heads": 99, "heads": []}', '{"kitaru_heads": 1, "heads": [1]}'])
def test_a_file_without_heads_is_wrong_usage(kitaru: Kitaru, folder: Path, text: str) -> None:
    (folder / "heads.json").write_text(text)
    assert kitaru("verify", "--heads", "heads.json").code == 2


def test_rebuild_makes_the_list_of_runs_again(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=ahoy")
    before = kitaru("runs", "--json").json
    assert kitaru("rebuild").out == "Rebuilt 1 run.\n"
    assert kitaru("runs", "--json").json == before


def test_prune_removes_old_finished_runs_only(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=ahoy", "--run-id", "mine")
    assert kitaru("prune", "--older-than", "1d", "--yes", "--json").json["runs"] == 0
    assert kitaru("prune", "--older-than", "0s", "--yes").out.startswith("Removed 1 run, ")
    assert kitaru("runs", "--json").json["runs"][0]["status"] == "pruned"
    done = kitaru("show", "mine")
    assert done.code == 3
    assert "pruned" in done.err


def test_prune_without_a_terminal_needs_yes(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=ahoy")
    done = kitaru("prune", "--older-than", "0s")
    assert done.code == 2
    assert "--yes" in done.err
    assert kitaru("runs", "--json").json["runs"][0]["status"] == "completed"


@pytest.mark.parametrize("arguments", [["version"], ["-V"], ["--version"]])
def test_the_version_is_printed(kitaru: Kitaru, arguments: list[str]) -> None:
    done = kitaru(*arguments)
    assert (done.code, done.out) == (0, f"kitaru {__version__}\n")


# -- what all have in common ------------------------------------------------------------------------------------------

COMMANDS = [
    "run", "resume", "retry", "cancel", "runs", "show", "events", "replay", "result", "costs", "verify", "rebuild",
    "prune", "version", "mock-llm",
]  # fmt: skip
GROUPS = ["model", "secrets"]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_commands_help_begins_with_examples_and_ends_with_exit_codes(kitaru: Kitaru, name: str) -> None:
    done = kitaru(name, "--help")
    assert done.code == 0
    examples, codes, options = (done.out.index(word) for word in (f"$ kitaru {name}", "Exit codes:", "Options:"))
    assert examples < codes < options
    assert "--json" in done.out
    assert "--store" in done.out


def test_help_lists_the_commands(kitaru: Kitaru) -> None:
    out = kitaru("--help").out
    assert [line.split()[0] for line in out.partition("Commands:\n")[2].splitlines()] == [*COMMANDS, *GROUPS]
    assert kitaru().out == out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["rusn"], "Did you mean"), (["runs", "--jsn"], "--json"), (["show"], "RUN"), (["runs", "-n", "none"], "--limit")],
)
def test_wrong_usage_ends_with_2_and_points_to_help(kitaru: Kitaru, arguments: list[str], says: str) -> None:
    done = kitaru(*arguments)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert "--help" in done.err
    assert kitaru(*arguments, "--json").error["code"] == "usage"


def test_an_unexpected_error_shows_no_traceback_unless_asked(kitaru: Kitaru, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["kitaru.cli.upkeep"].wording, "period", lambda *_: 1 / 0)
    done = kitaru("prune", "--older-than", "1d")
    assert done.code == 1
    assert "ZeroDivisionError" in done.err
    assert "Traceback" not in done.err
    monkeypatch.setenv("KITARU_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        kitaru("prune", "--older-than", "1d")


def test_what_a_flow_gives_cannot_command_the_terminal(kitaru: Kitaru) -> None:
    done = kitaru("run", "flows.py:evil", "--run-id", "e")
    assert done.out == "xy\nz!\n"
    for shown in (done.err, kitaru("show", "e").out, kitaru("show", "e", "end").out, kitaru("events", "e").out):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)
    as_json = kitaru("show", "e", "--json")
    assert not re.search("[\x7f-\x9f\u202e\x1b]", as_json.out)
    assert as_json.json["result"] == "x\x1b[2J\x9b31my\r\nz!"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://evil\x07link\x1b]8;;\x07", "link"),
        ("\x1b]0;title\x1b\\x", "x"),
        ("a\x1b]never ends", "a"),
        ("a\x00\x08b\x9b2Jc", "abc"),
        ("left\u202eright", "leftright"),
        ("[bold]markup[/bold]", "[bold]markup[/bold]"),
        ("lone \ud800 surrogate", "lone  surrogate"),
        ("é 漢 🙂", "é 漢 🙂"),
    ],
)
def test_control_characters_are_stripped_and_nothing_else(text: str, shown: str) -> None:
    assert clean_lines(text) == shown


def test_one_line_stays_one_line() -> None:
    assert clean("a\n\tb\r\nc") == "a b c"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "colour", "coloured"),
    [
        ({"TERM": "xterm"}, None, True),
        ({"TERM": "xterm"}, False, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, None, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, None, True),
        ({"TERM": "dumb"}, None, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], colour: bool | None, coloured: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    out = Output(colour=colour)
    assert out.paint("word", "red") == ("\x1b[31mword\x1b[0m" if coloured else "word")
    assert out.paint("word", "red", err=True) == "word"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0004, "0 ms"), (0.085, "85 ms"), (0.3, "0.3 s"), (9.94, "9.9 s"), (32, "32 s"), (300, "5 min"), (7200, "2 h")],
)
def test_durations_are_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("amount", "words"),
    [("0.0034", "$0.0034"), ("0.00001", "<$0.0001"), ("12.5", "$12.50"), ("0", "free"), (None, "–"), ("", "–")],
)
def test_an_unknown_cost_is_never_nothing(amount: str | None, words: str) -> None:
    assert money(amount) == words


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("30d", 2592000), ("1.5h", 5400)]
)
def test_periods_are_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert period(text, "--since") == seconds


def test_columns_drop_from_the_right_and_never_wrap(kitaru: Kitaru, monkeypatch: pytest.MonkeyPatch) -> None:
    kitaru("run", "flows.py:broken", "-i", "name=" + "pump" * 30)
    for width in (20, 40, 60, 90):
        monkeypatch.setenv("COLUMNS", str(width))
        for out in (kitaru("runs").out, kitaru("show", "last").out.partition("kitaru retry")[0]):
            assert max(map(len, out.splitlines())) <= width
        assert "FLOW" in kitaru("runs").out
    monkeypatch.setenv("COLUMNS", "40")
    assert "NOTE" not in kitaru("runs").out
