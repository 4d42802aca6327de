"""The commands under `kitaru model`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kitaru.adapters.standin import Options, StandInServer
from kitaru.runtime.models.registry import registry_path
from tests.cli.conftest import SOURCES, Command, Kitaru
from tests.runtime.canned import Canned, CannedServer

PULLED = b"".join(
    json.dumps(one).encode() + b"\n"
    for one in (
        {"status": "pulling manifest"},
        {"status": "pulling aaa", "digest": "sha256:aaa", "total": 2_000_000_000, "completed": 500_000_000},
        {"status": "pulling aaa", "digest": "sha256:aaa", "total": 2_000_000_000, "completed": 510_000_000},
        {"status": "pulling aaa", "digest": "sha256:aaa", "total": 2_000_000_000, "completed": 2_000_000_000},
        {"status": "success"},
    )
)


def written() -> Any:
    return json.loads(registry_path().read_text(encoding="utf-8"))


@pytest.fixture
def fast(kitaru: Kitaru) -> Kitaru:
    """The command, with an alias registered as the public guide does it."""
    assert kitaru(*["model", "register", "fast", "--model", "openai/gpt-5-nano", "--secret", "openai-creds"]).code == 0
    return kitaru


# -- register ---------------------------------------------------------------------------------------------------------


def test_registering_writes_the_alias_and_says_that_it_is_the_default(kitaru: Kitaru) -> None:
    done = kitaru("model", "register", "fast", "--model", "openai/gpt-5-nano", "--secret", "openai-creds")
    assert done.code == 0
    assert done.out == "Registered fast: openai/gpt-5-nano; it is the default.\n"
    assert written() == {
        "aliases": {"fast": {"model": "openai/gpt-5-nano", "secret": "openai-creds"}},
        "default": "fast",
    }


def test_every_option_becomes_a_field(fast: Kitaru) -> None:
    options = (
        "--base-url http://h/v1 --temperature 0.2 --max-tokens 9 --top-p 0.5 --stop A --stop B --seed 1 "
        "--reasoning LOW --context-length 4096 --fallback fast --fallback openai/x --retries 2 --cache 5m "
        "--price-input 0.05 --price-output 0.4 --default"
    )
    assert fast("model", "register", "all", "--model", "openai-compatible/m", *options.split()).code == 0
    assert written()["default"] == "all"
    assert written()["aliases"]["all"] == {
        "model": "openai-compatible/m", "base_url": "http://h/v1", "temperature": 0.2, "max_tokens": 9, "top_p": 0.5,
        "stop": ["A", "B"], "seed": 1, "reasoning": "low", "context_length": 4096, "fallbacks": ["fast", "openai/x"],
        "cache": "5m", "retries": 2, "prices": {"input": 0.05, "output": 0.4},
    }  # fmt: skip


def test_registering_anew_says_what_the_name_stood_for(fast: Kitaru) -> None:
    done = fast("model", "register", "fast", "--model", "openai/other")
    assert "Changed" in done.out
    assert "openai/gpt-5-nano" in done.err


def test_registering_what_the_environment_hides_warns(kitaru: Kitaru, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITARU_MODEL_REGISTRY", '{"aliases": {"fast": {"model": "openai/other"}}}')
    assert "KITARU_MODEL_REGISTRY" in kitaru("model", "register", "fast", "--model", "openai/x").err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--model gpt-4o", "openai/gpt-4o"),
        ("--model opnai/x", "opnai"),
        ("--model openai/x --secret sk-of-the-test", "looks like a key"),
        ("--model openai/x --fallback nosuch", "nosuch"),
        ("--model openai/x --fallback new", "new -> new"),
        ("--model openai/x --reasoning hard", "hard"),
        ("--model openai/x --price-input 1", "price"),
        ("--model openai/x --price-input x --price-output 1", "price"),
        ("--model openai/x --cache soon", "cache"),
        ("", "--model"),
    ],
)
def test_what_cannot_be_registered_is_wrong_usage_and_writes_nothing(
    kitaru: Kitaru, arguments: str, words: str
) -> None:
    done = kitaru("model", "register", "new", *arguments.split())
    assert done.code == 2
    assert words in done.err
    assert "sk-of-the-test" not in done.err
    assert not registry_path().exists()


# -- list, show, default, remove --------------------------------------------------------------------------------------


def test_the_list_shows_source_default_and_where_the_key_is(fast: Kitaru, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITARU_MODEL_REGISTRY", '{"aliases": {"env": {"model": "openai/e"}}}')
    assert fast("model", "list").out.splitlines() == [
        "   NAME  MODEL              KEY                            FROM                   MORE",
        "*  fast  openai/gpt-5-nano  secret openai-creds (missing)  models.json",
        "   env   openai/e           missing: OPENAI_API_KEY        KITARU_MODEL_REGISTRY",
    ]


def test_a_key_of_the_environment_is_named_and_never_shown(fast: Kitaru, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-test")
    for words in (["list"], ["list", "--json"], ["show", "fast"], ["show", "fast", "--json"]):
        done = fast("model", *words)
        assert "OPENAI_API_KEY" in done.out
        assert "key-of-the-test" not in done.out + done.err


def test_a_secret_that_is_there_is_not_missing(fast: Kitaru) -> None:
    from kitaru.runtime.secrets.named import create_secret

    create_secret("openai-creds", {"OPENAI_API_KEY": "key-of-the-test"})
    assert fast("model", "list", "--json").json["aliases"][0]["key"] == {
        "source": "secret", "name": "openai-creds", "present": True, "needed": True,
    }  # fmt: skip


def test_an_empty_list_is_no_error(kitaru: Kitaru) -> None:
    assert kitaru("model", "list", "--json").json == {
        "aliases": [], "default": None, "default_model": None, "gateway": None,
    }  # fmt: skip


def test_the_list_may_be_of_one_provider(fast: Kitaru) -> None:
    fast("model", "register", "other", "--model", "groq/x")
    listed = fast("model", "list", "--provider", "groq", "--json").json["aliases"]
    assert [one["name"] for one in listed] == ["other"]
    assert fast("model", "list", "--provider", "nosuch").code == 2


def test_ollamas_list_is_what_its_server_holds(kitaru: Kitaru, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [{"name": "tiny:latest", "size": 1_300_000_000, "modified_at": "2026-01-02T03:04:05Z"}]
    with CannedServer({"/api/tags": Canned(body=json.dumps({"models": models}).encode())}) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        kitaru("model", "register", "small", "--model", "ollama/tiny")
        done = kitaru("model", "list", "--provider", "ollama")
        listed = kitaru("model", "list", "--provider", "ollama", "--json").json
    assert done.out.splitlines()[1].split() == ["tiny:latest", "1.3", "GB", "2026-01-02", "small"]
    assert listed["models"][0]["alias"] == "small"


def test_a_model_is_shown_with_its_route_and_capabilities(fast: Kitaru) -> None:
    fast("model", "register", "smart", "--model", "openai/o3-mini", "--fallback", "fast", "--temperature", "0.2")
    shown = fast("model", "show", "smart", "--json").json
    assert shown["model"] == "openai/o3-mini"
    assert shown["base_url"] == "https://api.openai.com/v1"
    assert shown["settings"] == {"temperature": 0.2}
    assert shown["fallbacks"] == ["fast"]
    assert shown["features"]["temperature"] == "not this model"
    assert shown["features"]["context_length"] == "no"
    assert shown["features"]["tools"] == "yes"
    text = fast("model", "show", "smart").out
    assert "temperature=0.2" in text
    assert "this model lacks it; dropped with a warning" in text


def test_a_full_name_is_shown_too_and_a_price_of_the_table(kitaru: Kitaru) -> None:
    shown = kitaru("model", "show", "openai/gpt-4o", "--json").json
    assert shown["price"]["source"] == "table"
    assert float(shown["price"]["usd_per_million"]["input"]) > 0


def test_prices_of_the_alias_come_first_and_local_models_are_free(kitaru: Kitaru) -> None:
    kitaru(*["model", "register", "a", "--model", "openai/gpt-4o", "--price-input", "1", "--price-output", "2"])
    assert kitaru("model", "show", "a", "--json").json["price"] == {
        "source": "alias", "usd_per_million": {"input": "1", "output": "2"}, "version": None,
    }  # fmt: skip
    assert kitaru("model", "show", "ollama/tiny", "--json").json["price"]["source"] == "free"


def test_an_unknown_name_is_not_found(fast: Kitaru) -> None:
    done = fast("model", "show", "fats")
    assert done.code == 3
    assert "'fast'" in done.err


def test_the_default_is_printed_and_chosen(fast: Kitaru) -> None:
    fast("model", "register", "other", "--model", "openai/x")
    assert fast("model", "default").out == "fast\n"
    assert fast("model", "default", "other").code == 0
    assert fast("model", "default").out == "other\n"
    assert fast("model", "default", "nosuch").code == 3


def test_a_default_that_a_variable_hides_is_warned_of(fast: Kitaru, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITARU_DEFAULT_MODEL", "openai/raw")
    assert "KITARU_DEFAULT_MODEL" in fast("model", "default", "fast").err


def test_removing_asks_and_without_a_terminal_wants_yes(fast: Kitaru) -> None:
    assert fast("model", "remove", "fast").code == 2
    assert fast("model", "remove", "fast", "-y").code == 0
    assert written() == {"aliases": {}}
    assert fast("model", "remove", "fast", "-y").code == 3


def test_what_a_fallback_names_is_not_removed(fast: Kitaru) -> None:
    fast("model", "register", "smart", "--model", "openai/x", "--fallback", "fast")
    done = fast("model", "remove", "fast", "-y")
    assert done.code == 2
    assert "smart" in done.err


def test_a_broken_file_is_named_with_its_line_and_exit_code_2(kitaru: Kitaru) -> None:
    registry_path().parent.mkdir(parents=True)
    registry_path().write_text('{"aliases": {"a": {"model": "openai/x",\n "temprature": 1}}}')
    for words in (["list"], ["register", "b", "--model", "openai/x"], ["show", "a"], ["default"]):
        done = kitaru("model", *words)
        assert done.code == 2
        assert "models.json, line 2" in done.err


# -- check ------------------------------------------------------------------------------------------------------------


def test_a_check_that_goes_well_ends_with_0(fast: Kitaru, monkeypatch: pytest.MonkeyPatch) -> None:
    with StandInServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "stand-in")
        done = fast("model", "check", "fast")
        assert done.code == 0
        assert "openai/gpt-5-nano" in done.out
        assert fast("model", "check", "--json").json["ok"]


def test_a_wrong_key_ends_with_4_and_says_what_to_do(kitaru: Kitaru, monkeypatch: pytest.MonkeyPatch) -> None:
    with StandInServer(Options(api_key="key-of-the-test")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "key-of-another")
        done = kitaru("model", "check", "openai/gpt-5-nano")
        as_json = kitaru("model", "check", "openai/gpt-5-nano", "--json")
    assert done.code == as_json.code == 4
    assert "OPENAI_API_KEY" in done.err
    assert as_json.json["kind"] == "key"


def test_a_missing_key_ends_with_4(kitaru: Kitaru) -> None:
    done = kitaru("model", "check", "openai/gpt-5-nano")
    assert done.code == 4
    assert "OPENAI_API_KEY" in done.err


def test_the_linked_secrets_key_is_sent(fast: Kitaru, monkeypatch: pytest.MonkeyPatch) -> None:
    from kitaru.runtime.secrets.named import create_secret

    create_secret("openai-creds", {"OPENAI_API_KEY": "key-of-the-test"})
    with StandInServer(Options(api_key="key-of-the-test")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        assert fast("model", "check", "fast").code == 0


def test_a_base_url_without_v1_ends_with_1(kitaru: Kitaru) -> None:
    with StandInServer() as server:
        kitaru("model", "register", "it", "--model", "openai-compatible/m", "--base-url", f"{server.url}/nothing")
        done = kitaru("model", "check", "it", "--json")
    assert done.code == 1
    assert done.json["kind"] == "base_url"


def test_the_gateway_is_checked_by_its_own_option(kitaru: Kitaru, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kitaru("model", "check", "--gateway").code == 2
    with StandInServer(Options(api_key="master-key-of-the-test")) as server:
        monkeypatch.setenv("KITARU_GATEWAY_URL", server.base_url)
        assert kitaru("model", "check", "--gateway").code == 4
        monkeypatch.setenv("KITARU_GATEWAY_KEY", "master-key-of-the-test")
        assert kitaru("model", "check", "--gateway").code == 0


# -- pull -------------------------------------------------------------------------------------------------------------


def test_a_pull_tells_of_each_tenth_in_lines(kitaru: Kitaru, monkeypatch: pytest.MonkeyPatch) -> None:
    with CannedServer({"/api/pull": Canned(body=PULLED)}) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        done = kitaru("model", "pull", "tiny:1b")
    assert done.code == 0
    assert done.out == "✓ ollama/tiny:1b (2.0 GB)\n"
    assert done.err.splitlines() == [
        "tiny:1b  pulling manifest",
        "tiny:1b  fetching  20% of 2.0 GB",
        "tiny:1b  fetching  100% of 2.0 GB",
        "tiny:1b  success",
    ]


def test_a_pull_as_json_prints_one_document(kitaru: Kitaru, monkeypatch: pytest.MonkeyPatch) -> None:
    with CannedServer({"/api/pull": Canned(body=PULLED)}) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        done = kitaru("model", "pull", "ollama/tiny", "--json")
    assert done.json == {"model": "tiny", "base_url": server.url, "bytes": 2_000_000_000}
    assert done.err == ""


def test_a_model_that_ollama_does_not_know_is_not_found(kitaru: Kitaru, monkeypatch: pytest.MonkeyPatch) -> None:
    with CannedServer({"/api/pull": Canned(body=b'{"error":"pull model manifest: file does not exist"}\n')}) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        assert kitaru("model", "pull", "nosuch").code == 3


@pytest.fixture
def stuck() -> Iterator[str]:
    """The address of a server that begins a pull and never ends it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                talk, _ = listener.accept()
                with talk:
                    asked = b""
                    while not asked.endswith(b"}"):
                        asked += talk.recv(65536)
                    line = b'{"status":"pulling aaa","digest":"sha256:aaa","total":100,"completed":45}\n'
                    talk.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                    talk.sendall(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                    talk.recv(1)  # until the other side goes

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.join()


def test_an_interrupted_pull_ends_with_130_and_no_traceback(command: type[Command], stuck: str) -> None:
    with command("model", "pull", "tiny", OLLAMA_HOST=stuck) as one:
        one.until("40%")
        one.signal(signal.SIGINT)
        done = one.end()
    assert (done.code, done.out, done.err) == (130, "", "")


def test_on_a_terminal_a_pull_shows_a_bar_and_wipes_it_when_interrupted(folder: Path, stuck: str) -> None:
    mine, theirs = os.openpty()
    code = "import sys; sys.argv[0] = 'kitaru'; from kitaru.cli.app import main; main()"
    command = [sys.executable, "-c", code, "model", "pull", "tiny"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "OLLAMA_HOST": stuck, "COLUMNS": "100"}
    environment["TERM"] = "xterm"
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment, cwd=folder) as process:
        os.close(theirs)
        shown = b""
        while b"45 B" not in shown:
            shown += os.read(mine, 4096)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # how Linux says that the other side is closed
            while more := os.read(mine, 4096):
                shown += more
        assert process.wait(timeout=20) == 130, shown.decode()
    os.close(mine)
    text = shown.decode()
    assert "\rtiny  [##########..............]  45%  45 B of 100 B" in text
    assert text.endswith("\r")


# -- import -----------------------------------------------------------------------------------------------------------

CONFIG = """
model_list:
  - {model_name: fast, litellm_params: {model: openai/gpt-5-nano, api_key: key-of-the-test, rpm: 3}}
  - {model_name: fast, litellm_params: {model: groq/x}}
"""


@pytest.fixture
def config(folder: Path) -> Path:
    path = folder / "litellm_config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def test_a_dry_run_says_all_and_writes_nothing(kitaru: Kitaru, config: Path) -> None:
    done = kitaru("model", "import", str(config), "--dry-run")
    assert done.code == 0
    assert "openai/gpt-5-nano" in done.out
    assert "litellm_params.rpm" in done.out
    assert "kitaru secrets set fast-key OPENAI_API_KEY" in done.out
    assert "key-of-the-test" not in done.out + done.err
    assert not registry_path().exists()


def test_an_import_registers_the_models(kitaru: Kitaru, config: Path) -> None:
    found = kitaru("model", "import", str(config), "--json").json
    assert found["written"]
    assert written() == {
        "aliases": {"fast": {"model": "openai/gpt-5-nano", "secret": "fast-key", "fallbacks": ["groq/x"]}},
        "default": "fast",
    }
    assert kitaru("model", "import", str(config), "--json").json["replaced"] == ["fast"]


def test_an_import_of_something_else_is_wrong_usage(kitaru: Kitaru, config: Path) -> None:
    config.write_text("a: &b 1\n")
    done = kitaru("model", "import", str(config))
    assert done.code == 2
    assert "line 1" in done.err


def test_the_group_alone_prints_its_help(kitaru: Kitaru) -> None:
    done = kitaru("model")
    assert done.code == 0
    assert "register" in done.out


def test_the_registry_is_not_opened_by_a_help_text(command: type[Command]) -> None:
    with command("model", "list", "--help", KITARU_MODEL_REGISTRY="[]") as one:
        assert one.end().code == 0
