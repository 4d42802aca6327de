"""The runtime behind module-level calls: one a process and store, on whatever loop it is used."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

import kitaru
from kitaru import Runtime, UsageError, checkpoint, flow
from kitaru.adapters.standin import StandInServer
from tests.runtime.runs import PATIENCE, Script


@checkpoint
async def double(number: int) -> int:
    return number * 2


@flow
async def doubled(number: int) -> int:
    return await double(number)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('shared')}/shared.db"


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_tests_with_loops_of_their_own_share_one_store(
    number: int, shared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KITARU_STORE", shared)
    before = len(await kitaru.default_runtime().runs())
    assert await doubled(number) == number * 2
    assert len(await kitaru.default_runtime().runs()) == before + 1


def test_one_default_runtime_serves_loop_after_loop(standin: StandInServer) -> None:
    async def once() -> str:
        assert await doubled(1) == 2
        return await kitaru.llm("tides", model="openai/stand-in", base_url=standin.base_url)

    assert len({asyncio.run(once()) for _ in range(3)}) == 1


def test_what_a_closed_loop_needed_is_dropped() -> None:
    for _ in range(5):
        asyncio.run(_double_once())
    assert len(kitaru.default_runtime()._core._hosts) <= 1


async def _double_once() -> None:
    await doubled(1)


def test_the_store_named_at_the_time_is_the_one_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        monkeypatch.setenv("KITARU_STORE", f"sqlite:///{tmp_path}/{name}.db")
        asyncio.run(_double_once())
        assert (tmp_path / f"{name}.db").exists()


def test_without_a_store_the_home_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KITARU_STORE")
    monkeypatch.setenv("KITARU_HOME", str(tmp_path / "elsewhere"))
    asyncio.run(_double_once())
    assert (tmp_path / "elsewhere" / "kitaru.db").exists()


def test_runs_from_many_threads_at_once_finish() -> None:
    found: list[int] = []

    def work(number: int) -> None:
        found.append(doubled.run(number).wait(timeout=PATIENCE))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [number * 2 for number in range(12)]


def test_a_runtime_opened_by_two_threads_at_once_opens_once() -> None:
    runtime = kitaru.default_runtime()
    barrier = threading.Barrier(2)
    found: list[int] = []

    def work() -> None:
        barrier.wait()
        found.append(asyncio.run(_on(runtime)))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [6, 6]


async def _on(runtime: Runtime) -> int:
    return await (await runtime.start(doubled, 3)).result()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_gets_a_usage_error_and_the_parent_goes_on(tmp_path: Path) -> None:
    source = """
import os
from kitaru import checkpoint, flow
from kitaru.errors import ForkedProcessError

@checkpoint
def double(number: int) -> int:
    return number * 2

@flow
def doubled(number: int) -> int:
    return double(number).load()

print(doubled.run(1).wait(), flush=True)
child = os.fork()
if child == 0:
    try:
        doubled.run(2)
    except ForkedProcessError as error:
        print("refused", flush=True)
        os._exit(0)
    os._exit(1)
print(os.waitpid(child, 0)[1], flush=True)
print(doubled.run(3).wait())
"""
    with Script(tmp_path, source) as script:
        assert script.end().split() == ["2", "refused", "0", "6"]


def test_two_runtimes_share_nothing(tmp_path: Path) -> None:
    async def both() -> list[int]:
        async with Runtime(f"sqlite:///{tmp_path}/a.db") as a, Runtime(f"sqlite:///{tmp_path}/b.db") as b:
            await (await a.start(doubled.options(run_id="r"), 1)).result()
            await (await b.start(doubled.options(run_id="r"), 2)).result()
            return [len(await a._core.store.runs()), len(await b._core.store.runs())]

    assert asyncio.run(both()) == [1, 1]


def test_a_process_ends_quickly_after_its_runs(tmp_path: Path) -> None:
    source = """
from kitaru import flow

@flow
def quick() -> int:
    return 1

print(quick.run().wait())
"""
    with Script(tmp_path, source) as script:
        assert script.end() == "1"


async def test_a_runtime_can_be_closed_twice_and_refuses_work_after(store_url: str) -> None:
    runtime = Runtime(store_url)
    await runtime.open()
    await runtime.close()
    await runtime.close()
    with pytest.raises(kitaru.KitaruError):
        await runtime.start(doubled, 1)


@pytest.mark.parametrize("url", ["postgres://x", "sqlite:///", ":memory:"])
def test_a_store_that_cannot_be_right_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        Runtime(url)


def test_an_unknown_durability_is_refused(store_url: str) -> None:
    with pytest.raises(UsageError, match="full"):
        Runtime(store_url, durability="some")


@pytest.mark.parametrize("run", ["", ".x", "a/b", "last", "x" * 201, "a b", "../x"])
async def test_a_run_id_that_cannot_be_right_is_refused(runtime: Runtime, run: str) -> None:
    with pytest.raises(UsageError):
        await runtime.start(doubled.options(run_id=run), 1)


async def test_inputs_that_do_not_fit_the_flow_are_refused(runtime: Runtime) -> None:
    with pytest.raises(UsageError, match="doubled"):
        await runtime.start(doubled, 1, 2)  # type: ignore[call-arg]  # the mistake under test
