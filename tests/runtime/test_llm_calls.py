"""Model calls as boundaries, against the stand-in server."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest

import kitaru
from kitaru import ModelError, Runtime, UsageError, checkpoint, flow
from kitaru.adapters.standin import Fault, Options, Rule, StandInServer
from kitaru.errors import CredentialError, ProviderError
from kitaru.store.events import LlmCompleted, LlmRequested, StepFailed
from tests.runtime.runs import keys_of, of_type, resumed, stopped, until

MODEL = "openai/stand-in"
CANARY = "canary-not-a-key-7f3a"


async def test_a_call_in_a_flow_gives_the_text_and_records_what_happened(
    runtime: Runtime, standin: StandInServer
) -> None:
    @flow
    async def asks() -> str:
        return await kitaru.llm("what are tides", model=MODEL, base_url=standin.base_url, name="question")

    text = await (await runtime.start(asks.options(run_id="r"))).result()
    assert text
    (done,) = await of_type(runtime, "r", LlmCompleted)
    assert done.key == "question"
    assert done.llm.provider == "openai"
    assert done.llm.model == MODEL
    assert done.llm.finish == "stop"
    assert done.llm.usage.input
    assert done.llm.request_id.startswith("standin-")
    assert done.llm.credential == "none"
    assert [attempt.status for attempt in done.llm.attempts] == [200]


async def test_the_request_is_committed_before_it_is_sent(runtime: Runtime) -> None:
    with StandInServer(Options(faults=(Fault("hang"),))) as server:

        @flow
        async def asks() -> str:
            return await kitaru.llm("tides", model=MODEL, base_url=server.base_url)

        await runtime.start(asks.options(run_id="r"))

        async def arrived() -> bool:
            return server.counts.in_flight > 0

        await until(arrived)
        (asked,) = await of_type(runtime, "r", LlmRequested)
        assert asked.model == MODEL


async def test_an_answer_is_not_asked_for_again_on_resume(store_url: str, standin: StandInServer) -> None:
    reached, first_time = asyncio.Event(), True
    seen: list[str] = []

    @flow
    async def asks() -> str:
        seen.append(await kitaru.llm("tides", model=MODEL, base_url=standin.base_url))
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return seen[-1]

    await stopped(store_url, asks, "r", reached)
    first_time = False
    await resumed(store_url, asks, "r")
    assert seen[0] == seen[1]
    assert standin.counts.total == 1


async def test_a_call_inside_an_interrupted_checkpoint_is_not_paid_for_twice(
    store_url: str, standin: StandInServer
) -> None:
    reached, first_time = asyncio.Event(), True

    @checkpoint
    async def research() -> str:
        found = await kitaru.llm("tides", model=MODEL, base_url=standin.base_url)
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        return found

    @flow
    async def asks() -> str:
        return await research()

    await stopped(store_url, asks, "r", reached)
    first_time = False
    assert await resumed(store_url, asks, "r")
    assert standin.counts.total == 1


async def test_a_call_in_a_sync_flow_gives_the_text(runtime: Runtime, standin: StandInServer) -> None:
    @flow
    def asks() -> str:
        return f"{kitaru.llm('tides', model=MODEL, base_url=standin.base_url)}!"

    assert (await (await runtime.start(asks)).result()).endswith("!")


async def test_a_call_in_a_sync_checkpoint_is_its_child(runtime: Runtime, standin: StandInServer) -> None:
    @checkpoint
    def research() -> str:
        return kitaru.llm("tides", model=MODEL, base_url=standin.base_url).load()

    @flow
    async def asks() -> str:
        return await research()

    assert await (await runtime.start(asks.options(run_id="r"))).result()
    assert await keys_of(runtime, "r", LlmCompleted) == ["research>1/llm"]


async def test_a_call_outside_any_flow_is_a_run_of_its_own(standin: StandInServer) -> None:
    assert await kitaru.llm("tides", model=MODEL, base_url=standin.base_url)
    (row,) = await kitaru.default_runtime()._core.store.runs()
    assert (row.flow, row.status) == ("llm", "completed")


def test_a_call_in_a_plain_script_is_a_run_of_its_own(standin: StandInServer) -> None:
    assert str(kitaru.llm("tides", model=MODEL, base_url=standin.base_url))


async def test_a_reply_tells_usage_finish_and_request(runtime: Runtime, standin: StandInServer) -> None:
    @flow
    async def asks() -> kitaru.Reply:
        return await kitaru.llm.reply("tides", model=MODEL, base_url=standin.base_url)

    reply = await (await runtime.start(asks)).result()
    assert reply.finish == "stop"
    assert reply.usage.output
    assert reply.message["role"] == "assistant"
    assert reply.message["content"] == reply.text
    assert reply.request_id.startswith("standin-")


async def test_a_reply_is_the_same_after_a_resume(store_url: str, standin: StandInServer) -> None:
    reached, first_time = asyncio.Event(), True
    seen: list[kitaru.Reply] = []

    @flow
    async def asks() -> None:
        seen.append(await kitaru.llm.reply("tides", model=MODEL, base_url=standin.base_url))
        if first_time:
            reached.set()
            await asyncio.Event().wait()

    await stopped(store_url, asks, "r", reached)
    first_time = False
    await resumed(store_url, asks, "r")
    assert seen[0] == seen[1]


async def test_system_and_messages_reach_the_model(runtime: Runtime) -> None:
    with StandInServer(Options(rules=(Rule("last question", "answered"),))) as server:

        @flow
        async def asks() -> str:
            turns = [
                {"role": "user", "content": "first question"},
                {"role": "assistant", "content": "first answer"},
                {"role": "user", "content": "last question"},
            ]
            return await kitaru.llm(turns, system="Be brief.", model=MODEL, base_url=server.base_url)

        assert await (await runtime.start(asks)).result() == "answered"
        one_turn = server.counts.prompts[0].digest
        server.reset()
        await (await runtime.start(asks)).result()
        assert server.counts.prompts[0].digest == one_turn


async def test_a_handle_can_be_a_prompt(runtime: Runtime, standin: StandInServer) -> None:
    @checkpoint
    async def topic() -> str:
        return "tides"

    @flow
    async def asks() -> str:
        return await kitaru.llm(topic(), model=MODEL, base_url=standin.base_url)

    assert await (await runtime.start(asks)).result()
    assert standin.counts.prompts[0].text == "tides"


@pytest.mark.parametrize(
    "prompt",
    [
        [],
        [{"role": "user"}],
        [{"content": "x"}],
        [{"role": "bard", "content": "x"}],
        [{"role": "user", "content": 5}],
        5,
    ],
)
async def test_a_prompt_that_cannot_be_right_is_refused_at_the_call(runtime: Runtime, prompt: object) -> None:
    @flow
    async def asks() -> str:
        text: str = await kitaru.llm(prompt, model=MODEL)  # type: ignore[call-overload]  # the mistake under test
        return text

    with pytest.raises(UsageError):
        await (await runtime.start(asks)).result()


# -- trouble ----------------------------------------------------------------------------------------------------------


async def test_every_attempt_of_a_retried_call_is_recorded(runtime: Runtime) -> None:
    with StandInServer(Options(faults=(Fault("503", first=1, retry_after=0),))) as server:

        @flow
        async def asks() -> str:
            return await kitaru.llm("tides", model=MODEL, base_url=server.base_url)

        assert await (await runtime.start(asks.options(run_id="r"))).result()
        (done,) = await of_type(runtime, "r", LlmCompleted)
        assert [attempt.status for attempt in done.llm.attempts] == [503, 200]
        assert server.counts.total == 2


@pytest.mark.parametrize("fault", ["quota", "malformed", "html", "error-in-200", "refusal", "filter", "empty"])
async def test_what_is_no_answer_is_a_model_error_alike_on_first_run_and_resume(store_url: str, fault: str) -> None:
    reached, first_time = asyncio.Event(), True
    seen: list[ModelError] = []
    kind = Fault(kind=fault)  # type: ignore[arg-type]  # each is one of the kinds

    with StandInServer(Options(faults=(kind,))) as server:

        @flow
        async def asks() -> None:
            try:
                await kitaru.llm("tides", model=MODEL, base_url=server.base_url, retry=1)
            except ModelError as error:
                seen.append(error)
            if first_time:
                reached.set()
                await asyncio.Event().wait()

        await stopped(store_url, asks, "r", reached)
        first_time = False
        await resumed(store_url, asks, "r")
        assert server.counts.total == 1
    first, again = seen
    assert type(first) is type(again)
    assert str(first) == str(again)
    assert first.__dict__.keys() == again.__dict__.keys()
    if isinstance(first, ProviderError) and isinstance(again, ProviderError):
        assert (first.status, first.request_id, first.retryable) == (again.status, again.request_id, again.retryable)


async def test_a_failed_call_is_recorded_once_as_failed(runtime: Runtime) -> None:
    with StandInServer(Options(faults=(Fault("quota"),))) as server:

        @flow
        async def asks() -> str:
            return await kitaru.llm("tides", model=MODEL, base_url=server.base_url, retry=1)

        with pytest.raises(ModelError):
            await (await runtime.start(asks.options(run_id="r"))).result()
        (failed,) = await of_type(runtime, "r", StepFailed)
        assert failed.kind == "llm"
        assert failed.final


async def test_a_missing_key_says_how_to_set_one_up(runtime: Runtime) -> None:
    @flow
    async def asks() -> str:
        return await kitaru.llm("tides", model="openai/stand-in")

    with pytest.raises(CredentialError, match="OPENAI_API_KEY"):
        await (await runtime.start(asks)).result()


@pytest.mark.parametrize("model", ["stand-in", "nobody/stand-in", "/", "openai/"])
async def test_a_wrong_model_name_is_a_usage_error(runtime: Runtime, model: str, standin: StandInServer) -> None:
    @flow
    async def asks() -> str:
        return await kitaru.llm("tides", model=model, base_url=standin.base_url)

    with pytest.raises(UsageError):
        await (await runtime.start(asks)).result()
    assert standin.counts.total == 0


async def test_no_model_and_no_default_says_what_to_do(runtime: Runtime) -> None:
    @flow
    async def asks() -> str:
        return await kitaru.llm("tides")

    with pytest.raises(UsageError, match="KITARU_DEFAULT_MODEL"):
        await (await runtime.start(asks)).result()


async def test_the_default_model_of_the_start_is_kept_by_a_resume(
    store_url: str, standin: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, first_time = asyncio.Event(), True
    monkeypatch.setenv("KITARU_DEFAULT_MODEL", "openai/first")

    @flow
    async def asks() -> list[str]:
        one = await kitaru.llm.reply("one", base_url=standin.base_url)
        if first_time:
            reached.set()
            await asyncio.Event().wait()
        two = await kitaru.llm.reply("two", base_url=standin.base_url)
        return [one.model, two.model]

    await stopped(store_url, asks, "r", reached)
    first_time = False
    monkeypatch.setenv("KITARU_DEFAULT_MODEL", "openai/second")
    assert await resumed(store_url, asks, "r") == ["first", "first"]


# -- what is stored ---------------------------------------------------------------------------------------------------


def files_with(text: str, folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


async def test_a_key_is_nowhere_in_the_store(store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY + "-environment")
    options = Options(api_key=CANARY + "-argument", faults=(Fault("500", first=1),))
    with StandInServer(options) as server:

        @flow
        async def asks() -> str:
            # The environment's key is refused; the error must not carry it.
            with contextlib.suppress(ModelError):
                await kitaru.llm("tides", model=MODEL, base_url=server.base_url, retry=1)
            return await kitaru.llm(
                "tides", model=MODEL, base_url=server.base_url, api_key=CANARY + "-argument", name="b"
            )

        async with Runtime(store_url) as runtime:
            assert await (await runtime.start(asks.options(run_id="r"))).result()
            (done,) = await of_type(runtime, "r", LlmCompleted)
            assert done.llm.credential == "argument"
    assert files_with(CANARY, tmp_path) == []
    assert files_with("tides", tmp_path) != []


async def test_a_conversation_is_stored_once(store_url: str, tmp_path: Path, standin: StandInServer) -> None:
    """The bytes of twice as many turns are about twice as many, not four times."""

    def size(url: str) -> int:
        path = url.removeprefix("sqlite:///")
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
        return Path(path).stat().st_size

    @flow
    async def talks(turns: int) -> int:
        messages: list[dict[str, object]] = []
        for number in range(turns):
            messages.append({"role": "user", "content": f"question {number} " + "about tides and the moon " * 40})
            reply = await kitaru.llm.reply(messages, model=MODEL, base_url=standin.base_url)
            messages.append(reply.message)
        return len(messages)

    sizes: list[int] = []
    for turns in (0, 15, 30):
        url = f"sqlite:///{tmp_path}/talk{turns}.db"
        async with Runtime(url) as runtime:
            assert await (await runtime.start(talks, turns)).result() == 2 * turns
        sizes.append(size(url) - (sizes[0] if sizes else 0))
    assert sizes[2] < 2.5 * sizes[1]


async def test_a_long_conversation_resumes(store_url: str, standin: StandInServer) -> None:
    reached, first_time = asyncio.Event(), True

    @flow
    async def talks() -> int:
        messages: list[dict[str, object]] = []
        for number in range(4):
            messages.append({"role": "user", "content": f"question {number} " + "about tides and the moon " * 40})
            reply = await kitaru.llm.reply(messages, model=MODEL, base_url=standin.base_url)
            messages.append(reply.message)
            if number == 2 and first_time:
                reached.set()
                await asyncio.Event().wait()
        return len(messages)

    await stopped(store_url, talks, "r", reached)
    first_time = False
    assert await resumed(store_url, talks, "r") == 8
    assert standin.counts.total == 4
