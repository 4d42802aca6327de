"""Model calls: text by default, the whole reply on request."""

from __future__ import annotations

from typing import assert_type

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
