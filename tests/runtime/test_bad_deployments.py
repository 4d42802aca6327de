"""Code that cannot read a run's log leaves the run open, for code that can."""

from __future__ import annotations

import asyncio
import enum
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kitaru
from kitaru import Flow, Runtime, checkpoint, flow
from kitaru.errors import DecodeError, StoreError
from tests.runtime.runs import resumed, stopped

HERE = sys.modules[__name__]


def make(name: str) -> Any:
    """What code of this deployment finds in its module."""
    return getattr(HERE, name)


@checkpoint
async def starved() -> str:
    """A step that the first process never finishes."""
    if REACHED is not None:
        REACHED.set()
        await asyncio.Event().wait()
    return "done"


REACHED: asyncio.Event | None = None


def outcome() -> Flow[..., Any]:
    @checkpoint
    async def paint() -> Any:
        return make("Color")("red")

    @flow
    async def work(_: Any) -> list[str]:
        return [(await paint()).value, await starved()]

    return work


def outcome_in_a_sync_flow() -> Flow[..., Any]:
    @checkpoint
    def paint() -> Any:
        return make("Color")("red")

    @flow
    def work(_: Any) -> list[str]:
        return [paint().load().value, starved().load()]

    return work


def caught_outcome() -> Flow[..., Any]:
    @checkpoint
    async def paint() -> Any:
        return make("Color")("red")

    @flow
    async def work(_: Any) -> list[str]:
        try:
            (shown,) = await asyncio.gather(paint())
        except Exception as error:
            return [repr(error)]
        return [shown.value, await starved()]

    return work


def flow_input() -> Flow[..., Any]:
    @flow
    async def work(color: Any) -> list[str]:
        return [color.value, await starved()]

    return work


def failure() -> Flow[..., Any]:
    @checkpoint
    async def fails() -> None:
        raise make("RefusedError")("red")

    @flow
    async def work(_: Any) -> list[str]:
        try:
            await fails()
        except make("RefusedError") as error:
            return [str(error), await starved()]
        return []

    return work


def child_result() -> Flow[..., Any]:
    @flow
    async def child() -> Any:
        return make("Color")("red")

    @flow
    async def work(_: Any) -> list[str]:
        return [(await child()).value, await starved()]

    return work


def artifact() -> Flow[..., Any]:
    @flow
    async def work(_: Any) -> list[str]:
        await kitaru.save("color", make("Color")("red"))
        await starved()
        return [(await kitaru.load("color")).value, "done"]

    return work


def inside_a_checkpoint() -> Flow[..., Any]:
    @checkpoint
    async def paint() -> Any:
        return make("Color")("red")

    @checkpoint
    async def outer() -> list[str]:
        return [(await paint()).value, await starved()]

    @flow
    async def work(_: Any) -> list[str]:
        return await outer()

    return work


CODE: list[Callable[[], Flow[..., Any]]] = [
    outcome, outcome_in_a_sync_flow, caught_outcome, flow_input, failure, child_result, artifact, inside_a_checkpoint,
]  # fmt: skip


def deploy(patch: pytest.MonkeyPatch, *members: str, error: bool = True) -> None:
    """Have this module hold the classes of a deployment."""
    of_members: Any = enum.Enum
    color = of_members("Color", {name.upper(): name for name in members}, module=__name__, qualname="Color")
    patch.setattr(HERE, "Color", color, raising=False)
    refused = type("RefusedError", (Exception,), {"__module__": __name__, "__qualname__": "RefusedError"})
    patch.setattr(HERE, "RefusedError", refused if error else None, raising=False)


@pytest.mark.parametrize("code", CODE)
async def test_what_this_code_cannot_decode_leaves_the_run_open(
    code: Callable[[], Flow[..., Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    reached = asyncio.Event()
    monkeypatch.setattr(HERE, "REACHED", reached)
    deploy(monkeypatch, "red", "blue")
    await stopped(url, code(), "tides", reached, make("Color")("red"))
    monkeypatch.setattr(HERE, "REACHED", None)

    deploy(monkeypatch, "blue", error=False)
    for _ in range(2):
        with pytest.raises(DecodeError, match="run tides cannot resume with this code") as caught:
            await resumed(url, code(), "tides")
        assert "kitaru resume tides" in str(caught.value)
    async with Runtime(url, recover=False) as runtime:
        assert (await runtime._core.store.run("tides")).status == "running"

    deploy(monkeypatch, "red", "blue")
    assert await resumed(url, code(), "tides") == ["red", "done"]


async def test_a_new_parameter_without_a_default_leaves_the_run_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    reached = asyncio.Event()
    monkeypatch.setattr(HERE, "REACHED", reached)

    @flow(name="work")
    async def before(topic: str) -> str:
        return topic + await starved()

    @flow(name="work")
    async def after(topic: str, tone: str) -> str:
        return topic + tone + await starved()

    await stopped(url, before, "tides", reached, "a")
    monkeypatch.setattr(HERE, "REACHED", None)
    with pytest.raises(DecodeError, match="started without 'tone'"):
        await resumed(url, after, "tides")
    assert await resumed(url, before, "tides") == "adone"


async def test_an_artifact_that_cannot_be_read_leaves_the_run_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    reached = asyncio.Event()
    monkeypatch.setattr(HERE, "REACHED", reached)

    @checkpoint
    async def long() -> str:
        return "tides " * 2000

    @flow
    async def work() -> list[Any]:
        return [len(await long()), await starved()]

    await stopped(url, work, "tides", reached)
    monkeypatch.setattr(HERE, "REACHED", None)
    async with Runtime(url, recover=False, replay_grace=0.2) as runtime:
        artifact, lost = runtime._core.store.artifact, StoreError("the disk does not answer")

        async def unreadable(digest: bytes) -> bytes:
            raise lost

        monkeypatch.setattr(runtime._core.store, "artifact", unreadable)
        with pytest.raises(StoreError, match="does not answer"):
            await (await runtime.resume("tides", work)).result()
        monkeypatch.setattr(runtime._core.store, "artifact", artifact)
        assert await (await runtime.resume("tides", work)).result() == [12000, "done"]
