from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from kitaru.adapters.standin import Fault, Options, Rule, StandInServer, parse_fault, serve
from kitaru.errors import UsageError


@pytest.fixture(scope="module")
def shared() -> Iterator[StandInServer]:
    with StandInServer() as server:
        yield server


@pytest.fixture
def server(shared: StandInServer) -> StandInServer:
    shared.reset()
    return shared


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


def ask(prompt: str = "Explain how tides follow the moon", **more: object) -> dict[str, object]:
    return {"model": "any-name", "messages": [{"role": "user", "content": prompt}], **more}


async def post(
    http: httpx.AsyncClient, server: StandInServer, body: object, headers: dict[str, str] | None = None
) -> httpx.Response:
    return await http.post(f"{server.base_url}/chat/completions", json=body, headers=headers)


async def text(http: httpx.AsyncClient, server: StandInServer, body: object) -> str:
    return str((await post(http, server, body)).json()["choices"][0]["message"]["content"])


async def until_in_flight(http: httpx.AsyncClient, server: StandInServer, count: int) -> None:
    async with asyncio.timeout(10):
        while (await http.get(f"{server.url}/_kitaru/requests")).json()["in_flight"] != count:
            pass


# Answers


async def test_an_answer_is_made_of_the_prompt_s_words_and_always_the_same(
    server: StandInServer, http: httpx.AsyncClient
) -> None:
    first = await text(http, server, ask())
    assert first == await text(http, server, ask())
    assert first != await text(http, server, ask("Explain how bread dough rises"))
    assert {"tides", "moon", "explain", "follow"} & set(first.lower().replace(",", " ").replace(".", " ").split())
    assert first.count(".") == 3


@pytest.mark.parametrize("prompt", ["", "a", "{0} {x} %s \\1", "🦉 два слова", "x" * 50_000])
async def test_any_prompt_is_answered(prompt: str, server: StandInServer, http: httpx.AsyncClient) -> None:
    assert await text(http, server, ask(prompt))


async def test_rules_answer_first_with_what_their_groups_found(http: httpx.AsyncClient) -> None:
    rules = (Rule(r"capital of (\w+)", r"I know \1."), Rule("(?i)HELLO", "Hi."))
    with StandInServer(Options(rules=rules)) as server:
        assert await text(http, server, ask("the capital of France?")) == "I know France."
        assert await text(http, server, ask("hello")) == "Hi."


@pytest.mark.parametrize(("pattern", "answer"), [("(", "x"), ("a", r"\1"), ("(a)", r"\g<name>")])
def test_a_rule_that_cannot_work_is_refused_when_it_is_made(pattern: str, answer: str) -> None:
    with pytest.raises(UsageError, match="rule"):
        Rule(pattern, answer)


async def test_the_token_limit_and_stop_texts_end_an_answer(http: httpx.AsyncClient) -> None:
    with StandInServer(Options(rules=(Rule("", "one two three four"),))) as server:
        cut = (await post(http, server, ask(max_tokens=2))).json()
        assert cut["choices"][0]["message"]["content"] == "one two"
        assert cut["choices"][0]["finish_reason"] == "length"
        assert cut["usage"]["completion_tokens"] == 2
        assert await text(http, server, ask(stop=[" three"])) == "one two"


async def test_a_stream_gives_the_same_text_and_then_the_usage(server: StandInServer) -> None:
    import openai

    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="x") as client:
        stream = await client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "tides"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        plain = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "tides"}])
    joined = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert joined == plain.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage == plain.usage


async def test_the_models_are_listed(server: StandInServer, http: httpx.AsyncClient) -> None:
    rows = (await http.get(f"{server.base_url}/models")).json()["data"]
    assert [row["id"] for row in rows] == ["stand-in"]


@pytest.mark.parametrize(
    "body",
    [[], {}, {"model": "m"}, {"model": "m", "messages": []}, {"model": "m", "messages": ["x"]}, ask(max_tokens=0)],
)
async def test_a_request_that_is_none_is_refused_and_not_counted(
    body: object, server: StandInServer, http: httpx.AsyncClient
) -> None:
    response = await post(http, server, body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert server.counts.total == 0


async def test_a_required_key_is_asked_of_every_request(http: httpx.AsyncClient) -> None:
    with StandInServer(Options(api_key="letmein")) as server:
        assert (await post(http, server, ask())).status_code == 401
        assert (await post(http, server, ask(), {"authorization": "Bearer wrong"})).status_code == 401
        assert (await post(http, server, ask(), {"authorization": "Bearer letmein"})).status_code == 200
        assert server.counts.total == 3
    assert "letmein" not in repr(Options(api_key="letmein"))


# Counting


async def test_requests_are_counted_by_prompt_and_forgotten_on_demand(
    server: StandInServer, http: httpx.AsyncClient
) -> None:
    for prompt in ("first", "second", "first"):
        await post(http, server, ask(prompt))
    counts = (await http.get(f"{server.url}/_kitaru/requests")).json()
    assert (counts["total"], counts["finished"], counts["in_flight"]) == (3, 3, 0)
    assert [(row["text"], row["total"]) for row in counts["prompts"]] == [("first", 2), ("second", 1)]
    assert (await http.delete(f"{server.url}/_kitaru/requests")).status_code == 204
    assert server.counts.total == 0


async def test_request_ids_count_up(server: StandInServer, http: httpx.AsyncClient) -> None:
    names = [(await post(http, server, ask())).headers["x-request-id"] for _ in range(2)]
    numbers = [int(name.removeprefix("standin-")) for name in names]
    assert numbers[1] == numbers[0] + 1


async def test_the_count_is_exact_under_concurrency(server: StandInServer, http: httpx.AsyncClient) -> None:
    await asyncio.gather(*(post(http, server, ask(f"prompt {n % 7}")) for n in range(70)))
    counts = server.counts
    assert (counts.total, counts.finished, counts.in_flight) == (70, 70, 0)
    assert {prompt.total for prompt in counts.prompts} == {10}


async def test_a_client_that_leaves_is_counted_as_abandoned(http: httpx.AsyncClient) -> None:
    with StandInServer(Options(latency=60)) as server:
        task = asyncio.create_task(post(http, server, ask()))
        await until_in_flight(http, server, 1)
        task.cancel()
        await until_in_flight(http, server, 0)
        assert (server.counts.finished, server.counts.abandoned) == (0, 1)


async def test_stopping_the_server_accounts_for_what_was_under_way(http: httpx.AsyncClient, tmp_path: Path) -> None:
    server = StandInServer(Options(faults=(Fault("hang"),), journal=tmp_path / "journal"))
    async with server:
        task = asyncio.create_task(post(http, server, ask()))
        await until_in_flight(http, server, 1)
    assert (await task).status_code == 500
    assert (server.counts.in_flight, server.counts.abandoned) == (0, 1)
    lines = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["arrived", "abandoned"]


async def test_the_latency_lies_in_its_range(http: httpx.AsyncClient) -> None:
    with StandInServer(Options(latency=(0.05, 0.06))) as server:
        begun = time.monotonic()
        await post(http, server, ask())
        assert time.monotonic() - begun >= 0.05


@pytest.mark.parametrize("latency", [-1.0, (2.0, 1.0), float("inf"), float("nan")])
def test_a_latency_that_is_no_time_is_refused(latency: float | tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="latency"):
        Options(latency=latency)


async def test_the_journal_tells_of_arrival_and_answer_and_grows_over_restarts(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.jsonl"
    for _ in range(2):
        with StandInServer(Options(journal=journal, faults=(Fault("500", match="bad"),))) as server:
            await post(http, server, ask("good"))
            await post(http, server, ask("bad"))
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [(line["event"], line.get("status"), line.get("fault")) for line in lines] == 2 * [
        ("arrived", None, None),
        ("answered", 200, None),
        ("arrived", None, None),
        ("answered", 500, "500"),
    ]
    assert [line["id"] for line in lines[:4]] == ["standin-1", "standin-1", "standin-2", "standin-2"]
    assert lines[0]["text"] == "good"


def test_a_journal_that_cannot_be_opened_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="journal"), StandInServer(Options(journal=tmp_path / "none" / "j")):
        pass


# Faults


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("429", Fault("429")),
        ("429*2;retry-after=0.1", Fault("429", 2, 0.1)),
        ("hang;match=a;b*3", Fault("hang", match="a;b*3")),
        (" drop *1", Fault("drop", 1)),
    ],
)
def test_a_fault_is_read_as_it_is_written(written: str, fault: Fault) -> None:
    assert parse_fault(written) == fault


@pytest.mark.parametrize(
    "written", ["", "404", "429*x", "429*-1", "429;retry-after=soon", "429;often=2", "500;match=("]
)
def test_a_fault_that_cannot_be_read_is_refused(written: str) -> None:
    with pytest.raises(UsageError, match="fault"):
        parse_fault(written)


async def test_a_fault_befalls_the_first_requests_of_each_prompt_it_matches(http: httpx.AsyncClient) -> None:
    with StandInServer(Options(faults=(Fault("429", 2, 7, "tide"), Fault("500", 1)))) as server:
        tide = [await post(http, server, ask("tide")) for _ in range(3)]
        other = [await post(http, server, ask("other")) for _ in range(2)]
    assert [response.status_code for response in tide] == [429, 429, 200]
    assert tide[0].headers["retry-after"] == "7"
    assert [response.status_code for response in other] == [500, 200]


async def test_a_header_asks_for_a_fault(server: StandInServer, http: httpx.AsyncClient) -> None:
    headers = {"x-standin-fault": "html*1"}
    pages = [(await post(http, server, ask(), headers)).text.startswith("<!DOCTYPE") for _ in range(2)]
    assert pages == [True, False]


async def test_an_unknown_fault_in_the_header_is_a_bad_request(server: StandInServer, http: httpx.AsyncClient) -> None:
    assert (await post(http, server, ask(), {"x-standin-fault": "flood"})).status_code == 400


@pytest.mark.parametrize("stream", [False, True])
async def test_a_dropped_connection_ends_in_the_middle_of_the_body(
    stream: bool, server: StandInServer, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await post(http, server, ask(stream=stream), {"x-standin-fault": "drop"})
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


async def test_a_malformed_stream_has_no_end_marker(server: StandInServer, http: httpx.AsyncClient) -> None:
    response = await post(http, server, ask(stream=True), {"x-standin-fault": "malformed"})
    assert "[DONE]" not in response.text


# Running


def test_the_address_is_known_only_while_it_runs() -> None:
    server = StandInServer()
    with pytest.raises(UsageError, match="not running"):
        _ = server.base_url
    with server, pytest.raises(UsageError, match="already"):
        server.__enter__()


def test_a_taken_port_is_a_usage_error() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UsageError, match="cannot be listened on"):
            serve(port=other.getsockname()[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_served_stand_in_says_where_it_is_and_ends_on_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from kitaru.adapters.standin import Options, serve\n"
        f"serve(options=Options(journal=Path({str(tmp_path / 'j')!r})), ready=lambda url: print(url, flush=True))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        base_url = process.stdout.readline().strip()
        response = httpx.post(f"{base_url}/chat/completions", json=ask(), trust_env=False)
        process.send_signal(number)
        process.wait(timeout=20)
        errors = process.stderr.read()
    assert response.status_code == 200
    assert errors == ""
    assert process.returncode in (0, -number)
    assert len((tmp_path / "j").read_text().splitlines()) == 2


def test_importing_the_adapters_imports_no_http_library_and_no_server() -> None:
    code = "import sys, kitaru.adapters, kitaru.adapters.standin; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"httpx", "starlette", "uvicorn", "pydantic", "typer"} & set(found)
