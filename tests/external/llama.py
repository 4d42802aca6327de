"""`llama_cpp.server`, with a model of random weights: what it says is noise, how it says it is not."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Final

import msgspec

from kitaru import Runtime
from kitaru.adapters import Endpoint, Message, ModelCall, Retry, SecretStr, Settings, Transport, adapter
from kitaru.errors import CredentialError, ModelConnectionError, ModelError, ProviderError
from tests.external.asking import City, Flows, streamed
from tests.external.checks import Checks, same, true
from tests.external.servers import Server, tool

KEY: Final = "key-of-the-test"
MODEL: Final = "openai-compatible/tiny"
LONG: Final = "x" * 900
"""More tokens than the context holds: a byte is one."""

_SCHEMA: Final = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}


class Llama:
    """The checks of the one model."""

    def __init__(self, server: Server, flows: Flows, transport: Transport) -> None:
        self._flows = flows
        self._transport = transport
        self._base = f"{server.url}/v1"
        self._where: dict[str, Any] = {"model": MODEL, "base_url": self._base, "api_key": KEY}

    async def chat(self) -> str:
        got = await self._flows.reply("hi", max_tokens=8, seed=3, temperature=0.5, **self._where)
        same(got.value.finish, "length", "finish")
        same(got.record.usage.output, 8, "tokens of the answer")
        true(got.record.usage.input and got.record.request_id, "no usage, or no request id")
        same((got.record.cost, got.record.cost_source), ("0", "free"), "cost on this machine")
        return f"answered by {got.record.answered_by}, usage {got.record.usage.input}, {got.record.usage.output}"

    async def seeded(self) -> None:
        options = {"max_tokens": 8, "seed": 3, "temperature": 0.0, **self._where}
        first, second = [(await self._flows.reply("hi", **options)).value.text for _ in range(2)]
        same(first, second, "the second answer to one seed")

    async def stream(self) -> str:
        got = await streamed(
            self._transport, MODEL, "hi", self._base, KEY, settings=Settings(max_tokens=30, seed=3, temperature=0.5)
        )
        reply = got.sent.reply
        true(reply.text, "no text")
        same(got.joined("text"), reply.text, "pieces")
        same((reply.usage.input, reply.usage.output), (None, None), "usage, which no chunk holds")
        return f"{len(got.deltas)} pieces, finish {reply.finish}, usage not known"

    async def schema(self) -> str:
        extra = {"openai-compatible": {"response_format": {"type": "json_object", "schema": _SCHEMA}}}
        got = await self._flows.text("sure?", max_tokens=40, extra=extra, **self._where)
        value = msgspec.json.decode(got.value, type=dict[str, bool])
        same(list(value), ["sure"], "keys")
        return f"{got.value.strip()}"

    async def json_schema(self) -> str:
        # It knows `json_object` only, and says so with a 500.
        failed = await self._flows.failure("a city", response_type=City, max_tokens=99, retry=1, **self._where)
        assert isinstance(failed.error, ProviderError), f"{failed.error!r}"
        same(failed.error.status, 500, "status")
        true("json_object" in failed.error.message, "its words are not in the error")
        return failed.error.message

    async def overflow(self) -> str:
        failed = await self._flows.failure(LONG, max_tokens=8, **self._where)
        assert isinstance(failed.error, ProviderError), f"{failed.error!r}"
        same((failed.error.reason, failed.error.status, len(failed.attempts)), ("context", 400, 1), "reason, attempts")
        return failed.error.message

    async def overflow_falls_back(self) -> str:
        got = await self._flows.text(LONG, fallbacks=["test/echo"], **self._where)
        same(got.record.trail, ((MODEL, "context"),), "trail")
        return f"answered by {got.record.model}"

    async def overflow_streamed(self) -> str:
        try:
            got = await streamed(self._transport, MODEL, LONG, self._base, KEY)
        except ModelError as error:
            # The head of a stream is out before it looks at the prompt, and then it says nothing.
            true(isinstance(error, ModelConnectionError | ProviderError), f"{error!r}")
            return f"{type(error).__name__}: {error.message}"
        raise AssertionError(f"an answer: {got.sent.reply.text!r}")

    async def malformed(self) -> str:
        call = ModelCall("openai-compatible", "tiny", (Message("user", "hi"),), Settings(extra={"logit_bias": "none"}))
        endpoint = Endpoint(base_url=self._base, api_key=SecretStr(KEY))
        try:
            await self._transport.send(
                call, endpoint, adapter("openai-compatible"), retry=Retry(attempts=2, initial=0.05)
            )
        except ProviderError as error:
            same((error.status, len(error.attempts)), (500, 2), "status and attempts")
            return error.message
        raise AssertionError("it was taken")

    async def wrong_key(self) -> str:
        failed = await self._flows.failure("hi", **{**self._where, "api_key": "another-key-of-the-test"})
        true(isinstance(failed.error, CredentialError), f"{failed.error!r}")
        return failed.error.message

    async def elsewhere(self) -> str:
        failed = await self._flows.failure("hi", **{**self._where, "base_url": self._base.removesuffix("/v1")})
        assert isinstance(failed.error, ProviderError), f"{failed.error!r}"
        same((failed.error.status, failed.error.reason), (404, "not_found"), "status and reason")
        return failed.error.message


async def run(checks: Checks, folder: Path) -> None:
    """All checks against a server of its own, with a model made on the spot."""
    python = tool(
        "EXTERNAL_LLAMA", "python -m venv DIR; DIR/bin/pip install 'llama-cpp-python[server]' gguf; DIR/bin/python"
    )
    model = folder / "tiny.gguf"
    subprocess.run([python, str(Path(__file__).with_name("tiny_gguf.py")), str(model)], check=True)  # noqa: ASYNC221 - nothing else goes on
    command = [python, "-m", "llama_cpp.server", "--model", str(model), "--model_alias", "tiny", "--host", "127.0.0.1"]
    command += ["--port", "{port}", "--n_ctx", "512", "--chat_format", "chatml", "--api_key", KEY]
    server = Server(command, ready="/docs", log=folder / "llama.log")
    url = f"sqlite:///{folder}/llama.db"
    async with server, Runtime(url, recover=False) as runtime, Transport() as transport:
        llama = Llama(server, Flows(runtime), transport)
        for what, work in (
            ("chat", llama.chat),
            ("same seed, same answer", llama.seeded),
            ("stream, without usage", llama.stream),
            ("JSON by its own kind of schema", llama.schema),
            ("JSON by OpenAI's kind of schema", llama.json_schema),
            ("prompt too long", llama.overflow),
            ("prompt too long, fallback", llama.overflow_falls_back),
            ("prompt too long, as a stream", llama.overflow_streamed),
            ("request that it cannot read", llama.malformed),
            ("wrong key", llama.wrong_key),
            ("base URL without /v1", llama.elsewhere),
        ):
            await checks.check("compatible", what, work)
