"""What the public guides on model calls, secrets and registration do, done here: their commands, their forms of call.

Their pages are not part of this repository; `python -m tests.runtime.public_guides FOLDER` runs them word for word.
Here a page of our own, with the same forms, goes through the same runner.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import kitaru
from kitaru import checkpoint, flow
from kitaru.adapters.standin import Options, StandInServer
from kitaru.cli.app import run as run_command
from kitaru.errors import CredentialError, UsageError
from kitaru.store.events import LlmCompleted, LlmRequested
from tests.runtime.public_guides import KEY, ROOT, Outcome, blocks, run_page
from tests.runtime.runs import environment

TOKEN = "token-of-the-test"


class Done(NamedTuple):
    code: int
    out: str
    err: str


Typed = Callable[[str], Done]


@pytest.fixture
def server() -> Iterator[StandInServer]:
    with StandInServer(Options(api_key=KEY)) as found:
        yield found


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, server: StandInServer, capsys: pytest.CaptureFixture[str]) -> Typed:
    """A shell that has only `kitaru`, pointed at a server that takes one key."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)

    def command(line: str) -> Done:
        name, *words = shlex.split(line)
        assert name == "kitaru"
        code = run_command(words)
        return Done(code, *capsys.readouterr())

    return command


def good(typed: Typed, line: str) -> str:
    done = typed(line)
    assert done.code == 0, done.err
    return done.out


@pytest.fixture
def registered(typed: Typed) -> Typed:
    """A key stored as a secret, and an alias linked to it."""
    good(typed, f"kitaru secrets set openai-creds --OPENAI_API_KEY={KEY}")
    good(typed, "kitaru model register fast --model openai/gpt-5-nano --secret openai-creds")
    return typed


def records(run: str) -> list[LlmCompleted]:
    """The finished model calls of a run, in order."""
    events = asyncio.run(read(run))
    return [event for event in events if isinstance(event, LlmCompleted)]


async def read(run: str) -> list[object]:
    async with kitaru.Runtime(os.environ["KITARU_STORE"], recover=False) as reader:
        return [one.event for one in await reader._core.events(run)]


def bodies(server: StandInServer) -> list[Any]:
    return [one.body for one in server.requests]


def key_used(server: StandInServer) -> str:
    return server.requests[-1].credential


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_a_secret_is_set_shown_listed_and_deleted_by_command(typed: Typed) -> None:
    good(typed, f"kitaru secrets set openai-creds --OPENAI_API_KEY={KEY}")
    shown = good(typed, "kitaru secrets show openai-creds")
    assert "OPENAI_API_KEY" in shown
    assert KEY not in shown
    assert KEY in good(typed, "kitaru secrets show openai-creds --show-values")
    listed = good(typed, "kitaru secrets list")
    assert "openai-creds" in listed
    assert KEY not in listed
    good(typed, "kitaru secrets delete openai-creds")
    assert typed("kitaru secrets show openai-creds").code == 3


def test_setting_again_updates_the_named_values_and_leaves_who_sees_them(typed: Typed) -> None:
    good(typed, "kitaru secrets set creds --public --FIRST=one-of-the-test --SECOND=two-of-the-test")
    good(typed, "kitaru secrets set creds --SECOND=three-of-the-test")
    values = json.loads(good(typed, "kitaru secrets show creds --show-values --json"))
    assert values["values"] == {"FIRST": "one-of-the-test", "SECOND": "three-of-the-test"}
    assert values["private"] is False


@pytest.mark.parametrize(("option", "private"), [("", True), ("--private", True), ("--public", False)])
def test_a_new_secret_is_private_unless_it_is_said_to_be_public(typed: Typed, option: str, private: bool) -> None:
    good(typed, f"kitaru secrets set openai-creds {option} --OPENAI_API_KEY={KEY}")
    assert json.loads(good(typed, "kitaru secrets show openai-creds --json"))["private"] is private


@checkpoint
def length_of_the_token() -> int:
    token = kitaru.get_secret("github-creds").get("GITHUB_TOKEN")
    assert token is not None
    return len(token)


@flow
def reads_a_secret() -> int:
    return length_of_the_token().load()


def test_a_checkpoint_reads_a_secret_that_was_made_in_python() -> None:
    made = kitaru.create_secret("github-creds", {"GITHUB_TOKEN": TOKEN})
    assert kitaru.create_secret("others", {"KEY": TOKEN}, private=True).private
    assert length_of_the_token().load() == len(TOKEN)
    assert reads_a_secret.run().wait() == len(TOKEN)
    gone = kitaru.delete_secret("github-creds")
    assert (gone.id, gone.keys) == (made.id, ("GITHUB_TOKEN",))


@flow(image=kitaru.ImageSettings(secret_environment_from=["openai-creds"]))
def sees_the_environment() -> int:
    assert kitaru.getenv("OPENAI_API_KEY") == os.environ["OPENAI_API_KEY"]
    return len(os.environ["OPENAI_API_KEY"])


def test_a_flow_has_a_secrets_keys_in_its_environment_while_it_runs(registered: Typed) -> None:
    assert sees_the_environment.run().wait() == len(KEY)
    assert "OPENAI_API_KEY" not in os.environ


# -- registration ------------------------------------------------------------------------------------------------------


@flow
def two_calls(topic: str) -> str:
    points = kitaru.llm(f"Points on {topic}", model="fast", name="points")
    # As the guides write it, without `.ref`, which is for type checkers.
    return kitaru.llm(f"A text from: {points.load()}", model="fast", name="text")  # type: ignore[return-value]


@checkpoint
def text_of(topic: str, points: str) -> str:
    return kitaru.llm(f"A text on {topic} from: {points}", model="fast", name="text")  # type: ignore[return-value]


@flow
def a_call_and_a_checkpoint(topic: str) -> str:
    points = kitaru.llm(f"Points on {topic}", model="fast", name="points")
    return text_of(topic, points)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("made", [two_calls, a_call_and_a_checkpoint])
def test_a_flow_calls_by_the_alias_with_the_linked_secret(
    made: kitaru.Flow[[str], str], registered: Typed, server: StandInServer
) -> None:
    handle = made.run("tides")
    text = handle.wait()
    assert isinstance(text, str)
    assert handle.exec_id == handle.id
    first, second = bodies(server)
    assert first["model"] == "gpt-5-nano"
    assert "<Call" not in second["messages"][-1]["content"]
    found = records(handle.id)
    assert [one.llm.credential for one in found] == ["secret", "secret"]
    assert all(one.llm.alias == "fast" and one.llm.usage.output and one.llm.latency > 0 for one in found)
    assert all(one.response for one in found)


def test_a_listing_shows_the_alias_as_the_default_and_no_key(registered: Typed) -> None:
    listed = good(registered, "kitaru model list")
    assert "fast" in listed
    assert "openai/gpt-5-nano" in listed
    assert KEY not in listed
    assert json.loads(good(registered, "kitaru model default --json"))["default"] == "fast"


def test_the_environments_key_wins_over_the_linked_secret(
    registered: Typed, server: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    good(registered, "kitaru secrets set openai-creds --OPENAI_API_KEY=another-key-of-the-test")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    handle = two_calls.run("tides")
    handle.wait()
    assert key_used(server) == hashlib.sha256(KEY.encode()).hexdigest()
    assert [one.llm.credential for one in records(handle.id)] == ["environment", "environment"]


def test_without_any_key_the_call_says_how_to_set_one_up(typed: Typed, server: StandInServer) -> None:
    good(typed, "kitaru model register fast --model openrouter/some-model")
    with pytest.raises(CredentialError, match="OPENROUTER_API_KEY") as caught:
        two_calls.run("tides").wait()
    assert "kitaru secrets set" in str(caught.value)
    assert server.counts.total == 0


def test_ollama_needs_no_key_and_is_found_by_its_host(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    good(typed, "kitaru model register fast --model ollama/llama3.2:1b")
    with StandInServer() as local:
        monkeypatch.setenv("OLLAMA_HOST", local.url.removeprefix("http://"))
        handle = two_calls.run("tides")
        assert handle.wait()
        assert local.counts.providers == {"ollama": 2}
    assert [one.llm.credential for one in records(handle.id)] == ["none", "none"]


# -- which model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "variable", "asked"),
    [
        ("openai/by-argument", "openai/by-variable", "openai/by-argument"),
        ("other", "openai/by-variable", "openai/of-other"),
        (None, "other", "openai/of-other"),
        (None, "openai/by-variable", "openai/by-variable"),
        (None, "", "openai/gpt-5-nano"),
    ],
)
def test_the_argument_wins_then_the_variable_then_the_default_alias(
    registered: Typed, monkeypatch: pytest.MonkeyPatch, argument: str | None, variable: str, asked: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    good(registered, "kitaru model register other --model openai/of-other")
    monkeypatch.setenv("KITARU_DEFAULT_MODEL", variable)

    @flow
    def asks() -> str:
        return kitaru.llm("hi", model=argument).load()

    handle = asks.run()
    handle.wait()
    events = asyncio.run(read(handle.id))
    assert [one.model for one in events if isinstance(one, LlmRequested)] == [asked]


def test_the_variables_registry_lies_over_the_local_one(registered: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    good(registered, "kitaru model register kept --model openai/kept")
    monkeypatch.setenv("KITARU_MODEL_REGISTRY", '{"aliases": {"fast": {"model": "openai/above"}}, "default": "kept"}')
    listed = {one["name"]: one["model"] for one in json.loads(good(registered, "kitaru model list --json"))["aliases"]}
    assert listed == {"fast": "openai/above", "kept": "openai/kept"}
    assert json.loads(good(registered, "kitaru model default --json"))["default"] == "kept"


# -- one call ----------------------------------------------------------------------------------------------------------


def test_a_reasoning_model_takes_a_call_with_temperature_and_a_limit(registered: Typed, server: StandInServer) -> None:
    @flow
    def summary() -> str:
        return kitaru.llm(
            "Sum it up.", model="fast", system="You edit.", temperature=0.2, max_tokens=200, name="summary"
        ).load()

    handle = summary.run()
    assert handle.wait()
    (body,) = bodies(server)
    assert body["max_completion_tokens"] == 200
    assert "temperature" not in body
    assert [one["content"] for one in body["messages"]] == ["You edit.", "Sum it up."]
    (found,) = records(handle.id)
    assert found.llm.warnings == ("temperature was left out: openai/gpt-5-nano does not take it",)
    assert found.llm.usage.reasoning


def test_a_limit_that_thinking_uses_up_is_an_error_and_not_an_empty_text(registered: Typed) -> None:
    with pytest.raises(kitaru.ModelError, match="max_tokens"):
        kitaru.llm("Sum it up.", model="fast", max_tokens=20).load()


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_list_of_messages_is_sent_as_it_is_after_the_system_message(
    registered: Typed, server: StandInServer, system: str | None
) -> None:
    said = [("user", "A headline."), ("assistant", "Tides turn."), ("user", "Shorter.")]
    messages = [{"role": role, "content": content} for role, content in said]
    assert kitaru.llm(messages, model="fast", system=system, name="refined").load()
    (body,) = bodies(server)
    sent = [(one["role"], one["content"]) for one in body["messages"]]
    assert sent[-3:] == said
    assert [content for _, content in sent[:-3]] == ([system] if system else [])


@pytest.mark.parametrize("message", [{"role": "user"}, {"content": "hi"}, {}])
def test_a_message_without_role_or_content_is_refused(registered: Typed, message: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="message 0"):
        kitaru.llm([message], model="fast").load()


# -- install lines, example, runner ------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", ["openai", "anthropic", "llm", "local"])
def test_an_extra_of_the_guides_install_lines_is_there_and_empty(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"][extra] == []


@pytest.mark.parametrize("model", ["openai/gpt-5-nano", "test/echo"])
def test_the_example_runs_as_a_script(typed: Typed, server: StandInServer, tmp_path: Path, model: str) -> None:
    good(typed, f"kitaru model register fast --model {model}")
    script = ROOT / "examples" / "features" / "llm" / "flow_with_llm.py"
    variables = environment(tmp_path, OPENAI_BASE_URL=server.base_url, OPENAI_API_KEY=KEY)
    variables["KITARU_HOME"] = os.environ["KITARU_HOME"]
    done = subprocess.run(
        [sys.executable, str(script), "the", "moon"], capture_output=True, text=True, check=False, env=variables,
        cwd=tmp_path, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "kitaru show" in done.stdout
    assert server.counts.total == (2 if model.startswith("openai") else 0)


PAGE = f"""\
```bash
# kept first
kitaru secrets set openai-creds --OPENAI_API_KEY={KEY}
kitaru model register fast --model openai/gpt-5-nano --secret openai-creds
pip install kitaru[llm]
uv sync --extra local --extra nonesuch
```

- in a list

  ```python
  @flow
  def greets(name: str) -> str:
      return kitaru.llm(f"Greet {{name}}", model="fast")
  ```

```bash
uv run kitaru model remove nonesuch
export OPENAI_API_KEY=wrong
```

```python
kitaru.llm("hi", model="fast", retry=1)
```

```python
tools=[...]
```
"""


def test_a_page_is_cut_into_its_commands_and_its_python_blocks() -> None:
    found = list(blocks(PAGE))
    assert [(one.line, one.language) for one in found[:6]] == [
        (3, "bash"), (4, "bash"), (5, "bash"), (6, "bash"), (12, "python"), (18, "bash"),
    ]  # fmt: skip
    assert found[4].code.startswith("@flow\ndef greets")


def test_a_page_runs_word_for_word_and_what_does_not_work_is_told(tmp_path: Path, server: StandInServer) -> None:
    found: list[Outcome] = run_page("page", PAGE, tmp_path, server.base_url)
    assert [(one.where, one.word) for one in found] == [
        ("page:3", "ran"),
        ("page:4", "ran"),
        ("page:5", "ran"),
        ("page:6", "failed"),
        ("page:12", "ran"),
        ("page:18", "failed"),
        ("page:19", "ran"),
        ("page:23", "failed"),
        ("page:27", "left out"),
    ]
    assert "nonesuch" in found[3].said
    assert "CredentialError" in found[7].said
