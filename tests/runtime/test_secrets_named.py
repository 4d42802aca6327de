"""Named secrets from Python: stored, read, shown to whom they may be, resealed."""

from __future__ import annotations

import asyncio
import base64
import functools
import gzip
import os
import signal
import stat
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

import kitaru
from kitaru import EncodeError, Runtime, checkpoint, flow
from kitaru.errors import AmbiguousError, CorruptStoreError, NotFoundError, SecretKeyError, UsageError
from kitaru.runtime.secrets import named as secrets
from kitaru.runtime.secrets import secret_key, vault
from kitaru.store.events import StepFailed
from kitaru.store.protocol import Sealed, SealedAt
from tests.runtime.runs import Script, of_type

T = TypeVar("T")

VALUE = "the-value-of-the-test/+=&"


async def stored(runtime: Runtime, name: str = "creds", *, owner: str = "", private: bool = True, **values: str) -> str:
    """Store a secret as some owner would; returns its id."""

    def seal(secret: str, version: int) -> dict[str, Sealed]:
        given = values or {"KEY": VALUE}
        return {key: runtime._core.vault.seal(SealedAt("secret", secret, key, version), v) for key, v in given.items()}

    return (await asyncio.to_thread(runtime._core.store.secrets.put, name, owner or vault.me(), private, seal)).id


async def in_thread(runtime: Runtime, work: Callable[..., T], *args: object, **more: object) -> T:
    return await asyncio.to_thread(functools.partial(work, *args, runtime=runtime, **more))


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("runs.db*")) if path.is_file())


# -- values ------------------------------------------------------------------------------------------------------------


def test_the_public_guides_lines_work_in_a_script() -> None:
    created = kitaru.create_secret("github-creds", {"GITHUB_TOKEN": "token-of-the-test"})
    assert created.private
    assert created.keys == ("GITHUB_TOKEN",)
    secret = kitaru.get_secret("github-creds")
    assert secret.get("GITHUB_TOKEN") == "token-of-the-test"
    assert secret.get("OTHER") is None
    assert dict(secret.values) == {"GITHUB_TOKEN": "token-of-the-test"}
    assert [one.name for one in kitaru.list_secrets()] == ["github-creds"]
    assert kitaru.delete_secret("github-creds").name == "github-creds"
    with pytest.raises(NotFoundError, match="github-creds"):
        kitaru.get_secret("github-creds")


def test_a_secret_never_shows_its_values() -> None:
    kitaru.create_secret("creds", {"KEY": VALUE})
    secret = kitaru.get_secret("creds")
    for text in (repr(secret), str(secret), f"{secret}", repr(secret.values), repr(kitaru.list_secrets())):
        assert VALUE not in text
        assert "creds" in text or "KEY" in text
    with pytest.raises(NotFoundError) as caught:
        secret["OTHER"]
    assert VALUE not in str(caught.value)


def test_setting_values_keeps_the_others_and_who_sees_them() -> None:
    kitaru.set_secret("creds", {"A": "first-value"}, private=False)
    kitaru.set_secret("creds", {"B": "second-value"})
    assert dict(kitaru.get_secret("creds").values) == {"A": "first-value", "B": "second-value"}
    assert kitaru.get_secret("creds").private is False


def test_a_secret_is_found_by_its_id_and_by_the_beginning_of_it() -> None:
    created = kitaru.create_secret("creds", {"KEY": VALUE})
    assert kitaru.get_secret(created.id)["KEY"] == VALUE
    assert kitaru.get_secret(created.id[:6])["KEY"] == VALUE
    with pytest.raises(NotFoundError):
        kitaru.get_secret(created.id[:2])
    assert kitaru.set_secret(created.id, {"KEY": "another-value"}).name == "creds"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("", {"KEY": "v"}),
        ("a b", {"KEY": "v"}),
        ("-x", {"KEY": "v"}),
        ("creds", {}),
        ("creds", {"A-B": "v"}),
        ("creds", {"1A": "v"}),
        ("creds", {"KEY": ""}),
        ("creds", {"KEY": "a\0b"}),
        ("creds", {"KEY": "x" * 70_000}),
    ],
)
def test_what_cannot_be_a_secret_is_refused_without_showing_values(name: str, values: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        kitaru.create_secret(name, values)
    assert not any(value in str(caught.value) for value in values.values() if len(value) > 3)


# -- who sees what -----------------------------------------------------------------------------------------------------


async def test_a_private_secret_of_another_user_is_not_there(runtime: Runtime) -> None:
    theirs = await stored(runtime, owner="somebody-else")
    for name in ("creds", theirs):
        with pytest.raises(NotFoundError):
            await in_thread(runtime, secrets.get_secret, name)
    assert await in_thread(runtime, secrets.list_secrets) == []


async def test_a_public_secret_is_seen_by_others_and_changed_by_its_owner_only(runtime: Runtime) -> None:
    theirs = await stored(runtime, owner="somebody-else", private=False)
    found = await in_thread(runtime, secrets.get_secret, "creds")
    assert found["KEY"] == VALUE
    with pytest.raises(UsageError, match="somebody-else"):
        await in_thread(runtime, secrets.delete_secret, "creds")
    mine = await in_thread(runtime, secrets.set_secret, "creds", {"KEY": "my-own-value"})
    assert mine.id != theirs
    found = await in_thread(runtime, secrets.get_secret, "creds")
    assert found["KEY"] == "my-own-value"


async def test_a_name_that_several_others_share_is_ambiguous(runtime: Runtime) -> None:
    ids = [await stored(runtime, owner=owner, private=False) for owner in ("ann", "bob")]
    with pytest.raises(AmbiguousError, match="ann") as caught:
        await in_thread(runtime, secrets.get_secret, "creds")
    assert all(one in str(caught.value) for one in ids)


# -- the key -----------------------------------------------------------------------------------------------------------


def key_file() -> Path:
    return Path(os.environ["KITARU_HOME"]) / secret_key.FILE


def test_the_key_file_is_made_once_for_its_user_alone() -> None:
    assert not key_file().exists()
    kitaru.create_secret("creds", {"KEY": VALUE})
    assert stat.S_IMODE(key_file().stat().st_mode) == 0o600
    before = key_file().read_bytes()
    kitaru.create_secret("more", {"KEY": VALUE})
    assert key_file().read_bytes() == before


def test_a_key_file_that_is_a_link_stays_one(tmp_path: Path) -> None:
    real = tmp_path / "kept" / "keys"
    real.parent.mkdir()
    key_file().parent.mkdir(parents=True, exist_ok=True)
    key_file().symlink_to(real)
    kitaru.create_secret("creds", {"KEY": VALUE})
    secrets.rekey()
    assert key_file().is_symlink()
    assert len(secret_key.keys_at_hand(b"s" * 16).sealers) == 2
    # Two homes that share a key file share its lock.
    assert {path.name for path in real.parent.iterdir()} == {"keys", "keys.lock"}


def test_a_key_file_open_to_others_is_closed_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    kitaru.create_secret("creds", {"KEY": VALUE})
    key_file().chmod(0o644)
    secret_key.keys_at_hand(b"s" * 16)
    assert stat.S_IMODE(key_file().stat().st_mode) == 0o600
    assert "secrets.key_file_was_open" in caplog.text


def test_a_damaged_key_file_is_named_with_its_line() -> None:
    kitaru.create_secret("creds", {"KEY": VALUE})
    key_file().write_text("# a comment\nnot a key\n")
    with pytest.raises(SecretKeyError, match=r"secret\.key:2"):
        secret_key.keys_at_hand(b"s" * 16)


async def test_the_variable_wins_over_the_file(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(secret_key.VARIABLE, base64.b64encode(b"k" * 32).decode())
    await stored(runtime)
    assert not key_file().exists()
    found = await in_thread(runtime, secrets.get_secret, "creds")
    assert found["KEY"] == VALUE


async def test_another_key_opens_nothing_and_the_error_names_where_it_looked(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(secret_key.VARIABLE, "the passphrase of the test")
    async with Runtime(store_url) as first:
        await stored(first)
    monkeypatch.setenv(secret_key.VARIABLE, "a wrong passphrase")
    async with Runtime(store_url) as second:
        with pytest.raises(SecretKeyError, match="KITARU_SECRET_KEY") as caught:
            await in_thread(second, secrets.get_secret, "creds")
        assert "passphrase" not in str(caught.value)
        assert str(key_file()) in str(caught.value)
    monkeypatch.setenv(secret_key.VARIABLE, "the passphrase of the test")
    async with Runtime(store_url) as third:
        found = await in_thread(third, secrets.get_secret, "creds")
        assert found["KEY"] == VALUE


async def test_an_altered_value_is_told_from_a_wrong_key(runtime: Runtime) -> None:
    secret = await stored(runtime)
    ((_, sealed),) = await asyncio.to_thread(runtime._core.store.secrets.values, secret)
    altered = sealed._replace(data=sealed.data[:-1] + bytes([sealed.data[-1] ^ 1]))
    await asyncio.to_thread(runtime._core.store.secrets.reseal, lambda *_: altered)
    with pytest.raises(CorruptStoreError, match="KEY of secret 'creds'"):
        await in_thread(runtime, secrets.get_secret, "creds")


def test_the_keyring_keeps_the_key_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import keyring
    from keyring.backend import KeyringBackend

    kept: dict[tuple[str, str], str] = {}

    class Ring(KeyringBackend):
        priority = 5

        def get_password(self, service: str, username: str) -> str | None:
            return kept.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            kept[service, username] = password

        def delete_password(self, service: str, username: str) -> None:
            del kept[service, username]

    before = keyring.get_keyring()
    keyring.set_keyring(Ring())  # type: ignore[no-untyped-call]  # keyring types its fields, not its constructor
    try:
        kitaru.create_secret("creds", {"KEY": VALUE})
        assert not key_file().exists()
        assert len(kept) == 1
        assert kitaru.get_secret("creds")["KEY"] == VALUE
        replaced, left, source = secrets.rekey()
        assert (replaced, left, source) == (1, 0, "the OS keyring")
        assert kitaru.get_secret("creds")["KEY"] == VALUE
    finally:
        keyring.set_keyring(before)


# -- rekey -------------------------------------------------------------------------------------------------------------


async def test_rekey_seals_everything_anew_and_keeps_it_readable(store_url: str) -> None:
    async with Runtime(store_url) as runtime:
        secret = await stored(runtime, A=VALUE, B="second-value-of-the-test")
        before = dict(await asyncio.to_thread(runtime._core.store.secrets.values, secret))
        replaced, left, source = await asyncio.to_thread(runtime._core.vault.rekey)
        after = dict(await asyncio.to_thread(runtime._core.store.secrets.values, secret))
        assert (replaced, left) == (2, 0)
        assert str(key_file()) in source
        assert all(after[at].sealer != before[at].sealer for at in after)
    async with Runtime(store_url) as other:
        found = await in_thread(other, secrets.get_secret, "creds")
        assert dict(found.values) == {"A": VALUE, "B": "second-value-of-the-test"}


async def test_rekey_moves_to_the_variable_and_from_one_to_the_next(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored(runtime)
    monkeypatch.setenv(secret_key.VARIABLE, "first passphrase")
    assert (await asyncio.to_thread(runtime._core.vault.rekey))[2] == secret_key.VARIABLE
    key_file().unlink()
    monkeypatch.setenv(secret_key.FORMER, "first passphrase")
    monkeypatch.setenv(secret_key.VARIABLE, "second passphrase")
    assert (await asyncio.to_thread(runtime._core.vault.rekey))[:2] == (1, 0)
    monkeypatch.delenv(secret_key.FORMER)
    found = await in_thread(runtime, secrets.get_secret, "creds")
    assert found["KEY"] == VALUE


async def test_rekey_leaves_what_is_sealed_under_a_key_that_is_not_at_hand(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(secret_key.VARIABLE, "somebody's passphrase")
    await stored(runtime, "theirs")
    monkeypatch.delenv(secret_key.VARIABLE)
    runtime._core.vault._keys = None
    await stored(runtime, "mine")
    assert (await asyncio.to_thread(runtime._core.vault.rekey))[:2] == (1, 1)


REKEYING = """
import asyncio, os, sys
from kitaru import Runtime, create_secret
from kitaru.store import secrets as rows
from kitaru.runtime.secrets import named as secrets

for number in range(20):
    secrets.set_secret("creds", {f"KEY_{number}": f"value-{number}-of-the-test"})
print("stored", flush=True)
at = sys.argv[1]
real = rows.SqliteSecrets.reseal

def reseal(self, again):
    if at == "before":
        os.kill(os.getpid(), 9)
    count = 0
    def counted(place, sealed):
        nonlocal count
        count += 1
        if at == "middle" and count == 10:
            os.kill(os.getpid(), 9)
        return again(place, sealed)
    result = real(self, counted)
    if at == "after":
        os.kill(os.getpid(), 9)
    return result

rows.SqliteSecrets.reseal = reseal
secrets.rekey()
"""


@pytest.mark.parametrize("at", ["before", "middle", "after"])
def test_a_rekey_that_is_killed_leaves_everything_readable(
    tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Script(tmp_path, REKEYING, at) as script:
        script.until("stored")
        script.process.wait(timeout=20)
        assert script.process.returncode == -signal.SIGKILL
    monkeypatch.setenv("KITARU_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KITARU_STORE", f"sqlite:///{tmp_path}/runs.db")
    values = kitaru.get_secret("creds").values
    assert dict(values) == {f"KEY_{number}": f"value-{number}-of-the-test" for number in range(20)}


# -- in flows ----------------------------------------------------------------------------------------------------------


async def test_a_secret_is_read_in_async_and_sync_code_of_a_run(runtime: Runtime) -> None:
    await stored(runtime)

    @checkpoint
    async def in_async() -> int:
        return len(kitaru.get_secret("creds")["KEY"])

    @checkpoint
    def in_sync() -> int:
        return len(kitaru.get_secret("creds")["KEY"])

    @flow
    async def both() -> list[int]:
        return [len(kitaru.get_secret("creds")["KEY"]), await in_async(), await in_sync()]

    @flow
    def plain() -> int:
        return len(kitaru.get_secret("creds")["KEY"]) + in_sync().load()

    assert await (await runtime.start(both)).result() == [len(VALUE)] * 3
    assert await (await runtime.start(plain)).result() == 2 * len(VALUE)


async def test_a_boundary_whose_outcome_holds_a_read_secret_fails_and_names_the_path(runtime: Runtime) -> None:
    await stored(runtime)

    @checkpoint
    async def leaks() -> dict[str, list[str]]:
        return {"headers": ["x", "Bearer " + kitaru.get_secret("creds")["KEY"]]}

    @flow
    async def body() -> object:
        return await leaks()

    with pytest.raises(EncodeError, match=r'value\["headers"\]\[1\] holds a secret') as caught:
        await (await runtime.start(body.options(run_id="r"))).result()
    assert VALUE not in str(caught.value)
    assert len(await of_type(runtime, "r", StepFailed)) == 1


@pytest.mark.parametrize("form", ["raw", "base64", "base64 within", "percent", "json"])
async def test_a_boundary_whose_input_holds_a_read_secret_in_any_form_fails(runtime: Runtime, form: str) -> None:
    import json
    from urllib.parse import quote

    await stored(runtime)

    @checkpoint
    async def takes(text: str) -> int:
        return len(text)

    @flow
    async def body() -> int:
        key = kitaru.get_secret("creds")["KEY"]
        text = {
            "raw": key,
            "base64": base64.b64encode(key.encode()).decode(),
            "base64 within": base64.b64encode(f"user:{key}".encode()).decode(),
            "percent": quote(key, safe=""),
            "json": json.dumps({"k": key}).replace("/", "\\/"),
        }[form]
        return await takes(f"<{text}>")

    with pytest.raises(EncodeError, match=r"takes\(\): inputs\[0\] holds a secret"):
        await (await runtime.start(body)).result()


async def test_a_flows_result_and_metadata_hold_no_read_secret(runtime: Runtime) -> None:
    await stored(runtime)

    @flow
    async def returns() -> str:
        return kitaru.get_secret("creds")["KEY"]

    @flow
    async def logs() -> None:
        kitaru.log(key=kitaru.get_secret("creds")["KEY"])

    @flow
    async def saves() -> None:
        await kitaru.save("key", kitaru.get_secret("creds")["KEY"])

    leaking: list[Any] = [returns, logs, saves]
    for one in leaking:
        with pytest.raises(EncodeError, match="holds a secret"):
            await (await runtime.start(one)).result()


async def test_a_short_value_is_not_looked_for(runtime: Runtime) -> None:
    await stored(runtime, KEY="on")

    @flow
    async def body() -> str:
        return "not " + kitaru.get_secret("creds")["KEY"]

    assert await (await runtime.start(body)).result() == "not on"


async def test_a_secret_in_an_exception_is_masked_for_whoever_sees_it(runtime: Runtime) -> None:
    import traceback

    await stored(runtime)

    class RefusedError(Exception):
        def __init__(self, message: str, key: str) -> None:
            super().__init__(message, {"key": key})
            self.key = key

    @checkpoint
    async def fails() -> None:
        key = kitaru.get_secret("creds")["KEY"]
        try:
            raise KeyError(key)
        except KeyError as cause:
            error = RefusedError(f"refused {key}", key)
            error.add_note(f"sent {key}")
            raise error from cause

    @flow
    async def body() -> None:
        await fails()

    with pytest.raises(Exception, match="refused") as caught:
        await (await runtime.start(body.options(run_id="r"))).result()
    text = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(vars(caught.value))
    assert VALUE not in text
    assert "refused **********" in text


async def test_a_secret_in_a_flows_own_exception_is_masked(runtime: Runtime) -> None:
    import traceback

    await stored(runtime)

    @flow
    async def body() -> None:
        raise ValueError(kitaru.get_secret("creds")["KEY"])

    with pytest.raises(ValueError, match=r"\*\*\*") as caught:
        await (await runtime.start(body)).result()
    assert VALUE not in "".join(traceback.format_exception(caught.value))


async def test_an_exception_without_a_secret_keeps_its_traceback(runtime: Runtime) -> None:
    await stored(runtime)

    @checkpoint
    async def fails() -> None:
        kitaru.get_secret("creds")
        raise ValueError("plain")

    @flow
    async def body() -> None:
        await fails()

    with pytest.raises(ValueError, match="plain") as caught:
        await (await runtime.start(body)).result()
    assert "fails" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


async def test_a_constant_taken_from_the_environment_is_not_kept_with_the_source(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import importlib.util
    import sys

    monkeypatch.setenv("SERVICE_TOKEN", VALUE)
    file = tmp_path / "constant_flow.py"
    file.write_text(
        "import os\nfrom kitaru import checkpoint, flow\nTOKEN = os.environ['SERVICE_TOKEN']\n\n"
        "@checkpoint\nasync def size() -> int:\n    return len(TOKEN)\n\n"
        "@flow\nasync def sizes() -> int:\n    return await size()\n"
    )
    spec = importlib.util.spec_from_file_location("constant_flow", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["constant_flow"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert await (await runtime.start(module.sizes)).result() == len(VALUE)
    await runtime.close()
    data = on_disk(tmp_path)
    assert VALUE.encode() not in data
    assert VALUE.encode().hex().encode() not in data


def test_the_owner_of_secrets_is_the_user_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "somebody-else")
    monkeypatch.setenv("USER", "somebody-else")
    vault.me.cache_clear()
    assert vault.me() != "somebody-else" or os.environ.get("HOME") == "/home/somebody-else"


async def test_a_run_of_a_file_of_version_1_goes_on_after_the_migration(tmp_path: Path) -> None:
    old = Path(__file__).parents[1] / "store" / "files" / "version-1.db.gz"
    await asyncio.to_thread((tmp_path / "old.db").write_bytes, gzip.decompress(await asyncio.to_thread(old.read_bytes)))
    fetched = []

    @checkpoint
    async def fetch(number: int) -> str:
        fetched.append(number)
        return f"page {number}"

    @flow
    async def pages(count: int) -> int:
        return sum([len(await fetch(number)) for number in range(count)])

    async with Runtime(f"sqlite:///{tmp_path}/old.db", recover=False) as runtime:
        assert await (await runtime.resume("done", pages)).result() == 2021
        assert await (await runtime.resume("half", pages)).result() == 2020
    assert fetched == [2]
