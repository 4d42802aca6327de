"""What an ollama server holds, and fetching a model into it."""

from __future__ import annotations

import json
import socket

import pytest

from kitaru.adapters import SecretStr
from kitaru.errors import CredentialError, KitaruError, ModelConnectionError, NotFoundError, ProviderError, UsageError
from kitaru.runtime.models.alias import Alias
from kitaru.runtime.models.pull import Progress, installed, ollama_server, pull, to_pull
from kitaru.runtime.models.registry import register
from tests.runtime.canned import Canned, CannedServer


def lines(*said: dict[str, object]) -> tuple[bytes, ...]:
    return tuple(json.dumps(one).encode() + b"\n" for one in said)


WHOLE = lines(
    {"status": "pulling manifest"},
    {"status": "pulling aaa", "digest": "sha256:aaa", "total": 100},
    {"status": "pulling aaa", "digest": "sha256:aaa", "total": 100, "completed": 40},
    {"status": "pulling aaa", "digest": "sha256:aaa", "total": 100, "completed": 100},
    {"status": "pulling bbb", "digest": "sha256:bbb", "total": 50, "completed": 10},
    {"status": "verifying sha256 digest"},
    {"status": "success"},
)


def fetched(answer: Canned, key: str | None = None) -> tuple[list[Progress], CannedServer]:
    with CannedServer({"/api/pull": answer}) as server:
        return list(pull("tiny:1b", server.url, SecretStr(key) if key else None)), server


def test_progress_counts_all_layers() -> None:
    told, server = fetched(Canned(body=WHOLE))
    assert told[:4] == [
        Progress("pulling manifest"),
        Progress("pulling aaa", 0, 100),
        Progress("pulling aaa", 40, 100),
        Progress("pulling aaa", 100, 100),
    ]
    assert told[4] == Progress("pulling bbb", 110, 150)
    assert told[-1].status == "success"
    assert json.loads(server.asked[0][2]) == {"model": "tiny:1b", "stream": True}


def test_lines_may_be_cut_anywhere_and_the_last_may_lack_its_end() -> None:
    body = b"".join(WHOLE).rstrip(b"\n")
    told, _ = fetched(Canned(body=tuple(body[at : at + 7] for at in range(0, len(body), 7))))
    assert told[-1].status == "success"


def test_a_key_goes_along_where_one_is_set() -> None:
    _, server = fetched(Canned(body=WHOLE), "key-of-the-test")
    assert server.asked[0][3]["authorization"] == "Bearer key-of-the-test"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (
            Canned(body=lines({"status": "pulling"}, {"error": "pull model manifest: file does not exist"})),
            NotFoundError,
        ),
        (Canned(404, b'{"error":"model not found"}'), NotFoundError),
        (Canned(body=lines({"status": "pulling"}, {"error": "no space left on device"})), ProviderError),
        (Canned(500, b"oops"), ProviderError),
        (Canned(401, b'{"error":"unauthorized"}'), CredentialError),
        (Canned(body=lines({"status": "pulling manifest"})), ModelConnectionError),
        (Canned(body=lines({"status": "pulling manifest"}), whole=False), ModelConnectionError),
        (Canned(body=b"<html>"), ProviderError),
        (Canned(body=b'{"status": 3}\n'), ProviderError),
        (Canned(body=b"\xff\xfe\n"), ProviderError),
        (Canned(body=(b"x" * 2_000_000,)), ProviderError),
    ],
)
def test_what_goes_wrong_is_an_error_of_ours(answer: Canned, kind: type[KitaruError]) -> None:
    with pytest.raises(kind):
        fetched(answer)


def test_what_the_server_writes_cannot_steer_a_terminal() -> None:
    told, _ = fetched(Canned(body=lines({"status": "a\x1b[2Jb"}, {"status": "success"})))
    assert "\x1b" not in told[0].status


def test_a_server_that_does_not_run_says_how_to_start_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    for asks in (lambda: installed(f"http://127.0.0.1:{port}"), lambda: list(pull("m", f"http://127.0.0.1:{port}"))):
        with pytest.raises(ModelConnectionError) as caught:
            asks()
        assert "ollama serve" in str(caught.value.hint)


def test_what_a_server_holds_comes_newest_first() -> None:
    models = [
        {"name": "old:latest", "size": 1, "modified_at": "2026-01-01T00:00:00Z", "details": {"parameter_size": "1B"}},
        {"name": "new:latest", "size": 2, "modified_at": "2026-02-01T00:00:00Z", "details": {"families": None}},
    ]
    with CannedServer({"/api/tags": Canned(body=json.dumps({"models": models}).encode())}) as server:
        assert [one.name for one in installed(server.url)] == ["new:latest", "old:latest"]


@pytest.mark.parametrize("body", [b"<html>", b'{"models": 3}', b"[]", b""])
def test_a_list_that_is_none_is_an_error(body: bytes) -> None:
    with CannedServer({"/api/tags": Canned(body=body)}) as server, pytest.raises(ProviderError, match="not as ollama"):
        installed(server.url)


def test_the_server_is_where_ollama_host_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ollama_server({})[0] == "http://localhost:11434"
    base_url, key = ollama_server({"OLLAMA_HOST": "0.0.0.0:1234", "OLLAMA_API_KEY": "key-of-the-test"})
    assert base_url == "http://127.0.0.1:1234"
    assert key is not None


@pytest.mark.parametrize(
    ("name", "model"),
    [("tiny:1b", "tiny:1b"), ("ollama/tiny", "tiny"), ("hf.co/org/m", "hf.co/org/m"), ("local", "llama3.2")],
)
def test_a_name_says_what_to_fetch(name: str, model: str) -> None:
    register({"local": Alias(model="ollama/llama3.2"), "far": Alias(model="openai/x")})
    assert to_pull(name)[0] == model


@pytest.mark.parametrize("name", ["far", "openai/x", " "])
def test_what_is_not_ollamas_is_refused(name: str) -> None:
    register({"far": Alias(model="openai/x")})
    with pytest.raises(UsageError):
        to_pull(name)
