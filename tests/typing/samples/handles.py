"""Handles as arguments and as results; `.ref` is the handle typed as its value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_type

from kitaru import Call, checkpoint, flow


@dataclass(frozen=True)
class Draft:
    title: str
    body: str


@checkpoint
async def title(topic: str) -> str:
    return topic.title()


@checkpoint
async def body(start: str, sources: list[str]) -> str:
    return start + "".join(sources)


@checkpoint
async def publish(draft: Draft) -> int:
    return len(draft.body)


@checkpoint
async def heading(topic: str) -> Call[str]:
    return title(topic)  # a step may hand on the handle of a step inside it


@flow
async def by_reference(topic: str) -> str:
    first = title(topic)
    assert_type(first, Call[str])
    assert_type(first.ref, str)
    text = body(first.ref, [first.ref, topic])
    assert_type(await publish(Draft(first.ref, text.ref)), int)
    assert_type(await heading(topic), str)
    return text.ref  # the engine resolves what a flow returns


@flow
async def returned_handle(topic: str) -> str:
    return await title(topic)


@flow
def returned_call(topic: str) -> Call[str]:
    return title(topic)


@flow
async def returned_unawaited(topic: str) -> Call[str]:
    return title(topic)


async def main() -> None:
    assert_type(await by_reference("tides"), str)
    assert_type(await returned_handle("tides"), str)
    assert_type(returned_call("tides"), Call[str])
    assert_type(await returned_unawaited("tides"), str)
    assert_type(await returned_call("tides"), str)
