"""The load that every client is under: calls one after the other, then 64 at once, to a null server.

`python -m benchmarks.calling CLIENT [FOLDER]` prints its figures as JSON: the median of a call in ms, and calls a
second. It needs the standard library and the client, so that a client may live in an environment of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WARM = 50
ALONE = 300
WAYS = 64
TOGETHER = 960
KEY = "key-of-the-benchmark"
MESSAGES = [{"role": "user", "content": "When is the tide high?"}]
BODY = json.dumps({"model": "null", "messages": MESSAGES}).encode()
HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json", "accept": "application/json"}

Call = Callable[[], Awaitable[object]]


@contextmanager
def server(*options: str) -> Iterator[str]:
    """A null server in a process of its own; gives its base URL. This process keeps to another processor."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    command = [sys.executable, "-m", "benchmarks.null_server", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.terminate()
        process.wait()


async def load(call: Call) -> dict[str, float]:
    """Put a client under the load."""
    for _ in range(WARM):
        await call()
    took = []
    for _ in range(ALONE):
        began = time.perf_counter()
        await call()
        took.append(time.perf_counter() - began)
    await together(call, TOGETHER // 4)
    began = time.perf_counter()
    await together(call, TOGETHER)
    return {"p50": median(took) * 1e3, "rate": TOGETHER / (time.perf_counter() - began)}


async def together(call: Call, calls: int) -> None:
    """Make so many calls, 64 at a time."""
    left = iter(range(calls))

    async def one() -> None:
        for _ in left:
            await call()

    await asyncio.gather(*(one() for _ in range(WAYS)))


# The clients, each as its documentation says


@asynccontextmanager
async def httpx_client(url: str) -> AsyncIterator[Call]:
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=WAYS)
    async with httpx.AsyncClient(timeout=30, limits=limits) as client:

        async def call() -> None:
            (await client.post(f"{url}/chat/completions", content=BODY, headers=HEADERS)).json()

        yield call


@asynccontextmanager
async def httpx_aiohttp(url: str) -> AsyncIterator[Call]:
    import httpx
    from httpx_aiohttp import AiohttpTransport

    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=WAYS)
    async with httpx.AsyncClient(timeout=30, transport=AiohttpTransport(limits=limits)) as client:

        async def call() -> None:
            (await client.post(f"{url}/chat/completions", content=BODY, headers=HEADERS)).json()

        yield call


@asynccontextmanager
async def openai_sdk(url: str) -> AsyncIterator[Call]:
    import openai

    async with openai.AsyncOpenAI(base_url=url, api_key=KEY) as client:
        completions: Any = client.chat.completions
        yield lambda: completions.create(model="null", messages=MESSAGES)


@asynccontextmanager
async def litellm(url: str) -> AsyncIterator[Call]:
    import litellm as library  # type: ignore[import-not-found,unused-ignore]  # lives in an environment of its own

    call: Any = library.acompletion
    yield lambda: call(model="openai/null", api_base=url, api_key=KEY, messages=MESSAGES)


@asynccontextmanager
async def send(url: str) -> AsyncIterator[Call]:
    """Kitaru's call without the log."""
    from kitaru.adapters import Endpoint, Message, ModelCall, SecretStr, Transport, adapter

    question = ModelCall("openai", "null", (Message("user", "When is the tide high?"),))
    endpoint, spoken = Endpoint(base_url=url, api_key=SecretStr(KEY)), adapter("openai")
    async with Transport() as transport:
        yield lambda: transport.send(question, endpoint, spoken)


CLIENTS: Mapping[str, Any] = {
    "httpx": httpx_client,
    "httpx_aiohttp": httpx_aiohttp,
    "openai": openai_sdk,
    "litellm": litellm,
    "send": send,
}


async def durable(url: str, folder: Path) -> dict[str, float]:
    """`kitaru.llm`, every call recorded by two commits: one run of calls in a row, then 64 runs at once."""
    import kitaru

    async def call() -> None:
        await kitaru.llm("When is the tide high?", model="openai/null", base_url=url, api_key=KEY)

    took: list[float] = []

    @kitaru.flow
    async def in_a_row(calls: int) -> None:
        for _ in range(calls):
            began = time.perf_counter()
            await call()
            took.append(time.perf_counter() - began)

    async with kitaru.Runtime(f"sqlite:///{folder}/calls.db", recover=False) as runtime:

        async def together(calls: int) -> float:
            began = time.perf_counter()
            handles = [await runtime.start(in_a_row, calls // WAYS) for _ in range(WAYS)]
            await asyncio.gather(*(handle.result() for handle in handles))
            return calls / (time.perf_counter() - began)

        await (await runtime.start(in_a_row, WARM)).result()
        took.clear()
        await (await runtime.start(in_a_row, ALONE)).result()
        p50 = median(took) * 1e3
        await together(TOGETHER // 4)
        return {"p50": p50, "rate": await together(TOGETHER)}


def main(name: str, folder: str = "") -> None:
    async def measured(url: str) -> dict[str, float]:
        if name == "durable":
            return await durable(url, Path(folder))
        async with CLIENTS[name](url) as call:
            return await load(call)

    with server() as url:
        print(json.dumps(asyncio.run(measured(url))))


if __name__ == "__main__":
    main(*sys.argv[1:])
