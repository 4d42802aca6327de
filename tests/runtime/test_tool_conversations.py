"""Conversations of three turns with tools: with every provider, across all of them, and after the process died."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kitaru
from kitaru import Runtime, checkpoint, flow
from kitaru.adapters import Effort, names, provider
from kitaru.adapters.standin import Fault, Options, StandInServer
from kitaru.store.events import LlmCompleted, StepCompleted
from tests.adapters.talks import OPTIONS, OWN, PROMPT, WIRES, address, model_of
from tests.runtime.canned import Canned, CannedServer
from tests.runtime.runs import Script, keys_of, of_type, resumed, stopped

TALK = ["height height", "moon", ""]

BETWEEN = {"anthropic": "claude-sonnet-4-6"}
"""Models for a switch in the middle of a turn: those with a budget do not think there."""


def height(place: str) -> str:
    """Say how high the tide is.

    Args:
        place: A harbour.
    """
    return f"3.4 m at {place}"


def moon(day: str) -> str:
    """Say what the moon does on a day."""
    return f"a full moon on {day}"


TOOLS: dict[str, Callable[..., str]] = {"height": height, "moon": moon}


def effort(model: str) -> Effort:
    """How hard it has to think to show that it does."""
    return "high" if model.startswith("mistral/") else "low"


class Pause:
    """Where the first life of a conversation ends: after so many turns."""

    after = 0
    reached = asyncio.Event()

    def forget(self) -> None:
        # An event belongs to the loop of its test.
        self.after, self.reached = 0, asyncio.Event()

    async def here(self, turn: int) -> None:
        if turn == self.after:
            self.reached.set()
            await asyncio.Event().wait()


pause = Pause()


@flow
async def talk(ways: list[tuple[str, str]], most: int | None = None) -> list[dict[str, Any]]:
    """Three turns, each with the model at its address, which may write so much; returns what was said in each."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": PROMPT},
    ]
    said = []
    for turn, (model, base_url) in enumerate(ways, 1):
        # It calls no tool of its own accord.
        made_to = [height, moon, None][turn - 1] if model == "test/echo" else None
        reply = await kitaru.llm.reply(
            messages,
            model=model,
            base_url=base_url or None,
            tools=[height, moon],
            tool_choice=made_to,
            reasoning=effort(model),
            max_tokens=most,
            name=f"turn{turn}",
        )
        messages.append(reply.message)
        messages.extend(call.result(TOOLS[call.name](**call.parsed())) for call in reply.tool_calls)
        # What a turn said, and what of it is appended.
        said.append({"text": reply.text, "calls": " ".join(call.name for call in reply.tool_calls)} | reply.message)
        await pause.here(turn)
    return said


@pytest.fixture(scope="module")
def shared() -> Iterator[StandInServer]:
    with StandInServer(OPTIONS) as server:
        yield server


@pytest.fixture
def server(shared: StandInServer) -> StandInServer:
    shared.reset()
    pause.forget()
    return shared


def way(server: StandInServer, name: str, model: str = "") -> tuple[str, str]:
    return f"{name}/{model or model_of(name)}", "" if name == "test" else address(server, name)


async def told(runtime: Runtime, run: str = "r") -> list[LlmCompleted]:
    return await of_type(runtime, run, LlmCompleted)


def own(turn: dict[str, Any]) -> bytes:
    """What only its provider understands of a turn."""
    data: str = turn["opaque"]["data"]
    # A list of items or blocks goes back item by item, among those of other turns.
    return (data[1:-1] if data.startswith("[") else data).encode()


# -- one provider -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
async def test_three_turns_with_tools_go_through_with_every_provider(
    name: str, runtime: Runtime, server: StandInServer
) -> None:
    said = await (await runtime.start(talk.options(run_id="r"), [way(server, name)] * 3)).result()
    if name == "test":
        # No server, no parallel calls; what a tool gave is its answer.
        assert [turn["calls"] for turn in said][:1] == ["height"]
        assert said[2]["text"] == f"3.4 m at {PROMPT}"
        return
    assert [turn["calls"] for turn in said] == TALK
    assert "a full moon on Monday" in said[2]["text"]
    assert [[attempt.status for attempt in done.llm.attempts] for done in await told(runtime)] == [[200]] * 3
    assert [done.llm.warnings for done in await told(runtime)] == [()] * 3
    assert ["opaque" in turn for turn in said][:2] == [name in OWN] * 2


@pytest.mark.parametrize("most", [None, 60_000], ids=["plain", "streamed"])
async def test_what_only_its_provider_understands_goes_back_byte_for_byte(
    most: int | None, runtime: Runtime, server: StandInServer
) -> None:
    async def talks(name: str) -> None:
        one, two, _ = await (await runtime.start(talk.options(run_id=name), [way(server, name)] * 3, most)).result()
        _, second, third = (seen.raw for seen in server.requests if seen.provider == name)
        assert [own(one) in second, own(one) in third, own(two) in third] == [True] * 3, name
        # Whoever is to think hard may write as long as whoever may write much.
        long = (most is not None or effort(f"{name}/") == "high") and provider(name).stream_over is not None
        assert [done.llm.streamed for done in await told(runtime, name)] == [long] * 3, name

    await asyncio.gather(*map(talks, sorted(OWN)))


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("openai", "gpt-5-nano"),
        ("google", "gemini-2.5-flash"),
        ("anthropic", "claude-sonnet-4-6"),
        ("anthropic", "claude-opus-4-8"),
        ("deepseek", "deepseek-chat"),
        ("openai-responses", "gpt-4.1"),
        ("cohere", "command-a-03-2025"),
    ],
)
async def test_models_that_think_otherwise_go_through_alike(
    name: str, model: str, runtime: Runtime, server: StandInServer
) -> None:
    said = await (await runtime.start(talk, [way(server, name, model)] * 3)).result()
    assert [turn["calls"] for turn in said] == TALK


async def test_a_dated_deployment_of_azure_goes_through_too(runtime: Runtime, server: StandInServer) -> None:
    url = f"{server.address('azure')}/openai/deployments/d?api-version=2024-10-21"
    said = await (await runtime.start(talk, [("azure/d", url)] * 3)).result()
    assert [turn["calls"] for turn in said] == TALK
    assert {seen.path for seen in server.requests} == {"/openai/deployments/d/chat/completions"}


async def test_a_conversation_kept_as_json_goes_on_as_it_was(runtime: Runtime, server: StandInServer) -> None:
    @flow
    async def asks(kept: str, model: str, base_url: str) -> str:
        messages = json.loads(kept)
        reply = await kitaru.llm.reply(
            messages, model=model, base_url=base_url, tools=[height, moon], reasoning=effort(model)
        )
        results = [call.result("3.4 m") for call in reply.tool_calls]
        return json.dumps([*messages, reply.message, *results], ensure_ascii=False)

    async def talks(name: str) -> None:
        kept = json.dumps([{"role": "user", "content": PROMPT}])
        for _ in range(3):
            kept = await (await runtime.start(asks, kept, *way(server, name))).result()
        last = [seen.raw for seen in server.requests if seen.provider == name][-1]
        assert own(json.loads(kept)[1]) in last, name

    await asyncio.gather(*map(talks, sorted(OWN)))


async def test_a_checkpoint_and_a_schema_are_tools_too(runtime: Runtime, server: StandInServer) -> None:
    @checkpoint(name="height")
    async def measured(place: str) -> str:
        return f"3.4 m at {place}"

    schema = {"name": "moon", "parameters": {"type": "object", "properties": {"day": {"type": "string"}}}}
    model, base_url = way(server, "anthropic")

    @flow
    async def asks() -> str:
        messages: list[Any] = [{"role": "user", "content": PROMPT}]
        while True:
            reply = await kitaru.llm.reply(messages, model=model, base_url=base_url, tools=[measured, schema])
            messages.append(reply.message)
            if not reply.tool_calls:
                return reply.text
            for call in reply.tool_calls:
                found = await measured(**call.parsed()) if call.name == "height" else {"phase": "full"}
                messages.append(call.result(found))

    text = await (await runtime.start(asks.options(run_id="r"))).result()
    assert '{"phase":"full"}' in text
    assert await keys_of(runtime, "r", StepCompleted) == ["height", "height[1]"]


def due(day: datetime.date, places: int = 3) -> str:
    """Say when the tide is due."""
    return f"{day.year}: {places + 1}"


async def test_a_call_parses_its_arguments_for_the_tool_that_it_names_after_a_resume_too(store_url: str) -> None:
    called = {
        "id": "c",
        "type": "function",
        "function": {"name": "due", "arguments": '{"day":"2024-05-01","places":null}'},
    }
    choice = {"message": {"role": "assistant", "content": None, "tool_calls": [called]}, "finish_reason": "tool_calls"}
    answer = json.dumps({"id": "1", "model": "m", "choices": [choice]}).encode()

    @checkpoint
    async def passed(reply: kitaru.Reply) -> list[Any]:
        (call,) = reply.tool_calls
        return [call.parsed(), call.parsed(due)]

    @flow
    async def asks(base_url: str) -> list[Any]:
        reply = await kitaru.llm.reply("When?", model="openai-compatible/m", base_url=base_url, tools=[due])
        found = [due(**call.parsed()) for call in reply.tool_calls]
        plain, read = await passed(reply)
        await pause.here(1)
        return [*found, plain, due(**read)]

    pause.forget()
    pause.after = 1
    with CannedServer({"/v1/chat/completions": Canned(body=answer)}) as server:
        await stopped(store_url, asks, "r", pause.reached, f"{server.url}/v1")
    pause.forget()
    plain = {"day": "2024-05-01", "places": None}
    assert await resumed(store_url, asks, "r") == ["2024: 4", plain, "2024: 4"]


# -- a switch of provider ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", WIRES)
async def test_a_conversation_goes_on_with_any_other_provider_and_comes_back(
    first: str, runtime: Runtime, server: StandInServer
) -> None:
    others = [name for name in WIRES if name != first]
    await asyncio.gather(*(_there_and_back(first, other, runtime, server) for other in others))


async def _there_and_back(first: str, other: str, runtime: Runtime, server: StandInServer) -> None:
    here, there = way(server, first, BETWEEN.get(first, "")), way(server, other, BETWEEN.get(other, ""))
    one, two, three = await (await runtime.start(talk.options(run_id=other), [here, there, here])).result()
    assert one["calls"] == ("height" if first == "test" else "height height")
    # What the echo was not made to call is not called: it answers with what the tool gave.
    assert (two["calls"], "3.4 m" in two["text"]) == (("", True) if other == "test" else ("moon", False))
    if other != "test":
        assert "a full moon on Monday" in three["text"]
    done = await told(runtime, other)
    assert [[attempt.status for attempt in call.llm.attempts] for call in done] == [[200]] * 3
    assert [call.llm.warnings for call in done] == [
        (),
        (f"the thinking of {here[0]} is not sent to {there[0]}",) if first in OWN else (),
        (f"the thinking of {there[0]} is not sent to {here[0]}",) if other in OWN else (),
    ]
    sent = {name: [seen.raw for seen in server.requests if seen.provider == name] for name in (first, other)}
    if first in OWN:
        assert not [raw for raw in sent[other] if own(one) in raw]
        assert any(own(one) in raw for raw in sent[first])
    if other in OWN:
        assert not [raw for raw in sent[first] if own(two) in raw]


@pytest.mark.parametrize("first", ["openai", "google", "ollama", "test"])
async def test_a_budget_of_thinking_is_left_out_after_another_models_tool_calls(
    first: str, runtime: Runtime, server: StandInServer
) -> None:
    """Anthropic's API refuses it there."""
    ways = [way(server, first), way(server, "anthropic"), way(server, "anthropic")]
    await (await runtime.start(talk.options(run_id="r"), ways)).result()
    why = "reasoning was left out: the latest tool calls came without the thinking of anthropic/claude-sonnet-4-5"
    assert [why in call.llm.warnings for call in await told(runtime)] == [False, True, True]


async def test_another_model_of_the_same_provider_gets_no_thinking_either(
    runtime: Runtime, server: StandInServer
) -> None:
    ways = [way(server, "google"), way(server, "google", "gemini-3-flash"), way(server, "google")]
    one, *_ = await (await runtime.start(talk.options(run_id="r"), ways)).result()
    assert (await told(runtime))[1].llm.warnings == (
        "the thinking of google/gemini-3-pro is not sent to google/gemini-3-flash",
    )
    assert own(one) not in server.requests[1].raw
    assert own(one) in server.requests[2].raw


async def test_a_fallback_in_the_middle_gets_no_thinking_of_the_model_that_failed(
    runtime: Runtime, server: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", address(server, "google"))
    model, base_url = way(server, "anthropic", "claude-sonnet-4-6")

    @flow
    async def asks(broken: str) -> list[dict[str, Any]]:
        messages: list[Any] = [{"role": "user", "content": PROMPT}]
        for name, url in (("first", base_url), ("second", broken)):
            reply = await kitaru.llm.reply(
                messages,
                model=model,
                base_url=url,
                tools=[height, moon],
                reasoning="low",
                fallbacks=["google/gemini-3-pro"],
                name=name,
            )
            messages.append(reply.message)
            messages.extend(call.result(TOOLS[call.name](**call.parsed())) for call in reply.tool_calls)
        return messages

    with StandInServer(Options(faults=(Fault("quota"),))) as broken:
        messages = await (await runtime.start(asks.options(run_id="r"), address(broken, "anthropic"))).result()
        assert own(messages[1]) in broken.requests[0].raw
    second = (await told(runtime))[1].llm
    assert second.trail == ((model, "quota"),)
    assert second.warnings == (f"the thinking of {model} is not sent to google/gemini-3-pro",)
    assert own(messages[1]) not in server.requests[-1].raw
    assert messages[-2]["opaque"]["provider"] == "google"


# -- a process that dies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["anthropic", "google", "openai-responses", "mistral", "openrouter", "ollama"])
async def test_a_conversation_stopped_after_two_turns_goes_on_with_the_third_as_if_it_had_not(
    name: str, store_url: str, server: StandInServer
) -> None:
    pause.after = 2
    await stopped(store_url, talk, "r", pause.reached, [way(server, name)] * 3)
    assert server.counts.total == 2
    pause.after = 0
    one, two, three = await resumed(store_url, talk, "r")
    assert server.counts.total == 3
    assert "a full moon on Monday" in three["text"]
    second, third = server.requests[1:]
    assert own(one) in second.raw
    assert own(one) in third.raw
    assert own(two) in third.raw


async def test_a_switch_of_provider_outlives_the_process_too(store_url: str, server: StandInServer) -> None:
    ways = [way(server, "anthropic"), way(server, "google"), way(server, "anthropic")]
    pause.after = 2
    await stopped(store_url, talk, "r", pause.reached, ways)
    pause.after = 0
    one, two, three = await resumed(store_url, talk, "r")
    assert "a full moon on Monday" in three["text"]
    third = server.requests[-1].raw
    assert (own(one) in third, own(two) in third) == (True, False)


async def test_an_unchanged_replay_of_a_conversation_asks_for_nothing(runtime: Runtime, server: StandInServer) -> None:
    said = await (await runtime.start(talk.options(run_id="r"), [way(server, "anthropic")] * 3)).result()
    again = await runtime.replay("r", flow=talk)
    assert await again.handle.result() == said
    assert server.counts.total == 3


KILLED = '''
import asyncio, os, sys
import kitaru
from kitaru import flow


def height(place: str) -> str:
    """Say how high the tide is."""
    return f"3.4 m at {place}"


def moon(day: str) -> str:
    """Say what the moon does on a day."""
    return f"a full moon on {day}"


@flow
async def talk(url: str) -> str:
    messages = [{"role": "user", "content": "Say how high the tide is in Brest."}]
    for turn in range(3):
        reply = await kitaru.llm.reply(
            messages, model="anthropic/claude-sonnet-4-5", base_url=url, tools=[height, moon], reasoning="low"
        )
        messages.append(reply.message)
        for call in reply.tool_calls:
            messages.append(call.result({"height": height, "moon": moon}[call.name](**call.parsed())))
        if turn == 1 and "die" in sys.argv:
            os.kill(os.getpid(), 9)
    return reply.text


async def main() -> None:
    async with kitaru.Runtime() as runtime:
        print(await (await runtime.start(talk.options(run_id="r"), sys.argv[1])).result())


asyncio.run(main())
'''


def test_a_killed_conversation_takes_its_thinking_from_the_log(tmp_path: Path, server: StandInServer) -> None:
    url = address(server, "anthropic")
    with Script(tmp_path, KILLED, url, "die") as script:
        script.end(code=-9)
    assert server.counts.total == 2
    with Script(tmp_path, KILLED, url) as script:
        assert "a full moon on Monday" in script.end()
    assert server.counts.total == 3
    second, third = (seen.body for seen in server.requests[1:])
    assert isinstance(second, dict)
    assert isinstance(third, dict)
    thought = second["messages"][1]["content"][0]
    assert thought["type"] == "thinking"
    assert third["messages"][1]["content"][0] == thought
