"""Many runs in one process, each with keys of its own: what the server got of each is that run's key, and no other."""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from typing import Any

import pytest

import kitaru
from kitaru import Flow, RunHandle, Runtime, UsageError, checkpoint, flow
from kitaru.adapters.standin import StandInServer
from kitaru.runtime.secrets import named as secrets
from tests.runtime.runs import PATIENCE

RUNS = 50
VARIABLES = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "google": "GEMINI_API_KEY",
    "cohere": "CO_API_KEY",
    "deepseek": "DEEPSEEK_API_KEY",
}
PROVIDERS = tuple(VARIABLES)


@checkpoint
async def asked(number: int, call: int, model: str, base_url: str) -> str:
    return await kitaru.llm(f"run {number}, call {call}", model=model, base_url=base_url, retry=1)


@checkpoint
def asked_in_thread(number: int, call: int, model: str, base_url: str) -> str:
    return kitaru.llm(f"run {number}, call {call}", model=model, base_url=base_url, retry=1).load()


@flow
async def in_tasks(number: int, model: str, base_url: str) -> int:
    """Asks from its own code and inside checkpoints, one after the other and together."""
    first = await kitaru.llm(f"run {number}, call 0", model=model, base_url=base_url, retry=1)
    more = await kitaru.gather(*(asked(number, call, model, base_url) for call in (1, 2)))
    last = await asked_in_thread(number, 3, model, base_url)
    return len([first, *more, last])


@flow
def in_threads(number: int, model: str, base_url: str) -> int:
    """Does the same in sync code."""
    first = kitaru.llm(f"run {number}, call 0", model=model, base_url=base_url, retry=1).load()
    more = [asked_in_thread(number, call, model, base_url).load() for call in (1, 2)]
    last = asked(number, 3, model, base_url).load()
    return len([first, *more, last])


@flow
async def of_a_parent(number: int, model: str, base_url: str) -> int:
    """Leaves the asking to a child run."""
    return await in_tasks(number, model, base_url)


FLOWS: tuple[Flow[[int, str, str], int], ...] = (in_tasks, in_threads, of_a_parent)


@pytest.fixture
def server() -> Iterator[StandInServer]:
    with StandInServer() as running:
        yield running


def digest(key: str) -> str:
    return sha256(key.encode()).hexdigest() if key else ""


def keys_sent(server: StandInServer) -> dict[int, Counter[str]]:
    """The digests of the keys that each run sent, and how often."""
    found: dict[int, Counter[str]] = {}
    for seen in server.requests:
        (number,) = re.findall(rb"run (\d+), call", seen.raw)
        found.setdefault(int(number), Counter())[seen.credential] += 1
    return found


async def secret(runtime: Runtime, name: str, values: Mapping[str, str]) -> None:
    await asyncio.to_thread(secrets.set_secret, name, dict(values), runtime=runtime)


def planned(number: int) -> tuple[str, dict[str, Any], AbstractContextManager[object], str]:
    """A run's provider, its options, what it is started in, and the key that it has to send."""
    provider = PROVIDERS[number % len(PROVIDERS)]
    image = {"secret_environment_from": [f"creds-{provider}", f"creds-of-{number}"]}
    own, shared = f"own-key-of-run-{number}", f"shared-key-of-{provider}"
    keys: dict[str, Any] = {provider: own}
    match number // len(PROVIDERS) % 4:
        case 0:  # from a secret that others name, too, beside one of its own
            return provider, {"image": image}, nullcontext(), shared
        case 1:
            return provider, {}, kitaru.credentials(**keys), own
        case 2:  # bound keys come before the environment
            return provider, {"image": image}, kitaru.credentials(**keys), own
        case _:  # no key at all: what other runs have in the environment is not its own
            return provider, {}, nullcontext(), ""


async def test_fifty_runs_at_once_send_each_its_own_key(runtime: Runtime, server: StandInServer) -> None:
    for provider, variable in VARIABLES.items():
        await secret(runtime, f"creds-{provider}", {variable: f"shared-key-of-{provider}"})
    expected: dict[int, Counter[str]] = {}
    handles: list[RunHandle[int]] = []
    for number in range(RUNS):
        await secret(runtime, f"creds-of-{number}", {f"TOKEN_{number}": f"token-of-run-{number}"})
    with server.hold("call 0"):
        for number in range(RUNS):
            provider, options, keys, key = planned(number)
            one = FLOWS[number % len(FLOWS)].options(run_id=f"r{number}", **options)
            with keys:
                handles.append(await runtime.start(one, number, f"{provider}/stand-in", server.address(provider)))
            expected[number] = Counter({digest(key): 4})
        # All of them are in their first call now.
        await asyncio.to_thread(server.wait_for, RUNS, PATIENCE)
        assert all(variable in os.environ for variable in VARIABLES.values())
    assert [await handle.result() for handle in handles] == [4] * RUNS
    assert keys_sent(server) == expected
    assert not any(name in os.environ for name in [*VARIABLES.values(), *(f"TOKEN_{n}" for n in range(RUNS))])


async def test_of_runs_that_disagree_about_a_variable_those_that_come_second_do_not_start(
    runtime: Runtime, server: StandInServer
) -> None:
    names = ("one", "two")
    for name in names:
        await secret(runtime, name, {"OPENAI_API_KEY": f"the-key-of-{name}"})

    async def start(number: int) -> RunHandle[int]:
        image = {"secret_environment_from": [names[number % 2]]}
        one = FLOWS[number % len(FLOWS)].options(run_id=f"r{number}", image=image)
        return await runtime.start(one, number, "openai/stand-in", server.base_url)

    with server.hold("call 0"):
        started = await asyncio.gather(*(start(number) for number in range(20)), return_exceptions=True)
        live = {number: found for number, found in enumerate(started) if not isinstance(found, BaseException)}
        refused = {number: found for number, found in enumerate(started) if isinstance(found, BaseException)}
        # Whoever came first decides; all that agree with it are live.
        (winner,) = {number % 2 for number in live}
        assert sorted(live) == list(range(winner, 20, 2))
        for number, error in refused.items():
            assert isinstance(error, UsageError)
            assert re.search(rf"run r{number} needs another value of OPENAI_API_KEY than run r\d+", str(error))
            assert "the-key-of" not in str(error)
    assert [await handle.result() for handle in live.values()] == [4] * 10
    key = digest(f"the-key-of-{names[winner]}")
    assert keys_sent(server) == {number: Counter({key: 4}) for number in live}
    rows = {row.id for row in await runtime._core.store.runs() if row.parent is None}
    assert rows == {f"r{number}" for number in live}
    # Nobody needs the variable any more: the others may have it.
    server.reset()
    later = await start(1 - winner)
    assert await later.result() == 4
    assert keys_sent(server) == {1 - winner: Counter({digest(f"the-key-of-{names[1 - winner]}"): 4})}
