"""An async flow and its checkpoints, as a user writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_type

import kitaru
from kitaru import Call, Checkpoint, Flow, checkpoint, flow


@dataclass(frozen=True)
class Finding:
    source: str
    weight: float = 1.0


@checkpoint
async def search(topic: str, *, limit: int = 10) -> list[Finding]:
    return [Finding(topic)] * limit


@checkpoint(retries=3, timeout=30)
async def rate(finding: Finding) -> float:
    return finding.weight


@checkpoint(name="count_words", effects=True)
def count(text: str) -> int:
    return len(text.split())


@flow
async def writer(topic: str, depth: int = 1) -> str:
    call = search(topic, limit=depth)
    assert_type(call, Call[list[Finding]])
    findings = await call
    assert_type(findings, list[Finding])
    assert_type(await rate(findings[0]), float)
    assert_type(await count("some words"), int)
    assert_type(await call, list[Finding])  # a handle may be awaited many times
    return topic


@flow
async def review(topic: str) -> tuple[str, int]:
    text = await writer(topic)  # a child run
    assert_type(text, str)
    return text, await count(text)


async def main() -> None:
    assert_type(writer("tides"), Call[str])
    assert_type(await writer("tides", depth=2), str)
    assert_type(await review("tides"), tuple[str, int])


async def server() -> None:
    async with kitaru.Runtime("sqlite:///runs.db") as runtime:
        handle = await runtime.start(writer, "tides", depth=2)
        assert_type(await handle.result(), str)
        assert_type(await runtime.runs(status="failed"), list[kitaru.RunInfo])
        assert_type(await runtime.events("last"), list[kitaru.RunEvent])
        assert_type([event.fields async for event in runtime.watch("last")], list[dict[str, Any]])
        assert_type(await runtime.get("last"), kitaru.RunHandle[Any])
        named = await runtime.start(writer.options(run_id="tides-1"), "tides")
        assert_type(await named.result(), str)


def declared() -> tuple[Flow[[str, int], str], Checkpoint[[Finding], float]]:
    """The decorated objects have names that annotations can use."""
    return writer_of_two, rate


@flow
async def writer_of_two(topic: str, depth: int, /) -> str:
    return topic * depth
