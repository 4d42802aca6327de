"""`kitaru secrets`: what it stores, shows, asks for and refuses."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import kitaru as library
from kitaru.runtime.default import default_runtime
from kitaru.runtime.secrets import secret_key, vault
from kitaru.store.protocol import SealedAt
from tests.cli.conftest import SOURCES, Kitaru

VALUE = "the-value-of-the-test"


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is typed at a command that is no terminal."""
    typed = io.StringIO()
    monkeypatch.setattr(sys, "stdin", typed)
    return typed


def test_set_creates_a_private_secret_and_updates_the_named_keys(kitaru: Kitaru) -> None:
    first = kitaru("secrets", "set", "openai-creds", f"--OPENAI_API_KEY={VALUE}")
    assert (first.code, first.out) == (0, "Set 1 value of openai-creds (private): OPENAI_API_KEY.\n")
    second = kitaru("secrets", "set", "openai-creds", "--OPENAI_ORG_ID", "the-org", "--OTHER=a=b")
    assert second.code == 0
    values = library.get_secret("openai-creds").values
    assert dict(values) == {"OPENAI_API_KEY": VALUE, "OPENAI_ORG_ID": "the-org", "OTHER": "a=b"}


def test_set_warns_that_arguments_show_in_the_process_list(kitaru: Kitaru) -> None:
    done = kitaru("secrets", "set", "creds", f"--KEY={VALUE}")
    assert "`ps`" in done.err
    assert VALUE not in done.out + done.err


def test_set_without_a_value_reads_it_from_stdin(kitaru: Kitaru, stdin: io.StringIO) -> None:
    stdin.write(f"{VALUE}\n")
    stdin.seek(0)
    done = kitaru("secrets", "set", "creds", "KEY")
    assert (done.code, "ps" in done.err) == (0, False)
    assert library.get_secret("creds")["KEY"] == VALUE


def test_set_asks_on_a_terminal_and_does_not_echo(folder: Path) -> None:
    ours, theirs = pty.openpty()
    code = "import sys; sys.argv[0] = 'kitaru'; from kitaru.cli.app import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "secrets", "set", "creds", "KEY"],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "PYTHONPATH": str(SOURCES)}, cwd=folder,
        start_new_session=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        seen = b""
        while b"KEY: " not in seen:
            seen += os.read(ours, 1024)
        os.write(ours, VALUE.encode() + b"\n")
        try:
            while more := os.read(ours, 1024):
                seen += more
        except OSError:  # the other end is closed
            pass
        os.close(ours)
        assert process.wait() == 0
    assert VALUE.encode() not in seen
    assert library.get_secret("creds")["KEY"] == VALUE


@pytest.mark.parametrize(
    "words",
    [
        ["creds", f"KEY={VALUE}"],
        ["creds", f"{VALUE}"],
        ["creds", "-K"],
        ["creds", f"--A-B={VALUE}"],
        ["creds", f"--KEY={VALUE}", f"--KEY={VALUE}"],
        ["creds", "--KEY"],
        ["creds", "--KEY", "--OTHER=x"],
        ["creds", "--KEY="],
        ["creds", "--private", "--public", f"--KEY={VALUE}"],
        ["a b", f"--KEY={VALUE}"],
        ["creds"],
    ],
)
def test_set_refuses_what_cannot_be_right_without_showing_a_value(kitaru: Kitaru, words: list[str]) -> None:
    done = kitaru("secrets", "set", *words)
    assert done.code == 2
    assert VALUE not in done.out + done.err
    assert library.list_secrets() == []


def test_two_keys_cannot_both_come_from_stdin(kitaru: Kitaru, stdin: io.StringIO) -> None:
    done = kitaru("secrets", "set", "creds", "A", "B")
    assert done.code == 2
    assert "stdin" in done.err


def test_show_masks_unless_asked_to_reveal(kitaru: Kitaru) -> None:
    created = library.create_secret("creds", {"KEY": VALUE})
    masked = kitaru("secrets", "show", "creds")
    assert (masked.code, VALUE in masked.out, "KEY  **********" in masked.out) == (0, False, True)
    for option in ("--reveal", "--show-values"):
        assert VALUE in kitaru("secrets", "show", created.id[:8], option).out
    assert kitaru("secrets", "show", "creds", "--json").json == {
        "id": created.id, "keys": ["KEY"], "name": "creds", "owner": vault.me(), "private": True,
        "updated": kitaru("secrets", "show", "creds", "--json").json["updated"],
    }  # fmt: skip
    assert kitaru("secrets", "show", "creds", "--json", "--reveal").json["values"] == {"KEY": VALUE}


def test_list_shows_names_and_keys_but_no_values(kitaru: Kitaru) -> None:
    assert kitaru("secrets", "list", "--json").json == {"secrets": []}
    library.create_secret("b-creds", {"KEY": VALUE}, private=False)
    library.create_secret("a-creds", {"TWO": VALUE, "ONE": VALUE})
    done = kitaru("secrets", "list")
    rows = [line.split() for line in done.out.splitlines()]
    assert [row[0] for row in rows] == ["NAME", "a-creds", "b-creds"]
    assert rows[1][2:5] == [vault.me(), "ONE,", "TWO"]
    assert rows[2][2] == "all"
    assert VALUE not in done.out


def test_delete_removes_one(kitaru: Kitaru) -> None:
    library.create_secret("creds", {"KEY": VALUE})
    done = kitaru("secrets", "delete", "creds", "--yes")
    assert (done.code, done.out) == (0, "Deleted creds.\n")
    assert library.list_secrets() == []


@pytest.mark.parametrize("command", ["show", "delete"])
def test_a_secret_that_is_not_there_is_not_found(kitaru: Kitaru, command: str) -> None:
    kitaru("run", "flows.py:cry", "-i", "text=ahoy")
    done = kitaru("secrets", command, "lost")
    assert done.code == 3
    assert "lost" in done.err


def test_another_users_public_secret_is_shown_and_not_deleted(kitaru: Kitaru) -> None:
    runtime = default_runtime()
    runtime._core.open_now()

    def seal(secret: str, version: int) -> dict[str, object]:
        return {"KEY": runtime._core.vault.seal(SealedAt("secret", secret, "KEY", version), VALUE)}

    runtime._core.store.secrets.put("theirs", "somebody-else", False, seal)  # type: ignore[arg-type]  # what it gives is sealed
    assert "somebody-else" in kitaru("secrets", "show", "theirs").out
    assert kitaru("secrets", "delete", "theirs", "-y").code == 2


def test_rekey_says_what_it_did(kitaru: Kitaru, monkeypatch: pytest.MonkeyPatch) -> None:
    library.create_secret("creds", {"A": VALUE, "B": VALUE})
    done = kitaru("secrets", "rekey")
    assert done.code == 0
    assert done.out.startswith("Encrypted 2 values with the key from the key file")
    monkeypatch.setenv(secret_key.VARIABLE, "a passphrase")
    assert kitaru("secrets", "rekey", "--json").json == {"replaced": 2, "left": 0, "source": secret_key.VARIABLE}
    assert library.get_secret("creds")["A"] == VALUE


def test_a_wrong_key_ends_with_the_code_of_the_store(kitaru: Kitaru, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(secret_key.VARIABLE, "a passphrase")
    assert kitaru("secrets", "set", "creds", f"--KEY={VALUE}").code == 0
    monkeypatch.setenv(secret_key.VARIABLE, "a wrong passphrase")
    done = kitaru("secrets", "show", "creds", "--reveal")
    assert done.code == 5
    assert "KITARU_SECRET_KEY" in done.err
    assert kitaru("secrets", "show", "creds").code == 0


def test_secrets_alone_says_what_there_is(kitaru: Kitaru) -> None:
    done = kitaru("secrets")
    assert done.code == 0
    assert all(name in done.out for name in ("set", "show", "list", "delete", "rekey"))


def test_a_secret_input_is_given_on_the_command_line_and_never_shown(kitaru: Kitaru, folder: Path) -> None:
    (folder / "taking.py").write_text(
        "import kitaru\nfrom kitaru import SecretStr, flow\n\n"
        "@flow\nasync def taking(token: SecretStr) -> int:\n    return len(token.reveal())\n"
    )
    done = kitaru("run", "taking.py", "--input", f"token={VALUE}", "--run-id", "r")
    assert (done.code, done.out.strip()) == (0, str(len(VALUE)))
    for words in (("show", "r"), ("show", "r", "--json"), ("events", "r", "--json"), ("runs",)):
        said = kitaru(*words)
        assert VALUE not in said.out + said.err
    lost = kitaru("replay", "r")
    assert lost.code == 3
    assert "--input token=" in lost.err
    again = kitaru("replay", "r", "--input", "token=another-token")
    assert again.code == 0, again.err
    assert "another-token" not in again.out + again.err
