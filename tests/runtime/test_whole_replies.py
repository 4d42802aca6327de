"""Whole replies in the log: each answer once, and what flows see of it the same every time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

import kitaru
from kitaru import ReplayOptions, Reply, Runtime, checkpoint, flow
from kitaru.adapters import Message as NeutralMessage
from kitaru.adapters import Reply as ModelReply
from kitaru.adapters import ToolCall as NeutralCall
from kitaru.adapters import Usage as NeutralUsage
from kitaru.adapters.message import assistant
from kitaru.adapters.standin import Options, Rule, StandInServer
from kitaru.errors import DecodeError
from kitaru.runtime.calls.answered import as_recorded, reply_of
from kitaru.runtime.calls.question import Sending, Settings
from kitaru.runtime.calls.work import LlmWork
from kitaru.runtime.fork import verified
from kitaru.runtime.views.inspect import step
from kitaru.runtime.views.report import report
from kitaru.runtime.views.transcript import event_as_json
from kitaru.store import codec
from kitaru.store.artifacts import is_node, read_node
from kitaru.store.events import LlmCompleted, LlmRecord, LlmRequested, Ref, Usage
from tests.runtime.canned import Canned, CannedServer
from tests.runtime.runs import of_type, resumed, stopped

MODEL = "openai/stand-in"
LONG = "Tell me of the tides. " * 60
THOUGHT = "First the moon, then the sun."


def height(place: str) -> str:
    """Say how high the tide is."""
    return f"3.4 m at {place}"


def rules() -> Options:
    return Options(rules=(Rule("height", tool="height", arguments={"place": "Dover"}),))


async def talk(base_url: str, turns: int = 3) -> list[Reply]:
    """A conversation too long for an event; its second turn calls a tool."""
    said: list[Any] = []
    replies = []
    for turn in range(turns):
        said.append({"role": "user", "content": f"{turn}: {LONG}" + ("height" if turn == 1 else "")})
        reply = await kitaru.llm.reply(said, model=MODEL, base_url=base_url, tools=[height])
        said.append(reply.message)
        said += [call.result("3.4 m") for call in reply.tool_calls]
        replies.append(reply)
    return replies


async def test_what_a_turn_gave_is_the_very_node_that_the_next_turn_names(runtime: Runtime) -> None:
    with StandInServer(rules()) as server:

        @flow
        async def talks() -> None:
            await talk(server.base_url)

        await (await runtime.start(talks.options(run_id="r"))).result()
    named = set()
    for asked in await of_type(runtime, "r", LlmRequested):
        at: bytes | None = asked.prompt.digest if asked.prompt else None
        while at is not None:
            named.add(at)
            found = read_node(await runtime._core.store.artifact(at))
            assert found is not None
            at = found[0][0] if found[0] else None
    done = await of_type(runtime, "r", LlmCompleted)
    outcomes = [one.outcome.digest for one in done if isinstance(one.outcome, Ref)]
    assert len(outcomes) == 3
    assert set(outcomes[:2]) <= named


async def test_a_short_conversation_keeps_the_message_in_the_event(runtime: Runtime, standin: StandInServer) -> None:
    @flow
    async def asks() -> str:
        return (await kitaru.llm.reply("tides", model=MODEL, base_url=standin.base_url)).text

    text = await (await runtime.start(asks.options(run_id="r"))).result()
    (done,) = await of_type(runtime, "r", LlmCompleted)
    assert isinstance(done.outcome, bytes)
    assert codec.display(done.outcome) == {"role": "assistant", "content": text}
    shown = event_as_json((await runtime._core.events("r"))[2])
    assert shown["outcome"] == {"role": "assistant", "content": text}


async def test_a_conversation_is_the_same_after_a_resume_and_in_a_verified_replay(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True
    seen: list[list[Reply]] = []

    with StandInServer(rules()) as server:

        @flow
        async def talks() -> int:
            seen.append(await talk(server.base_url))
            if first_time:
                reached.set()
                await asyncio.Event().wait()
            return 1

        await stopped(store_url, talks, "r", reached)
        first_time = False
        await resumed(store_url, talks, "r")
        asked = server.counts.total
        async with Runtime(store_url, recover=False, replay_grace=0.2) as again:
            fork = await again.replay("r", ReplayOptions(verify=True), talks)
            assert await verified(again._core, fork) == 1
        assert server.counts.total == asked
    first, *others = seen
    assert first[1].tool_calls
    assert [other == first for other in others] == [True, True]


async def test_a_replay_outlives_the_run_that_it_reuses(runtime: Runtime) -> None:
    seen: list[list[Reply]] = []
    with StandInServer(rules()) as server:

        @flow
        async def talks() -> None:
            seen.append(await talk(server.base_url))

        await (await runtime.start(talks.options(run_id="r"))).result()
        await (await runtime.replay("r", ReplayOptions(run_id="again"), talks)).handle.result()
        await runtime._core.store.prune(older_than=0, run="r")
        assert await runtime._core.store.verify() == []
        await runtime._core.store.rebuild()
        await (await runtime.replay("again", ReplayOptions(run_id="third"), talks)).handle.result()
        assert server.counts.total == 3
        looked = await step(runtime._core, "again", "llm[2]")
        assert looked.response
        await runtime._core.store.prune(older_than=0, run="again")
        await runtime._core.store.prune(older_than=0, run="third")
        assert await runtime._core.store.verify() == []
    assert seen[0] == seen[1] == seen[2]


async def test_replies_inside_an_interrupted_checkpoint_are_used_again(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True
    seen: list[list[Reply]] = []
    with StandInServer(rules()) as server:

        @checkpoint
        async def research() -> int:
            seen.append(await talk(server.base_url))
            if first_time:
                reached.set()
                await asyncio.Event().wait()
            return 1

        @flow
        async def asks() -> int:
            return await research()

        await stopped(store_url, asks, "r", reached)
        first_time = False
        assert await resumed(store_url, asks, "r") == 1
        assert server.counts.total == 3
    assert seen[0] == seen[1]


async def test_a_retry_keeps_the_replies_before_the_failure(runtime: Runtime) -> None:
    fails = True
    seen: list[list[Reply]] = []
    with StandInServer(rules()) as server:

        @checkpoint
        async def breaks() -> None:
            if fails:
                raise ValueError("low tide")

        @flow
        async def asks() -> None:
            seen.append(await talk(server.base_url))
            await breaks()

        handle = await runtime.start(asks.options(run_id="r"))
        with pytest.raises(ValueError, match="low tide"):
            await handle.result()
        fails = False
        await (await runtime.retry("r", asks)).result()
        assert server.counts.total == 3
    assert seen[0] == seen[1]


async def test_a_reply_that_the_flow_gave_up_is_kept_and_not_handed_back(runtime: Runtime) -> None:
    with StandInServer(Options(latency=0.05)) as server:

        @flow
        async def asks() -> str:
            said = [{"role": "user", "content": LONG}]
            with contextlib.suppress(TimeoutError):
                async with kitaru.timeout(0.01):
                    await kitaru.llm.reply(said, model=MODEL, base_url=server.base_url)
            return (await kitaru.llm.reply("on", model=MODEL, base_url=server.base_url)).text

        assert await (await runtime.start(asks.options(run_id="r"))).result()
    assert await runtime._core.store.verify() == []


async def test_an_override_stands_for_a_reply_whatever_it_was(runtime: Runtime) -> None:
    with StandInServer(rules()) as server:
        seen: list[Any] = []

        @flow
        async def asks() -> None:
            said = [{"role": "user", "content": LONG}]
            seen.append(await kitaru.llm.reply(said, model=MODEL, base_url=server.base_url, name="question"))

        await (await runtime.start(asks.options(run_id="r"))).result()
        told = ReplayOptions(run_id="told", overrides={"question": '"told"'})
        await (await runtime.replay("r", told, asks)).handle.result()
        assert (seen[1].text, seen[1].message["role"]) == ("told", "assistant")
        assert (await step(runtime._core, "told", "question")).outcome == "told"


async def test_a_step_shows_the_reply_and_the_body_that_it_was_read_from(runtime: Runtime) -> None:
    seen: list[list[Reply]] = []
    with StandInServer(rules()) as server:

        @flow
        async def talks() -> None:
            seen.append(await talk(server.base_url))

        await (await runtime.start(talks.options(run_id="r"))).result()
    numbers = [str(one.seq) for one in await runtime._core.events("r") if isinstance(one.event, LlmCompleted)]
    for number, reply in zip(numbers, seen[0], strict=True):
        looked = await step(runtime._core, "r", number)
        shown: Any = looked.outcome
        assert shown["text"] == reply.text
        assert shown["message"] == reply.message
        body: Any = looked.response
        assert body["id"]
        assert (body["choices"][0]["message"]["content"] or "") == reply.text


async def test_a_report_calls_an_equal_answer_the_same_whatever_was_said_before(runtime: Runtime) -> None:
    with StandInServer(Options(rules=(Rule("tides", "high"),))) as server:
        word = "low"

        @flow
        async def asks() -> None:
            said = [{"role": "system", "content": word}, {"role": "user", "content": LONG}]
            await kitaru.llm.reply(said, model=MODEL, base_url=server.base_url)

        await (await runtime.start(asks.options(run_id="r"))).result()
        word = "high"
        await (await runtime.replay("r", ReplayOptions(run_id="again"), asks)).handle.result()
    (line,) = (await report(runtime, "r", "again")).lines
    assert (line.verdict, line.output) == ("executed", "same")


def thinking(refusal: str | None = None, reasoning: str = THOUGHT) -> Canned:
    message = {"role": "assistant", "content": "High." if refusal is None else None, "reasoning_content": reasoning}
    if refusal is not None:
        message["refusal"] = refusal
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return Canned(body=json.dumps(body).encode())


async def test_reasoning_and_refusal_are_the_same_after_a_resume(store_url: str) -> None:
    reached, first_time = asyncio.Event(), True
    seen: list[Reply] = []
    with CannedServer({"/v1/chat/completions": thinking("I would rather not.")}) as server:

        @flow
        async def asks() -> None:
            seen.append(await kitaru.llm.reply(LONG, model="vllm/m", base_url=f"{server.url}/v1"))
            if first_time:
                reached.set()
                await asyncio.Event().wait()

        await stopped(store_url, asks, "r", reached)
        first_time = False
        await resumed(store_url, asks, "r")
        assert len(server.asked) == 1
    assert seen[0] == seen[1]
    assert (seen[0].reasoning, seen[0].refusal) == (THOUGHT, "I would rather not.")


async def test_a_secret_in_the_reasoning_is_not_recorded(tmp_path: Path, store_url: str) -> None:
    secret = "a-secret-of-the-test"
    with CannedServer({"/v1/chat/completions": thinking(reasoning=f"The key is {secret}.")}) as server:

        @flow
        async def asks(key: kitaru.SecretStr) -> None:
            del key
            await kitaru.llm.reply("tides", model="vllm/m", base_url=f"{server.url}/v1")

        async with Runtime(store_url, recover=False) as runtime:
            handle = await runtime.start(asks.options(run_id="r"), kitaru.SecretStr(secret))
            with pytest.raises(kitaru.KitaruError, match="recorded"):
                await handle.result()
            assert await of_type(runtime, "r", LlmCompleted) == []
    assert not holding(tmp_path, secret)


def holding(folder: Path, text: str) -> list[Path]:
    """The files that hold a text."""
    return [path for path in folder.iterdir() if path.is_file() and text.encode() in path.read_bytes()]


# -- the form itself ---------------------------------------------------------------------------------------------------

RECORD = LlmRecord(
    "openai", "openai/m", "m-1", "stop", Usage(9, 3), 0.5, request_id="q", warnings=("mind the tide",), cost="0.001"
)


def replied(message: NeutralMessage, text: str | None = None, **more: Any) -> ModelReply:
    said = message.text if text is None else text
    return ModelReply(said, message, "stop", NeutralUsage(9, 3), "m-1", "q", **more)


@pytest.mark.parametrize(
    "message",
    [
        assistant("High."),
        assistant(""),
        assistant("", [NeutralCall("c1", "height", '{"place": "Dover"}')]),
        assistant("So.", [NeutralCall("c1", "height", "not json")], provider="anthropic", model="m", own=b'[{"a": 1}]'),
        assistant("So.", provider="google", model="m", own=b"\xff\x00"),
    ],
)
def test_a_reply_comes_back_from_its_message_and_the_record(message: NeutralMessage) -> None:
    value, record = as_recorded(replied(message, reasoning=THOUGHT, refusal=""), RECORD)
    again = reply_of(codec.encode(value), record)
    assert msgspec.structs.replace(again, message={}, tool_calls=()) == Reply(
        message.text, {}, "stop", Usage(9, 3), "m-1", "openai", "q", 0.5, Decimal("0.001"), ("mind the tide",), (),
        THOUGHT, "",
    )  # fmt: skip
    assert [(call.id, call.name, call.arguments) for call in again.tool_calls] == [
        (call.id, call.name, call.arguments) for call in message.tool_calls
    ]
    twice, _ = as_recorded(replied(message), RECORD)
    assert codec.encode(twice) == codec.encode(value)


def test_a_reply_whose_text_is_not_its_messages_is_recorded_whole() -> None:
    value, record = as_recorded(replied(assistant("High."), "Low."), RECORD)
    assert isinstance(value, Reply)
    assert (value.text, value.message["content"], record.whole) == ("Low.", "High.", False)


def test_a_reply_that_an_earlier_version_recorded_whole_is_read() -> None:
    reply, _ = as_recorded(replied(assistant("High."), "Low."), RECORD)
    done = LlmCompleted(1, 1.0, "llm", "llm", b"", b"", b"", 1, 1, 1.0, codec.encode(reply), b"{}", RECORD)
    work = LlmWork("llm", "tides", None, (), Settings(whole=True), Sending(), None)
    assert work.value_of(codec.encode(reply), done) == reply


@pytest.mark.parametrize("value", [None, 7, [], {}, {"role": "nobody", "content": 7}])
def test_what_is_no_message_is_no_reply(value: object) -> None:
    with pytest.raises(DecodeError):
        reply_of(codec.encode(value), RECORD)


def test_an_encoded_value_is_never_a_node() -> None:
    assert not any(is_node(codec.encode(value)) for value in (None, b"\xc1kn\x01", "kn", {"role": "user"}))


# ---- probabilities and the answer as it came ------------------------------------------------------------------------


TOKENS = [{"token": "High", "logprob": -0.1}]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"choices": [{"logprobs": {"content": TOKENS}}]}, {"content": TOKENS}),
        ({"output": [{"type": "message", "content": [{"type": "output_text", "logprobs": TOKENS}]}]}, TOKENS),
        ({"candidates": [{"logprobsResult": {"chosenCandidates": TOKENS}}]}, {"chosenCandidates": TOKENS}),
        ({"message": {}, "logprobs": TOKENS}, TOKENS),
        ({"choices": [{"logprobs": None}]}, None),
        ({"choices": [{"message": {"content": '"logprobs": {'}}]}, None),
    ],
)
def test_probabilities_are_found_in_every_wire_format(body: dict[str, Any], found: object) -> None:
    reply = msgspec.structs.replace(replied(assistant("High.")), raw=json.dumps(body, indent=1).encode())
    value, record = as_recorded(reply, RECORD)
    assert getattr(value, "logprobs", None) == found
    assert record.whole == (found is None)


async def test_a_reply_may_hold_the_answer_as_it_came_after_a_resume_too(store_url: str) -> None:
    message = {"role": "assistant", "content": "High."}
    body = {"id": "1", "model": "m", "choices": [{"message": message, "finish_reason": "stop",
            "logprobs": {"content": TOKENS}}], "odd": [1.5, None]}  # fmt: skip
    reached = asyncio.Event()

    @flow
    async def asks(base_url: str) -> list[Any]:
        options: Any = {"model": "openai-compatible/m", "base_url": base_url}
        extra = {"openai-compatible": {"logprobs": True}}
        first = await kitaru.llm.reply("When?", extra=extra, raw=True, name="first", **options)
        other = await kitaru.llm.reply("When?", extra=extra, name="other", **options)
        if not reached.is_set():
            reached.set()
            await asyncio.Event().wait()
        return [first.text, first.raw, first.logprobs, other.raw, other.logprobs]

    with CannedServer({"/v1/chat/completions": Canned(body=json.dumps(body).encode())}) as server:
        await stopped(store_url, asks, "r", reached, f"{server.url}/v1")
    probabilities = {"content": TOKENS}
    assert await resumed(store_url, asks, "r") == ["High.", body, probabilities, None, probabilities]
