"""What `kitaru.llm` promises, a test for each promise: settings, failures, fallbacks, addresses, gateway."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kitaru
from kitaru import Runtime, UsageError
from kitaru.adapters import Reply, attempts_of, reply_of
from kitaru.adapters.standin import Fault, FaultKind, Options, StandInServer
from kitaru.errors import AnswerError, ModelConnectionError, ProviderError, UnsupportedError
from kitaru.store.events import LlmCompleted, LlmRequested
from tests.adapters.scripted import Script, answer, scripted
from tests.adapters.talks import address
from tests.runtime.asking import PNG, asked, body, failed, record
from tests.runtime.canned import Canned, CannedServer
from tests.runtime.runs import of_type, run_of

KEY = "key-of-the-test"
QUICK = {"max_attempts": 3, "initial_delay": "1ms", "max_delay": "2ms"}


@pytest.fixture(scope="module")
def shared() -> Iterator[StandInServer]:
    with StandInServer() as server:
        yield server


@pytest.fixture
def standin(shared: StandInServer) -> StandInServer:
    shared.reset()
    return shared


# -- advisory settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "setting", "field"),
    [
        ("openai/gpt-5-nano", {"temperature": 0.2}, "temperature"),
        ("openai/gpt-5-nano", {"top_p": 0.5}, "top_p"),
        ("openai/gpt-4.1", {"context_length": 4096}, "context_length"),
        ("anthropic/claude-sonnet-4-5", {"seed": 7}, "seed"),
        ("anthropic/claude-3-5-haiku", {"reasoning": "low"}, "reasoning"),
        ("openai-responses/gpt-4.1", {"seed": 7}, "seed"),
    ],
)
async def test_an_advisory_setting_that_is_lacked_is_left_out_with_a_warning_in_the_event(
    model: str, setting: dict[str, Any], field: str, runtime: Runtime, standin: StandInServer
) -> None:
    url = address(standin, model.partition("/")[0])
    assert await asked(runtime, lambda: kitaru.llm("tides", model=model, base_url=url, **setting))
    assert (await record(runtime)).warnings == (f"{field} was left out: {model} does not take it",)
    assert field not in json.dumps(body(standin))
    assert [attempt.status for attempt in (await record(runtime)).attempts] == [200]


async def test_with_strict_it_is_an_error_before_any_request(runtime: Runtime, standin: StandInServer) -> None:
    with pytest.raises(UnsupportedError, match="temperature"):
        await asked(
            runtime,
            lambda: kitaru.llm(
                "tides", model="openai/gpt-5-nano", base_url=standin.base_url, temperature=0.2, strict=True
            ),
        )
    assert await of_type(runtime, "r", LlmRequested) == []
    assert standin.requests == ()


async def test_a_setting_refused_with_a_400_is_left_out_at_once_and_remembered_for_that_model(runtime: Runtime) -> None:
    with StandInServer(Options(reasoning_models=("thinker*",))) as server:

        async def asks() -> None:
            for name, model in (("first", "thinker-1"), ("again", "thinker-1"), ("other", "plain-1")):
                await kitaru.llm(
                    "tides", model=f"openai/{model}", base_url=server.base_url, temperature=0.2, name=name, retry=1
                )

        await run_of(runtime, asks)
        first, again, other = (done.llm for done in await of_type(runtime, "r", LlmCompleted))
        sent = ["temperature" in body(server, at) for at in range(4)]
    assert [attempt.status for attempt in first.attempts] == [400, 200]
    assert first.warnings == ("temperature was left out: the provider refused it for this model",)
    assert [attempt.status for attempt in again.attempts] == [200]
    assert again.warnings == ("temperature was left out: openai/thinker-1 does not take it",)
    assert (other.warnings, sent) == ((), [True, False, False, True])


async def test_a_refused_form_of_the_answer_is_asked_for_another_way_and_remembered(runtime: Runtime) -> None:
    def refused(form: str) -> Script:
        said = {"error": {"message": f"This response_format type is unavailable now: {form}"}}
        return answer(json.dumps(said).encode(), 400)

    good = answer(b'{"choices":[{"message":{"content":"{\\"a\\":1}"},"finish_reason":"stop"}]}')
    async with scripted(refused("json_schema"), refused("json_object"), good) as server:

        async def asks() -> None:
            for name, form in (("first", {"response_type": dict[str, int]}), ("again", {"json": True})):
                found = await kitaru.llm(
                    "tides", model="vllm/m", base_url=server.base_url, name=name, retry=1, strict=True, **form
                )
                assert found == {"a": 1}

        await run_of(runtime, asks)
        forms = [json.loads(seen.body).get("response_format", {}).get("type") for seen in server.seen]
    first, again = (done.llm for done in await of_type(runtime, "r", LlmCompleted))
    assert forms == ["json_schema", "json_object", None, None]
    assert [attempt.status for attempt in first.attempts] == [400, 400, 200]
    assert (first.json_mode, again.json_mode) == ("instruction", "instruction")
    replaced = [
        f"{name} was replaced by an instruction: vllm/m does not take it" for name in ("json_schema", "json_mode")
    ]
    assert list(first.warnings) == list(again.warnings) == replaced


async def test_a_refusal_where_no_form_is_asked_for_any_more_ends_the_call(runtime: Runtime) -> None:
    said = {"error": {"message": "response_format is not supported"}}
    async with scripted(answer(json.dumps(said).encode(), 400)) as server:
        error = await failed(
            runtime, lambda: kitaru.llm("tides", model="vllm/m", base_url=server.base_url, json=True, retry=1)
        )
        forms = [json.loads(seen.body).get("response_format", {}).get("type") for seen in server.seen]
    assert isinstance(error, ProviderError)
    assert forms == ["json_object", "json_schema", None]


async def test_a_warning_is_logged_once_a_run(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    with StandInServer() as server:

        async def asks() -> None:
            for name in ("first", "again"):
                await kitaru.llm("tides", model="openai/o3", base_url=server.base_url, temperature=0.2, name=name)

        await run_of(runtime, asks)
    (logged,) = [record for record in caplog.records if record.getMessage() == "llm.warning"]
    said = vars(logged)
    assert (said["run_id"], said["key"], said["model"]) == ("r", "first", "openai/o3")
    assert said["warning"] == "temperature was left out: openai/o3 does not take it"


async def test_with_strict_a_400_is_an_error(runtime: Runtime) -> None:
    with StandInServer(Options(reasoning_models=("thinker*",))) as server:
        error = await failed(
            runtime,
            lambda: kitaru.llm(
                "tides", model="openai/thinker-1", base_url=server.base_url, temperature=0.2, strict=True
            ),
        )
    assert isinstance(error, ProviderError)
    assert (error.status, len(error.attempts)) == (400, 1)


# -- binding settings -------------------------------------------------------------------------------------------------


def harbour(name: str) -> str:
    """Look a harbour up."""
    return name


@pytest.mark.parametrize(
    ("model", "setting"),
    [
        ("openai/o3", {"stop": "END"}),
        ("openai/gpt-4.1", {"stop": ["a", "b", "c", "d", "e"]}),
        ("deepseek/deepseek-chat", {"attachments": [PNG]}),
        ("groq/llama", {"attachments": [b"%PDF-1.4 a page"]}),
        ("ollama/llava", {"attachments": ["https://example.org/a.png"]}),
        ("google/gemma-3-4b", {"tools": [harbour]}),
        ("moonshot/kimi", {"tools": [harbour], "tool_choice": "required"}),
        ("perplexity/sonar", {"tools": [harbour, asyncio.sleep], "tool_choice": "harbour"}),
    ],
)
async def test_a_binding_setting_that_is_lacked_is_an_error_before_anything_is_recorded_or_sent(
    model: str, setting: dict[str, Any], runtime: Runtime, standin: StandInServer
) -> None:
    if "tools" in setting:
        setting = {**setting, "tools": [tool if tool is harbour else {"name": "other"} for tool in setting["tools"]]}
    with pytest.raises(UnsupportedError):
        await asked(runtime, lambda: kitaru.llm.reply("tides", model=model, base_url=standin.base_url, **setting))
    assert await of_type(runtime, "r", LlmRequested) == []
    assert standin.requests == ()


# -- what is no finished answer ---------------------------------------------------------------------------------------


async def test_a_text_cut_by_the_limit_comes_back_with_a_warning_in_the_event(
    runtime: Runtime, standin: StandInServer
) -> None:
    text = await asked(runtime, lambda: kitaru.llm("tides", model="openai/m", base_url=standin.base_url, max_tokens=3))
    assert len(str(text).split()) == 3
    done = await record(runtime)
    assert (done.finish, done.warnings) == ("length", ("the text was cut off by the token limit",))


@pytest.mark.parametrize(("fault", "finish"), [("refusal", "stop"), ("filter", "content_filter"), ("empty", "length")])
async def test_a_refusal_a_filter_and_no_text_are_errors_with_the_reply_attached(
    fault: FaultKind, finish: str, runtime: Runtime
) -> None:
    with StandInServer(Options(faults=(Fault(fault),))) as server:
        error = await failed(runtime, lambda: kitaru.llm("tides", model="openai/m", base_url=server.base_url))
        assert server.counts.total == 1
    assert isinstance(error, AnswerError)
    reply = reply_of(error)
    assert isinstance(reply, Reply)
    assert (reply.finish, reply.usage.input is not None) == (finish, True)
    assert (reply.refusal is not None) == (fault == "refusal")


@pytest.mark.parametrize("fault", ["refusal", "filter", "empty"])
async def test_the_whole_reply_is_given_whatever_it_is(fault: FaultKind, runtime: Runtime) -> None:
    with StandInServer(Options(faults=(Fault(fault),))) as server:
        reply = await asked(runtime, lambda: kitaru.llm.reply("tides", model="openai/m", base_url=server.base_url))
    assert isinstance(reply, kitaru.Reply)
    assert reply.text == ""
    assert (reply.refusal is not None, reply.finish) == {
        "refusal": (True, "stop"),
        "filter": (False, "content_filter"),
        "empty": (False, "length"),
    }[fault]


# -- fallbacks --------------------------------------------------------------------------------------------------------


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch, standin: StandInServer) -> StandInServer:
    """Where a mistral model answers."""
    monkeypatch.setenv("MISTRAL_API_BASE", standin.address("mistral"))
    return standin


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("429", "rate_limit"),
        ("503", "overloaded"),
        ("529", "overloaded"),
        ("quota", "quota"),
        ("context", "context"),
        ("malformed", "invalid"),
        ("drop", "no connection"),
    ],
)
async def test_another_model_is_asked_for_each_of_the_reasons_and_the_trail_recorded(
    fault: FaultKind, why: str, runtime: Runtime, second: StandInServer
) -> None:
    with StandInServer(Options(faults=(Fault(fault),))) as broken:
        text = await asked(
            runtime,
            lambda: kitaru.llm(
                "tides", model="openai/m", base_url=broken.base_url, retry=1, fallbacks=["mistral/small"]
            ),
        )
    assert text
    done = await record(runtime)
    assert (done.model, done.trail) == ("mistral/small", (("openai/m", why),))
    assert [attempt.model for attempt in done.attempts] == ["openai/m", "mistral/small"]
    assert second.counts.providers == {"mistral": 1}


async def test_another_model_is_asked_where_nobody_listens(runtime: Runtime, second: StandInServer) -> None:
    assert await asked(
        runtime,
        lambda: kitaru.llm("tides", model="openai/m", base_url=nowhere(), retry=1, fallbacks=["mistral/small"]),
    )
    assert (await record(runtime)).trail == (("openai/m", "no connection"),)


async def test_another_model_is_asked_after_an_answer_that_could_not_be_used(
    runtime: Runtime, second: StandInServer
) -> None:
    with StandInServer(Options(faults=(Fault("wrong-type"),))) as broken:
        value = await asked(
            runtime,
            lambda: kitaru.llm(
                "tides",
                model="openai/m",
                base_url=broken.base_url,
                fallbacks=["mistral/small"],
                response_type=list[int],
            ),
        )
    assert isinstance(value, list)
    done = await record(runtime)
    assert done.trail == (("openai/m", "invalid output"),)
    assert [attempt.model for attempt in done.attempts] == ["openai/m", "openai/m", "mistral/small"]


@pytest.mark.parametrize("fault", ["refusal", "filter"])
async def test_no_other_model_is_asked_what_one_refused(
    fault: FaultKind, runtime: Runtime, second: StandInServer
) -> None:
    with StandInServer(Options(faults=(Fault(fault),))) as broken:
        error = await failed(
            runtime,
            lambda: kitaru.llm("tides", model="openai/m", base_url=broken.base_url, fallbacks=["mistral/small"]),
        )
    assert isinstance(error, AnswerError)
    assert second.counts.total == 0


async def test_where_no_model_answers_the_error_tells_of_all(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    with StandInServer(Options(faults=(Fault("quota"),))) as broken:
        monkeypatch.setenv("MISTRAL_API_BASE", broken.address("mistral"))
        error = await failed(
            runtime,
            lambda: kitaru.llm("tides", model="openai/m", base_url=broken.base_url, fallbacks=["mistral/small"]),
        )
    assert len(attempts_of(error)) == 2
    assert "mistral" in error.message


async def test_extra_is_keyed_by_provider_and_a_fallback_gets_only_its_own_part(
    runtime: Runtime, second: StandInServer
) -> None:
    with StandInServer(Options(faults=(Fault("quota"),))) as broken:
        await asked(
            runtime,
            lambda: kitaru.llm(
                "tides",
                model="openai/m",
                base_url=broken.base_url,
                fallbacks=["mistral/small"],
                extra={"openai": {"user": "u-1"}, "mistral": {"safe_prompt": True}},
            ),
        )
        assert (body(broken).get("user"), "safe_prompt" in body(broken)) == ("u-1", False)
    assert (body(second).get("safe_prompt"), "user" in body(second)) == (True, False)


# -- headers, times, attempts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "api-key", "X-Goog-Api-Key", "Cookie", "Host"])
async def test_a_header_that_carries_a_credential_is_refused(
    name: str, runtime: Runtime, standin: StandInServer
) -> None:
    with pytest.raises(UsageError, match="cannot be set by hand") as caught:
        await asked(
            runtime,
            lambda: kitaru.llm("tides", model="openai/m", base_url=standin.base_url, headers={name: KEY}, retry=1),
        )
    assert KEY not in str(caught.value)
    assert standin.requests == ()


async def test_another_header_is_sent_and_not_recorded(
    runtime: Runtime, standin: StandInServer, tmp_path: Path
) -> None:
    await asked(
        runtime,
        lambda: kitaru.llm("tides", model="openai/m", base_url=standin.base_url, headers={"X-Trace": "trace-17"}),
    )
    assert standin.requests[0].headers["x-trace"] == "trace-17"
    assert all(b"trace-17" not in (tmp_path / name).read_bytes() for name in ("runs.db", "runs.db-wal"))


@pytest.mark.parametrize("timeout", [0.2, kitaru.Timeouts(first_byte=0.2), kitaru.Timeouts(total=0.2)])
async def test_a_call_without_an_answer_ends_in_time(timeout: Any, runtime: Runtime) -> None:
    with StandInServer(Options(faults=(Fault("hang"),))) as server:
        async with asyncio.timeout(10):
            error = await failed(
                runtime,
                lambda: kitaru.llm("tides", model="openai/m", base_url=server.base_url, timeout=timeout, retry=1),
            )
    assert isinstance(error, ModelConnectionError)
    assert error.sent
    assert [attempt.possibly_billed for attempt in attempts_of(error)] == [True]


@pytest.mark.parametrize(
    ("retry", "attempts"),
    [(1, 1), (QUICK, 3), (kitaru.Retry(attempts=2, initial=0.001), 2), ({"attempts": 2, "initial": 0.001}, 2)],
)
async def test_retry_is_a_number_a_mapping_or_a_retry(retry: Any, attempts: int, runtime: Runtime) -> None:
    with StandInServer(Options(faults=(Fault("500"),))) as server:
        error = await failed(
            runtime, lambda: kitaru.llm("tides", model="openai/m", base_url=server.base_url, retry=retry)
        )
        assert server.counts.total == attempts
    assert len(attempts_of(error)) == attempts


# -- where a call goes ------------------------------------------------------------------------------------------------


def nowhere() -> str:
    """The address of a port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


@pytest.mark.parametrize(
    "spelling",
    [
        "127.0.0.1:{port}",
        "http://127.0.0.1:{port}",
        "http://127.0.0.1:{port}/",
        "0.0.0.0:{port}",
        ":{port}",
        "localhost:{port}",
        " '127.0.0.1:{port}' ",
        "http://127.0.0.1:{port}/at/ollama",
    ],
)
async def test_ollama_is_found_by_its_host_in_any_spelling(
    spelling: str, runtime: Runtime, standin: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", spelling.format(port=standin.url.rpartition(":")[2]))
    assert await asked(runtime, lambda: kitaru.llm("tides", model="ollama/llama3.2:1b"))
    assert standin.counts.providers == {"ollama": 1}
    done = await record(runtime)
    assert (done.credential, done.cost, done.cost_source) == ("none", "0", "free")


async def test_a_default_provider_makes_a_bare_name_whole(
    runtime: Runtime, standin: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", standin.url)
    with pytest.raises(UsageError, match=r"ollama/llama3\.2:1b"):
        await asked(runtime, lambda: kitaru.llm("tides", model="llama3.2:1b"))
    monkeypatch.setenv("KITARU_DEFAULT_PROVIDER", "ollama")
    assert await kitaru.llm("tides", model="llama3.2:1b")
    assert body(standin)["model"] == "llama3.2:1b"


@pytest.mark.parametrize("by", ["argument", "alias", "environment"])
async def test_an_address_comes_from_the_argument_the_alias_or_the_environment(
    by: str, runtime: Runtime, standin: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = ("argument", "alias", "environment")
    here = {way: standin.address(way) for way in ways[ways.index(by) :]}
    alias = {"model": "openai/m", **({"base_url": here["alias"]} if "alias" in here else {})}
    monkeypatch.setenv("KITARU_MODEL_REGISTRY", json.dumps({"aliases": {"fast": alias}, "default": "fast"}))
    monkeypatch.setenv("OPENAI_BASE_URL", here["environment"])
    assert await asked(runtime, lambda: kitaru.llm("tides", base_url=here.get("argument")))
    assert standin.counts.providers == {by: 1}


async def test_an_openai_address_at_azure_is_azures(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = b'{"model":"m","choices":[{"message":{"content":"hello"},"finish_reason":"stop"}],"usage":{}}'
    url = "http://mine.openai.azure.com/openai/v1/chat/completions"
    with CannedServer({url: Canned(200, answer)}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("OPENAI_BASE_URL", "http://mine.openai.azure.com")
        monkeypatch.setenv("AZURE_OPENAI_KEY", KEY)
        assert await asked(runtime, lambda: kitaru.llm("tides", model="openai/m")) == "hello"
    ((_, path, _, headers),) = proxy.asked
    assert (path, headers["api-key"], "authorization" in headers) == (url, KEY, False)
    assert (await record(runtime)).provider == "azure"


# -- a gateway --------------------------------------------------------------------------------------------------------


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch, standin: StandInServer) -> StandInServer:
    """The alias `fast`, which goes straight to its model there."""
    alias = {"model": "openai/gpt-4.1", "base_url": standin.address("direct")}
    monkeypatch.setenv("KITARU_MODEL_REGISTRY", json.dumps({"aliases": {"fast": alias}, "default": "fast"}))
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-environment")
    return standin


async def test_every_call_goes_through_the_gateway_with_its_alias_and_the_gateways_key(
    runtime: Runtime, fast: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KITARU_GATEWAY_URL", fast.address("gateway"))
    monkeypatch.setenv("KITARU_GATEWAY_KEY", KEY)

    async def asks() -> None:
        await kitaru.llm("tides", model="fast", name="alias")
        await kitaru.llm("tides", model="anthropic/claude-sonnet-4-5", name="full")

    await run_of(runtime, asks)
    assert fast.counts.providers == {"gateway": 2}
    assert [body(fast, at)["model"] for at in (0, 1)] == ["fast", "anthropic/claude-sonnet-4-5"]
    assert {seen.credential for seen in fast.requests} == {hashlib.sha256(KEY.encode()).hexdigest()}
    assert [done.llm.via for done in await of_type(runtime, "r", LlmCompleted)] == ["gateway", "gateway"]


async def test_a_gateway_that_cannot_be_reached_is_gone_round_where_that_is_allowed_and_recorded(
    runtime: Runtime, fast: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KITARU_GATEWAY_URL", nowhere())
    monkeypatch.setenv("KITARU_GATEWAY_FALLBACK", "direct")
    assert await asked(runtime, lambda: kitaru.llm("tides", retry=1))
    assert fast.counts.providers == {"direct": 1}
    assert body(fast)["model"] == "gpt-4.1"
    done = await record(runtime)
    assert done.via == "direct: the gateway could not be reached"
    assert [attempt.status for attempt in done.attempts] == [0, 200]


async def test_else_it_is_an_error(runtime: Runtime, fast: StandInServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITARU_GATEWAY_URL", nowhere())
    error = await failed(runtime, lambda: kitaru.llm("tides", retry=1))
    assert isinstance(error, ModelConnectionError)
    assert fast.counts.total == 0


async def test_a_gateway_that_got_the_request_is_not_gone_round(
    runtime: Runtime, fast: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been answered, and paid for."""
    with StandInServer(Options(faults=(Fault("drop"),))) as broken:
        monkeypatch.setenv("KITARU_GATEWAY_URL", broken.base_url)
        monkeypatch.setenv("KITARU_GATEWAY_FALLBACK", "direct")
        error = await failed(runtime, lambda: kitaru.llm("tides", retry=1))
    assert isinstance(error, ModelConnectionError)
    assert fast.counts.total == 0


# -- the echo ---------------------------------------------------------------------------------------------------------


async def test_the_echo_answers_without_network_and_key(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", cut_off)
    monkeypatch.setattr(socket, "getaddrinfo", cut_off)
    assert await asked(runtime, lambda: kitaru.llm("high tide", model="test/echo")) == "high tide"
    done = await record(runtime)
    assert (done.credential, done.cost, done.usage.output) == ("none", "0", 2)
