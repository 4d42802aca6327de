"""Model calls: text by default, the whole reply on request."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, assert_type

import kitaru
from kitaru import Call, checkpoint, flow


@checkpoint
async def shorten(text: str) -> str:
    return await kitaru.llm(f"Shorten: {text}", model="fast")


@flow
async def write(topic: str) -> str:
    outline = kitaru.llm(f"Outline {topic}", model="fast", name="outline_call", temperature=0.2, max_tokens=400)
    assert_type(outline, Call[str])
    assert_type(await outline, str)
    reply = await kitaru.llm.reply("Write it", model="openai/some-model", system="Be terse.")
    assert_type(reply.text, str)
    assert_type(await shorten(outline.ref), str)
    return reply.text


def outside_any_flow() -> str:
    return kitaru.llm("Say hello", model="fast").load()


@dataclass
class City:
    name: str
    people: int


def weather(city: str) -> str:
    return f"sunny in {city}"


@flow
async def typed(topic: str) -> str:
    city = kitaru.llm(f"A city about {topic}", response_type=City)
    assert_type(city, Call[City])
    assert_type(await kitaru.llm("List some", response_type=list[City]), list[City])
    assert_type(await kitaru.llm("Yes or no?", response_type=Literal["yes", "no"]), Literal["yes", "no"])
    assert_type(await kitaru.llm("A number, if any", response_type=int | None), int | None)
    assert_type(await kitaru.llm("As JSON", json=True), dict[str, Any])
    assert_type(await kitaru.llm("As JSON", json_keys=["title"]), dict[str, Any])
    reply = await kitaru.llm.reply("The weather?", tools=[weather], tool_choice=weather, retry=5, timeout=30)
    results = [call.result(weather(**call.parsed(weather))) for call in reply.tool_calls]
    again = await kitaru.llm.reply([reply.message, *results], fallbacks=["anthropic/some-model"])
    assert_type(again.cost, Decimal | None)
    return again.text
