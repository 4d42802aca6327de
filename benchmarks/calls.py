"""What a model call costs beside bare HTTP clients, OpenAI's client and LiteLLM, against a server that costs nothing.

LiteLLM is measured where `KITARU_BENCH_LITELLM_PYTHON` names an interpreter that has it: it is no dependency.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from benchmarks import calling, null_server
from benchmarks.harness import ROOT, environment
from benchmarks.workload import Figures, Line, Part, Samples, Workload

LITELLM: Final = "KITARU_BENCH_LITELLM_PYTHON"
TURNS: Final = 200
_PATIENCE: Final = 120

# The modules that a first call loads, in their order: learned in one process, timed in another.
_FIRST_CALL: Final = """
import asyncio, sys
import kitaru
async def main():
    @kitaru.flow
    async def asks() -> str:
        return await kitaru.llm("When is the tide high?", model="openai/null", base_url={url!r}, api_key="k")
    async with kitaru.Runtime({store!r}, recover=False) as runtime:
        @kitaru.flow
        async def idle() -> None: ...
        await (await runtime.start(idle)).result()
        before = set(sys.modules)
        await (await runtime.start(asks)).result()
        print(*[name for name in sys.modules if name not in before])
asyncio.run(main())
"""
_IMPORT: Final = """
import sys, time
import kitaru.runtime.runtime
from importlib import import_module
began = time.perf_counter()
for name in {names!r}:
    try:
        import_module(name)
    except ImportError:
        pass
print(time.perf_counter() - began)
"""
_REPEATED: Final = 5


def _client(name: str, python: str = sys.executable, **variables: str) -> Part:
    def measured(folder: Path) -> Figures:
        own = tempfile.mkdtemp(dir=folder)
        done = subprocess.run(
            [python, "-m", "benchmarks.calling", name, own],
            cwd=ROOT, env={**environment(), **variables}, capture_output=True, text=True, timeout=_PATIENCE,
            check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
        figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return figures

    return measured


def litellm(folder: Path) -> Figures:
    python = os.environ.get(LITELLM, "")
    return _client("litellm", python)(folder) if python else {}


def _imports(engine: str) -> Part:
    def measured(folder: Path) -> Figures:
        own = tempfile.mkdtemp(dir=folder)
        with calling.server() as url:
            names = _python(_FIRST_CALL.format(url=url, store=f"sqlite:///{own}/import.db"), engine).split()
        took = [float(_python(_IMPORT.format(names=names), engine)) for _ in range(_REPEATED)]
        # The least: what comes on top is others' work, for the very same modules are read each time.
        return {"ms": min(took) * 1e3}

    return measured


def _python(code: str, engine: str) -> str:
    variables = {**environment(), "KITARU_HTTP": engine}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=_PATIENCE, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


def conversation(folder: Path) -> Figures:
    """A conversation of 200 turns, its history sent whole with each: what is left on disk."""
    file = Path(tempfile.mkdtemp(dir=folder)) / "conversation.db"
    with calling.server("varied") as url:
        asyncio.run(_converse(url, file))
    return {"kB": file.stat().st_size / 1e3, "text": TURNS * 2 * 500 / 1e3}


async def _converse(url: str, file: Path) -> None:
    import kitaru

    @kitaru.flow
    async def converse() -> None:
        said: list[dict[str, object]] = []
        for turn in range(TURNS):
            said.append({"role": "user", "content": null_server.text(f"question {turn}")})
            reply = await kitaru.llm.reply(said, model="openai/null", base_url=url, api_key="k")
            said.append(reply.message)

    async with kitaru.Runtime(f"sqlite:///{file}", recover=False, durability="process") as runtime:
        await (await runtime.start(converse)).result()


def lines(samples: Samples) -> Sequence[Line]:
    found: list[Line] = []
    names = {
        "httpx": "httpx, bare",
        "httpx_aiohttp": "httpx over aiohttp's transport, bare",
        "openai": "the openai SDK, bare",
        "litellm": "litellm.acompletion",
        "send_plain": "kitaru without the log",
        "send_fast": "kitaru without the log, fast",
        "llm_plain": "kitaru.llm, recorded",
        "llm_fast": "kitaru.llm, recorded, fast",
    }
    for part, what in names.items():
        if not samples[f"{part}.p50"]:
            print(f"\n{what}: not installed, and left out")
        found.append(Line(f"{what}: p50", "ms", samples[f"{part}.p50"]))
        found.append(Line(f"{what}: 64 at once", "calls/s", samples[f"{part}.rate"]))
    found += [
        Line("p50 without the log / httpx", "", _ratio(samples, "send_plain.p50", "httpx.p50"), at_most=1.15),
        Line("p50 without the log, fast / httpx over aiohttp", "",
             _ratio(samples, "send_fast.p50", "httpx_aiohttp.p50"), at_most=1.25),
        Line("p50 recorded / litellm", "", _ratio(samples, "llm_plain.p50", "litellm.p50"), at_most=0.5),
        Line("p50 recorded, fast / the openai SDK", "", _ratio(samples, "llm_fast.p50", "openai.p50"), at_most=1.0),
        Line("64 at once, recorded / the openai SDK", "", _ratio(samples, "llm_plain.rate", "openai.rate"), at_least=2),
        Line("64 at once, recorded, fast / the openai SDK", "",
             _ratio(samples, "llm_fast.rate", "openai.rate"), at_least=4),
        Line("first call's further imports", "ms", samples["import_plain.ms"], at_most=120),
        Line("first call's further imports, fast", "ms", samples["import_fast.ms"], at_most=250),
        Line(f"conversation of {TURNS} turns on disk", "kB", samples["conversation.kB"], at_most=500),
        Line("of which text", "kB", samples["conversation.text"]),
    ]  # fmt: skip
    return found


def _ratio(samples: Samples, name: str, to: str) -> Sequence[float]:
    return samples.ratio(name, to) if samples[name] and samples[to] else ()


def _parts() -> dict[str, Part]:
    fast = find_spec("aiohttp") is not None
    parts: dict[str, Part] = {"httpx": _client("httpx"), "send_plain": _client("send", KITARU_HTTP="plain")}
    if find_spec("httpx_aiohttp") is not None:
        parts["httpx_aiohttp"] = _client("httpx_aiohttp")
    if fast:
        parts["send_fast"] = _client("send", KITARU_HTTP="fast")
    if find_spec("openai") is not None:
        parts["openai"] = _client("openai")
    parts["llm_plain"] = _client("durable", KITARU_HTTP="plain")
    if fast:
        parts["llm_fast"] = _client("durable", KITARU_HTTP="fast")
    parts["litellm"] = litellm
    parts["import_plain"] = _imports("plain")
    if fast:
        parts["import_fast"] = _imports("fast")
    parts["conversation"] = conversation
    return parts


WORKLOAD: Final = Workload(
    f"a model call against a null server: {calling.ALONE} in a row, {calling.TOGETHER} by {calling.WAYS} at once",
    _parts(),
    lines,
)
