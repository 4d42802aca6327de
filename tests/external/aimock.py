"""`@copilotkit/aimock`: every provider that it answers for, calm and in trouble."""

from __future__ import annotations

import functools
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from kitaru import Runtime
from kitaru.adapters import Tool, Transport, provider, split_model
from kitaru.errors import AnswerError, CredentialError, ModelConnectionError, ProviderError
from tests.external.aimock_fixtures import ANSWER, fixtures
from tests.external.asking import City, Failed, Flows, streamed
from tests.external.checks import Checks, same, true
from tests.external.servers import Server, tool

KEY: Final = "key-of-the-test"

WEATHER: Final = Tool(
    "get_weather", "The weather of a city.", {"type": "object", "properties": {"city": {"type": "string"}}}
)


class Target(NamedTuple):
    """A provider, and where the server answers for it.

    Args:
        label: Its name in the table, unlike any other's.
        model: What is asked for.
        base: What follows the server's address.
        bare: The server leaves these out for it: usage, reason to stop, thinking of the fixture.
        numbered: Its tool calls have ids.
    """

    label: str
    model: str
    base: str
    bare: bool = False
    numbered: bool = True


TARGETS: Final = (
    Target("openai", "openai/gpt-4o", "/v1"),
    Target("openai-responses", "openai-responses/gpt-4o", "/v1"),
    Target("anthropic", "anthropic/claude-sonnet-4-5", ""),
    Target("google", "google/gemini-2.5-flash", "/v1beta", numbered=False),
    Target("cohere", "cohere/command-a-03-2025", "", bare=True),
    Target("ollama", "ollama/llama3.2:1b", "", bare=True, numbered=False),
    Target("azure dated", "azure/my-deployment", "?api-version=2024-10-21"),
    Target("azure v1", "azure/my-deployment", "/openai/v1"),
    Target("openrouter", "openrouter/openai/gpt-4o", "/api/v1"),
    Target("openai-compatible", "openai-compatible/org/model", "/v1"),
    Target("mistral", "mistral/mistral-small-latest", "/v1"),
    Target("groq", "groq/llama-3.3-70b-versatile", "/v1"),
    Target("together", "together/org/model", "/v1"),
    Target("deepseek", "deepseek/deepseek-chat", "/v1"),
    Target("perplexity", "perplexity/sonar", "/v1"),
)


class On:
    """The checks of one provider."""

    def __init__(self, target: Target, server: Server, flows: Flows, transport: Transport) -> None:
        self._target = target
        self._server = server
        self._flows = flows
        self._transport = transport
        self._row = provider(split_model(target.model)[0])
        self._where: dict[str, Any] = {"model": target.model, "base_url": server.url + target.base, "api_key": KEY}
        self._stream = functools.partial(streamed, transport, target.model, base_url=server.url + target.base, key=KEY)

    def all(self) -> list[tuple[str, Callable[[], Awaitable[str | None]]]]:
        """Every check with its name."""
        found: list[tuple[str, Callable[[], Awaitable[str | None]]]] = [
            ("plain", self.plain),
            ("what the server read in the request", self.understood),
            ("stream", self.stream),
            ("tools, and the turn with their results", self.tools),
            ("tools in a stream", self.tools_streamed),
            ("typed answer", self.typed),
            ("typed answer mended", self.mended),
            ("429, Retry-After obeyed", self.busy),
            ("429 as a stream is asked for", self.busy_stream),
            ("body that is no JSON", self.malformed),
            ("500", self.dropped),
            ("disconnect", self.disconnected),
            ("disconnect, then an answer", self.reconnected),
            ("stream cut short", self.cut),
            ("stream cut short, then whole", self.cut_once),
            ("unknown model", self.unmatched),
            ("wrong key", self.wrong_key),
            ("key in no error", self.no_echo),
        ]
        if self._row.stream_over is not None:
            found.insert(3, ("stream underneath a plain call", self.underneath))
        if not self._target.bare:
            found += [("length, usage", self.length), ("filter", self.filtered), ("thinking", self.thinking)]
        return found

    def _says(self, what: str) -> str:
        return f"{what} [{self._target.label}]"

    async def plain(self) -> str:
        got = await self._flows.reply(self._says("plain"), **self._where)
        same(got.value.text, ANSWER, "text")
        same((got.value.finish, got.record.finish), ("stop", "stop"), "finish")
        same([one.status for one in got.record.attempts], [200], "attempts")
        same(got.record.model, self._target.model, "model")
        same((got.record.credential, got.record.streamed), ("argument", False), "record")
        text = await self._flows.text(self._says("plain"), **self._where)
        same(text.value, ANSWER, "text of kitaru.llm")
        return f"answered by {got.record.answered_by}, request {got.record.request_id or '–'}"

    async def understood(self) -> str:
        prompt = self._says("weather of")
        options = {"system": "Be brief.", "temperature": 0.3, "max_tokens": 77, "tools": [_weather]}
        first = (await self._flows.reply(prompt, **options, **self._where)).value
        results = [one.result("sunny" if one.parsed()["city"] == "Paris" else "rainy") for one in first.tool_calls]
        talk = [{"role": "user", "content": prompt}, first.message, *results]
        await self._flows.reply(talk, **options, **self._where)
        body = await self._journal(prompt)
        roles = [role for role, _ in itertools.groupby(one["role"] for one in body["messages"])]
        same(roles, ["system", "user", "assistant", "tool"], "roles")
        system, told = body["messages"][0], [one for one in body["messages"] if one["role"] == "tool"]
        asked = [call for one in body["messages"] for call in one.get("tool_calls") or ()]
        same(_text(system), "Be brief.", "system")
        same([_result(one) for one in told], ["sunny", "rainy"], "results")
        same([one["function"]["name"] for one in asked], ["get_weather"] * 2, "calls")
        cities = [json.loads(one["function"]["arguments"])["city"] for one in asked]
        same(cities, ["Paris", "Rome"], "arguments")
        if self._target.numbered:
            ids = [one["id"] for one in asked]
            same([one.get("tool_call_id") for one in told], ids, "ids of the results")
            same(len(set(ids)), 2, "different ids")
        same([one["function"]["name"] for one in body["tools"]], ["get_weather"], "tools")
        # Of google's request the server reads `parameters`, and not the `parametersJsonSchema` that is sent.
        schema = body["tools"][0]["function"].get("parameters")
        true(schema or self._target.label == "google", "no schema")
        if schema:
            same(schema["properties"]["city"]["type"], "string", "schema")
        read = {name: body[name] for name in ("temperature", "max_tokens", "max_completion_tokens") if name in body}
        return f"it read {read}"

    async def stream(self) -> str:
        got = await self._stream(self._says("plain"))
        same(got.sent.reply.text, ANSWER, "text")
        same(got.joined("text"), ANSWER, "pieces")
        true(got.sent.streamed, "did not stream")
        same(got.sent.reply.finish, "stop", "finish")
        true(got.sent.first_token is not None, "no time of the first piece")
        return f"{len(got.deltas)} pieces"

    async def underneath(self) -> None:
        over = self._row.stream_over or 0
        got = await self._flows.reply(self._says("plain"), max_tokens=over + 1, **self._where)
        same(got.value.text, ANSWER, "text")
        true(got.record.streamed, "did not stream underneath")
        true(got.record.first_token is not None, "no time of the first piece")

    async def tools(self) -> str:
        prompt = self._says("weather of")
        first = (await self._flows.reply(prompt, tools=[_weather], **self._where)).value
        same(first.finish, "tool_calls", "finish")
        same([one.parsed() for one in first.tool_calls], [{"city": "Paris"}, {"city": "Rome"}], "arguments")
        same(len({one.id for one in first.tool_calls}), 2, "different ids")
        results = [one.result({"weather": "sunny"}) for one in first.tool_calls]
        talk = [{"role": "user", "content": prompt}, first.message, *results]
        second = (await self._flows.reply(talk, tools=[_weather], **self._where)).value
        same((second.text, second.finish), ("Sunny in both.", "stop"), "second turn")
        return f"ids like {first.tool_calls[0].id}"

    async def tools_streamed(self) -> str:
        got = await self._stream(self._says("weather of"), tools=(WEATHER,))
        reply = got.sent.reply
        same(reply.finish, "tool_calls", "finish")
        same([(one.name, one.arguments) for one in reply.tool_calls],
             [("get_weather", '{"city":"Paris"}'), ("get_weather", '{"city":"Rome"}')], "calls")  # fmt: skip
        for at, call in enumerate(reply.tool_calls):
            pieces = [one for one in got.deltas if one.kind == "tool_call" and one.index == at]
            same("".join(one.text for one in pieces), call.arguments, "pieces of the arguments")
            same((pieces[0].id, pieces[0].name), (call.id, call.name), "first piece")
        return f"{len(got.deltas)} pieces"

    async def typed(self) -> str:
        got = await self._flows.text(self._says("typed"), response_type=City, **self._where)
        same(got.value, City("Paris", 3), "value")
        return f"by {got.record.json_mode}"

    async def mended(self) -> str:
        prompt = "Give a city."
        got = await self._flows.text(prompt, system=self._says("mend"), response_type=City, **self._where)
        same(got.value, City("Paris", 3), "value")
        same([bool(one.error) for one in got.record.attempts], [True, False], "attempts in error")
        return got.record.attempts[0].error

    async def busy(self) -> str:
        got = await self._flows.text(self._says("busy"), retry=2, **self._where)
        same(got.value, ANSWER, "text")
        first, second = got.record.attempts
        same((first.status, second.status), (429, 200), "statuses")
        waited = second.started - first.started - first.seconds
        true(0.999 <= waited < 1.6, f"waited {waited:.3f} s for Retry-After: 1")
        true(not first.possibly_billed, "a refused attempt counts as billed")
        return f"waited {waited:.2f} s: {first.error}"

    async def busy_stream(self) -> str:
        got = await self._stream(self._says("occupied"), attempts=2)
        same(got.sent.reply.text, ANSWER, "text")
        same(got.joined("text"), ANSWER, "pieces")
        first, second = got.sent.attempts
        waited = second.started - first.started - first.seconds
        true(0.999 <= waited < 1.6, f"waited {waited:.3f} s for Retry-After: 1")
        return f"waited {waited:.2f} s"

    async def malformed(self) -> str:
        failed = await self._in_trouble("Malformed")
        error = _provider_error(failed)
        same((error.status, error.reason), (200, "invalid"), "status and reason")
        same([one.possibly_billed for one in failed.attempts], [True] * len(failed.attempts), "possibly billed")
        true(error.request_id, "no request id")
        return f"{len(failed.attempts)} attempts: {error.message}"

    async def dropped(self) -> str:
        begun = time.monotonic()
        failed = await self._in_trouble("Drop", retry={"attempts": 2, "initial": 0.1})
        error = _provider_error(failed)
        same((error.status, error.retryable, len(failed.attempts)), (500, True, 2), "status, retryable, attempts")
        true(time.monotonic() - begun < 3, "took long")
        return error.message

    async def disconnected(self) -> str:
        failed = await self._in_trouble("Disconnect", retry=1)
        true(isinstance(failed.error, ModelConnectionError), f"{failed.error!r}")
        same([one.possibly_billed for one in failed.attempts], [True], "possibly billed")
        return failed.error.message

    async def reconnected(self) -> str:
        got = await self._flows.text(self._says("flaky"), retry={"attempts": 3, "initial": 0.1}, **self._where)
        same(got.value, ANSWER, "text")
        same([one.status for one in got.record.attempts], [0, 200], "statuses")
        return got.record.attempts[0].error

    async def cut(self) -> str:
        try:
            got = await self._stream(self._says("cut"))
        except ModelConnectionError as error:
            same(error.sent, True, "sent")
            return error.message
        raise AssertionError(f"an answer: {got.sent.reply.text!r}, {got.sent.reply.finish}")

    async def cut_once(self) -> str:
        got = await self._stream(self._says("torn"), attempts=2)
        same(got.sent.reply.text, ANSWER, "text")
        same(got.joined("text"), ANSWER, "pieces after the restart")
        first, second = got.sent.attempts
        same((first.status, first.possibly_billed, second.status), (200, True, 200), "attempts")
        return first.error

    async def unmatched(self) -> str:
        error = _provider_error(await self._flows.failure(self._says("nothing fits"), **self._where))
        same((error.status, error.reason, error.retryable), (404, "not_found", False), "status, reason, retryable")
        return error.message

    async def wrong_key(self) -> str:
        options = {**self._where, "api_key": "another-key-of-the-test"}
        failed = await self._flows.failure(self._says("plain"), **options)
        true(isinstance(failed.error, CredentialError), f"{failed.error!r}")
        same(len(failed.attempts), 1, "attempts")
        return failed.error.message

    async def no_echo(self) -> str:
        failed = await self._flows.failure(self._says("echo"), **self._where)
        said = f"{failed.error!r} {failed.error} {failed.error.hint} {failed.attempts}"
        true(KEY not in said, f"the key is in {said}")
        return failed.error.message

    async def length(self) -> str:
        got = await self._flows.reply(self._says("long"), **self._where)
        # A response's `incomplete` lacks its `incomplete_details` here, which alone tell why.
        wanted = "other" if self._target.label == "openai-responses" else "length"
        same(got.value.finish, wanted, "finish")
        usage = got.record.usage
        same((usage.input, usage.output), (11, 7), "usage")
        told = await self._stream(self._says("long"))
        same(told.sent.reply.finish, wanted, "finish of the stream")
        stream = told.sent.reply.usage
        return f"of the stream: finish {told.sent.reply.finish}, usage {stream.input}, {stream.output}"

    async def filtered(self) -> str:
        failed = await self._flows.failure(self._says("filter"), **self._where)
        # A response that is `failed` has no `error` here.
        wanted = ProviderError if self._target.label == "openai-responses" else AnswerError
        true(type(failed.error) is wanted, f"{failed.error!r}")
        return f"{type(failed.error).__name__}: {failed.error.message}"

    async def thinking(self) -> str:
        got = await self._flows.reply(self._says("think"), **self._where)
        same((got.value.text, got.value.reasoning), (ANSWER, "Let me think of the moon."), "text and thinking")
        told = await self._stream(self._says("think"))
        same(told.sent.reply.reasoning, "Let me think of the moon.", "thinking of the stream")
        same(told.joined("reasoning"), "Let me think of the moon.", "pieces of thinking")
        return ""

    async def _in_trouble(self, what: str, **options: Any) -> Failed:
        headers = {f"X-AIMock-Chaos-{what}": "1"}
        return await self._flows.failure(
            self._says("plain"),
            headers=headers,
            **{"retry": {"attempts": 2, "initial": 0.05}, **options},
            **self._where,
        )

    async def _journal(self, prompt: str) -> dict[str, Any]:
        """The last request with this prompt, as the server translated it."""
        async with httpx.AsyncClient(trust_env=False) as client:
            listed = (await client.get(f"{self._server.url}/__aimock/journal", headers={"x-api-key": KEY})).json()
        found = [one["body"] for one in listed if prompt in json.dumps(one.get("body"))]
        true(found, "the request is not in the journal")
        body: dict[str, Any] = found[-1]
        return body


async def refusals(checks: Checks, server: Server, flows: Flows) -> None:
    """Errors in one provider's own words, told from each other."""
    openai: dict[str, Any] = {"model": "openai/gpt-4o", "base_url": f"{server.url}/v1", "api_key": KEY}
    anthropic: dict[str, Any] = {"model": "anthropic/claude-sonnet-4-5", "base_url": server.url, "api_key": KEY}

    async def quota() -> str:
        failed = await flows.failure("error quota", **openai)
        same((_provider_error(failed).reason, len(failed.attempts)), ("quota", 1), "reason and attempts")
        return failed.error.message

    async def overflow() -> str:
        failed = await flows.failure("error context", **openai)
        same((_provider_error(failed).reason, len(failed.attempts)), ("context", 1), "reason and attempts")
        return failed.error.message

    async def temperature() -> str:
        got = await flows.text("error temperature", temperature=0.2, **openai)
        same(got.value, ANSWER, "text")
        same([one.status for one in got.record.attempts], [400, 200], "statuses")
        same(len(got.record.warnings), 1, "warnings")
        told = got.record.warnings[0]
        got = await flows.text("plain", temperature=0.2, **openai)
        same([one.status for one in got.record.attempts], [200], "statuses of the next call")
        return told

    async def overloaded() -> str:
        failed = await flows.failure("error overloaded", retry=1, **anthropic)
        same((_provider_error(failed).reason, failed.error.retryable), ("overloaded", True), "reason")  # type: ignore[attr-defined] # looked at the line before
        return failed.error.message

    async def fallback() -> str:
        got = await flows.text("error overloaded", retry=1, fallbacks=["test/echo"], **anthropic)
        same(got.record.trail, (("anthropic/claude-sonnet-4-5", "overloaded"),), "trail")
        return f"answered by {got.record.model}"

    for what, work in (
        ("quota is not tried again", quota),
        ("prompt too long", overflow),
        ("temperature refused, left out", temperature),
    ):
        await checks.check("openai", what, work)
    await checks.check("anthropic", "overloaded", overloaded)
    await checks.check("anthropic", "fallback where overloaded", fallback)


async def run(checks: Checks, folder: Path) -> None:
    """All checks against a server of its own."""
    program = tool("EXTERNAL_AIMOCK", "npm i --ignore-scripts @copilotkit/aimock; node_modules/.bin/llmock")
    (folder / "fixtures").mkdir()
    (folder / "fixtures" / "all.json").write_text(json.dumps(fixtures([one.label for one in TARGETS])))
    command = [program, "-p", "{port}", "-f", str(folder / "fixtures"), "-c", "7", "--validate-on-load"]
    url = f"sqlite:///{folder}/aimock.db"
    server = Server(command, ready="/health", log=folder / "aimock.log", environ={"AIMOCK_API_KEYS": KEY})
    async with server, Runtime(url, recover=False) as runtime, Transport() as transport:
        flows = Flows(runtime)
        for target in TARGETS:
            on = On(target, server, flows, transport)
            for what, work in on.all():
                await checks.check(target.label, what, work)
        await refusals(checks, server, flows)


def _weather(city: str) -> str:
    """The weather of a city."""
    return city


_weather.__name__ = "get_weather"


def _provider_error(failed: Failed) -> ProviderError:
    assert isinstance(failed.error, ProviderError), f"{failed.error!r}"
    return failed.error


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _result(message: dict[str, Any]) -> str:
    """A tool's result; google's is an object."""
    said = _text(message)
    return str(json.loads(said)["output"]) if said.startswith("{") else said
