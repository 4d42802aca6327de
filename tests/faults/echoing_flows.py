"""Run as a script: calls every API, whose answers echo the key, with a key from each place that one can come from."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from urllib.parse import quote

import kitaru
from kitaru import EncodeError, Flow, ModelError, RunHandle, Runtime, UsageError, flow
from kitaru.runtime.fork import ReplayOptions
from kitaru.runtime.secrets import named as secrets

PROVIDERS = ("openai", "openai-responses", "anthropic", "google", "cohere", "ollama", "mistral", "azure")
KINDS = ("echo-error", "echo-error-400", "echo-header", "echo-body", "echo-stream")
LENGTHS = {"plain": 1000, "stream": 30_000}
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "CO_API_KEY", "OLLAMA_API_KEY", "MISTRAL_API_KEY",
        "AZURE_OPENAI_API_KEY")  # fmt: skip
SOURCES = ("secret", "image", "argument", "credentials", "environment", "gateway")
"""The environment comes after the others, as it would be asked before them; a gateway gets no key but its own."""


async def asked(source: str, provider: str, way: str, kind: str) -> str:
    """What became of a call, in words: what it said, and what an error shows of itself."""
    key = os.environ["ARGUMENT"] if source == "argument" else None
    model = f"{provider}-{'linked' if source == 'secret' else 'alone'}"
    try:
        reply = await kitaru.llm.reply(
            f"{source} {provider} {way} {kind}", model=model, name="asked", retry=1, max_tokens=LENGTHS[way],
            headers={"x-standin-fault": kind}, api_key=key,
        )  # fmt: skip
    except ModelError as error:
        key = None
        print(*traceback.TracebackException.from_exception(error, capture_locals=True).format(), repr(error))
        print({name: str(value) for name, value in vars(error).items()}, getattr(error, "reply", None))
        return f"{source} {provider} {way} {kind}: {type(error).__name__} {error}"
    print(reply)
    return f"{source} {provider} {way} {kind}: {reply.text}"


def calls(source: str) -> list[tuple[str, str, str]]:
    """Every API, plain and as a stream underneath, with every echo; a gateway speaks one API."""
    providers = PROVIDERS[:1] if source == "gateway" else PROVIDERS
    return [(provider, way, kind) for provider in providers for way in LENGTHS for kind in KINDS]


async def misplaced(key: str) -> None:
    """Try to have a key recorded where nobody looks for one."""
    places: dict[str, Callable[[], object]] = {
        "metadata": lambda: kitaru.log(key=key),
        "the name of metadata": lambda: kitaru.log(**{key: 1}),
        "a scope": lambda: kitaru.scope(key).__enter__(),
        "a user": lambda: kitaru.llm("q", model="openai-alone", base_url=f"http://a:{quote(key, safe='')}@127.0.0.1"),
        "a query": lambda: kitaru.llm("q", model="openai-alone", base_url=f"http://127.0.0.1?k={quote(key, safe='')}"),
    }
    for place, act in places.items():
        try:
            act()
        except (EncodeError, UsageError) as error:
            print("refused", place, error)
        else:
            raise AssertionError(f"{place} took a key")


@flow
async def echoes(source: str) -> list[str]:
    answers = list(await asyncio.gather(*(asked(source, *call) for call in calls(source))))
    await misplaced(VALUES[source])
    return answers


@flow
async def fails(source: str) -> str:
    """Ends with a provider's error that holds an echo."""
    return await kitaru.llm(
        f"{source} at the end", model="anthropic-alone", retry=1, headers={"x-standin-fault": "echo-error-400"}
    )


@flow
async def waits(source: str) -> str:
    await asked(source, "openai", "stream", "echo-stream")
    await asked(source, "google", "plain", "echo-error")
    return await kitaru.llm(f"{source} silent", model="anthropic-alone", headers={"x-standin-fault": "hang"})


FLOWS: dict[str, tuple[Flow[[str], Any], ...]] = {
    "secret": (echoes,),
    "argument": (echoes,),
    "image": (echoes, fails),
    "credentials": (echoes, fails),
    "environment": (echoes, fails),
    "gateway": (echoes, fails),
}


async def ended(handle: RunHandle[Any]) -> None:
    try:
        print("result", await handle.result())
    except ModelError as error:
        print(*traceback.TracebackException.from_exception(error, capture_locals=True).format())


def bound(source: str) -> AbstractContextManager[object]:
    """What runs whose keys come from there are started in."""
    if source != "credentials":
        return nullcontext()
    keys: dict[str, Any] = {provider.replace("-", "_"): CREDENTIALS for provider in PROVIDERS}
    return kitaru.credentials(**keys)


def named(made: Flow[[str], Any], source: str) -> Flow[[str], Any]:
    one = made.options(run_id=f"{made.name}-{source}")
    return one.options(image={"secret_environment_from": ["creds-of-the-image"]}) if source == "image" else one


async def main() -> None:
    async with Runtime(recover=False) as runtime:
        await asyncio.to_thread(secrets.set_secret, "creds", {"KEY": SECRET}, runtime=runtime)
        values = dict.fromkeys(KEYS, IMAGE)
        await asyncio.to_thread(secrets.set_secret, "creds-of-the-image", values, runtime=runtime)
        for source in SOURCES:
            if source == "environment":
                os.environ.update(dict.fromkeys(KEYS, ENVIRONMENT))
            if source == "gateway":
                os.environ.update(KITARU_GATEWAY_URL=PROXY, KITARU_GATEWAY_KEY=GATEWAY)
            for made in FLOWS[source]:
                with bound(source):
                    await ended(await runtime.start(named(made, source), source))
                    options = ReplayOptions(run_id=f"fork-{made.name}-{source}")
                    await ended((await runtime.replay(f"{made.name}-{source}", options)).handle)
        del os.environ["KITARU_GATEWAY_URL"]
        print("calm", file=sys.stderr, flush=True)
        sys.stdin.readline()
        for source in ("credentials", "environment"):
            with bound(source):
                await runtime.start(named(waits, source), source)
        await asyncio.Event().wait()


if __name__ == "__main__":
    SECRET, IMAGE, CREDENTIALS, ENVIRONMENT, GATEWAY, PROXY = (
        os.environ.pop(name) for name in ("SECRET", "IMAGE", "CREDENTIALS", "ENVIRONMENT", "GATEWAY", "PROXY")
    )
    VALUES = dict(zip(SOURCES, (SECRET, IMAGE, os.environ["ARGUMENT"], CREDENTIALS, ENVIRONMENT, GATEWAY), strict=True))
    logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
    asyncio.run(main())
