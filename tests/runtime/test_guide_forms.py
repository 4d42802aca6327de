"""The forms in which the public guides write a flow run as they stand, and so do their async forms."""

from __future__ import annotations

import asyncio
import json

import pytest

import kitaru
from kitaru import checkpoint, flow
from kitaru.adapters.standin import StandInServer
from kitaru.errors import UsageError
from kitaru.store.events import LlmRequested


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch, standin: StandInServer) -> StandInServer:
    monkeypatch.setenv("OPENAI_BASE_URL", standin.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "stand-in")
    aliases = {"aliases": {"fast": {"model": "openai/gpt-5-nano"}}, "default": "fast"}
    monkeypatch.setenv("KITARU_MODEL_REGISTRY", json.dumps(aliases))
    return standin


@flow
def loads_the_text(topic: str) -> str:
    outline = kitaru.llm(f"Three points on {topic}", model="fast", name="outline_call")
    text = outline.load()
    return kitaru.llm(f"A paragraph from these points: {text}", model="fast", name="draft_call").ref


@checkpoint
def drafts(topic: str, outline: str) -> str:
    return kitaru.llm(f"A paragraph on {topic} from: {outline}", model="fast", name="draft_call").ref


@flow
def hands_the_handle_on(topic: str) -> str:
    outline = kitaru.llm(f"Three points on {topic}", model="fast", name="outline_call")
    return drafts(topic, outline.ref).ref


@checkpoint
async def drafts_async(topic: str, outline: str) -> str:
    return await kitaru.llm(f"A paragraph on {topic} from: {outline}", name="draft_call")


@flow
async def async_form(topic: str) -> str:
    outline = kitaru.llm(f"Three points on {topic}", model="fast", name="outline_call")
    return await drafts_async(topic, outline.ref)


def test_a_sync_flow_loads_the_text_and_asks_again_with_it(registered: StandInServer) -> None:
    handle = loads_the_text.run("tides")
    assert handle.wait()
    assert handle.exec_id == handle.id
    prompts = [prompt.text for prompt in registered.counts.prompts]
    assert prompts[0] == "Three points on tides"
    assert prompts[1].startswith("A paragraph from these points: ")
    assert "<Call" not in prompts[1]


def test_a_sync_checkpoint_gets_the_text_of_a_handle_that_was_not_loaded(registered: StandInServer) -> None:
    assert hands_the_handle_on.run("tides").wait()
    prompts = [prompt.text for prompt in registered.counts.prompts]
    assert prompts[1].startswith("A paragraph on tides from: ")
    assert "<Call" not in prompts[1]


async def test_the_async_form_gives_the_same(registered: StandInServer) -> None:
    assert await async_form("tides")
    assert registered.counts.total == 2


def test_a_registry_that_is_none_is_refused_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITARU_MODEL_REGISTRY", "[]")
    with pytest.raises(UsageError, match="KITARU_MODEL_REGISTRY"):
        loads_the_text.run("tides")


async def test_a_resume_keeps_the_aliases_that_the_run_began_with(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    @flow
    async def waiting() -> str:
        await kitaru.llm("First", model="fast")
        reached.set()
        await go_on.wait()
        return await kitaru.llm("Second", model="fast")

    async with kitaru.Runtime(store_url) as first:
        await first.start(waiting.options(run_id="r"))
        await reached.wait()
    monkeypatch.setenv("KITARU_MODEL_REGISTRY", json.dumps({"aliases": {"fast": {"model": "openai/other"}}}))
    go_on.set()
    async with kitaru.Runtime(store_url, recover=False) as second:
        await (await second.resume("r", waiting)).result()
        asked = [r.event.model for r in await second._core.events("r") if isinstance(r.event, LlmRequested)]
    assert asked == ["openai/gpt-5-nano", "openai/gpt-5-nano"]


async def test_an_alias_that_points_elsewhere_makes_its_calls_run_again(
    runtime: kitaru.Runtime, registered: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = await runtime.start(hands_the_handle_on, "tides")
    await handle.result()
    monkeypatch.setenv("KITARU_MODEL_REGISTRY", json.dumps({"aliases": {"fast": {"model": "openai/other"}}}))
    fork = await runtime.replay(handle.id)
    await fork.handle.result()
    assert registered.counts.total == 3  # the outline again; it came out the same, so the draft is reused
