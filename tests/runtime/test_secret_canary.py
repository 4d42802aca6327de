"""Values planted wherever a user can put a secret are found nowhere: not on disk, not in what is printed."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kitaru.adapters.secret import SecretStr
from tests.runtime.runs import PATIENCE, Script, environment

PLANTED = {
    "ENVIRONMENT": 'canary-of-the-environment/+="&äé',
    "SECRET": 'canary-in-a-named-secret/+="&äé',
    "ARGUMENT": 'canary-as-an-argument/+="&xyz',
    "CREDENTIALS": 'canary-of-credentials/+="&äé',
    "INPUT": 'canary-as-a-flow-input/+="&äé',
    "NAME": "canary.in-a-secret.fit-for-a-name:3f7a",
    "ADDRESS": "canary-in-an-address-9b1c",
    "SOURCE": 'canary-in-the-source/+="&xyz',
}
PLACES = 13

SCRIPT = """
import asyncio, inspect, json, logging, os, sys, traceback
import kitaru
from kitaru import Runtime, SecretStr, checkpoint, flow
from kitaru.adapters.providers import provider
from kitaru.runtime.secrets import named as secrets
from kitaru.runtime.secrets.credentials import find
from kitaru.runtime.fork import ReplayOptions

logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
TOKEN = os.environ["SERVICE_TOKEN"]
OPENAI = provider("openai")

@checkpoint
async def environment_key() -> int:
    # A constant of the module, taken from the environment.
    return len(TOKEN)

@checkpoint
async def used(token: SecretStr) -> str:
    key = find(OPENAI, argument=None, linked=None, trusted_host=True).key
    named = kitaru.get_secret("creds")["KEY"]
    return f"sizes {len(key.reveal())} {len(named)} {len(token.reveal())} {len(kitaru.getenv('KEY'))}"

@checkpoint
async def asks() -> str:
    try:
        return await kitaru.llm(
            "hello", model="openai/any", base_url="http://127.0.0.1:9/v1", api_key=os.environ["ARGUMENT"], retry=1
        )
    except kitaru.ModelError as error:
        return type(error).__name__

@checkpoint
async def fails(token: SecretStr) -> None:
    local, named = token.reveal(), kitaru.get_secret("creds")["KEY"]
    key = find(OPENAI, argument=None, linked=None, trusted_host=True).key.reveal()
    try:
        raise KeyError(local, {"named": [named]})
    except KeyError as cause:
        error = ValueError(f"refused {local} and {named}", {"key": key, "env": os.environ["SERVICE_TOKEN"]})
        error.add_note(f"sent {key} {os.environ['SERVICE_TOKEN']}")
        error.response = {"echo": [key, local]}
        raise error from cause

@checkpoint
async def leaks(token: SecretStr) -> dict:
    return {"a": [token.reveal()], "b": kitaru.get_secret("creds")["KEY"]}

@checkpoint
async def literal() -> str:
    return await kitaru.llm("hello", model="test/echo", api_key='canary-in-the-source/+="&xyz')

@checkpoint
async def later(text: str) -> str:
    return text

async def tried(place, act) -> None:
    try:
        made = act()
        if inspect.isawaitable(made):
            await made
    except (kitaru.EncodeError, kitaru.UsageError) as error:
        print("no place:", place, error)
    else:
        raise AssertionError(f"{place} took a secret")

async def in_scope(name: str) -> None:
    with kitaru.scope(name):
        pass

async def in_a_function(name: str) -> None:
    async def work() -> None:
        await later("x")

    work.__qualname__ = name
    await asyncio.create_task(work())

async def misplaced() -> None:
    secret = kitaru.get_secret("creds")["NAME"]
    key = os.environ["ADDRESS"]
    async with kitaru.credentials(openai=os.environ["ARGUMENT"]):
        await asks()
    for place, act in {
        "a step's name": lambda: later.options(name=secret)("x"),
        "a model call's name": lambda: kitaru.llm("hello", model="test/echo", name=f"to-{secret}"),
        "a scope": lambda: in_scope(secret),
        "a task's function": lambda: in_a_function(secret),
        "an artifact's name": lambda: kitaru.save(secret, 1),
        "metadata": lambda: kitaru.log(note=f"with {secret}"),
        "the name of metadata": lambda: kitaru.log(**{secret: 1}),
        "metadata, an argument": lambda: kitaru.log(note=os.environ["ARGUMENT"]),
        "an address": lambda: kitaru.llm("q", model="openai/any", base_url=f"http://user:{key}@127.0.0.1:9/v1"),
        "a query": lambda: kitaru.llm("q", model="openai/any", base_url=f"http://127.0.0.1:9/v1?key={key}"),
    }.items():
        await tried(place, act)

@flow
async def nested(token: SecretStr) -> str:
    return await used(token)

@flow(image=kitaru.ImageSettings(secret_environment_from=["creds"]))
async def everything(token: SecretStr, end: str) -> str:
    kitaru.log(started=True)
    await environment_key()
    text = await used(token)
    await asks()
    await literal()
    await misplaced()
    await nested(token)
    try:
        await leaks(token)
    except kitaru.EncodeError as error:
        print("refused:", error)
    if end == "fails":
        try:
            await fails(token)
        except Exception:
            traceback.print_exc(file=sys.stdout)
            raise
    if end == "raises":
        raise RuntimeError(f"the flow's own: {token.reveal()} {kitaru.get_secret('creds')['KEY']}")
    if end == "waits":
        print("waiting", flush=True)
        await asyncio.sleep(600)
    return text

async def in_ids(rt: Runtime, name: str, run: str) -> None:
    token = SecretStr("some other secret")
    renamed = kitaru.flow(everything.__wrapped__, name=name)
    inputs = {"token": "some other secret"}
    override = ReplayOptions(overrides={"used": json.dumps(name)}, inputs=inputs)
    for place, act in {
        "a run's id": lambda: rt.start(everything.options(run_id=name), token, "ends"),
        "an image": lambda: rt.start(everything.options(image={"environment": {"A": name}}), token, "ends"),
        "a flow's name": lambda: rt.start(renamed, token, "ends"),
        "a replay's id": lambda: rt.replay(run, ReplayOptions(run_id=name, inputs=inputs), everything),
        "an override": lambda: rt.replay(run, override, everything),
        "a reason": lambda: rt.cancel(run, f"because of {name}"),
    }.items():
        await tried(place, act)

async def main() -> None:
    planted = {name: os.environ.pop(name) for name in ("SECRET", "CREDENTIALS", "INPUT", "NAME")}
    os.environ["OPENAI_API_KEY"] = os.environ["ENVIRONMENT"]
    async with Runtime(os.environ["KITARU_STORE"], recover=False) as rt:
        creds = {"KEY": planted["SECRET"], "NAME": planted["NAME"]}
        await asyncio.to_thread(secrets.set_secret, "creds", creds, runtime=rt)
        for end in sys.argv[1:]:
            for bound in (True, False):
                run = f"{end}-{bound}".lower()
                started = everything.options(run_id=run)
                if bound:
                    async with kitaru.credentials(openai=planted["CREDENTIALS"]):
                        handle = await rt.start(started, SecretStr(planted["INPUT"]), end)
                else:
                    handle = await rt.start(started, SecretStr(planted["INPUT"]), end)
                if end == "waits" and bound:
                    continue
                if end == "ends" and bound:
                    await handle.result()
                    await in_ids(rt, planted["NAME"], run)
                try:
                    print(await handle.result())
                except Exception as error:
                    traceback.print_exc(file=sys.stdout)
                    print(repr(error), vars(error))
                new = {"token": SecretStr(planted["INPUT"]).reveal()}
                fork = await rt.replay(run, ReplayOptions(run_id=f"fork-{run}", inputs=new, keep_code=True), everything)
                try:
                    print(await fork.handle.result())
                except Exception:
                    traceback.print_exc(file=sys.stdout)
    print("done", flush=True)

if __name__ == "__main__":
    asyncio.run(main())
"""


def forms() -> Iterator[tuple[str, bytes]]:
    for name, value in PLANTED.items():
        for form in SecretStr(value).forms():
            yield name, form
        yield f"{name} in hexadecimal", value.encode().hex().encode()


def assert_clean(where: str, data: bytes) -> None:
    found = sorted({name for name, form in forms() if form in data})
    assert not found, f"{where} holds {', '.join(found)}"


def assert_nothing_on_disk(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts:
            assert_clean(path.name, path.read_bytes())
    # A value may lie across pages of the file: every column once more, whole.
    connection = sqlite3.connect(folder / "runs.db")
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    for table in tables:
        for row in connection.execute(f"SELECT * FROM {table}"):
            for column in row:
                data = column if isinstance(column, bytes) else str(column).encode()
                assert_clean(f"table {table}", data)
    assert connection.execute("SELECT count(*) FROM events").fetchone()[0] > 10
    connection.close()


def assert_nothing_is_printed(folder: Path, runs: list[str]) -> None:
    commands = [["runs"], ["runs", "--json"], ["secrets", "list"], ["secrets", "show", "creds"], ["verify"]]
    for run in runs:
        commands += [["show", run], ["show", run, "--json"], ["executions", "logs", run], ["events", run, "--json"]]
    code = (
        "import sys\nfrom kitaru.cli.app import run\nfor line in sys.stdin.read().splitlines():\n run(line.split())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input="\n".join(map(" ".join, commands)), capture_output=True, text=True,
        check=True, cwd=folder, env={**environment(folder), "KITARU_DEBUG": "1"}, timeout=PATIENCE,
    )  # fmt: skip
    assert_clean("the command line", (done.stdout + done.stderr).encode())
    for run in runs:
        assert run in done.stdout


def planted() -> dict[str, str]:
    return {**PLANTED, "SERVICE_TOKEN": PLANTED["ENVIRONMENT"], "PYTHONIOENCODING": "utf-8"}


def test_no_planted_value_is_found_when_runs_end(tmp_path: Path) -> None:
    with Script(tmp_path, SCRIPT, "ends", "fails", "raises", **planted()) as script:
        out, errors = script.process.communicate(timeout=3 * PATIENCE)
        assert script.process.returncode == 0, errors
    assert out.splitlines()[-1] == "done"
    assert "refused **********" in out
    assert "holds a secret" in out
    assert len({line for line in out.splitlines() if line.startswith("no place:")}) > PLACES
    assert_clean("what the script printed", out.encode() + errors.encode())
    assert_nothing_on_disk(tmp_path)
    ends = [f"{end}-{bound}" for end in ("ends", "fails", "raises") for bound in ("true", "false")]
    runs = [*ends, *(f"fork-{end}" for end in ends)]
    assert_nothing_is_printed(tmp_path, runs)


def test_no_planted_value_is_found_after_a_kill(tmp_path: Path) -> None:
    with Script(tmp_path, SCRIPT, "waits", **planted()) as script:
        script.until("waiting")
        script.kill()
    assert (tmp_path / "runs.db-wal").exists()
    assert_nothing_on_disk(tmp_path)
    assert_nothing_is_printed(tmp_path, ["waits-true"])


def test_the_search_finds_what_it_looks_for() -> None:
    import base64
    import json
    from urllib.parse import quote

    value = PLANTED["SECRET"]
    for text in (value, json.dumps(value), quote(value), base64.b64encode(f"x{value}y".encode()).decode()):
        with pytest.raises(AssertionError, match="SECRET"):
            assert_clean("a text", f"<{text}>".encode())
    assert_clean("a text", os.fsencode("nothing of that kind"))
