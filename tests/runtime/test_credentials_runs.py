"""Keys bound to runs, secret inputs, the order in which a call's key is looked for."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

import kitaru
from kitaru import EncodeError, Runtime, SecretStr, checkpoint, flow
from kitaru.adapters.provider import Capabilities, Provider
from kitaru.adapters.providers import provider
from kitaru.adapters.standin import StandInServer
from kitaru.errors import CredentialError, NotFoundError, RunParkedError, UsageError
from kitaru.runtime.fork import ReplayOptions
from kitaru.runtime.secrets import named as secrets
from kitaru.runtime.secrets.credentials import Credential, find, missing
from kitaru.runtime.views.listing import listing
from kitaru.store.events import HELD, RunParked, RunStarted
from tests.runtime.runs import Script, of_type, stopped

KEY = "key-of-the-user"
ROW = Provider(
    name="openai", capabilities=Capabilities(features=frozenset()), key_env=("OPENAI_API_KEY", "OTHER_TOKEN"),
    bearer_env=("OTHER_TOKEN",),
)  # fmt: skip


def found(**more: Any) -> Credential:
    asked: dict[str, Any] = {"argument": None, "linked": None, "trusted_host": True, **more}
    return find(ROW, **asked)


def shown(credential: Credential) -> tuple[str | None, str]:
    return (credential.key.reveal() if credential.key is not None else None, credential.source)


@checkpoint
async def looked() -> list[Any]:
    credential = found()
    return [credential.key is not None and len(credential.key.reveal()), credential.source]


reached = asyncio.Event()
going_on = False


@flow
async def looks() -> list[Any]:
    if not going_on:
        reached.set()
        await asyncio.sleep(600)
    return await looked()


@flow
async def child() -> list[Any]:
    return await looked()


@flow
async def parent() -> list[Any]:
    return await child()


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "reached", asyncio.Event())
    monkeypatch.setitem(globals(), "going_on", False)


def go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "going_on", True)


async def held(runtime: Runtime, run: str) -> dict[str, str | None]:
    kept = await asyncio.to_thread(runtime._core.vault.of_run, run)
    return {key: value.reveal() if value is not None else None for key, value in kept.items()}


# -- the order ---------------------------------------------------------------------------------------------------------


def test_an_argument_comes_before_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-environment")
    with kitaru.credentials(openai=KEY):
        assert shown(found(argument="key-of-the-call")) == ("key-of-the-call", "argument")
        assert shown(found(argument=SecretStr("key-of-the-call"))) == ("key-of-the-call", "argument")


def test_bound_keys_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-environment")
    with kitaru.credentials(openai=KEY):
        assert shown(found()) == (KEY, "argument")
    assert shown(found()) == ("key-of-the-environment", "environment")


def test_the_first_variable_that_is_set_wins_and_blank_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_TOKEN", "token-of-the-test")
    monkeypatch.setenv("OPENAI_API_KEY", "  ")
    assert found() == Credential(SecretStr("token-of-the-test"), "environment", True)
    monkeypatch.setenv("OPENAI_API_KEY", " key-of-the-environment\n")
    assert found() == Credential(SecretStr("key-of-the-environment"), "environment", False)


def test_a_linked_secret_is_looked_up_by_the_providers_names_or_holds_only_one_value() -> None:
    kitaru.create_secret("exact", {"OTHER": "other-value", "OPENAI_API_KEY": "key-in-the-secret"})
    kitaru.create_secret("single", {"WHATEVER": "only-key-in-it"})
    kitaru.create_secret("token", {"OTHER": "other-value", "OTHER_TOKEN": "token-in-the-secret"})
    kitaru.create_secret("neither", {"A": "first-value", "B": "second-value"})
    assert shown(found(linked="exact")) == ("key-in-the-secret", "secret")
    assert shown(found(linked="single")) == ("only-key-in-it", "secret")
    assert found(linked="token") == Credential(SecretStr("token-in-the-secret"), "secret", True)
    with pytest.raises(CredentialError, match="it has A, B"):
        found(linked="neither")
    with pytest.raises(CredentialError, match="no secret 'lost'"):
        found(linked="lost")


def test_a_host_that_nobody_here_named_gets_no_key_of_the_environment_or_a_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kitaru.create_secret("creds", {"OPENAI_API_KEY": "key-in-the-secret"})
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-environment")
    assert shown(found(linked="creds", trusted_host=False)) == (None, "none")
    assert shown(found(argument="key-of-the-call", trusted_host=False)) == ("key-of-the-call", "argument")
    assert "recorded run" in str(missing(ROW, trusted_host=False))


def test_nothing_is_none_and_the_error_says_how_to_set_one_up() -> None:
    assert found() == Credential(None, "none")
    text = str(missing(ROW, "team-creds"))
    assert "OPENAI_API_KEY" in text
    assert "kitaru secrets set team-creds OPENAI_API_KEY" in text
    assert "api_key=" in text


async def test_a_secret_shadowed_by_the_environment_is_warned_of_once(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-environment")

    @flow
    async def body() -> list[str]:
        return [found(linked="creds").source for _ in range(3)]

    assert await (await runtime.start(body)).result() == ["environment"] * 3
    assert caplog.text.count("credential.shadowed") == 1
    assert "key-of-the-environment" not in caplog.text


# -- kitaru.credentials ------------------------------------------------------------------------------------------------


def test_a_provider_or_key_that_cannot_be_is_refused_without_showing_it() -> None:
    with pytest.raises(UsageError, match="opena1"):
        kitaru.credentials(opena1=KEY)
    for empty in ("", "  ", None, 3):
        given: dict[str, Any] = {"openai": empty}
        with pytest.raises(UsageError, match="no key"):
            kitaru.credentials(**given)
    with pytest.raises(UsageError):
        kitaru.credentials()
    assert KEY not in repr(kitaru.credentials(openai=KEY))


def test_an_underscore_stands_for_a_dash() -> None:
    with kitaru.credentials(openai_compatible=KEY):
        credential = find(provider("openai-compatible"), argument=None, linked=None, trusted_host=False)
    assert shown(credential) == (KEY, "argument")


def test_inner_keys_win_and_outer_ones_stay() -> None:
    with kitaru.credentials(openai="outer-openai-key", groq="outer-groq-key"):
        with kitaru.credentials(openai="inner-openai-key"):
            assert shown(found()) == ("inner-openai-key", "argument")
            groq = find(provider("groq"), argument=None, linked=None, trusted_host=True)
            assert shown(groq) == ("outer-groq-key", "argument")
        assert shown(found()) == ("outer-openai-key", "argument")
    assert shown(found()) == (None, "none")


async def test_a_run_and_its_children_have_the_keys_they_were_started_with(runtime: Runtime) -> None:
    async with kitaru.credentials(openai=KEY):
        alone = await runtime.start(child)
        family = await runtime.start(parent)
    assert await alone.result() == [len(KEY), "argument"]
    assert await family.result() == [len(KEY), "argument"]
    assert await (await runtime.start(child)).result() == [False, "none"]


def test_a_run_started_from_sync_code_has_the_keys_too() -> None:
    with kitaru.credentials(openai=KEY):
        handle = child.run()
    assert handle.wait() == [len(KEY), "argument"]


async def test_keys_bound_inside_a_flow_hold_for_what_it_calls_there(runtime: Runtime) -> None:
    @flow
    async def body() -> list[Any]:
        async with kitaru.credentials(openai="key-of-the-flow"):
            inside = await looked()
        return [inside, await looked()]

    async with kitaru.credentials(openai=KEY):
        handle = await runtime.start(body)
    assert await handle.result() == [[len("key-of-the-flow"), "argument"], [len(KEY), "argument"]]


async def test_keys_are_kept_sealed_while_the_run_lives_and_deleted_when_it_ends(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kitaru.credentials(openai=KEY):
        await stopped(store_url, looks, "r", reached)
    data = files(tmp_path)
    assert KEY.encode() not in data
    go_on(monkeypatch)
    async with Runtime(store_url, recover=False) as second:
        assert await held(second, "r") == {"credential:openai": KEY}
        assert await (await second.resume("r", looks)).result() == [len(KEY), "argument"]
        assert await held(second, "r") == {"credential:openai": None}


def files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("runs.db*")) if path.is_file())


@pytest.mark.parametrize("end", ["failed", "cancelled", "closed while nobody owned it"])
async def test_keys_are_deleted_however_the_run_ends(store_url: str, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @flow
    async def fails() -> None:
        if not going_on:
            reached.set()
            await asyncio.sleep(600)
        raise ValueError("no")

    with kitaru.credentials(openai=KEY):
        await stopped(store_url, fails, "r", reached)
    async with Runtime(store_url, recover=False) as second:
        if end == "failed":
            go_on(monkeypatch)
        if end != "closed while nobody owned it":
            handle = await second.resume("r", fails)
            if end == "cancelled":
                await handle.cancel()
            with pytest.raises(Exception, match=r"no|cancelled"):
                await handle.result()
        else:
            await second.cancel("r", now=True)
        assert await held(second, "r") == {"credential:openai": None}


async def test_a_key_in_memory_only_makes_the_run_wait_for_it(
    store_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with kitaru.credentials(openai=KEY, persist=False):
        await stopped(store_url, looks, "r", reached)
    go_on(monkeypatch)
    async with Runtime(store_url) as second:
        parked = await of_type(second, "r", RunParked)
        assert [event.reason for event in parked] == [f"{HELD}: waiting for a credential for openai"]
        assert (await second._core.store.run("r")).status == "parked"
        (row,) = await listing(second._core)
        assert "waiting for a credential for openai" in row.note
        with pytest.raises(CredentialError, match="waits for a credential for openai") as caught:
            await second.resume("r", looks)
        assert "kitaru.credentials(openai=...)" in str(caught.value)
        async with kitaru.credentials(openai="the-key-anew"):
            handle = await second.resume("r", looks)
        assert await handle.result() == [len("the-key-anew"), "argument"]
    assert KEY.encode() not in files(tmp_path)


async def test_starting_a_waiting_run_again_inside_credentials_goes_on_with_it(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kitaru.credentials(openai=KEY, persist=False):
        await stopped(store_url, looks, "r", reached)
    go_on(monkeypatch)
    async with Runtime(store_url) as second, kitaru.credentials(openai="the-key-anew"):
        handle = await second.start(looks.options(run_id="r"))
        assert await handle.result() == [len("the-key-anew"), "argument"]


KILLED = """
import asyncio, os, signal
import kitaru
from kitaru import Runtime, flow

@flow
async def waits() -> None:
    print("running", flush=True)
    await asyncio.sleep(600)

async def main() -> None:
    async with Runtime(os.environ["KITARU_STORE"]) as rt:
        async with kitaru.credentials(openai="key-of-the-user", persist=False):
            handle = await rt.start(waits.options(run_id="r"))
        await handle.result()

asyncio.run(main())
"""


async def test_a_killed_run_with_a_key_in_memory_is_parked_by_whoever_looks_after_it(tmp_path: Path) -> None:
    def killed() -> None:
        with Script(tmp_path, KILLED) as script:
            script.until("running")
            script.kill()

    await asyncio.to_thread(killed)

    @flow(name="waits")
    async def waits() -> None: ...

    async with Runtime(f"sqlite:///{tmp_path}/runs.db", recover=False) as second:
        with pytest.raises(CredentialError):
            await second.resume("r", waits)
        row = await second._core.store.run("r")
        assert (row.status, row.note) == ("parked", f"{HELD}: waiting for a credential for openai")
        assert await second._core.store.unowned(()) == []


async def test_a_recovery_inside_credentials_gives_them_to_nobody(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stopped(store_url, looks, "r", reached)
    go_on(monkeypatch)
    async with kitaru.credentials(openai=KEY), Runtime(store_url, recover=False) as second:
        assert await second.recover() == ["r"]
        assert await (await second.resume("r", looks)).result() == [False, "none"]


async def test_a_retry_needs_the_key_again(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @flow
    async def fails() -> list[Any]:
        if not going_on:
            raise ValueError("no")
        return await looked()

    async with Runtime(store_url, recover=False) as runtime:
        async with kitaru.credentials(openai=KEY):
            handle = await runtime.start(fails.options(run_id="r"))
        with pytest.raises(ValueError, match="no"):
            await handle.result()
        go_on(monkeypatch)
        with pytest.raises(CredentialError):
            await runtime.retry("r", fails)
        assert (await runtime._core.store.run("r")).status == "failed"
        async with kitaru.credentials(openai="the-key-anew"):
            handle = await runtime.retry("r", fails)
        assert await handle.result() == [len("the-key-anew"), "argument"]


async def test_fifty_runs_at_once_have_each_its_own_key_in_async_and_sync_flows(runtime: Runtime) -> None:
    @checkpoint
    def looked_in_thread() -> int:
        key = found().key
        return len(key.reveal()) if key is not None else 0

    @flow
    def in_threads() -> int:
        first = looked_in_thread().load()
        key = found().key
        return first if key is not None and len(key.reveal()) == first else -1

    @flow
    async def in_tasks() -> int:
        sizes = await kitaru.gather(*(looked() for _ in range(3)))
        return int({size for size, _ in sizes}.pop())

    handles = []
    for number in range(50):
        async with kitaru.credentials(openai="k" * (20 + number)):
            handles.append(await runtime.start(in_threads if number % 5 == 0 else in_tasks))
    assert [await handle.result() for handle in handles] == [20 + number for number in range(50)]


async def test_a_bound_key_is_not_recorded_by_a_step_that_returns_it(runtime: Runtime) -> None:
    @checkpoint
    async def leaks() -> str:
        key = found().key
        assert key is not None
        return key.reveal()

    @flow
    async def body() -> str:
        return await leaks()

    async with kitaru.credentials(openai=KEY):
        handle = await runtime.start(body)
    with pytest.raises(EncodeError, match="holds a secret"):
        await handle.result()


# -- secret inputs -----------------------------------------------------------------------------------------------------


@checkpoint
async def size_of(token: SecretStr) -> int:
    return len(token.reveal())


@flow
async def sizes(token: SecretStr, more: dict[str, SecretStr] | None = None) -> list[int]:
    if not going_on:
        reached.set()
        await asyncio.sleep(600)
    return [await size_of(token), *[len(value.reveal()) for value in (more or {}).values()]]


async def test_a_secret_input_is_sealed_and_comes_back_as_itself(
    store_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    more = {"a": SecretStr("second-secret-input")}
    await stopped(store_url, sizes, "r", reached, SecretStr(KEY), more)
    data = files(tmp_path)
    assert KEY.encode() not in data
    assert b"second-secret-input" not in data
    go_on(monkeypatch)
    async with Runtime(store_url, recover=False) as second:
        assert sorted(value or "" for value in (await held(second, "r")).values()) == [KEY, "second-secret-input"]
        assert await (await second.resume("r", sizes)).result() == [len(KEY), len("second-secret-input")]
        assert set((await held(second, "r")).values()) == {None}


async def test_starting_a_run_again_compares_secret_inputs(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on(monkeypatch)
    first = await runtime.start(sizes.options(run_id="r"), SecretStr(KEY))
    assert await first.result() == [len(KEY)]
    again = await runtime.start(sizes.options(run_id="r"), SecretStr(KEY))
    assert await again.result() == [len(KEY)]
    with pytest.raises(UsageError, match="other inputs") as caught:
        await runtime.start(sizes.options(run_id="r"), SecretStr("another-key-of-it"))
    assert KEY not in str(caught.value)


async def test_the_recorded_placeholder_depends_on_the_store(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on(monkeypatch)
    inputs = []
    async with Runtime(f"sqlite:///{tmp_path}/other.db") as other:
        for one in (runtime, other):
            await (await one.start(sizes.options(run_id="r"), SecretStr(KEY))).result()
            inputs.append((await of_type(one, "r", RunStarted))[0].fingerprint)
    assert inputs[0] != inputs[1]


async def test_the_placeholder_survives_a_rekey(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @flow
    async def passes(token: SecretStr) -> int:
        size = await size_of(token)
        if not going_on:
            reached.set()
            await asyncio.sleep(600)
        return size

    await stopped(store_url, passes, "r", reached, SecretStr(KEY))
    async with Runtime(store_url, recover=False) as between:
        await asyncio.to_thread(between._core.vault.rekey)
    go_on(monkeypatch)
    async with Runtime(store_url, recover=False) as second:
        assert await (await second.resume("r", passes)).result() == len(KEY)


async def test_a_child_run_keeps_the_secret_it_was_called_with(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @flow
    async def outer(token: SecretStr) -> list[int]:
        return await sizes(token)

    await stopped(store_url, outer, "r", reached, SecretStr(KEY))
    go_on(monkeypatch)
    async with Runtime(store_url, recover=False) as second:
        assert await (await second.resume("r", outer)).result() == [len(KEY)]


def test_a_sync_flow_gets_its_secret_input() -> None:
    @checkpoint
    def size(token: SecretStr) -> int:
        return len(token.reveal())

    @flow
    def plain(token: SecretStr) -> int:
        return size(token).load() + size(SecretStr("made-in-the-flow")).load()

    assert plain.run(SecretStr(KEY)).wait() == len(KEY) + len("made-in-the-flow")


async def test_a_secret_in_an_outcome_is_refused_with_its_path(runtime: Runtime) -> None:
    @checkpoint
    async def gives() -> dict[str, object]:
        return {"token": [SecretStr(KEY)]}

    @flow
    async def body() -> object:
        return await gives()

    with pytest.raises(EncodeError, match=r'value\["token"\]\[0\] is a secret'):
        await (await runtime.start(body)).result()


async def test_an_unfinished_runs_replay_has_its_secret_input_and_a_finished_ones_must_be_given_it(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stopped(store_url, sizes, "r", reached, SecretStr(KEY))
    go_on(monkeypatch)
    async with Runtime(store_url, recover=False) as runtime:
        fork = await runtime.replay("r", ReplayOptions(run_id="early"), sizes)
        assert await fork.handle.result() == [len(KEY)]
        assert await (await runtime.resume("r", sizes)).result() == [len(KEY)]
        with pytest.raises(NotFoundError, match="input token of type SecretStr is not kept") as caught:
            await runtime.replay("r", ReplayOptions(run_id="late"), sizes)
        assert "--input token=" in str(caught.value)
        fork = await runtime.replay("r", ReplayOptions(run_id="late", inputs={"token": "the-token-anew"}), sizes)
        assert await fork.handle.result() == [len("the-token-anew")]
        dry = await runtime.replay("r", ReplayOptions(dry_run=True), sizes)
        assert dry.would_run == {}


async def test_a_secret_cannot_be_encoded_where_no_run_is_near() -> None:
    from kitaru.runtime.work import input_stand_in
    from kitaru.store import codec

    with pytest.raises(EncodeError, match="is a secret"):
        codec.encode([SecretStr(KEY)], unknown=input_stand_in)


# -- the run's own environment -----------------------------------------------------------------------------------------


async def secret(runtime: Runtime, name: str, **values: str) -> None:
    await asyncio.to_thread(secrets.set_secret, name, values, runtime=runtime)


@checkpoint
async def environment(name: str) -> list[Any]:
    value = kitaru.getenv(name)
    credential = found()
    return [value is not None and len(value), name in os.environ, credential.source]


async def test_a_runs_secrets_are_its_environment_while_it_lives(runtime: Runtime) -> None:
    await secret(runtime, "creds", OPENAI_API_KEY=KEY)

    @flow(image=kitaru.ImageSettings(secret_environment_from=["creds"], environment={"MODE": "fast"}))
    async def body() -> list[Any]:
        return [await environment("OPENAI_API_KEY"), kitaru.getenv("MODE"), kitaru.getenv("NOT_SET", "default")]

    handle = await runtime.start(body)
    assert await handle.result() == [[len(KEY), True, "environment"], "fast", "default"]
    assert "OPENAI_API_KEY" not in os.environ
    assert "MODE" not in os.environ


async def test_a_value_already_set_is_not_replaced_and_the_run_still_sees_its_own(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-process")
    await secret(runtime, "creds", OPENAI_API_KEY=KEY)

    @flow(image={"secret_environment_from": ["creds"]})
    async def body() -> list[Any]:
        return [len(kitaru.getenv("OPENAI_API_KEY") or ""), len(os.environ["OPENAI_API_KEY"])]

    assert await (await runtime.start(body)).result() == [len(KEY), len("key-of-the-process")]
    assert os.environ["OPENAI_API_KEY"] == "key-of-the-process"


async def test_no_other_run_sees_what_was_exported_for_one(runtime: Runtime) -> None:
    await secret(runtime, "creds", OPENAI_API_KEY=KEY)
    inside, leave = asyncio.Event(), asyncio.Event()

    @flow(image={"secret_environment_from": ["creds"]})
    async def exports() -> bool:
        inside.set()
        await leave.wait()
        return "OPENAI_API_KEY" in os.environ

    exporting = await runtime.start(exports)
    await inside.wait()
    assert os.environ["OPENAI_API_KEY"] == KEY
    assert kitaru.getenv("OPENAI_API_KEY") is None
    assert shown(found()) == (None, "none")
    assert await (await runtime.start(child)).result() == [False, "none"]
    leave.set()
    assert await exporting.result()


async def test_two_runs_that_need_different_values_of_one_variable_conflict_at_the_start(runtime: Runtime) -> None:
    await secret(runtime, "one", OPENAI_API_KEY="first-key-of-two")
    await secret(runtime, "two", OPENAI_API_KEY="second-key-of-two")
    inside, leave = asyncio.Event(), asyncio.Event()

    @flow
    async def body() -> int:
        inside.set()
        await leave.wait()
        return len(kitaru.getenv("OPENAI_API_KEY") or "")

    first = await runtime.start(body.options(run_id="first", image={"secret_environment_from": ["one"]}))
    same = await runtime.start(body.options(run_id="same", image={"secret_environment_from": ["one"]}))
    await inside.wait()
    with pytest.raises(UsageError, match="run second needs another value of OPENAI_API_KEY than run first") as caught:
        await runtime.start(body.options(run_id="second", image={"secret_environment_from": ["two"]}))
    assert "key-of-two" not in str(caught.value)
    with pytest.raises(NotFoundError):
        await runtime._core.store.run("second")
    leave.set()
    assert await first.result() == await same.result() == len("first-key-of-two")
    second = await runtime.start(body.options(run_id="second", image={"secret_environment_from": ["two"]}))
    assert await second.result() == len("second-key-of-two")


async def test_fifty_runs_at_once_have_each_its_own_environment(runtime: Runtime) -> None:
    @checkpoint
    def in_thread(names: list[str]) -> list[int]:
        return [len(kitaru.getenv(name) or "") for name in names]

    @flow
    async def in_tasks(names: list[str]) -> list[int]:
        return await in_thread(names)

    @flow
    def in_threads(names: list[str]) -> list[int]:
        return in_thread(names).load()

    names = [f"KEY_{number}" for number in range(50)]
    for number, name in enumerate(names):
        await secret(runtime, f"creds-{number}", **{name: "k" * (20 + number), "SHARED": "the-same-for-all"})
    handles = []
    for number in range(50):
        one = in_threads if number % 5 == 0 else in_tasks
        image = {"secret_environment_from": [f"creds-{number}"]}
        handles.append(await runtime.start(one.options(image=image), names))
    results = [await handle.result() for handle in handles]
    assert results == [[20 + n if n == number else 0 for n in range(50)] for number in range(50)]
    assert not any(name in os.environ for name in [*names, "SHARED"])


async def test_after_a_resume_the_environment_is_there_again(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @flow
    async def body() -> list[Any]:
        if not going_on:
            reached.set()
            await asyncio.sleep(600)
        return await environment("OPENAI_API_KEY")

    async with Runtime(store_url, recover=False) as first:
        await secret(first, "creds", OPENAI_API_KEY=KEY)
    image = {"secret_environment_from": ["creds"]}
    await stopped(store_url, body.options(image=image), "r", reached)
    assert "OPENAI_API_KEY" not in os.environ
    go_on(monkeypatch)
    async with Runtime(store_url, recover=False) as second:
        assert await (await second.resume("r", body)).result() == [len(KEY), True, "environment"]


async def test_a_child_run_inherits_its_parents_environment(runtime: Runtime) -> None:
    await secret(runtime, "creds", OPENAI_API_KEY=KEY)

    @flow(image={"environment": {"OWN": "of the child"}})
    async def inner() -> list[Any]:
        return [await environment("OPENAI_API_KEY"), kitaru.getenv("OWN")]

    @flow(image={"secret_environment_from": ["creds"]})
    async def outer() -> list[Any]:
        return await inner()

    assert await (await runtime.start(outer)).result() == [[len(KEY), True, "environment"], "of the child"]


async def test_a_secret_that_is_missing_or_contradicts_stops_the_run_before_it_starts(runtime: Runtime) -> None:
    await secret(runtime, "one", KEY="first-value")
    await secret(runtime, "two", KEY="second-value")
    for names, error, words in (
        (["lost"], NotFoundError, "no secret 'lost'"),
        (["one", "two"], UsageError, "give KEY different values"),
    ):
        with pytest.raises(error, match=words):
            await runtime.start(child.options(run_id="r", image={"secret_environment_from": names}))
    with pytest.raises(NotFoundError):
        await runtime._core.store.run("r")


@pytest.mark.parametrize(
    "image",
    [
        {"secret_environment_from": "creds"},
        {"secret_environment_from": [""]},
        {"environment": {"A-B": "v"}},
        {"environment": {"A": 3}},
        {"base_image": "python:3.12"},
        3,
    ],
)
def test_an_image_that_cannot_be_right_is_refused(image: Any) -> None:
    with pytest.raises(UsageError):
        child.options(image=image)


async def test_a_parked_run_names_the_provider_it_waits_for(store_url: str) -> None:
    async with Runtime(store_url, recover=False) as first:
        async with kitaru.credentials(openai=KEY, persist=False):
            handle = await first.start(looks.options(run_id="r"))
        await reached.wait()
        await handle.park()
        with pytest.raises(RunParkedError):
            await handle.result()
        assert (await first._core.store.run("r")).note == f"{HELD}: waiting for a credential for openai"


async def test_a_placeholder_in_the_environment_is_no_secret_to_stumble_over(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, standin: StandInServer
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", standin.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "stand-in")

    @flow
    async def asks() -> str:
        await kitaru.llm("Hello", model="openai/stand-in")
        return await kitaru.llm("Hello again", model="openai/stand-in")

    assert await (await runtime.start(asks)).result()
