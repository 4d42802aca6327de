"""Running flows, and looking at their runs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from kitaru.adapters.standin import StandInServer
from tests.cli.conftest import FLOWS, Kitaru


def test_run_prints_a_text_as_it_is_and_nothing_else_on_stdout(kitaru: Kitaru) -> None:
    done = kitaru("run", "flows.py:cry", "-i", "text=ahoy")
    assert (done.code, done.out) == (0, "ahoy!\n")


def test_what_the_flow_prints_goes_to_stderr(kitaru: Kitaru) -> None:
    assert "the flow prints" in kitaru("run", "flows.py:cry", "-i", "text=ahoy").err


def test_run_says_the_id_before_the_first_step(kitaru: Kitaru) -> None:
    first, *_, last = kitaru("run", "flows.py:cry", "-i", "text=ahoy", "--run-id", "mine").err.splitlines()
    assert first == 'Run mine  cry(text="ahoy")'
    assert "done in" in last


def test_run_prints_other_results_as_json(kitaru: Kitaru) -> None:
    assert kitaru("run", "flows.py:pages", "-i", "count=1").json == [{"title": "page 0", "size": 0}]


def test_quiet_leaves_nothing_but_the_result(kitaru: Kitaru) -> None:
    done = kitaru("run", "flows.py:pages", "-i", "count=0", "-q")
    assert (done.out, done.err) == ("[]\n", "")


def test_run_json_is_one_document(kitaru: Kitaru) -> None:
    done = kitaru("run", "flows.py:cry", "-i", "text=ahoy", "--run-id", "mine", "--json")
    assert (done.json["run"], done.json["status"], done.json["result"]) == ("mine", "completed", "ahoy!")


def test_the_same_run_id_is_the_same_run(kitaru: Kitaru, folder: Path) -> None:
    for _ in range(2):
        assert kitaru("run", "flows.py:pages", "-i", "count=1", "--run-id", "mine").code == 0
    assert (folder / "ran.txt").read_text() == "fetch0\n"


def test_a_text_parameter_takes_its_text_even_where_that_is_json(kitaru: Kitaru) -> None:
    assert kitaru("run", "flows.py:cry", "-i", 'text={"a": 1}').out == '{"a": 1}!\n'


@pytest.mark.parametrize(("typed", "text"), [("5", "5"), ("null", None), ("free text", "free text"), ('"5"', "5")])
def test_an_optional_text_takes_what_fits_it(kitaru: Kitaru, typed: str, text: str | None) -> None:
    assert kitaru("run", "flows.py:nothing", "-i", f"text={typed}").json["text"] == text


def test_an_object_becomes_the_parameters_own_class(kitaru: Kitaru) -> None:
    done = kitaru("run", "flows.py:nothing", "-i", 'page={"title": "t", "size": 2}')
    assert done.json["page"] == {"title": "t", "size": 2}


def test_inputs_come_from_a_json_object_a_file_and_options_which_win(kitaru: Kitaru, folder: Path) -> None:
    (folder / "inputs.json").write_text('{"count": 3, "tag": "from file"}')
    assert len(kitaru("run", "flows.py:pages", "--input-json", '{"count": 2}').json) == 2
    done = kitaru("run", "flows.py:pages", "--input-json", "@inputs.json", "-i", "count=1")
    assert len(done.json) == 1
    assert kitaru("show", "last", "--json").json["inputs"] == {"count": 1, "tag": "from file"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-i", "count=many"], "count: Expected `int`"),
        (["-i", "number=1"], "pages has no input 'number'"),
        ([], "count=..."),
        (["-i", "count"], "is not NAME=VALUE"),
        (["--input-json", "[1]"], "is not a JSON object"),
        (["--input-json", "{"], "is not JSON"),
        (["--input-json", "@missing.json"], "missing.json cannot be read"),
        (["-i", "count=1", "--run-id", "a b"], "run id 'a b'"),
        (["-i", "count=1", "--run-id", ""], "run id may not be empty"),
    ],
)
def test_wrong_inputs_are_wrong_usage(kitaru: Kitaru, arguments: list[str], says: str) -> None:
    done = kitaru("run", "flows.py:pages", *arguments)
    assert done.code == 2
    assert says in done.err
    assert "Run " not in done.err
    assert kitaru("runs", "--json").json["runs"] == []


def test_wrong_inputs_name_the_flows_signature(kitaru: Kitaru) -> None:
    assert "pages(count: int, tag: str = 'plain') -> list[Page]" in kitaru("run", "flows.py:pages").err


@pytest.mark.parametrize(
    ("spec", "code", "says"),
    [
        ("missing.py:flow", 3, "no file"),
        ("no_such_module:flow", 3, "no module no_such_module"),
        ("flows.py:missing", 2, "does not exist"),
        ("flows.py", 2, "flows.py:pages"),
        ("flows.py:Page", 2, "is not a flow"),
    ],
)
def test_a_flow_that_is_not_there_is_said_so(kitaru: Kitaru, spec: str, code: int, says: str) -> None:
    done = kitaru("run", spec)
    assert done.code == code
    assert says in done.err


@pytest.mark.parametrize(
    ("source", "line"), [("a = 1\nboom()\n", 2), ("def f(:\n", 1), ("import json\njson.loads('{')\n", 2)]
)
def test_a_file_that_cannot_be_loaded_names_its_line_without_a_traceback(
    kitaru: Kitaru, folder: Path, source: str, line: int
) -> None:
    (folder / "bad.py").write_text(source)
    done = kitaru("run", "bad.py:flow")
    assert done.code == 2
    assert re.search(rf"bad\.py:{line}\b", done.err)
    assert "Traceback" not in done.err


def test_a_file_that_ends_the_process_is_told_to_guard_that(kitaru: Kitaru, folder: Path) -> None:
    (folder / "bad.py").write_text("import sys\nsys.exit(0)\n")
    done = kitaru("run", "bad.py:flow")
    assert done.code == 2
    assert '__name__ == "__main__"' in done.err


def test_a_failed_run_names_the_exception_its_line_and_the_way_on(kitaru: Kitaru) -> None:
    done = kitaru("run", "flows.py:broken", "-i", "name=pump", "--run-id", "b")
    assert (done.code, done.out) == (1, "")
    assert "ValueError: pump is broken" in done.err
    assert re.search(r"at flows\.py:\d+  raise ValueError\(f.*is broken", done.err)
    assert "kitaru retry b" in done.err
    assert "Traceback" not in done.err


def test_a_value_that_cannot_be_recorded_is_named_by_its_class_alone(kitaru: Kitaru, folder: Path) -> None:
    text = FLOWS + "\n\nclass Client:\n    pass\n\n\n@checkpoint\nasync def make() -> object:\n    return [Client()]\n"
    (folder / "odd.py").write_text(
        text + "\n\n@flow\nasync def odd() -> object:\n    return await make()\n", encoding="utf-8"
    )
    done = kitaru("run", "odd.py:odd")
    assert "EncodeError: the result of make(): value[0] is a Client, which cannot be recorded\n" in done.err
    progress = next(line for line in done.err.splitlines() if "✗ failed" in line)
    assert progress.endswith("is a Client, which cannot be recorded")


def test_a_failed_run_under_json_is_one_error_document(kitaru: Kitaru) -> None:
    error = kitaru("run", "flows.py:broken", "-i", "name=pump", "--run-id", "b", "--json").error
    assert (error["code"], error["run"], error["type"]) == ("run_failed", "b", "ValueError")
    assert error["hint"].endswith("kitaru retry b")


def test_retry_goes_on_where_the_run_failed(kitaru: Kitaru, folder: Path) -> None:
    kitaru("run", "flows.py:broken", "-i", "name=pump")
    (folder / "mended").touch()
    done = kitaru("retry", "last")
    assert (done.code, done.out) == (0, "mended\n")
    assert (folder / "ran.txt").read_text() == "fetch1\n"


def test_only_a_failed_run_is_retried(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=a")
    assert kitaru("retry", "last").code == 1


def test_resume_of_a_completed_run_gives_its_result_again(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=ahoy")
    done = kitaru("resume", "last")
    assert (done.code, done.out) == (0, "ahoy!\n")


def test_resume_of_a_completed_run_needs_no_code(kitaru: Kitaru, folder: Path) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=a", "--run-id", "r")
    (folder / "flows.py").unlink()
    assert kitaru("resume", "r").out == "a!\n"


def test_resume_of_a_failed_run_points_to_retry(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:broken", "-i", "name=pump", "--run-id", "b")
    done = kitaru("resume", "b")
    assert done.code == 1
    assert "kitaru retry b" in done.err


def test_a_missing_key_ends_with_its_own_code(kitaru: Kitaru) -> None:
    done = kitaru("run", "flows.py:asks", "-i", "question=why")
    assert done.code == 4
    assert "OPENAI_API_KEY" in done.err


# -- looking ----------------------------------------------------------------------------------------------------------


def test_no_runs_are_no_error(kitaru: Kitaru) -> None:
    done = kitaru("runs")
    assert (done.code, done.out) == (0, "")


def test_runs_lists_newest_first_with_the_command_that_helps(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=a", "--run-id", "one")
    kitaru("run", "flows.py:broken", "-i", "name=pump", "--run-id", "two")
    head, second, first = kitaru("runs").out.splitlines()
    assert head.split()[:3] == ["RUN", "FLOW", "STATUS"]
    assert second.startswith("two")
    assert "✗ failed" in second
    assert "1/2" in second
    assert "fails: ValueError: pump is broken" in second
    assert "kitaru retry two" in second
    assert first.split()[:4] == ["one", "cry", "✓", "done"]


def test_runs_can_be_narrowed_down_and_paged(kitaru: Kitaru) -> None:
    for number in range(3):
        kitaru("run", "flows.py:cry", "-i", "text=a", "--run-id", f"cry-{number}")
    kitaru("run", "flows.py:broken", "-i", "name=pump", "--run-id", "two")

    def ids(*arguments: str) -> list[str]:
        return [row["id"] for row in kitaru("runs", "--json", *arguments).json["runs"]]

    assert ids("--status", "failed") == ["two"]
    assert ids("--status", "done", "--status", "failed", "-n", "2") == ["two", "cry-2"]
    assert ids("--flow", "cry", "--cursor", "cry-2") == ["cry-1", "cry-0"]
    assert ids("--since", "1h", "-n", "1") == ["two"]
    assert kitaru("runs", "-n", "2", "--json").json["cursor"] == "cry-2"
    assert kitaru("runs", "--since", "soon").code == 2


def test_a_generated_id_is_written_short_and_found_by_that(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=a")
    short = kitaru("runs").out.splitlines()[1].split()[0]
    assert len(short) == 8
    assert kitaru("show", short, "--json").json["id"].startswith(short)


def test_show_lists_inputs_boundaries_and_metadata(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:pages", "-i", "count=2", "-i", "tag=blue", "--run-id", "p")
    out = kitaru("show", "p").out
    assert "pages  p  ✓ done" in out
    assert '{"count": 2, "tag": "blue"}' in out
    assert 'tag="blue"' in out
    assert re.search(r"fetch\s+✓ done", out)
    assert re.search(r"fetch\[1\]\s+✓ done", out)
    assert "now" not in out


def test_show_hides_the_middle_of_many_done_steps_on_a_terminal_unless_asked(
    kitaru: Kitaru, monkeypatch: pytest.MonkeyPatch
) -> None:
    kitaru("run", "flows.py:pages", "-i", "count=40")
    assert kitaru("show", "last").out.count("fetch") == 40
    monkeypatch.setenv("COLUMNS", "100")
    assert re.search(r"33 more done\s+\(--all\)", kitaru("show", "last").out)
    assert kitaru("show", "last", "--all").out.count("fetch") == 40


def test_show_of_a_failure_names_the_line_and_the_command_that_helps(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:broken", "-i", "name=pump", "--run-id", "b")
    out = kitaru("show", "b").out
    assert re.search(r"fails\s+✗ failed", out)
    assert re.search(r"at\s+flows\.py:\d+  raise ValueError\(f.*is broken", out)
    assert out.rstrip().endswith("kitaru retry b")


def test_show_of_a_step_shows_what_it_was_given_and_gave(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:pages", "-i", "count=2")
    seen = kitaru("show", "last", "fetch[1]", "--json").json
    assert (seen["inputs"], seen["outcome"]) == ([1], {"title": "page 1", "size": 1})
    number = str(seen["boundary"]["seq"])
    assert kitaru("show", "last", number, "--json").json["boundary"]["key"] == "fetch[1]"
    assert "page 1" in kitaru("show", "last", number).out


def test_a_step_that_is_not_there_or_not_the_only_one_is_said_so(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=a")
    missing = kitaru("show", "last", "nope")
    assert missing.code == 3
    assert "It has: end" in missing.err


@pytest.mark.parametrize("name", ["nope", "last", "last~3"])
def test_a_run_that_is_not_there_is_not_found(kitaru: Kitaru, name: str) -> None:
    done = kitaru("show", name, "--json")
    assert (done.code, done.error["code"]) == (3, "not_found")


def test_an_ambiguous_prefix_lists_the_candidates(kitaru: Kitaru) -> None:
    for number in range(2):
        kitaru("run", "flows.py:cry", "-i", "text=a", "--run-id", f"cry-{number}")
    done = kitaru("show", "cry")
    assert done.code == 3
    assert "cry-0, cry-1" in done.err


def test_show_of_a_model_call_shows_prompt_answer_and_tokens(
    kitaru: Kitaru, standin: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", standin.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "stand-in")
    answer = kitaru("run", "flows.py:asks", "-i", "question=Why do tides move?").out.strip()
    assert re.search(r"short\s+✓ done .*openai/standin, \d+\+\d+ tokens", kitaru("show", "last").out)
    out = kitaru("show", "last", "short").out
    assert "Shorten:" in out
    assert answer in out
    seen = kitaru("show", "last", "answer", "--json").json
    assert seen["messages"] == [{"role": "user", "content": "Why do tides move?"}]
    assert seen["response"]["choices"][0]["message"]["content"] == seen["outcome"]
    assert [attempt["status"] for attempt in seen["attempts"]] == [200]
    assert "stand-in" not in json.dumps(seen["settings"])


def test_a_warning_of_a_model_call_is_seen_in_the_progress_in_show_and_in_the_log(
    kitaru: Kitaru, standin: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", standin.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "stand-in")
    warning = "temperature was left out: openai/o3 does not take it"
    done = kitaru("run", "flows.py:thinks", "-i", "question=Why?", "--run-id", "t")
    assert re.search(rf"✓ done +think .*warning: {warning}", done.err)
    assert done.err.count(warning) == 1
    assert re.search(rf"think +✓ done .*warning: {warning}", kitaru("show", "t").out)
    assert kitaru("show", "t", "think").out.count(warning) == 1
    quiet = kitaru("run", "flows.py:thinks", "-i", "question=Why?", "--quiet")
    assert re.search(rf"^warning: llm.warning .*{warning}", quiet.err, re.MULTILINE)


def test_show_has_a_word_for_each_kind_of_boundary(kitaru: Kitaru) -> None:
    assert kitaru("run", "flows.py:many_kinds", "-i", "text=ahoy", "--run-id", "m").out == "ahoy!\n"
    boundaries = {b["key"]: b for b in kitaru("show", "m", "--json").json["boundaries"]}
    assert {key: b["state"] for key, b in boundaries.items() if b["kind"] != "uuid"} == {
        "slow": "cancelled", "sleep": "done", "save": "done", "flaky": "done", "child": "done",
    }  # fmt: skip
    assert boundaries["flaky"]["attempt"] == 2
    out = kitaru("show", "m").out
    assert re.search(r"slow +✗ cancelled .* by the flow", out)
    assert re.search(rf"child +✓ done .* child run {boundaries['child']['child']}", out)
    assert "uuid" not in out
    assert "uuid" in kitaru("show", "m", "--all").out
    child = boundaries["child"]["child"]
    assert "child of m" in kitaru("runs").out
    assert "of m" in kitaru("show", child).out


def test_show_of_an_attempted_step_lists_its_failures(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:many_kinds", "-i", "text=ahoy")
    assert "failure 1  OSError: not yet" in kitaru("show", "last~0", "flaky").out


def test_what_a_checkpoint_calls_stands_under_it(
    kitaru: Kitaru, standin: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", standin.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "stand-in")
    kitaru("run", "flows.py:nested", "-i", "question=why")
    out = kitaru("show", "last").out
    assert re.search(r'^  \d+ +asks_inside +✓ done .* asked="why"$\n^  \d+ +  inner +✓ done ', out, re.MULTILINE)
    assert kitaru("show", "last", "inner", "--json").json["boundary"]["inside"] == "asks_inside"


def test_events_prints_the_log_a_line_an_event(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=a")
    found = kitaru("events", "last", "--json").json["events"]
    assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
    assert (found[0]["type"], found[0]["inputs"]) == ("RunStarted", {"text": "a"})
    assert (found[-1]["type"], found[-1]["outcome"]) == ("RunCompleted", "a!")
    assert len(kitaru("events", "last").out.splitlines()) == len(found)


@pytest.mark.parametrize("value", ["0", '""', "null", "false", "[]"])
def test_events_prints_an_outcome_that_is_empty_or_zero(kitaru: Kitaru, folder: Path, value: str) -> None:
    python = {"null": "None", "false": "False"}.get(value, value)
    text = f"\n\n@checkpoint\nasync def step() -> object:\n    return {python}\n\n\n"
    text += "@flow\nasync def outer() -> object:\n    return await step()\n"
    (folder / "empty.py").write_text(FLOWS + text, encoding="utf-8")
    kitaru("run", "empty.py:outer")
    ends = [line for line in kitaru("events", "last").out.splitlines() if "Completed" in line]
    assert [f'"outcome": {value}' in line for line in ends] == [True, True]


def test_following_a_finished_runs_events_ends(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=a")
    lines = [json.loads(line) for line in kitaru("events", "last", "-f", "--json").out.splitlines()]
    assert lines == [{"schema": 1, **event} for event in kitaru("events", "last", "--json").json["events"]]


def test_the_old_words_still_work_and_are_not_listed(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=a", "--run-id", "one")
    assert kitaru("executions", "list").out == kitaru("runs").out
    assert kitaru("executions", "get", "one").out == kitaru("show", "one").out
    assert "executions" not in kitaru("--help").out


def test_a_run_of_another_store_is_found_there_only(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=a", "--store", "sqlite:///other.db")
    assert len(kitaru("runs", "--store", "sqlite:///other.db").out.splitlines()) == 2
    os.environ["KITARU_STORE"] = "sqlite:///default.db"
    assert kitaru("runs").out == ""


def test_a_store_that_cannot_be_used_ends_with_its_own_code(kitaru: Kitaru, folder: Path) -> None:
    (folder / "broken.db").write_bytes(b"this is no database" * 100)
    assert kitaru("runs", "--store", "sqlite:///broken.db", "--json").code == 5


LONG = "one long line, " * 40


def test_result_prints_a_value_whole(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:cry", "-i", f"text={LONG}", "--run-id", "r")
    assert kitaru("result", "r").out == f"{LONG}!\n"
    assert kitaru("result", "r", "end", "--raw").out == f"{LONG}!"
    assert kitaru("result", "r", "--json").json["result"] == f"{LONG}!"
    kitaru("run", "flows.py:pages", "-i", "count=2", "--run-id", "p")
    assert kitaru("result", "p", "fetch[1]").json == {"title": "page 1", "size": 1}


def test_raw_is_the_text_as_it_was_recorded(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:evil", "--run-id", "r")
    assert kitaru("result", "r", "--raw").out == "x\x1b[2J\x9b31my\r\nz!"
    assert "\x1b" not in kitaru("result", "r").out


@pytest.mark.parametrize("step", [[], ["fails"]])
def test_result_of_what_failed_says_why(kitaru: Kitaru, step: list[str]) -> None:
    kitaru("run", "flows.py:broken", "-i", "name=x", "--run-id", "r")
    done = kitaru("result", "r", *step)
    assert (done.code, done.out) == (1, "")
    assert "ValueError: x is broken" in done.err


def test_nothing_is_cut_where_no_terminal_is(kitaru: Kitaru, monkeypatch: pytest.MonkeyPatch) -> None:
    kitaru("run", "flows.py:cry", "-i", f"text={LONG}", "--run-id", "r")
    kitaru("run", "flows.py:broken", "-i", f"name={LONG}", "--run-id", "f")
    piped = [kitaru("show", "r"), kitaru("events", "r"), kitaru("show", "f"), kitaru("runs")]
    assert all(LONG.strip() in done.out for done in piped)
    assert kitaru("show", "r").out.count(LONG) == 2
    monkeypatch.setenv("COLUMNS", "100")
    assert all(len(line) <= 100 for line in kitaru("show", "r").out.splitlines())


DOCUMENTS = [
    ("runs",),
    ("show", "r"),
    ("show", "r", "end"),
    ("result", "r"),
    ("events", "r"),
    ("costs",),
    ("replay", "r", "--dry-run"),
    ("replay", "r", "--verify"),
    ("replay", "r"),
    ("secrets", "list"),
    ("model", "list"),
    ("verify",),
    ("version",),
    ("run", "flows.py:cry", "-i", "text=b"),
]


@pytest.mark.parametrize("words", DOCUMENTS, ids=" ".join)
def test_json_is_one_document_with_the_version_of_its_schema(kitaru: Kitaru, words: tuple[str, ...]) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=a", "--run-id", "r")
    document = json.loads(kitaru(*words, "--json").out)
    assert next(iter(document.items())) == ("schema", 1)
    assert json.loads(kitaru("show", "nobody", "--json").err)["schema"] == 1


def test_lists_and_views_name_a_runs_facts_alike(kitaru: Kitaru) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=a", "--run-id", "r")
    kitaru("replay", "r", "--run-id", "again")
    for run in ("r", "again"):
        (listed,) = [one for one in kitaru("runs", "--json").json["runs"] if one["id"] == run]
        shown = kitaru("show", run, "--json").json
        assert {name: shown[name] for name in listed if name not in ("note", "cost")} == {
            name: value for name, value in listed.items() if name not in ("note", "cost")
        }
        assert listed["steps"] == {"total": 1, "done": 1, "reused": int(run == "again")}
