"""The flows of the golden logs: every kind of boundary, and every way in which one can end.

Frozen: the stored logs hold the digests of this code, so a change of a flow here needs new logs.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import decimal
import enum
import random
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import anyio
import msgspec
import pydantic

import kitaru
from kitaru import checkpoint, flow

RAN: list[str] = []
"""The names of the steps that ran."""


class Tide(enum.Enum):
    LOW = "low"
    HIGH = "high"


@dataclasses.dataclass
class Harbour:
    name: str
    depth: decimal.Decimal
    tide: Tide


class Point(NamedTuple):
    x: int
    y: float


class Report(msgspec.Struct):
    title: str
    at: datetime.datetime
    tags: set[str]


class City(pydantic.BaseModel):
    city: str
    hour: int = 4


class TideError(Exception):
    def __init__(self, message: str, level: int) -> None:
        super().__init__(message)
        self.level = level


# -- steps ------------------------------------------------------------------------------------------------------------


@checkpoint
async def double(x: int) -> int:
    RAN.append("double")
    return 2 * x


@checkpoint
def double_in_thread(x: int) -> int:
    RAN.append("double_in_thread")
    return 2 * x


@checkpoint
async def text_of(length: int) -> str:
    RAN.append("text_of")
    return " ".join(str(n) for n in range(length))


@checkpoint
async def noise(length: int) -> bytes:
    RAN.append("noise")
    return random.Random(length).randbytes(length)


@checkpoint
async def harbour(name: str) -> Harbour:
    RAN.append("harbour")
    return Harbour(name, decimal.Decimal("12.50"), Tide.HIGH)


@checkpoint
async def shapes(given: Harbour) -> tuple[Point, Report, uuid.UUID, City]:
    RAN.append("shapes")
    report = Report(given.name, datetime.datetime(2026, 3, 1, 6, 30, tzinfo=datetime.UTC), {"a", "b", "c"})
    return Point(3, 0.25), report, uuid.UUID(int=7), City(city=given.name)


@checkpoint
async def fails(level: int) -> int:
    RAN.append("fails")
    try:
        raise KeyError("no gauge")
    except KeyError as error:
        failure = TideError("the gauge is dry", level)
        failure.add_note("measured at noon")
        raise failure from error


@checkpoint
async def fails_together() -> None:
    RAN.append("fails_together")
    raise ExceptionGroup("two gauges", [ValueError("one"), TideError("two", 2)])


@checkpoint(retries=3, backoff=0.0)
async def flaky(until: int) -> int:
    RAN.append("flaky")
    if len([name for name in RAN if name == "flaky"]) % until:
        raise OSError("try again")
    return until


@checkpoint(timeout=0.02)
async def too_slow() -> int:
    RAN.append("too_slow")
    await asyncio.sleep(30)
    return 1


@checkpoint
async def never() -> int:
    RAN.append("never")
    await asyncio.Event().wait()
    return 1


@checkpoint
async def nap(seconds: float) -> float:
    RAN.append("nap")
    await asyncio.sleep(seconds)
    return seconds


@checkpoint(effects=True)
async def charge(cents: int) -> str:
    RAN.append("charge")
    return f"charged {cents}"


@checkpoint
async def outer(x: int) -> int:
    RAN.append("outer")
    return sum(await asyncio.gather(double(x), double(x + 1))) + await double_in_thread(x)


@checkpoint(ignore=["client"])
async def fetched(client: object, path: str) -> str:
    RAN.append("fetched")
    return f"GET {path}"


@checkpoint
async def turn_of(messages: list[dict[str, str]]) -> dict[str, str]:
    RAN.append("turn_of")
    return {"role": "assistant", "content": f"answer {len(messages)} " + "word " * 60}


class Gauge:
    def __init__(self, level: int) -> None:
        self.level = level

    @checkpoint(ignore=["self"])
    async def read(self, scale: int) -> int:
        RAN.append("read")
        return self.level * scale


# -- flows ------------------------------------------------------------------------------------------------------------


@flow
async def plain_steps(x: int) -> list[int]:
    return [await double(x), await double_in_thread(x), await double(x), await Gauge(3).read(x)]


@flow
def in_a_thread(x: int) -> list[int]:
    one, two = double_in_thread.submit(x), double_in_thread.submit(x + 1)
    many = [call.load() for call in double_in_thread.map(range(3))]
    return [double_in_thread(x).load(), one.load(), two.load(), *many, child_in_thread(x).load()]


@flow
def child_in_thread(x: int) -> int:
    return double_in_thread(x).load() + 1


@flow
async def values(name: str) -> tuple[Point, Report, uuid.UUID, City]:
    return await shapes(harbour(name).ref)


@flow
async def large() -> int:
    text, data = await text_of(4_000), await noise(20_000)
    return len(text) + len(data) + len(await text_of(4_000))


@flow
async def growing(turns: int) -> int:
    messages: list[dict[str, str]] = [{"role": "user", "content": "Begin."}]
    for number in range(turns):
        messages.append(await turn_of(messages))
        messages.append({"role": "user", "content": f"go on {number}"})
    return len(messages)


@flow
async def failures() -> list[str]:
    seen = []
    try:
        await fails(3)
    except TideError as error:
        seen.append(f"{error} {error.level} {error.__notes__}")
    try:
        await fails_together()
    except* ValueError as group:
        seen.append(f"{group.exceptions}")
    except* TideError as group:
        seen.append(f"{group.exceptions}")
    try:
        await too_slow()
    except kitaru.StepTimeoutError:
        seen.append("too slow")
    seen.append(str(await flaky(3)))
    return seen


@flow
async def fails_at_last() -> None:
    await double(1)
    await fails(4)


@flow
async def combinators(x: int) -> list[Any]:
    found: list[Any] = [await asyncio.gather(*(double(n) for n in range(x)))]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(twice(n)) for n in range(x)]
    found.append([task.result() for task in tasks])
    found.append(await kitaru.gather(twice(1), twice(2)))
    found.append(await kitaru.map(twice, range(x)))
    found.extend([await ready for ready in asyncio.as_completed([double(n) for n in range(x)])])
    found.extend([await call async for call in kitaru.as_completed([double(n) for n in range(x)])])
    with kitaru.scope("apart"):
        found.append(await double(x))
    async with anyio.create_task_group() as tg:
        tg.start_soon(twice, 5)
        tg.start_soon(twice, 6)
    return found


async def twice(x: int) -> int:
    return await double(await double(x))


@flow
async def given_up() -> list[str]:
    seen = []
    try:
        await asyncio.wait_for(never(), 0.02)
    except TimeoutError:
        seen.append("wait_for")
    try:
        async with kitaru.timeout(0.02):
            await never()
    except TimeoutError:
        seen.append("timeout")
    async with kitaru.timeout(30):
        await double(1)
    quick, slow = asyncio.create_task(twice(1)), asyncio.ensure_future(never())
    done, _ = await asyncio.wait([quick, slow], return_when=asyncio.FIRST_COMPLETED)
    slow.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await slow
    seen.append(f"{len(done)} first")
    seen.append(str(await double(7)))
    return seen


@flow
async def recorded_values() -> list[Any]:
    kitaru.log(phase="begin", count=1)
    first = await kitaru.save("draft", {"text": "tides", "n": 1})
    await kitaru.sleep(0.01)
    loaded = await kitaru.load("draft")
    return [kitaru.now(), kitaru.uuid(), kitaru.random(), first, loaded, await fetched(object(), "/a")]


@flow
async def with_effects(cents: int) -> str:
    return await charge(cents)


@flow
async def parent(x: int) -> list[int]:
    return [await child(x), *await asyncio.gather(child(x + 1), child(x + 2)), await outer(x)]


@flow
async def child(x: int) -> int:
    return await double(x) + 1


@flow
async def parent_of_failure() -> str:
    try:
        await fails_at_last()
    except TideError as error:
        return f"{error} {error.level}"
    return "no failure"


@flow
async def waits_for_ever() -> None:
    await double(2)
    await never()


@flow
async def with_default(x: int, scale: int = 10) -> int:
    return await double(x * scale)


# -- model calls ------------------------------------------------------------------------------------------------------


def height(place: str) -> str:
    """Say how high the tide is."""
    return f"3.4 m at {place}"


def moon(day: str) -> str:
    """Say what the moon does on a day."""
    return f"a full moon on {day}"


TOOLS: dict[str, Callable[..., str]] = {"height": height, "moon": moon}


@flow
async def talk(model: str, base_url: str) -> list[str]:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say how high the tide is in Brest, and what the moon does."},
    ]
    said = []
    for turn in range(3):
        reply = await kitaru.llm.reply(
            messages, model=model, base_url=base_url, tools=[height, moon], reasoning="low", name=f"turn{turn}"
        )
        messages.append(reply.message)
        messages.extend(call.result(TOOLS[call.name](**call.parsed())) for call in reply.tool_calls)
        said.append(reply.text or " ".join(call.name for call in reply.tool_calls))
    return said


@flow
async def structured(model: str, base_url: str) -> City:
    return await kitaru.llm("Which city?", model=model, base_url=base_url, response_type=City, max_tokens=500)


@flow
async def echoed(topic: str) -> str:
    outline = await kitaru.llm(f"Outline {topic}", model="test/echo", name="outline")
    return await kitaru.llm([{"role": "user", "content": f"Write {outline}"}], model="test/echo", name="draft")


@checkpoint
async def asks(topic: str) -> str:
    RAN.append("asks")
    return await kitaru.llm(f"Inside {topic}", model="test/echo")


@flow
async def asks_inside(topic: str) -> str:
    return await asks(topic)


def calls_in_a_pool(numbers: list[int]) -> list[int]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda n: n + 1, numbers))


@checkpoint
def pooled(numbers: list[int]) -> list[int]:
    RAN.append("pooled")
    time.sleep(0.001)
    return calls_in_a_pool(numbers)


@flow
def steps_with_threads(x: int) -> list[int]:
    return pooled([x, x + 1]).load()
