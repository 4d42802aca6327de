"""Keys that every API echoes are found nowhere: not on disk, in a log, or in what is shown; calm or killed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from ast import literal_eval
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import pytest

from kitaru.adapters.secret import MASK
from kitaru.adapters.standin import StandInServer
from tests.faults.canary import Canaries
from tests.faults.echoing_flows import PROVIDERS, SOURCES, calls
from tests.runtime.runs import PATIENCE, environment

SCRIPT = Path(__file__).with_name("echoing_flows.py")
PLANTED = {
    "ENVIRONMENT": 'canary/of=the+environment"&~5c1e',
    "SECRET": 'canary/in=a+named-secret"&~81d0',
    "IMAGE": 'canary/of=an+image-of-runs"&~c37a',
    "ARGUMENT": 'canary/as=an+argument-here"&~f09b',
    "CREDENTIALS": 'canary/of=bound+credentials"&~2e66',
    "GATEWAY": 'canary/of=the+gateway-itself"&~a94d',
}
CANARIES = Canaries(PLANTED)
CALLS = sum(len(calls(source)) for source in SOURCES)
SHOWS = (
    "runs", "runs --json", "costs", "costs --by run --json", "model list", "model list --json", "secrets list",
    "secrets show creds", "verify",
)  # fmt: skip
SHOWS_OF_A_RUN = ("show {run}", "show {run} --json", "events {run}", "events {run} --json", "executions logs {run}")
STEPS = ("asked", "asked[2]", "asked[3]", "asked[4]", "asked[5]", "asked[10]")


@pytest.fixture(scope="module")
def server() -> Iterator[StandInServer]:
    with StandInServer() as running:
        yield running


def registry(server: StandInServer) -> str:
    """Two aliases for each provider: one that links a secret, and one that stands alone."""
    aliases: dict[str, dict[str, str]] = {}
    for provider in PROVIDERS:
        address = server.address(provider) + ("/v1" if provider == "mistral" else "")
        aliases[f"{provider}-alone"] = {"model": f"{provider}/stand-in", "base_url": address}
        aliases[f"{provider}-linked"] = {**aliases[f"{provider}-alone"], "secret": "creds"}
    return json.dumps({"aliases": aliases})


def shown(folder: Path, aliases: str) -> str:
    """What the command line shows of the runs, with what it tells of its own errors."""
    runs = [*(f"echoes-{source}" for source in SOURCES), "fork-echoes-image", "fails-image", "fork-fails-environment"]
    runs += ["waits-credentials", "waits-environment"]
    lines = [*SHOWS, *(line.format(run=run) for run in runs for line in SHOWS_OF_A_RUN)]
    lines += [f"show echoes-{source} {step}" for source in SOURCES for step in STEPS]
    code = (
        "import sys\nfrom kitaru.cli.app import run\nfor line in sys.stdin.read().splitlines():\n run(line.split())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input="\n".join(lines), capture_output=True, text=True, check=True, cwd=folder,
        env=environment(folder, KITARU_DEBUG="1", KITARU_MODEL_REGISTRY=aliases), timeout=3 * PATIENCE,
    )  # fmt: skip
    assert all(run in done.stdout for run in runs)
    return done.stdout + done.stderr


@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_a_key_that_every_api_echoes_is_found_nowhere(tmp_path: Path, server: StandInServer, engine: str) -> None:
    server.reset()
    aliases, log = registry(server), tmp_path / "printed.log"
    proxy = server.address("openai-compatible")
    settings = environment(tmp_path, KITARU_MODEL_REGISTRY=aliases, KITARU_HTTP=engine, PROXY=proxy, **PLANTED)
    with log.open("wb") as printed:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT)], cwd=tmp_path, env=settings, text=True, stdin=subprocess.PIPE,
            stdout=printed, stderr=subprocess.PIPE,
        )  # fmt: skip
    try:
        assert process.stdin is not None
        assert process.stderr is not None
        warned = ""
        while (line := process.stderr.readline()) and line != "calm\n":
            warned += line
        assert line == "calm\n", warned
        before = server.counts.total
        assert before >= CALLS
        CANARIES.assert_not_on_disk(tmp_path, "runs.db", leave=(".log",))
        process.stdin.write("\n")
        process.stdin.flush()
        # Each of the two runs has had two echoes, and is in a third call.
        server.wait_for(before + 6, PATIENCE)
    finally:
        process.kill()
        process.communicate()
    CANARIES.assert_absent("what was warned of", warned.encode())
    assert (tmp_path / "runs.db-wal").exists()
    assert CANARIES.assert_not_on_disk(tmp_path, "runs.db") > CALLS
    CANARIES.assert_absent("the command line", shown(tmp_path, aliases).encode())
    # The keys had been sent, had come back, and were masked where they stood.
    sent = {sha256(key.encode()).hexdigest() for key in PLANTED.values()}
    assert {seen.credential for seen in server.requests} == sent
    results = [literal_eval(found) for found in re.findall(r"(?m)^result (\[.*\])$", log.read_text())]
    echoed = [line for lines in results[::2] for line in lines if " echo-header: " not in line]
    assert len(echoed) == CALLS * 4 // 5
    assert [line for line in echoed if MASK not in line] == []


@pytest.mark.parametrize("name", PLANTED)
def test_the_search_finds_what_it_looks_for(name: str) -> None:
    value = PLANTED[name]
    for text in (value, json.dumps(value), quote(value), "".join(f"\\u{ord(one):04x}" for one in value)):
        assert CANARIES.found(f"<{text}>".encode()) == [name]
    for around in ("", "a", "ab", "abc"):
        assert CANARIES.found(b64encode(f"{around}{value}{around}".encode())) == [name]
    assert CANARIES.found(b"nothing of that kind") == []
