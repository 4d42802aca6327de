"""What `kitaru.llm` promises of typed answers, JSON and attachments, a test for each promise."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import msgspec
import pydantic
import pytest

import kitaru
from kitaru import Runtime, checkpoint, flow
from kitaru.adapters import attempts_of, names, reply_of
from kitaru.adapters.standin import Fault, FaultKind, Options, Rule, StandInServer
from kitaru.errors import AnswerError
from kitaru.store.events import LlmAttempted, LlmCompleted, LlmRequested
from tests.adapters.talks import address
from tests.runtime.asking import PNG, asked, body, failed, record
from tests.runtime.canned import Canned, CannedServer
from tests.runtime.runs import of_type, run_of


@pytest.fixture(scope="module")
def shared() -> Iterator[StandInServer]:
    with StandInServer() as server:
        yield server


@pytest.fixture
def standin(shared: StandInServer) -> StandInServer:
    shared.reset()
    return shared


# -- typed answers ----------------------------------------------------------------------------------------------------


@dataclass
class City:
    """A place.

    Args:
        name: Its name.
        people: How many live there.
        twin: Another that it is friends with.
    """

    name: str
    people: int
    twin: str | None = None


class Tide(msgspec.Struct):
    place: str
    metres: float
    notes: list[str] = []


class Storm(msgspec.Struct, tag="storm"):
    wind: int


class Calm(msgspec.Struct, tag="calm"):
    until: str


class Boat(TypedDict):
    name: str
    masts: int


class Crew(pydantic.BaseModel):
    captain: str
    sailors: list[str]


WAYS = [
    ("openai/gpt-4.1", "schema"),
    ("google/gemini-3-pro", "schema"),
    ("anthropic/claude-sonnet-4-5", "schema"),
    ("deepseek/deepseek-chat", "native"),
    ("anthropic/claude-3-5-haiku", "instruction"),
]


TYPES: dict[str, tuple[Any, Callable[[Any], bool]]] = {
    "dataclass": (City, lambda value: type(value) is City and type(value.people) is int),
    "struct": (Tide, lambda value: type(value) is Tide and type(value.metres) is float),
    "typed_dict": (Boat, lambda value: value.keys() == {"name", "masts"} and type(value["masts"]) is int),
    "pydantic": (Crew, lambda value: type(value) is Crew and bool(value.captain)),
    "list": (list[Tide], lambda value: bool(value) and {type(one) for one in value} == {Tide}),
    "union": (Storm | Calm, lambda value: type(value) in (Storm, Calm)),
    "literal": (Literal["high", "low"], lambda value: value in ("high", "low")),
    "int": (int, lambda value: type(value) is int),
    "float": (float, lambda value: type(value) is float),
    "bool": (bool, lambda value: type(value) is bool),
    "dict": (dict[str, float], lambda value: type(value) is dict),
}


@pytest.mark.parametrize(("model", "mode"), WAYS)
async def test_an_answer_is_of_the_type_that_was_asked_for(
    model: str, mode: str, runtime: Runtime, standin: StandInServer
) -> None:
    url = address(standin, model.partition("/")[0])

    async def asks() -> None:
        for name, (response_type, is_right) in TYPES.items():
            value = await kitaru.llm("of tides", model=model, base_url=url, response_type=response_type, name=name)
            assert is_right(value), (name, value)

    await run_of(runtime, asks)
    ways = {done.key: done.llm.json_mode for done in await of_type(runtime, "r", LlmCompleted)}
    expected = dict.fromkeys(TYPES, mode)
    if model == "anthropic/claude-sonnet-4-5":
        # It has no schemas that are not closed: free keys are asked for in words.
        expected["dict"] = "instruction"
    assert ways == expected
    assert standin.counts.total == len(TYPES)


@pytest.mark.parametrize("fault", ["invalid-json", "wrong-type", "missing-key"])
async def test_an_answer_that_does_not_fit_is_mended_once_and_that_is_an_attempt_of_its_own(
    fault: FaultKind, runtime: Runtime
) -> None:
    with StandInServer(Options(faults=(Fault(fault, match="tides"),))) as server:
        value = await asked(
            runtime,
            lambda: kitaru.llm("of the tides", model="openai/gpt-4.1", base_url=server.base_url, response_type=Tide),
        )
        assert "That cannot be used" in json.dumps(body(server)["messages"][-1])
    assert type(value) is Tide
    (tried,) = await of_type(runtime, "r", LlmAttempted)
    assert tried.tried.error.startswith("the answer could not be used")
    assert tried.tried.usage is not None
    assert float(tried.tried.cost) > 0
    bad, good = (await record(runtime)).attempts
    assert bad == tried.tried
    assert (good.status, good.error) == (200, "")


async def test_an_answer_that_is_no_better_the_second_time_is_an_error_that_shows_it(runtime: Runtime) -> None:
    with StandInServer(Options(faults=(Fault("wrong-type"),))) as server:
        error = await failed(
            runtime,
            lambda: kitaru.llm("of the tides", model="openai/gpt-4.1", base_url=server.base_url, response_type=Tide),
        )
        assert server.counts.total == 2
    assert isinstance(error, AnswerError)
    assert "unexpected" in error.message
    assert reply_of(error) is not None
    assert [bool(attempt.error) for attempt in attempts_of(error)] == [True, True]


# -- answers that arrived and cannot be recorded, or not be found by name ----------------------------------------------


def _canned(text: str) -> Canned:
    body = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "model": "gpt-4.1",
            "usage": {"prompt_tokens": 1000, "completion_tokens": 700}}  # fmt: skip
    return Canned(body=json.dumps(body).encode())


async def test_classes_made_inside_a_function_are_answers_of_concurrent_calls_outside_any_flow(
    standin: StandInServer,
) -> None:
    async def call() -> bool:
        @dataclass
        class Place:
            name: str

        found = await kitaru.llm("where?", model="openai/gpt-4.1", base_url=standin.base_url, response_type=Place)
        return type(found) is Place

    assert all(await asyncio.gather(call(), call(), call()))


async def test_a_class_made_inside_a_function_is_the_answer_on_resume_and_the_result_of_flow_and_step(
    store_url: str, standin: StandInServer
) -> None:
    def local() -> Any:
        @dataclass
        class Place:
            name: str

        return Place

    @checkpoint
    async def step(place: str) -> Any:
        return await kitaru.llm(place, model="openai/gpt-4.1", base_url=standin.base_url, response_type=local())

    @flow
    async def asks() -> Any:
        place = local()
        first = await kitaru.llm("where?", model="openai/gpt-4.1", base_url=standin.base_url, response_type=place)
        assert type(first) is place
        return [first, await step("there?")]

    async with Runtime(store_url) as runtime:
        found = await (await runtime.start(asks.options(run_id="r"))).result()
    assert [type(one).__name__ for one in found] == ["Place", "Place"]
    assert standin.counts.total == 2


async def test_an_answer_that_may_not_be_recorded_is_an_error_with_its_usage_and_cost(runtime: Runtime) -> None:
    @flow
    async def asks(token: kitaru.SecretStr, base_url: str) -> str:
        return await kitaru.llm("hello", model="openai/gpt-4.1", base_url=base_url)

    token = "canary-" + "5f0d8a3b"
    with CannedServer({"/v1/chat/completions": _canned(f"It is {token}.")}) as server:
        with pytest.raises(AnswerError, match="answered, but the answer cannot be recorded"):
            await (await runtime.start(asks.options(run_id="r"), kitaru.SecretStr(token), f"{server.url}/v1")).result()
        assert len(server.asked) == 1
    (tried,) = await of_type(runtime, "r", LlmAttempted)
    assert tried.tried.usage is not None
    assert (tried.tried.usage.input, tried.tried.usage.output, tried.tried.cost != "") == (1000, 700, True)


async def test_json_is_an_object_with_every_provider_and_the_way_to_it_is_recorded(
    runtime: Runtime, standin: StandInServer
) -> None:
    async def asks() -> None:
        for name in names():
            where: Any = {"model": "test/echo"}
            if name != "test":
                where = {"model": f"{name}/a-model", "base_url": address(standin, name)}
            assert isinstance(await kitaru.llm("tides", json=True, name=name, **where), dict)

    await run_of(runtime, asks)
    ways = {done.key: done.llm.json_mode for done in await of_type(runtime, "r", LlmCompleted)}
    others = {"anthropic": "instruction", "perplexity": "schema", "lmstudio": "schema", "test": "schema"}
    assert ways == dict.fromkeys(names(), "native") | others


async def test_json_keys_are_there_with_every_provider(runtime: Runtime, standin: StandInServer) -> None:
    spoken = [name for name in names() if name != "test"]

    async def asks() -> None:
        for name in spoken:
            value = await kitaru.llm(
                "tides", json_keys=["title", "body"], model=f"{name}/m", base_url=address(standin, name), name=name
            )
            assert {"title", "body"} <= value.keys(), name

    await run_of(runtime, asks)
    assert standin.counts.total == len(spoken)


async def test_a_missing_key_is_an_error_that_shows_the_answer(runtime: Runtime) -> None:
    with StandInServer(Options(faults=(Fault("missing-key"),))) as server:
        error = await failed(
            runtime,
            lambda: kitaru.llm("tides", json_keys=["title", "body"], model="openai/m", base_url=server.base_url),
        )
    assert isinstance(error, AnswerError)
    assert "'title' is missing" in error.message
    assert '"body"' in error.message


# -- attachments ------------------------------------------------------------------------------------------------------


async def test_a_path_and_bytes_are_sent_as_what_their_content_is(standin: StandInServer, tmp_path: Path) -> None:
    path = tmp_path / "chart.txt"
    path.write_bytes(PNG)
    for attachment in (path, str(path), PNG, {"data": PNG, "media_type": "image/png"}):
        # Outside any flow: each is a run of its own.
        await kitaru.llm("what is this", model="openai/m", base_url=standin.base_url, attachments=[attachment])
        image, text = body(standin)["messages"][-1]["content"]
        assert image["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(PNG).decode()
        assert text == {"type": "text", "text": "what is this"}


async def test_images_is_another_word_for_attachments(runtime: Runtime, standin: StandInServer) -> None:
    await asked(runtime, lambda: kitaru.llm("what is this", model="openai/m", base_url=standin.base_url, images=[PNG]))
    assert [part["type"] for part in body(standin)["messages"][-1]["content"]] == ["image_url", "text"]


@pytest.mark.parametrize("text", ["what is this", "what is this " * 99])
async def test_a_mark_on_a_part_makes_no_other_call_of_it_for_a_resume(
    text: str, runtime: Runtime, standin: StandInServer
) -> None:
    plain = {"type": "text", "text": text}
    tool = {"name": "look", "parameters": {"type": "object", "properties": {}}}
    mark = {"cache_control": {"type": "ephemeral"}}

    async def asks() -> None:
        for more, name in ((mark, "marked"), ({}, "plain")):
            prompt = [{"role": "user", "content": [{**plain, **more}]}]
            tools = [{**tool, **more}]
            await kitaru.llm.reply(prompt, model="anthropic/m", base_url=standin.base_url, tools=tools, name=name)

    await run_of(runtime, asks)
    marked, other = await of_type(runtime, "r", LlmRequested)
    assert marked.fingerprint == other.fingerprint
    assert marked.code != other.code
    assert str(standin.requests[0].body).count("ephemeral") == 2


async def test_a_url_is_handed_on_for_the_provider_to_fetch(runtime: Runtime, standin: StandInServer) -> None:
    url = "https://example.org/chart.png"
    await asked(
        runtime, lambda: kitaru.llm("what is this", model="openai/m", base_url=standin.base_url, attachments=[url])
    )
    assert body(standin)["messages"][-1]["content"][0]["image_url"]["url"] == url


async def test_a_file_is_known_by_its_content(runtime: Runtime, standin: StandInServer, tmp_path: Path) -> None:
    chart, copy = tmp_path / "chart.png", tmp_path / "copy.png"
    chart.write_bytes(PNG)
    copy.write_bytes(PNG)

    async def asks() -> None:
        for name, path in (("first", chart), ("same", copy)):
            await kitaru.llm("this", model="openai/m", base_url=standin.base_url, attachments=[path], name=name)
        await asyncio.to_thread(chart.write_bytes, PNG + b"\0")
        await kitaru.llm("this", model="openai/m", base_url=standin.base_url, attachments=[chart], name="other")

    await run_of(runtime, asks)
    first, same, other = (event.fingerprint for event in await of_type(runtime, "r", LlmRequested))
    assert first == same != other


async def test_an_answer_of_a_class_made_in_a_function_is_of_that_class(runtime: Runtime) -> None:
    @dataclass
    class Harbour:
        place: str

    with StandInServer(Options(rules=(Rule("harbour", answer='{"place": "Brest"}'),))) as server:

        @checkpoint
        async def inside() -> object:
            return [await kitaru.llm("harbour", model="openai/m", base_url=server.base_url, response_type=Harbour)]

        @flow
        async def asks() -> object:
            first = await kitaru.llm("harbour", model="openai/m", base_url=server.base_url, response_type=Harbour)
            return {"first": first, "inside": await inside()}

        value = await (await runtime.start(asks.options(run_id="r"))).result()
        assert value == {"first": Harbour("Brest"), "inside": [Harbour("Brest")]}
        fork = await runtime.replay("r", flow=asks)
        assert await fork.handle.result() == value


async def test_an_answer_whose_value_cannot_be_recorded_is_paid_and_asked_for_once(runtime: Runtime) -> None:
    with StandInServer(Options(rules=(Rule("harbour", answer='{"place": "Brest"}'),))) as server:
        error = await failed(
            runtime, lambda: kitaru.llm("harbour", model="openai/m", base_url=server.base_url, response_type=Locked)
        )
        assert server.counts.total == 1
    assert isinstance(error, AnswerError)
    assert reply_of(error) is not None
    (tried,) = await of_type(runtime, "r", LlmAttempted)
    assert tried.tried.usage is not None


@dataclass
class Locked:
    place: str

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
