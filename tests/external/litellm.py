"""A LiteLLM proxy: its configuration imported, calls through it, and what happens when it is away."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from kitaru import Runtime
from kitaru.adapters import Transport
from kitaru.adapters.standin import Fault, Options, Rule, StandInServer
from kitaru.errors import CredentialError, ModelConnectionError, ProviderError
from tests.external.asking import City, Failed, Flows, streamed
from tests.external.checks import Checks, same, true
from tests.external.servers import Server, tool

MASTER: Final = "sk-of-the-test"
UPSTREAM: Final = "key-of-the-upstream"
ANSWER: Final = "Tides come from the moon."

# The shape of LiteLLM's quick start, with models that it mocks itself.
CONFIG: Final = f"""
model_list:
  - model_name: fast
    litellm_params:
      model: openai/gpt-4o-mini
      api_base: os.environ/UPSTREAM_URL
      api_key: os.environ/UPSTREAM_KEY
  - model_name: openai/*
    litellm_params:
      model: openai/*
      api_base: os.environ/UPSTREAM_URL
      api_key: os.environ/UPSTREAM_KEY
  - model_name: canned
    litellm_params: {{model: openai/gpt-4o-mini, api_key: none, mock_response: "{ANSWER}"}}
  - model_name: unpriced
    litellm_params: {{model: openai/nobody-lists-this, api_key: none, mock_response: "{ANSWER}"}}
  - model_name: tooled
    litellm_params:
      model: openai/gpt-4o-mini
      api_key: none
      mock_tool_calls:
        - {{id: call_1, type: function, function: {{name: get_weather, arguments: '{{"city": "Paris"}}'}}}}
  - model_name: busy
    litellm_params: {{model: openai/gpt-4o-mini, api_key: none, mock_response: litellm.RateLimitError}}
  - model_name: broken
    litellm_params: {{model: openai/gpt-4o-mini, api_key: none, mock_response: litellm.InternalServerError}}
  - model_name: narrow
    litellm_params: {{model: openai/gpt-4o-mini, api_key: none, mock_response: litellm.ContextWindowExceededError}}
  - model_name: locked
    litellm_params:
      model: anthropic/claude-sonnet-4-5
      api_base: os.environ/LOCKED_URL
      api_key: key-that-is-refused

litellm_settings:
  num_retries: 0
  drop_params: true

router_settings:
  num_retries: 0

general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
"""


class Proxy:
    """The checks while the proxy runs, and after."""

    def __init__(
        self,
        server: Server,
        upstream: StandInServer,
        locked: StandInServer,
        flows: Flows,
        transport: Transport,
        folder: Path,
    ) -> None:
        self._server = server
        self._upstream = upstream
        self._locked = locked
        self._flows = flows
        self._transport = transport
        self._config = folder / "litellm_config.yaml"
        self._base = f"{server.url}/v1"

    # -- the command line ---------------------------------------------------------------------------------------------

    async def imported(self) -> str:
        done = _kitaru(
            "model", "import", str(self._config), UPSTREAM_URL=self._upstream.base_url, LOCKED_URL=self._locked.url
        )
        same(done.returncode, 0, f"exit code ({done.stderr})")
        listed = json.loads(_kitaru("model", "list", "--json").stdout)
        names = (
            {one["name"] for one in listed["aliases"]} if isinstance(listed, dict) else {one["name"] for one in listed}
        )
        missing = {"fast", "canned", "tooled", "busy", "broken", "narrow"} - names
        true(not missing, f"{missing} are not in the registry: {sorted(names)}")
        true("openai/*" in done.stdout, "the wildcard is not listed as left out")
        return " / ".join(one.strip() for one in done.stdout.splitlines() if one.strip())[:400]

    async def checked_unnamed(self) -> str:
        with self._gateway():
            done = _kitaru("model", "check", "--gateway")
        same(done.returncode, 0, f"exit code ({done.stdout}{done.stderr})")
        return done.stdout.strip()

    async def checked(self) -> str:
        with self._gateway():
            named = _kitaru("model", "check", "canned", "--gateway")
            same(named.returncode, 0, f"exit code ({named.stdout}{named.stderr})")
        return named.stdout.strip()

    async def checked_wrong_key(self) -> str:
        with self._gateway(key="sk-another-of-the-test"):
            return _told(_kitaru("model", "check", "--json", "--gateway"), 4, "gateway_key")

    async def checked_without_key(self) -> str:
        with self._gateway(key=""):
            return _told(_kitaru("model", "check", "--json", "--gateway"), 4, "gateway_key")

    async def checked_unknown(self) -> str:
        with self._gateway():
            return _told(_kitaru("model", "check", "--json", "anthropic/not-there", "--gateway"), 1, "model")

    async def checked_upstream_key(self) -> str:
        with self._gateway():
            return _told(_kitaru("model", "check", "--json", "locked", "--gateway"), 1, "upstream_key")

    async def checked_away(self) -> str:
        with self._gateway():
            return _told(_kitaru("model", "check", "--json", "--gateway"), 1, "refused")

    # -- calls --------------------------------------------------------------------------------------------------------

    async def alias(self) -> str:
        self._upstream.reset()
        with self._gateway():
            got = await self._flows.reply("what are tides", model="fast", temperature=0.2)
        record = got.record
        same(
            (record.via, record.alias, record.provider),
            ("gateway", "fast", "openai-compatible"),
            "via, alias, provider",
        )
        same(record.credential, "environment", "credential")
        (seen,) = self._upstream.requests
        body: Any = seen.body
        same((body["model"], body["temperature"]), ("gpt-4o-mini", 0.2), "what the upstream got")
        same(record.cost_source, "provider", "source of the cost")
        usage = record.usage
        wanted = (Decimal("0.15") * (usage.input or 0) + Decimal("0.60") * (usage.output or 0)) / 1_000_000
        same(Decimal(record.cost), wanted, "cost")
        true(record.request_id, "no request id")
        return f"{record.cost} USD, answered by {record.answered_by}, request {record.request_id}"

    async def full_name(self) -> str:
        self._upstream.reset()
        with self._gateway():
            got = await self._flows.text("what are tides", model="openai/gpt-4o")
        (seen,) = self._upstream.requests
        body: Any = seen.body
        same((got.record.via, body["model"]), ("gateway", "gpt-4o"), "via and model")
        return got.record.answered_by

    async def key_stays(self) -> None:
        self._upstream.reset()
        with self._gateway(), _environ(OPENAI_API_KEY="openai-key-of-the-test"):
            got = await self._flows.text("what are tides", model="canned")
        same(got.value, ANSWER, "text")
        same(got.record.credential, "environment", "credential")

    async def unpriced(self) -> str:
        with self._gateway():
            got = await self._flows.text("what are tides", model="unpriced")
        same((got.record.cost, got.record.cost_source), ("", ""), "cost where nobody knows one")
        return ""

    async def typed(self) -> str:
        with self._gateway():
            got = await self._flows.text("a city", model="fast", response_type=City)
        true(isinstance(got.value, City), f"{got.value!r}")
        return f"by {got.record.json_mode}"

    async def tools(self) -> str:
        with self._gateway():
            prompt = "the weather of Paris"
            first = (await self._flows.reply(prompt, model="fast", tools=[get_weather])).value
            same((first.finish, len(first.tool_calls)), ("tool_calls", 1), "finish and calls")
            talk = [{"role": "user", "content": prompt}, first.message, first.tool_calls[0].result("sunny")]
            second = (await self._flows.reply(talk, model="fast", tools=[get_weather])).value
        same(second.finish, "stop", "finish of the second turn")
        true("sunny" in second.text, f"the result is not in {second.text!r}")
        return f"{first.tool_calls[0].parsed()}, ids like {first.tool_calls[0].id}"

    async def mocked_tools(self) -> None:
        with self._gateway():
            reply = (await self._flows.reply("the weather", model="tooled", tools=[get_weather])).value
        same(reply.finish, "tool_calls", "finish, where the proxy says stop")
        same([(one.id, one.parsed()) for one in reply.tool_calls], [("call_1", {"city": "Paris"})], "calls")

    async def stream(self) -> str:
        got = await streamed(self._transport, "openai-compatible/canned", "tides", self._base, MASTER)
        same((got.sent.reply.text, got.joined("text"), got.sent.reply.finish), (ANSWER, ANSWER, "stop"), "answer")
        usage = got.sent.reply.usage
        true(usage.input and usage.output, "no usage")
        same(got.sent.reply.stated_cost, "", "cost at the head of a stream")
        return f"{len(got.deltas)} pieces, usage {usage.input}, {usage.output}"

    async def upstream_stream(self) -> str:
        got = await streamed(self._transport, "openai-compatible/fast", "tides", self._base, MASTER)
        true(got.sent.reply.text and got.joined("text") == got.sent.reply.text, "pieces are not the text")
        usage = got.sent.reply.usage
        true(usage.input and usage.output, "no usage")
        return f"{len(got.deltas)} pieces, usage {usage.input}, {usage.output}"

    async def messages_api(self) -> str:
        return await self._other_api("anthropic/fast", self._server.url)

    async def responses_api(self) -> str:
        return await self._other_api("openai-responses/fast", self._base)

    async def _other_api(self, model: str, base_url: str) -> str:
        # Its own mocks are no streams there.
        got = await self._flows.reply("tides", model=model, base_url=base_url, api_key=MASTER)
        same(got.value.finish, "stop", "finish")
        true(got.value.text, "no text")
        told = await streamed(self._transport, model, "tides", base_url, MASTER)
        same(told.sent.reply.finish, "stop", "finish of the stream")
        same(told.joined("text"), told.sent.reply.text, "pieces")
        true(told.sent.streamed and len(told.deltas) > 1, "did not stream")
        return f"{len(told.deltas)} pieces, usage {got.record.usage.input}, {got.record.usage.output}"

    # -- errors -------------------------------------------------------------------------------------------------------

    async def busy(self) -> str:
        return await self._refused("busy", 429, "rate_limit", tries=2)

    async def broken(self) -> str:
        return await self._refused("broken", 500, "overloaded", tries=2)

    async def narrow(self) -> str:
        return await self._refused("narrow", 400, "context", tries=1)

    async def unknown(self) -> str:
        return await self._refused("anthropic/not-there", 400, "other", tries=1)

    async def fallback(self) -> str:
        with self._gateway():
            got = await self._flows.text("tides", model="narrow", fallbacks=["canned"])
        same((got.value, got.record.alias), (ANSWER, "canned"), "answer and alias")
        return f"trail {got.record.trail}"

    async def upstream_key(self) -> str:
        failed = await self._failure("locked")
        true(isinstance(failed.error, CredentialError), f"{failed.error!r}")
        true("configuration" in str(failed.error.hint), f"hint {failed.error.hint}")
        return f"{failed.error.message} / {failed.error.hint}"

    async def wrong_master_key(self) -> str:
        failed = await self._failure("canned", key="sk-another-of-the-test")
        true(isinstance(failed.error, CredentialError), f"{failed.error!r}")
        true("KITARU_GATEWAY_KEY" in str(failed.error.hint), f"hint {failed.error.hint}")
        true("another-of-the-test" not in str(failed.error), "the key is in the error")
        return f"{failed.error.message} / {failed.error.hint}"

    async def no_master_key(self) -> str:
        failed = await self._failure("canned", key="")
        true(isinstance(failed.error, CredentialError), f"{failed.error!r}")
        return f"{failed.error.message} / {failed.error.hint}"

    # -- after it was stopped -----------------------------------------------------------------------------------------

    async def away(self) -> str:
        failed = await self._failure("fast")
        error = failed.error
        true(isinstance(error, ModelConnectionError) and not error.sent, f"{error!r}")
        true("gateway" in error.message and "KITARU_GATEWAY_URL" in str(error.hint), f"{error}")
        same([one.possibly_billed for one in failed.attempts], [False] * len(failed.attempts), "possibly billed")
        return f"{error.message} / {error.hint}"

    async def direct_without_key(self) -> str:
        with _environ(KITARU_GATEWAY_FALLBACK="direct"):
            failed = await self._failure("fast")
        true(isinstance(failed.error, CredentialError), f"{failed.error!r}")
        true("direct" in "".join(failed.error.__notes__), "it does not say that it went direct")
        return failed.error.message

    async def direct(self) -> str:
        # As the import says: the key of its entry, which LiteLLM reads from the environment, is a secret here.
        kept = _kitaru("secrets", "set", "upstream-key", f"--UPSTREAM_KEY={UPSTREAM}")
        same(kept.returncode, 0, f"exit code ({kept.stderr})")
        self._upstream.reset()
        with self._gateway(), _environ(KITARU_GATEWAY_FALLBACK="direct"):
            got = await self._flows.text("what are tides", model="fast", retry=1)
        record = got.record
        true(record.via.startswith("direct"), f"via {record.via!r}")
        same((record.alias, record.credential), ("fast", "secret"), "alias and credential")
        same([one.status for one in record.attempts], [0, 200], "attempts")
        (seen,) = self._upstream.requests
        same(seen.credential, hashlib.sha256(UPSTREAM.encode()).hexdigest(), "digest of the key that was sent")
        return f"via {record.via!r}"

    async def _refused(self, model: str, status: int, reason: str, *, tries: int) -> str:
        failed = await self._failure(model)
        error = failed.error
        assert isinstance(error, ProviderError), f"{error!r}"
        same((error.status, error.reason, len(failed.attempts)), (status, reason, tries), "status, reason, attempts")
        return error.message

    async def _failure(self, model: str, key: str = MASTER) -> Failed:
        with self._gateway(key=key):
            return await self._flows.failure("tides", model=model, retry={"attempts": 2, "initial": 0.05})

    @contextlib.contextmanager
    def _gateway(self, key: str = MASTER) -> Iterator[None]:
        with _environ(KITARU_GATEWAY_URL=self._base, KITARU_GATEWAY_KEY=key):
            yield


async def run(checks: Checks, folder: Path) -> None:
    """All checks against a proxy of its own, with the stand-in server behind it."""
    program = tool("EXTERNAL_LITELLM", "python -m venv DIR; DIR/bin/pip install 'litellm[proxy]'; DIR/bin/litellm")
    rule = Rule("weather", tool="get_weather", arguments={"city": "Paris"})
    config = folder / "litellm_config.yaml"
    config.write_text(CONFIG)
    with (
        StandInServer(Options(rules=(rule,))) as upstream,
        StandInServer(Options(faults=(Fault("echo-error"),))) as locked,
    ):
        environ = {
            "LITELLM_MASTER_KEY": MASTER,
            "UPSTREAM_URL": upstream.base_url,
            "UPSTREAM_KEY": UPSTREAM,
            "LOCKED_URL": locked.url,
        }
        command = [program, "--config", str(config), "--host", "127.0.0.1", "--port", "{port}"]
        server = Server(command, ready="/health/liveliness", log=folder / "litellm.log", environ=environ)
        async with Runtime(recover=False) as runtime, Transport() as transport:
            proxy = Proxy(server, upstream, locked, Flows(runtime), transport, folder)
            async with server:
                for what, work in (
                    ("check, no model named", proxy.checked_unnamed),
                    ("import of its configuration", proxy.imported),
                    ("check", proxy.checked),
                    ("check: wrong master key", proxy.checked_wrong_key),
                    ("check: no master key", proxy.checked_without_key),
                    ("check: unknown model", proxy.checked_unknown),
                    ("check: the provider's key is wrong", proxy.checked_upstream_key),
                    ("alias passed on, cost as stated", proxy.alias),
                    ("full name passed on", proxy.full_name),
                    ("no other key is sent", proxy.key_stays),
                    ("cost that nobody knows", proxy.unpriced),
                    ("typed answer", proxy.typed),
                    ("tools, and the turn with their results", proxy.tools),
                    ("tool calls that end with stop", proxy.mocked_tools),
                    ("stream", proxy.stream),
                    ("stream from upstream", proxy.upstream_stream),
                    ("its /v1/messages", proxy.messages_api),
                    ("its /v1/responses", proxy.responses_api),
                    ("RateLimitError", proxy.busy),
                    ("InternalServerError", proxy.broken),
                    ("ContextWindowExceededError", proxy.narrow),
                    ("unknown model", proxy.unknown),
                    ("fallback through it", proxy.fallback),
                    ("the provider's key is wrong", proxy.upstream_key),
                    ("wrong master key", proxy.wrong_master_key),
                    ("no master key", proxy.no_master_key),
                ):
                    await checks.check("proxy", what, work)
            for what, work in (
                ("stopped: check", proxy.checked_away),
                ("stopped: a clear error", proxy.away),
                ("stopped: direct, without the key for it", proxy.direct_without_key),
                ("stopped: direct, where that is allowed", proxy.direct),
            ):
                await checks.check("proxy", what, work)


def get_weather(city: str) -> str:
    """The weather of a city."""
    return city


@contextlib.contextmanager
def _environ(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _kitaru(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from kitaru.cli.app import main; import sys; sys.exit(main())", *args],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environ},
    )


def _told(done: subprocess.CompletedProcess[str], code: int, kind: str) -> str:
    found = json.loads(done.stdout or done.stderr)
    same((found["kind"], done.returncode), (kind, code), f"kind and exit code ({found['message']})")
    return f"{found['message']} / {found['hint']}"
